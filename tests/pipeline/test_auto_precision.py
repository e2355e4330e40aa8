"""``precision: auto``: each branch alone is timed, and quantized where that is shown to gain."""

import numpy as np
import onnx
import pytest

from edgemm.box.measuring.schedule import Timing
from edgemm.contracts import plugins, recipe
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Step
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.contracts.target import Target
from edgemm.errors import Mistakes, RecipeError, TargetError
from edgemm.graph.back_to_float import int8_layers
from edgemm.pipeline import auto_precision, stages
from edgemm.pipeline.auto_precision import choose, decide, normal
from edgemm.pipeline.job import start
from edgemm.report.page import render
from tests.pipeline.test_compiling import CARD, graph

pytest.importorskip("openvino")


def timing(ms: float, spread: float = 0.01, seed: int = 0) -> Timing:
    """Twelve rounds of three launches around ``ms``."""
    rng = np.random.default_rng(seed)
    rounds = tuple([float(ms * np.exp(rng.normal(0, spread))) for _ in range(20)] for _ in range(12))
    return Timing(samples={"latency": rounds}, launches=tuple(number // 4 for number in range(12)))


def test_int8_is_taken_where_the_interval_shows_a_gain_over_the_fastest_float():
    found = choose({"fp32": timing(2.0), "bf16": timing(1.0, seed=1), "int8": timing(0.6, seed=2)}, "bf16")
    assert found.choice == "int8"
    assert found.reason.startswith("INT8 takes 0.6")
    assert found.reason.endswith("of the time of bf16.")
    assert set(found.ms) == {"fp32", "bf16", "int8"}


@pytest.mark.parametrize("ms", [0.95, 1.0, 1.4])
def test_float_stays_where_no_gain_is_shown(ms):
    found = choose({"fp32": timing(2.0, 0.3), "bf16": timing(1.0, 0.3, seed=1), "int8": timing(ms, 0.3, seed=2)}, "bf16")
    assert found.choice == "bf16"
    assert found.reason.endswith("no gain is shown.")


@pytest.mark.parametrize(("w4", "int8", "choice"), [(1.0, 0.99, "w4"), (1.4, 1.0, "fp32"), (0.7, 0.5, "int8"), (0.5, 0.7, "w4")])
def test_weights_alone_are_taken_where_they_are_not_slower_and_the_fastest_where_one_is_faster(w4, int8, choice):
    found = choose({"fp32": timing(1.0, 0.3), "int8": timing(int8, 0.3, seed=1), "w4": timing(w4, 0.3, seed=2)}, "fp32")
    assert found.choice == choice


@pytest.mark.parametrize(("w4", "w8", "choice"), [(1.0, 0.99, "w4"), (1.6, 1.0, "w8"), (1.6, 1.5, "fp32"), (0.9, 0.5, "w8")])
def test_of_weights_alone_the_fewest_bits_are_taken_that_are_not_slower(w4, w8, choice):
    found = choose({"fp32": timing(1.0, 0.05), "w8": timing(w8, 0.05, seed=1), "w4": timing(w4, 0.05, seed=2)}, "fp32")
    assert found.choice == choice


def test_int8_that_cannot_run_is_not_taken_and_the_reason_told():
    broken = Timing(error=TargetError("no kernel.", why="too old."))
    found = choose({"fp32": timing(1.0), "int8": broken}, "fp32")
    assert (found.choice, found.reason) == ("fp32", "could not be timed: no kernel. too old.")


def test_float_that_cannot_run_leaves_int8():
    broken = Timing(error=TargetError("no kernel."))
    assert choose({"fp32": broken, "int8": timing(1.0)}, "fp32").choice == "int8"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    onnx.save(graph(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    job = start(folder, None)
    return job, stages.export(job)


def quantize_step(**options) -> list[Step]:
    return [Step("quantize", {"calibration_samples": 10, **options}, "graph")]


def test_every_branch_is_timed_on_the_target_and_decided(exported, monkeypatch):
    monkeypatch.setattr(auto_precision, "SECONDS", 0.1)
    monkeypatch.setattr(auto_precision, "LAUNCHES", 0)
    job, made = exported
    found = decide(job, made, quantize_step(precision="auto"), Deployment("openvino", made.main, {"threads": 1}), forbid=frozenset())
    assert [row.branch for row in found.table] == ["wrong", "right", "fusion", "head:event"]
    floats = {"fp32", "bf16"} if len(found.table[0].ms) == 3 else {"fp32"}
    for row in found.table:
        assert set(row.ms) == {*floats, "int8"}
        assert row.choice in {"int8", *floats}
        assert row.ms["int8"].value > 0
    chosen = found.steps[0].options["precision"]
    assert {row.branch: row.choice for row in found.table} == chosen
    page = render(Report({}, details=Details(precision=list(found.table))))
    assert "Precision by measurement" in page
    assert all(row.reason in page for row in found.table)
    quantized = stages.quantize(job, made, found.steps, "openvino")
    owners = {"first": "wrong", "second": "wrong", "other": "right", "head": "head:event"}
    assert set(int8_layers(onnx.load(quantized.main))) == {layer for layer, branch in owners.items() if chosen[branch] == "int8"}


def test_weights_alone_are_timed_beside_int8_where_the_recipe_asks_for_them(exported, monkeypatch):
    monkeypatch.setattr(auto_precision, "SECONDS", 0.1)
    monkeypatch.setattr(auto_precision, "LAUNCHES", 0)
    monkeypatch.setattr("edgemm.workshop.quantizing.weights.FEWEST_WEIGHTS", 16)
    job, made = exported
    on = Deployment("openvino", made.main, {"threads": 1})
    found = decide(job, made, quantize_step(method="weights", bits=8, group=16, precision="auto"), on, forbid=frozenset({"bf16", "fp16"}))
    assert {"int8", "w8"} <= {*found.table[-1].ms}
    assert {row.choice for row in found.table} <= {"int8", "w8", "fp32"}
    four = decide(job, made, quantize_step(method="weights", bits=4, group=16, precision="auto"), on, forbid=frozenset({"bf16", "fp16"}))
    assert {"int8", "w8", "w4"} <= {*four.table[-1].ms}


def test_explicit_precisions_override_and_are_not_timed(exported, monkeypatch):
    monkeypatch.setattr(auto_precision, "SECONDS", 0.1)
    monkeypatch.setattr(auto_precision, "LAUNCHES", 0)
    job, made = exported
    asked = {"default": "auto", "wrong": "fp32", "head": "int8"}
    on = Deployment("openvino", made.main, {"threads": 1})
    found = decide(job, made, quantize_step(precision=asked), on, forbid=frozenset({"bf16", "fp16"}))
    assert not {"wrong", "head:event"} & {row.branch for row in found.table}
    assert found.steps[0].options["precision"]["wrong"] == "fp32"
    assert found.steps[0].options["precision"]["head:event"] == "int8"


def test_a_recipe_without_auto_is_left_as_it_is(exported):
    job, made = exported
    found = decide(job, made, quantize_step(precision={"head": "fp32"}), Deployment("openvino", made.main), forbid=frozenset())
    assert found.steps[0].options["precision"] == {"head": "fp32"}
    assert not found.table


def test_a_target_that_cannot_run_here_gets_int8_and_a_note(exported, monkeypatch):
    kind = plugins.find(Target, "openvino")
    monkeypatch.setattr(kind, "cannot_run", lambda self: "there is no such device.")
    job, made = exported
    found = decide(job, made, quantize_step(precision="auto"), Deployment("openvino", made.main), forbid=frozenset())
    assert found.steps[0].options["precision"] == {"default": "int8"}
    assert found.notes == ["openvino: precision auto is INT8 everywhere: there is no such device."]


def test_two_steps_that_mean_the_same_are_one():
    assert normal(Step("quantize", {}, "graph")) == normal(Step("quantize", {"method": "ptq", "on_miss": "report"}, "graph"))
    assert normal(Step("quantize", {"precision": "auto"}, "graph")).options["precision"] == {"default": "auto"}


@pytest.mark.parametrize("precision", ["auto", {"default": "auto"}, {"default": "fp32", "wrong": "auto"}, {"wrong": "int8"}])
def test_a_recipe_may_say_auto_and_default(exported, precision):
    plan = recipe.parse({"steps": [{"quantize": {"precision": precision}}], "targets": {"openvino": {}}}, card=exported[0].card)
    assert plan.notes(exported[0].card) == []


def test_only_quantize_knows_a_default(exported):
    steps = [{"qat": {"precision": {"default": "fp32"}}}, {"quantize": {}}]
    with pytest.raises((RecipeError, Mistakes), match="'default', no part of this model"):
        recipe.parse({"steps": steps, "targets": {"openvino": {}}}, card=exported[0].card.replace(model=None, factory="a:b"))


def test_a_recipe_may_not_say_another_word_or_another_default(exported):
    card = exported[0].card
    with pytest.raises(RecipeError, match="precision: unknown value 'fast'"):
        recipe.parse({"steps": [{"quantize": {"precision": "fast"}}], "targets": {"openvino": {}}}, card=card)
    with pytest.raises((RecipeError, Mistakes), match="'defaults', no part of this model"):
        recipe.parse({"steps": [{"quantize": {"precision": {"defaults": "auto"}}}], "targets": {"openvino": {}}}, card=card)
