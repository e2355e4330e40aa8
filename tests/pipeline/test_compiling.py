"""A branch whose INT8 a target computes wrongly stays in float there: with a real fault, that of OpenVINO's just-in-time fusions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("openvino")
from onnx import helper

from edgemm.box.targets.openvino import OpenVINO
from edgemm.contracts import recipe
from edgemm.data.dataset import open_dataset
from edgemm.errors import ParityError
from edgemm.graph.back_to_float import int8_layers
from edgemm.pipeline import compiling, stages
from edgemm.pipeline.job import start
from edgemm.store import cache
from tests.onnx_models import model as onnx_model

CARD = """
model: model.onnx
inputs:
  wrong: {modality: sensor, shape: [64], rate_hz: 1}
  right: {modality: sensor, shape: [4], rate_hz: 1}
outputs:
  event: {task: classification, labels: [a, b, c]}
"""
PLAN = {"steps": [{"quantize": {"calibration_samples": 20}}], "targets": {"openvino": {"snippets": "on", "precision": "f32", "threads": 1}}}


def graph() -> onnx.ModelProto:
    """Linear, factor per channel, Linear: in INT8 with snippets, OpenVINO 2026.4 computes garbage. Beside it a branch that is right."""
    rng = np.random.default_rng(0)
    sizes = {"first.w": (64, 128), "factor": (128,), "second.w": (128, 16), "other.w": (4, 16), "head.w": (32, 3)}
    weights = {name: rng.normal(0, 0.3, size).astype(np.float32) for name, size in sizes.items()}
    weights["factor"] = 1 + np.abs(weights["factor"])
    nodes = [
        helper.make_node("MatMul", ["wrong", "first.w"], ["a"], name="first"),
        helper.make_node("Mul", ["a", "factor"], ["b"], name="scale"),
        helper.make_node("MatMul", ["b", "second.w"], ["c"], name="second"),
        helper.make_node("MatMul", ["right", "other.w"], ["d"], name="other"),
        helper.make_node("Concat", ["c", "d"], ["e"], name="join", axis=1),
        helper.make_node("MatMul", ["e", "head.w"], ["event"], name="head"),
    ]
    return onnx_model(nodes, {"wrong": ["batch", 64], "right": ["batch", 4]}, {"event": ["batch", 3]}, weights)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("faulty")
    onnx.save(graph(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    job = start(folder, None)
    return job, stages.export(job)


@pytest.fixture(scope="module")
def faulty(exported):
    """``exported`` where the fault is: whether a processor's kernels have it is for OpenVINO to say."""
    job, graph = exported
    made = compiling.compile_for(job, graph, recipe.parse({**PLAN, "targets": {"openvino": {"threads": 1}}}, card=job.card), "openvino")
    rng = np.random.default_rng(1)
    row = {"wrong": rng.normal(size=(1, 64)).astype(np.float32), "right": rng.normal(size=(1, 4)).astype(np.float32)}
    target = OpenVINO(threads=1)  # the fault needs one thread
    with target.open(made.model.main, snippets="on") as fused, target.open(made.model.main) as plain:
        if np.abs(fused.run(row)["event"] - plain.run(row)["event"]).max() < 1:
            pytest.skip("OpenVINO's fusions compute this graph rightly on this processor")
    return job, graph


def test_the_branch_that_the_target_computes_wrongly_stays_in_float_and_is_named(faulty):
    job, graph = faulty
    made = compiling.compile_for(job, graph, recipe.parse(PLAN, card=job.card), "openvino")
    assert made.kept_float == ["wrong"]
    assert made.notes[0] == "openvino: branch 'wrong' stays in float, this target computes its INT8 wrongly."
    assert int8_layers(onnx.load(made.model.main)) == ["other", "head"]
    assert all(rung.ok for rung in made.rungs)


def test_where_the_target_computes_all_rightly_nothing_is_kept(exported):
    job, graph = exported
    plan = {**PLAN, "targets": {"openvino": {"precision": "f32", "threads": 1}}}
    made = compiling.compile_for(job, graph, recipe.parse(plan, card=job.card), "openvino")
    assert made.kept_float == []
    assert int8_layers(onnx.load(made.model.main)) == ["first", "second", "other", "head"]


def test_fast_options_that_compute_the_graph_wrongly_are_not_taken_however_fast(faulty, monkeypatch):
    from edgemm.box.measuring import tuning

    monkeypatch.setattr(tuning, "_is_faster", lambda timing, other: True)  # so that whether they are right decides
    job, graph = faulty
    plan = {**PLAN, "targets": {"openvino": {"precision": "f32", "threads": 1, "snippets": "auto"}}}  # a place of its own in the cache
    made = compiling.compile_for(job, graph, recipe.parse(plan, card=job.card), "openvino")
    (refused,) = [row for row in made.table if row.options.get("snippets") == "single"]
    assert "it breaks the parity ladder: output 'event' is off by" in refused.note
    assert "snippets" not in made.deployment.runtime_options
    assert any("snippets single" in note and "breaks the parity ladder" in note for note in made.notes)
    assert int8_layers(onnx.load(made.model.main)) == ["first", "second", "other", "head"]


def test_what_was_timed_holds_for_any_budget_and_any_number_of_cores_answers(exported, tmp_path, monkeypatch):
    job, graph = exported
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        cells = {name: " ".join(f"{x:.3f}" for x in rng.normal(size=size)) for name, size in {"wrong": 64, "right": 4}.items()}
        rows.append(f"{('train', 'val', 'test')[number % 3]},{cells['wrong']},{cells['right']},{'abc'[number % 3]}")
    (tmp_path / "manifest.csv").write_text("\n".join(["split,wrong,right,event", *rows]))
    plan = {"steps": [{"quantize": {"calibration_samples": 8}}], "targets": {"onnxruntime": {"threads": 1}}}
    made = []
    for cores, budgets in ((2, {"accuracy_drop_points": 100}), (2, {"accuracy_drop_points": 90, "size_mib": 9}), (1, {})):
        monkeypatch.setattr(cache, "machine", lambda cores=cores: {"processor": "of the test", "cores": cores})
        data = replace(job, data=str(tmp_path), dataset=open_dataset(tmp_path, job.card), made=[], reused=[])
        compiling.compile_for(data, graph, recipe.parse({**plan, "budgets": budgets}, card=job.card), "onnxruntime")
        made.append(data.made)
    assert "tune onnxruntime" in made[0]
    assert made[1] == []
    assert made[2] == ["tune onnxruntime"], "only what is timed knows the cores"


def test_fast_options_are_tried_beside_every_choice_that_is_nearly_the_fastest(exported, monkeypatch):
    from edgemm.box.measuring import tuning

    monkeypatch.setattr(tuning, "CLOSE", 1e3)  # all of them
    job, graph = exported
    before = len(job.made)
    made = compiling.compile_for(
        job, graph, recipe.parse({**PLAN, "targets": {"openvino": {"precision": "f32"}}}, card=job.card), "openvino"
    )
    plain = [row.options for row in made.table if "snippets" not in row.options]
    fused = [row.options for row in made.table if row.options.get("snippets") == "single"]
    assert len(plain) == len(OpenVINO(precision="f32").choices())
    new = job.made[before:]
    assert new.count("meaning") <= 1 < new.count("parity openvino")  # ONNX Runtime says once for all options what is right
    assert sorted(options["threads"] for options in fused) == sorted(options["threads"] for options in plain)


def test_fusions_for_a_single_row_leave_a_larger_batch_as_it_was(faulty):
    job, graph = faulty
    made = compiling.compile_for(job, graph, recipe.parse({**PLAN, "targets": {"openvino": {"threads": 1}}}, card=job.card), "openvino")
    rng = np.random.default_rng(1)
    rows = {"wrong": rng.normal(size=(2, 64)).astype(np.float32), "right": rng.normal(size=(2, 4)).astype(np.float32)}
    target = OpenVINO(threads=1)  # the fault needs one thread
    with target.open(made.model.main, snippets="single") as single, target.open(made.model.main) as plain:
        np.testing.assert_array_equal(single.run(rows)["event"], plain.run(rows)["event"])
        row = {name: array[:1] for name, array in rows.items()}
        assert np.abs(single.run(row)["event"] - plain.run(row)["event"]).max() > 1  # the fault: one row runs with them


def test_a_fault_that_float_does_not_heal_stops_with_branch_and_node(faulty, monkeypatch):
    job, graph = faulty
    monkeypatch.setattr(compiling.Partial, "nodes", lambda self, *branches: [])  # nothing of the model can be reverted
    with pytest.raises(ParityError, match=r"openvino computes the graph wrongly(.|\n)*node 'second' of branch 'wrong'"):
        compiling.compile_for(job, graph, recipe.parse(PLAN, card=job.card), "openvino")
