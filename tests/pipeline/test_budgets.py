"""Accuracy budgets on a model with one branch that INT8 really destroys: one input channel is a thousand times as loud as the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgemm import compress
from edgemm.contracts import card_file as cards
from edgemm.contracts import recipe as recipes
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Step
from edgemm.graph.back_to_float import int8_layers
from edgemm.pipeline import budgets, stages
from edgemm.pipeline.accuracy_policy import Policy, limits_of, policy_of
from edgemm.pipeline.budgets import guard
from edgemm.pipeline.job import start
from edgemm.pipeline.part_quantized import Partial
from tests.onnx_models import model as onnx_model

pytest.importorskip("openvino")
CARD = """
model: model.onnx
inputs:
  loud: {modality: sensor, shape: [8], rate_hz: 1}
  calm: {modality: sensor, shape: [4], rate_hz: 1}
outputs:
  event: {task: classification, labels: [left, right]}
"""
RECIPE = """
steps: [{{quantize: {{calibration_samples: 40{more}}}}}]
targets: {{openvino: {{}}}}
for: size
budgets: {{accuracy_drop_points: 3}}
"""
ROWS = {"train": 80, "val": 300, "test": 200}
OPTIONS = {"threads": 1, "precision": "f32"}


def graph() -> onnx.ModelProto:
    """Two Gemm a branch, joined, two more; the loud channel has weights of zero."""
    rng = np.random.default_rng(3)
    sizes = {"loud1": (256, 8), "loud2": (8, 256), "calm1": (16, 4), "calm2": (8, 16), "mix": (16, 16), "decide": (2, 16)}
    weights = {name: rng.normal(0, 0.6, size).astype(np.float32) for name, size in sizes.items()}
    weights["loud1"][:, 0] = 0.0
    weights["decide"][1] = -weights["decide"][0]
    nodes = []

    def gemm(name: str, source: str, made: str, *, active: bool) -> None:
        nodes.append(helper.make_node("Gemm", [source, f"{name}.w"], [f"{name}.y" if active else made], name=name, transB=1))
        if active:
            nodes.append(helper.make_node("Relu", [f"{name}.y"], [made], name=f"{name}.relu"))

    for branch in ("loud", "calm"):
        gemm(f"{branch}1", branch, f"{branch}.h", active=True)
        gemm(f"{branch}2", f"{branch}.h", f"{branch}.out", active=True)
    nodes.append(helper.make_node("Concat", ["loud.out", "calm.out"], ["joined"], name="join", axis=1))
    gemm("mix", "joined", "mixed", active=True)
    gemm("decide", "mixed", "event", active=False)
    constants = {f"{name}.w": value for name, value in weights.items()}
    return onnx_model(nodes, {"loud": ["batch", 8], "calm": ["batch", 4]}, {"event": ["batch", 2]}, constants)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Model, card and data, whose labels are what the float graph answers."""
    from edgemm.graph import parity

    folder = tmp_path_factory.mktemp("loud")
    onnx.save(graph(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    rng = np.random.default_rng(4)
    for split, rows in ROWS.items():
        loud, calm = rng.normal(size=(rows, 8)).astype(np.float32), rng.normal(size=(rows, 4)).astype(np.float32)
        loud[:, 0] *= 1000
        found, _ = parity.run_reference(graph(), [{"loud": loud, "calm": calm}])
        np.savez(folder / f"{split}.npz", loud=loud, calm=calm, event=found["event"].reshape(-1, 2).argmax(1))
    return folder


@pytest.fixture(scope="module")
def partial(place) -> Partial:
    job = start(place, place)
    exported = stages.export(job)
    quantized = stages.quantize(job, exported, [Step("quantize", {"calibration_samples": 40}, "graph")], "openvino")
    return Partial(job, exported, quantized, Deployment("openvino", quantized.main, runtime_options=OPTIONS), (job, exported))


def policy(limit: float = 3.0, **changes) -> Policy:
    return replace(Policy({"event": limit}), **changes)


def layers(artifact) -> set[str]:
    return set(int8_layers(onnx.load(artifact.main)))


def test_int8_really_destroys_this_model(partial):
    lost = partial.lost()["event"]
    assert lost.low > 5
    assert lost.n == ROWS["val"]


def test_the_layer_that_harms_goes_back_to_float_and_nothing_else(partial):
    found = guard(partial, policy())
    assert found.met
    assert layers(partial.quantized) - layers(found.partial.quantized) == {"loud1"}
    assert found.partial.lost()["event"].value <= 3
    assert "1 of 2 layers of 'loud' (loud1) went back to float" in found.notes[0]


def test_the_table_tells_every_try_with_its_interval_and_decision(partial):
    table = guard(partial, policy()).table
    assert [row.step for row in table[:3]] == ["everything in INT8", "everything in float", "only loud in INT8"]
    assert table[0].outputs["event"].missed
    assert table[0].outputs["event"].low < table[0].outputs["event"].value < table[0].outputs["event"].high
    assert table[-1].decision == "holds; taken"


def test_a_budget_that_holds_changes_nothing_and_tries_nothing(partial):
    found = guard(partial, policy(100.0))
    assert found.met
    assert found.partial.quantized == partial.quantized
    assert len(found.table) == 1


def test_a_branch_that_the_recipe_marks_int8_is_not_reverted_and_named_as_what_blocks(partial):
    found = guard(partial, policy(locked=["loud"]))
    assert not found.met
    assert found.blocker == {"branch": "loud", "layer": "loud1"}
    assert "loud1" in layers(found.partial.quantized)
    assert "the accuracy budget was not reached on val" in found.notes[-1]
    assert "branch 'loud', most of all its layer 'loud1'" in found.notes[-1]
    assert any("not tried: the recipe marks it int8" in row.decision for row in found.table)


def test_report_reverts_nothing_and_names_what_blocks(partial):
    found = guard(partial, policy(on_miss="report"))
    assert not found.met
    assert found.partial.quantized == partial.quantized
    assert found.blocker == {"branch": "loud", "layer": "loud1"}


def test_a_reverted_graph_above_the_size_budget_is_not_taken(partial):
    size = partial.quantized.main.stat().st_size / 2**20
    found = guard(partial, policy(size_mib=size + 1e-5))
    assert not found.met
    assert "loud1" in layers(found.partial.quantized)
    assert any("not allowed: above the budget of" in row.decision for row in found.table)


def test_training_with_quantization_is_asked_for_only_when_reverting_half_does_not_suffice(partial):
    asked = []

    def retrained() -> Partial:
        asked.append(1)
        return replace(partial, quantized=partial.graph(["loud1", "loud1.relu"]))

    guard(partial, policy(on_miss="qat"), retrained=retrained)
    assert not asked
    found = guard(partial, policy(on_miss="qat", locked=["loud"]), retrained=retrained)
    assert asked == [1]
    assert found.met
    assert "trained with quantization" in [row.step for row in found.table]
    assert "so the model was trained with quantization" in found.notes[0]


def test_training_that_is_worse_than_reverting_is_not_taken(partial, tmp_path):
    model = onnx.load(partial.quantized.main)
    answer = next(node for node in model.graph.node if "event" in node.output)
    answer.output[0] = "other way round"
    model.graph.node.append(helper.make_node("Neg", ["other way round"], ["event"], name="wrong"))
    onnx.save(model, tmp_path / "model.onnx")
    worse = replace(partial, quantized=replace(partial.quantized, main=tmp_path / "model.onnx"))
    found = guard(partial, policy(on_miss="qat", locked=["loud"]), retrained=lambda: worse)
    assert not found.met
    assert found.excess > 0
    assert "was worse than reverting to float" in found.notes[0]


def test_a_loss_that_equals_its_limit_keeps_it(partial):
    lost = partial.lost()["event"].value
    assert guard(partial, policy(np.nextafter(lost, 0.0))).table[0].decision == "holds; taken"


def test_qat_without_a_way_to_train_is_told(partial):
    assert "could only revert" in guard(partial, policy(on_miss="qat")).notes[0]


@pytest.fixture
def shaken(partial, place, tmp_path):
    """The same with weights that lost the answers before quantizing."""
    model = onnx.load(place / "model.onnx")
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "mix.w")
    noise = np.random.default_rng(5).normal(0, 0.6, (16, 16)).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + noise, "mix.w"))
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(CARD)
    job = start(tmp_path, place)
    exported = stages.export(job)
    quantized = stages.quantize(job, exported, [Step("quantize", {"calibration_samples": 40}, "graph")], "openvino")
    return replace(partial, job=job, floats=exported, quantized=quantized)


def test_what_float_itself_loses_is_not_blamed_on_int8(shaken):
    cut = "Pruning took most from branch 'loud'."
    found = guard(shaken, policy(on_miss="report"), heaviest_cut=cut)
    assert not found.met
    assert f"the steps before quantizing cost too much. {cut}" in found.notes[-1]


def test_int8_is_given_up_for_a_float_that_misses_too_only_where_that_wins_something(shaken, monkeypatch):
    whole = guard(shaken, policy(on_miss="report"))
    monkeypatch.setattr(budgets, "WORTH", 1.0)
    kept = guard(shaken, policy())
    assert (kept.reverted, kept.excess) == ([], whole.excess)
    monkeypatch.setattr(budgets, "WORTH", 0.0)
    won = guard(shaken, policy())
    assert won.reverted
    assert won.excess < whole.excess


def test_limits_are_one_for_all_heads_or_one_for_each(place):
    card = cards.load(place)
    assert limits_of(card, {"accuracy_drop_points": {"event": 2}}) == {"event": 2.0}
    assert limits_of(card, {"accuracy_drop_points": 1}) == {"event": 1.0}
    assert limits_of(card, {}) == {}


@pytest.fixture(scope="module")
def regression(place, tmp_path_factory) -> Partial:
    """The same model with what it answers as labels of a regression."""
    from edgemm.graph import parity

    folder = tmp_path_factory.mktemp("level")
    onnx.save(graph(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD.replace("{task: classification, labels: [left, right]}", "{task: regression, unit: lx}"))
    for split in ROWS:
        with np.load(place / f"{split}.npz") as rows:
            feed = {name: rows[name] for name in ("loud", "calm")}
        np.savez(folder / f"{split}.npz", **feed, event=parity.run_reference(graph(), [feed])[0]["event"].reshape(-1, 2))
    job = start(folder, folder)
    exported = stages.export(job)
    quantized = stages.quantize(job, exported, [Step("quantize", {"calibration_samples": 40}, "graph")], "openvino")
    return Partial(job, exported, quantized, Deployment("openvino", quantized.main, runtime_options=OPTIONS), (job, exported))


def test_a_bare_number_is_points_of_a_regressions_spread_and_what_misses_it_goes_back(regression):
    recipe = recipes.parse({"steps": ["quantize"], "targets": ["openvino"], "budgets": {"accuracy_drop_points": 10}})
    with np.load(regression.job.card.folder / "val.npz") as rows:
        spread = float(rows["event"].std())
    wanted = policy_of(recipe, regression)
    assert wanted.limits["event"] == pytest.approx(0.1 * spread, rel=0.01)
    assert wanted.limits["event"] < regression.lost()["event"].value < 10, "in the output's own unit 10 would let everything pass"
    found = guard(regression, wanted)
    assert found.met
    assert "loud1" in layers(regression.quantized) - layers(found.partial.quantized)
    assert "lx [0" in found.notes[0]
    assert f"(limit {wanted.limits['event']:g} lx)" in found.notes[0]


def test_a_number_for_one_regression_is_in_its_own_unit(regression):
    recipe = recipes.parse({"steps": ["quantize"], "targets": ["openvino"], "budgets": {"accuracy_drop_points": {"event": 3}}})
    assert policy_of(recipe, regression).limits == {"event": 3.0}


def test_compress_guards_and_the_bundle_holds_the_budget_on_test(place, tmp_path):
    recipe = tmp_path / "guarded.yaml"
    recipe.write_text(RECIPE.format(more=""))
    done = compress(place, recipe=recipe, data=place, output=tmp_path / "bundle")
    assert not done.report.missed
    assert done.report.details.guard[0].decision == "misses"
    page = (done.bundle / "report.html").read_text()
    assert "Accuracy guard" in page
    assert "1 of 2 layers of &#x27;loud&#x27; (loud1) in float" in page
    assert "loud1" not in int8_layers(onnx.load(done.bundle / "targets/openvino/model.onnx"))
    again = compress(place, recipe=recipe, data=place, output=tmp_path / "again")
    assert not again.made


@pytest.mark.slow
def test_compress_misses_where_the_recipe_forbids_to_revert(place, tmp_path):
    recipe = tmp_path / "locked.yaml"
    recipe.write_text(RECIPE.format(more=", precision: {loud: int8}"))
    done = compress(place, recipe=recipe, data=place, output=tmp_path / "bundle")
    assert [verdict.output for verdict in done.report.missed] == ["event"]
    assert any("most of all its layer 'loud1'" in note for note in done.report.details.notes)
