"""The main job, end to end: a person's own fused model becomes a bundle."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import edgemm
from edgemm import benchmark, compress, verify
from edgemm.box.measuring import benchmark as library
from edgemm.box.measuring.timed import shown_by
from edgemm.contracts import plugins, stage_code
from edgemm.contracts.stage_code import StageCode
from edgemm.errors import CheckpointError, DataError, EdgemmError, Mistakes
from edgemm.pipeline import reporting
from edgemm.store import cache
from edgemm.store.artifact import Artifact

RECIPE = """
steps:
  - quantize: {method: ptq, calibration_samples: 24}
targets: {openvino: {}}
for: size
budgets: {accuracy_drop_points: 100}
"""
UNMEASURED = ("model.onnx", "targets/openvino/model.onnx", "reference.npz")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "int8.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def asked() -> dict[str, set[tuple[str, str, bool]]]:
    """Stage -> the plugins that it asked the registry for while ``built`` was made, and whether they are in the code of its key."""
    return {}


@pytest.fixture(scope="module")
def built(own_model: Path, porch: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory, asked):
    out = tmp_path_factory.mktemp("built") / "bundle"
    running: list[tuple[str, StageCode]] = []
    code_of, import_plugin, stage, codes = stage_code.of, plugins.import_plugin, cache.stage, {}

    def noted_code(*given: Any, **options: Any) -> StageCode:
        code = code_of(*given, **options)
        return codes.setdefault(code.digest, code)

    def noted_import(kind: str, name: str) -> Any:
        for running_stage, code in running:
            asked.setdefault(running_stage, set()).add((kind, name, plugins.source(kind, name) in code.files))
        return import_plugin(kind, name)

    def noted_stage(name: str, inputs: Any, make: Any, **options: Any) -> Artifact:
        def noted_make(scratch: Path) -> Path:
            running.append((name, codes[options["code"]]))
            try:
                return make(scratch)
            finally:
                running.pop()

        return stage(name, inputs, noted_make, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_code, "of", noted_code)
        patch.setattr(plugins, "import_plugin", noted_import)
        patch.setattr(cache, "stage", noted_stage)
        return compress(own_model, recipe=recipe, data=porch, output=out)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "edgemm", *map(str, words)]


def digests(bundle: Path) -> dict[str, str]:
    return {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in UNMEASURED}


def test_a_bundle_comes_out_that_verifies(built):
    assert verify(built.bundle).ok
    assert built.report.find("accuracy", subject="bundle", target="openvino", output="event")
    assert built.report.find("latency_p50_ms", subject="original")


def test_the_compressed_graph_is_smaller_than_the_float_one(built):
    assert (built.bundle / "targets/openvino/model.onnx").stat().st_size < (built.bundle / "model.onnx").stat().st_size


def test_the_report_names_every_rung_of_the_ladder(built):
    rungs = built.report.details.parity
    assert len(rungs) == 3
    assert all(rung.ok for rung in rungs)


def test_compress_and_benchmark_hold_a_bundle_against_the_same_baselines(own_model, porch, tmp_path, monkeypatch):
    measured: dict[str, dict[str, tuple]] = {}

    def kept(report, forms):
        measured[report] = {form.subject: (form.target, form.deployment.key()) for form in forms if form.subject in ("float", "default")}

    monkeypatch.setattr(reporting, "shown_by", lambda forms, timings: kept("compress", forms) or shown_by(forms, timings))
    monkeypatch.setattr(library, "shown_by", lambda forms, timings: kept("benchmark", forms) or shown_by(forms, timings))
    bound = tmp_path / "bound.yaml"
    bound.write_text(RECIPE.replace("{openvino: {}}", "{openvino: {threads: 2}}"))
    compress(own_model, recipe=bound, data=porch, output=tmp_path / "bundle")
    benchmark([tmp_path / "bundle"], rounds=5, calls=3, launches=0, roofline=False)
    assert measured["compress"] == measured["benchmark"]
    assert measured["compress"]["float"][1]["options"] == {}


def test_a_second_run_redoes_nothing_and_needs_no_torch(built, own_model: Path, porch: Path, recipe: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "from edgemm import compress\n"
        "done = compress(sys.argv[1], recipe=sys.argv[2], data=sys.argv[3], output=sys.argv[4])\n"
        "assert not done.made, done.made\n"
        "loaded = {'torch', 'nncf', 'onnx', 'openvino'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, own_model, recipe, porch, tmp_path / "again"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert digests(tmp_path / "again") == digests(built.bundle)


@pytest.mark.usefixtures("built")
def test_slim_writes_what_a_box_needs_out_of_what_is_in_the_cache(built, own_model: Path, porch: Path, recipe: Path, tmp_path: Path):
    slim = compress(own_model, recipe=recipe, data=porch, output=tmp_path / "slim.edgemm", slim=True)
    assert slim.made == ()
    assert verify(slim.bundle).ok
    assert slim.bundle.stat().st_size < 0.5 * sum(path.stat().st_size for path in built.bundle.rglob("*"))


def test_the_code_in_a_stages_key_holds_every_plugin_that_it_asks_for(asked):
    assert {"compress", "quantize", "tune", "benchmark", "golden"} <= set(asked)
    assert not {stage: found for stage, plugins_asked in asked.items() if (found := {row for row in plugins_asked if not row[2]})}


LAUNCHED = """
import os
from pathlib import Path
from edgemm import compress
done = compress({card!r}, recipe={recipe!r}, data={data!r}, output={output!r})
Path({output!r}).with_name("made " + os.environ["RANK"]).write_text(" ".join(done.made))
"""


def test_of_two_launched_processes_one_compresses_and_trains_and_one_writes(own_model, porch, tmp_path):
    steps = "[{distill: {epochs: 1}}, {quantize: {calibration_samples: 8}}]"
    (tmp_path / "r.yaml").write_text(f"steps: {steps}\ntargets: {{onnxruntime: {{threads: 1}}}}\nfor: size\n")
    names = {"card": own_model, "recipe": tmp_path / "r.yaml", "data": porch, "output": tmp_path / "bundle"}
    (tmp_path / "launched.py").write_text(LAUNCHED.format(**{name: str(path) for name, path in names.items()}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "launched.py")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, check=False, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    made = [(tmp_path / f"made {rank}").read_text().split() for rank in (0, 1)]
    assert sorted(map(bool, made)) == [False, True]
    assert "distill" in max(made)
    assert verify(tmp_path / "bundle").ok


def test_after_a_change_of_the_reports_looks_only_the_page_is_drawn_again(built, own_model, porch, recipe, tmp_path):
    shutil.copytree(Path(edgemm.__file__).parent, tmp_path / "edgemm", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "edgemm" / "report" / "charts.py").open("a") as file:
        file.write("\nANOTHER_LOOK = 1\n")
    code = (
        "import sys\n"
        "from edgemm import compress\n"
        "done = compress(sys.argv[1], recipe=sys.argv[2], data=sys.argv[3], output=sys.argv[4])\n"
        "print(*done.made, sep=',')\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, own_model, recipe, porch, tmp_path / "again"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["compress"]
    assert digests(tmp_path / "again") == digests(built.bundle)


@pytest.mark.parametrize(
    "package",
    ["openvino", "onnxruntime", "torch", "torchao", "nncf", "onnx", "onnxscript", "transformers", "pillow"],
)
def test_another_version_of_any_package_behind_a_bundle_is_another_key(own_model, porch, recipe, tmp_path, monkeypatch, package):
    installed, keys, made = importlib.metadata.version, [], cache.stage

    def told(name: str) -> str:
        return "999.0" if name == package else installed(name)

    def asked(name: str, inputs: object, make: object, **options: Any) -> object:
        if name != "compress":
            return made(name, inputs, make, **options)
        keys.append(cache.key_facts(inputs, **{key: options[key] for key in ("code", "packages", "on_this_machine")}))
        raise EdgemmError("that is all.")

    monkeypatch.setattr(cache, "stage", asked)
    for version in (installed, told):
        monkeypatch.setattr(importlib.metadata, "version", version)
        with pytest.raises(EdgemmError, match="that is all"):
            compress(own_model, recipe=recipe, data=porch, output=tmp_path / "b")
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    "stage", [pytest.param("export", marks=pytest.mark.slow), "quantize openvino", pytest.param("benchmark", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(built, own_model, porch, recipe, tmp_path, empty_cache, stage):
    run = command("compress", own_model / "model.yaml", "-r", recipe, "-d", porch, "-o", tmp_path / "bundle")
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as killed:
        for line in killed.stderr:
            if line.startswith(f"{stage} ..."):
                time.sleep(0.5)  # in the middle of it
                killed.send_signal(signal.SIGKILL)
                break
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    again = subprocess.run(run, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert digests(tmp_path / "bundle") == digests(built.bundle)


def test_a_missed_budget_ends_with_exit_code_3_and_still_packs(built, own_model, porch, tmp_path):
    strict = tmp_path / "strict.yaml"
    strict.write_text(RECIPE.replace("{accuracy_drop_points: 100}", "{latency_p95_ms: 0.0001}"))
    done = subprocess.run(
        command("compress", own_model, "-r", strict, "-d", porch, "-o", tmp_path / "b"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert json.loads((tmp_path / "b" / "report.json").read_text())["budgets"][0]["verdict"] == "missed"


def test_all_mistakes_of_a_recipe_are_told_before_any_work(own_model, porch, tmp_path, empty_cache):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("steps: [{quantise: {}}, {quantize: {calibration_samples: many}}]\ntargets: {openvin: {}}\nbudgets: {speed: 1}\n")
    with pytest.raises(Mistakes) as raised:
        compress(own_model, recipe=wrong, data=porch, output=tmp_path / "b")
    text = str(raised.value)
    for words in ("did you mean 'quantize'?", "'many' is not a whole number", "did you mean 'openvino'?", "unknown budget 'speed'"):
        assert words in text
    assert not (tmp_path / "b").exists()
    assert not empty_cache.exists()


def test_a_torch_model_without_data_is_refused(own_model, recipe, tmp_path):
    with pytest.raises(DataError, match="needs a dataset"):
        compress(own_model, recipe=recipe, output=tmp_path / "b")


def test_a_place_that_is_no_bundle_is_never_overwritten(own_model, porch, recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EdgemmError, match="is no bundle"):
        compress(own_model, recipe=recipe, data=porch, output=tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_one_calibration_sample_is_refused(own_model, porch, tmp_path):
    few = tmp_path / "few.yaml"
    few.write_text(RECIPE.replace("24", "1"))
    with pytest.raises(EdgemmError, match=r"1 (calibration )?sample"):
        compress(own_model, recipe=few, data=porch, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_untrained_model_is_refused_before_work_unless_asked_for(own_model, porch, recipe, tmp_path, empty_cache):
    shutil.copytree(own_model, tmp_path / "own")
    card = tmp_path / "own" / "model.yaml"
    card.write_text(card.read_text().replace("weights: weights.safetensors\n", ""))
    with pytest.raises(CheckpointError, match=r"names no weights: its factory draws them at random(.|\n)*--untrained"):
        compress(card, recipe=recipe, data=porch, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    done = compress(card, recipe=recipe, data=porch, output=tmp_path / "b", untrained=True)
    assert [note.split(":")[0] for note in done.report.details.notes].count("UNTRAINED") == 1
    assert not done.report.find("size_mib", subject="original"), "no weights were saved that could have a size"
    accuracy = {subject: done.report.find("accuracy", subject=subject, output="event")[0].value for subject in ("original", "float")}
    assert accuracy["original"] == accuracy["float"], "one model at every stage"
