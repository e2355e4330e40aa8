"""A change of the source is in the keys of the stages that run it, and in no other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgemm
from edgemm.contracts import plugins, stage_code

PRUNE = {"steps": ["prune"], "targets": []}
QUANTIZE = {"steps": ["quantize"], "targets": ["openvino"]}
STAGES = {
    "prune": ("edgemm.pipeline.torch_steps", PRUNE),
    "distill": ("edgemm.pipeline.torch_steps", {"steps": ["distill"], "targets": []}),
    "export": ("edgemm.pipeline.stages", {"steps": [], "targets": []}),
    "quantize": ("edgemm.pipeline.stages", QUANTIZE),
    "tune": ("edgemm.pipeline.compiling", {"steps": [], "targets": ["openvino"]}),
    "ledger": ("edgemm.pipeline.ledger", {"steps": [], "targets": ["openvino"]}),
    "benchmark": ("edgemm.pipeline.reporting", {"steps": [], "targets": ["openvino", "torch"]}),
    "compress": ("edgemm.pipeline.bundling", {"targets": ["openvino"]}),
}
DIGESTS = f"""
import json
from edgemm.contracts import stage_code
print(json.dumps({{name: stage_code.of(module, only=only).digest for name, (module, only) in {STAGES!r}.items()}}))
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The package somewhere else, to be changed."""
    place = tmp_path_factory.mktemp("source")
    shutil.copytree(Path(edgemm.__file__).parent, place / "edgemm", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def digests(place: Path, **variables: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env={**os.environ, "PYTHONPATH": str(place), **variables},
        cwd=place,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def changed_by(copied):
    """``changed_by(file, text)``: the stages whose code another text at the end of a file changes."""

    def change(file: str, text: str) -> set[str]:
        path = copied / "edgemm" / file
        before, source = digests(copied), path.read_bytes()
        path.write_bytes(source + f"\n{text}\n".encode())
        try:
            after = digests(copied)
        finally:
            path.write_bytes(source)
        return {name for name in before if after[name] != before[name]}

    return change


CODE = "CHANGED = 1"


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("report/charts.py", {"compress"}),
        ("report/report.css", {"compress"}),
        ("cli.py", set()),
        ("verbs/benchmark.py", set()),
        ("verbs/compress.py", set()),
        ("pipeline/bundling.py", {"compress"}),
        ("box/serving/web.py", set()),
        ("workshop/steps/qat.py", {"compress"}),
        ("workshop/steps/prune.py", {"prune", "compress"}),
        ("workshop/pruning/scores.py", {"prune", "compress"}),
        ("workshop/steps/distill.py", {"distill", "compress"}),
        ("pipeline/reporting.py", {"benchmark", "compress"}),
        ("pipeline/ledger.py", {"ledger", "benchmark", "compress"}),
        ("box/targets/_openvino/session.py", {"quantize", "tune", "ledger", "benchmark", "compress"}),
        ("box/measuring/tuning.py", {"tune", "ledger", "benchmark", "compress"}),
        ("box/measuring/worker.py", set(STAGES)),
        ("data/modalities/_image/pictures.py", set(STAGES)),
        ("workshop/models/heads/classification.py", set(STAGES)),
        ("store/artifact.py", set(STAGES)),
    ],
)
def test_a_change_of_code_changes_the_stages_that_run_it(changed_by, file, stages):
    assert changed_by(file, CODE if file.endswith(".py") else "/* another look */") == stages


@pytest.mark.parametrize("file", ["workshop/pruning/scores.py", "report/charts.py", "store/artifact.py"])
@pytest.mark.parametrize("text", ["# a comment", '"""Words, and a comma."""', ""])
def test_words_change_nothing(changed_by, file, text):
    assert changed_by(file, text) == set()


def test_the_place_of_the_package_does_not_count(copied):
    assert digests(copied) == {name: stage_code.of(module, only=only).digest for name, (module, only) in STAGES.items()}


def test_a_step_of_ones_own_counts_where_it_runs(tmp_path, copied):
    (tmp_path / "steps").mkdir()
    step = tmp_path / "steps" / "shrink.py"
    step.write_text("STAGE = 'torch'\ndef shrink(model, ctx): return model\n")
    before = digests(copied, EDGEMM_PLUGINS=str(tmp_path))
    step.write_text("STAGE = 'torch'\ndef shrink(model, ctx): return model.eval()\n")
    after = digests(copied, EDGEMM_PLUGINS=str(tmp_path))
    assert {name for name in before if after[name] != before[name]} == {"compress"}, "which names no steps: it may run any"


def test_a_stage_that_names_no_plugins_depends_on_all_of_their_kind():
    files = stage_code.of("edgemm.pipeline.stages").files
    for kind in ("steps", "targets", "modalities", "encoders", "fusions", "heads"):
        assert {plugins.source(kind, name) for name in plugins.names(kind)} <= set(files)


def test_a_package_that_is_left_out_is_not_followed():
    code = stage_code.of("edgemm.verbs.train", without=["edgemm.report"])
    assert not code.holds("edgemm.report.charts")
    assert code.holds("edgemm.workshop.training.loop")


@pytest.mark.parametrize(
    "name", ["openvino", "onnxruntime", "torch", "torchao", "nncf", "onnx", "transformers", "tensorrt", "tensorrt-rtx", "pillow"]
)
def test_all_that_compress_calls_is_among_its_packages(name):
    assert name in stage_code.of("edgemm.pipeline.bundling", only={"targets": ["openvino", "tensorrt"]}).packages


def test_a_runtime_that_a_bundle_is_not_for_is_not_among_them():
    assert not {"tensorrt", "tensorrt-rtx"} & {*stage_code.of("edgemm.pipeline.bundling", only={"targets": ["openvino"]}).packages}
