"""Where INT8 is slower than the runtime by itself, what it does not pay for goes back to float; unless size is the aim."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgemm.box.measuring.statistics import RatioInterval
from edgemm.contracts import recipe
from edgemm.contracts.timing_parts import PrecisionChoice
from edgemm.errors import RecipeError
from edgemm.graph.back_to_float import int8_layers as layers_of
from edgemm.pipeline import auto_precision, compiling, stages
from edgemm.pipeline.job import start
from edgemm.pipeline.paying import compile_paying
from edgemm.workshop.steps.quantize import NARROW
from tests.onnx_models import model as onnx_model

CARD = """
model: model.onnx
inputs: {eye: {modality: sensor, shape: [16], rate_hz: 1}, ear: {modality: sensor, shape: [16], rate_hz: 1}}
outputs: {event: {task: classification, labels: [a, b, c]}}
"""
PLAN = {"steps": [{"quantize": {"calibration_samples": 8}}], "targets": {"onnxruntime": {"threads": 1}}}
SLOW, FAST = RatioInterval(1.4, 1.3, 1.5), RatioInterval(0.7, 0.6, 0.8)


def graph() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.3, size).astype(np.float32)
        for name, size in {"eye.w": (16, 16), "ear.w": (16, 16), "head.w": (32, 3)}.items()
    }
    nodes = [
        helper.make_node("MatMul", ["eye", "eye.w"], ["seen"], name="see"),
        helper.make_node("MatMul", ["ear", "ear.w"], ["heard"], name="hear"),
        helper.make_node("Concat", ["seen", "heard"], ["both"], name="join", axis=1),
        helper.make_node("MatMul", ["both", "head.w"], ["event"], name="head"),
    ]
    return onnx_model(nodes, {"eye": ["batch", 16], "ear": ["batch", 16]}, {"event": ["batch", 3]}, weights)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("paying")
    onnx.save(graph(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    job = start(folder, None)
    return job, stages.export(job)


def int8_layers(model: Path) -> set[str]:
    return set(layers_of(onnx.load(model)))


@pytest.fixture
def clock(monkeypatch):
    """What the clock shall say: of INT8 layers -> their graph's time over the reference's; and of a branch, what is fastest for it."""

    def clock(ratio_of, choices=None):
        real = compiling._tuned
        monkeypatch.setattr(
            compiling, "_tuned", lambda partial, *rest: replace(real(partial, *rest), against=ratio_of(int8_layers(partial.quantized.main)))
        )
        names = ("eye", "ear", auto_precision.REST)
        timed = {name: PrecisionChoice({}, (choices or {}).get(name, "int8"), "as the test says") for name in names}
        monkeypatch.setattr(auto_precision, "_timed", lambda *args: timed)

    return clock


def made(exported, plan=None):
    job, graph = exported
    return compile_paying(job, graph, recipe.parse({**PLAN, **(plan or {})}, card=job.card), "onnxruntime")


def test_what_is_faster_than_the_runtime_by_itself_stays_as_it_is(exported, clock):
    clock(lambda layers: FAST)
    compiled = made(exported)
    assert int8_layers(compiled.model.main) == {"see", "hear", "head"}
    assert [note for note in compiled.notes if NARROW not in note] == []


def test_a_branch_that_gains_nothing_goes_back_to_float(exported, clock):
    clock(lambda layers: SLOW if "hear" in layers else FAST, {"ear": "fp32"})
    compiled = made(exported)
    assert int8_layers(compiled.model.main) == {"see", "head"}
    assert "in INT8 the model took 1.40 [1.3, 1.5] of the time of the float graph as onnxruntime takes it by itself" in compiled.notes[-1]
    assert "now it takes 0.70 [0.6, 0.8]" in compiled.notes[-1]
    assert {row.branch: row.choice for row in compiled.precision}["ear"] == "fp32"


def test_where_that_does_not_suffice_everything_does(exported, clock):
    clock(lambda layers: SLOW if layers else None)
    compiled = made(exported)
    assert int8_layers(compiled.model.main) == set()
    assert "stay in float" in compiled.notes[-1]


@pytest.mark.parametrize("plan", [{"for": "size"}, {"steps": [{"quantize": {"calibration_samples": 8, "precision": {"default": "int8"}}}]}])
def test_int8_is_kept_where_the_recipe_asks_for_it_in_any_case(exported, clock, plan):
    clock(lambda layers: SLOW)
    assert int8_layers(made(exported, plan).model.main) == {"see", "hear", "head"}


def test_a_branch_that_the_recipe_marks_int8_stays_so(exported, clock):
    clock(lambda layers: SLOW if "see" in layers else RatioInterval(1.1, 1.05, 1.15))
    compiled = made(exported, {"steps": [{"quantize": {"calibration_samples": 8, "precision": {"ear": "int8"}}}]})
    assert int8_layers(compiled.model.main) == {"hear"}


def test_the_clock_itself_compares_with_the_untouched_graph_unless_size_is_the_aim(exported):
    job, graph = exported
    timed, untimed = (
        compiling.compile_for(job, graph, recipe.parse({**PLAN, "for": aim}, card=job.card), "onnxruntime") for aim in ("speed", "size")
    )
    assert timed.against is not None
    assert 0.05 < timed.against.value < 20
    assert untimed.against is None


def test_without_tuning_nothing_is_timed_and_it_is_said(exported):
    job, graph = exported
    compiled = compiling.compile_for(job, graph, recipe.parse({**PLAN, "tune": False}, card=job.card), "onnxruntime")
    assert (compiled.against, list(compiled.table), list(compiled.frontends)) == (None, [], [])
    assert int8_layers(compiled.model.main) == {"see", "hear", "head"}
    assert "tune: false" in compiled.notes[-1]


@pytest.mark.parametrize("word", ["no", 0, None])
def test_tune_is_true_or_false(word):
    with pytest.raises(RecipeError, match="neither true nor false"):
        recipe.parse({**PLAN, "tune": word})


@pytest.mark.parametrize("aim", ["fun", ["size"], None, 3])
def test_another_aim_is_refused(aim):
    with pytest.raises(RecipeError, match="is no aim"):
        recipe.parse({**PLAN, "for": aim})
