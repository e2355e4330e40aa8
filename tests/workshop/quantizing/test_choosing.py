"""Which rule an activation's range follows: the usual one, unless another answers val better."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.graph import parity
from edgemm.pipeline.job import start
from edgemm.workshop.quantizing import nncf
from edgemm.workshop.quantizing.choosing import wins_over
from edgemm.workshop.steps.quantize import quantize

CARD = """
model: model.onnx
inputs: {imu: {modality: sensor, shape: [8]}}
outputs: {event: {task: classification, labels: [a, b, c, d]}}
"""


def graph(power: int) -> onnx.ModelProto:
    """imu -> Gemm -> each value to the power of ``power`` -> Gemm -> event. A high one makes few activations very large."""
    rng = np.random.default_rng(3)
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.5, (64, 8)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(0, 0.5, (4, 64)).astype(np.float32), "w2"),
        numpy_helper.from_array(np.float32(power), "power"),
    ]
    nodes = [
        helper.make_node("Gemm", ["imu", "w1"], ["wide"], name="widen", transB=1),
        helper.make_node("Pow", ["wide", "power"], ["steep"], name="steepen"),
        helper.make_node("Gemm", ["steep", "w2"], ["event"], name="decide", transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("imu", 8), ("event", 4))]
    whole = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def context(folder, power: int, *, val: int = 200) -> tuple[Context, list[str]]:
    """Labels are what the float graph answers; the inputs themselves hold nothing far out."""
    rng, model, notes = np.random.default_rng(4), graph(power), list[str]()
    onnx.save(model, folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    for split, rows in {"train": 200, "val": val}.items():
        imu = rng.normal(size=(rows, 8)).astype(np.float32)
        answers, _ = parity.run_reference(model, [{"imu": imu}])
        np.savez(folder / f"{split}.npz", imu=imu, event=answers["event"].reshape(rows, -1).argmax(1))
    job = start(folder, folder)
    return Context(job.card, job.dataset, folder / "scratch", numerics=Numerics("mixed"), note=notes.append), notes


def right(model: onnx.ModelProto, ctx: Context) -> float:
    """Share of new rows answered as the float graph answers them."""
    imu = np.random.default_rng(5).normal(size=(400, 8)).astype(np.float32)
    quantized, _ = parity.run_reference(model, [{"imu": imu}])
    exact, _ = parity.run_reference(graph(7), [{"imu": imu}])
    return float((quantized["event"].reshape(-1, 4).argmax(1) == exact["event"].reshape(-1, 4).argmax(1)).mean())


def test_a_range_that_few_large_activations_spoil_is_taken_by_another_rule(tmp_path):
    ctx, notes = context(tmp_path, power=7)
    chosen = quantize(graph(7), ctx, calibration_samples=100)
    usual = quantize(graph(7), ctx, calibration_samples=100, ranges="minmax")
    assert right(chosen, ctx) > right(usual, ctx) + 0.02
    assert [note for note in notes if "INT8 ranges are taken by" in note and "on val" in note] == notes[-1:]


@pytest.mark.parametrize(("power", "val"), [(1, 200), (7, 20)])
def test_where_the_usual_rule_is_near_or_val_too_small_to_tell_nothing_else_is_tried(tmp_path, monkeypatch, power, val):
    calls, real = [], nncf.quantize
    monkeypatch.setattr(nncf, "quantize", lambda *args, **options: calls.append(args) or real(*args, **options))
    ctx, notes = context(tmp_path, power, val=val)
    quantize(graph(power), ctx, calibration_samples=100)
    assert (len(calls), notes) == (1, [])


def loss(value, low=None, high=None):
    from edgemm.contracts.task import Score

    return Score("accuracy_drop_points", value, low, high, 100, "lower", "points")


@pytest.mark.parametrize(
    ("losses", "distances", "wins"),
    [
        ([loss(-3, -5, -1)], (0.1, 0.2), True),
        ([loss(3, 1, 5)], (0.2, 0.1), False),
        ([loss(0, -1, 1)], (0.2, 0.1), True),
        ([loss(0, -1, 1)], (0.2, 0.19), False),
        ([loss(1, -1, 3)], (0.2, 0.1), False),
        ([loss(-3, -5, -1), loss(3, 1, 5)], (0.2, 0.1), True),
        ([], (0.2, 0.1), True),
    ],
)
def test_labels_decide_where_they_prove_something_and_nearness_where_they_do_not(losses, distances, wins):
    assert wins_over(losses, distances) is wins
