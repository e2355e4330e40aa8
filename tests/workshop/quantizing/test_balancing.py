"""SmoothQuant: norms that make few channels large are balanced where that answers val better, and go back to float whole."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.graph import back_to_float, parity, smoothing
from edgemm.pipeline.job import start
from edgemm.workshop.quantizing import balancing
from edgemm.workshop.steps.quantize import quantize

WIDE, TOKENS = 16, 6
CARD = """
model: model.onnx
inputs: {imu: {modality: sensor, shape: [6, 16]}}
outputs: {event: {task: classification, labels: [a, b, c, d]}}
"""


def graph(large: float) -> onnx.ModelProto:
    """One layer of attention behind a norm that makes two channels ``large``; the weights behind it make up for that."""
    rng = np.random.default_rng(3)
    gain = np.ones(WIDE, np.float32)
    gain[[2, 9]] = large
    square = {name: rng.normal(0, 0.4, (WIDE, WIDE)).astype(np.float32) / gain[:, None] for name in ("wq", "wk", "wv")}
    end = rng.normal(0, 0.5, (TOKENS * WIDE, 4)).astype(np.float32)
    values = {"gain": gain, **square, "end": end, "flat": np.array([0, TOKENS * WIDE], np.int64)}
    nodes = [
        helper.make_node("LayerNormalization", ["imu", "gain"], ["normed"], name="norm", axis=-1),
        *(helper.make_node("MatMul", ["normed", f"w{which}"], [which], name=f"make_{which}") for which in "qkv"),
        helper.make_node("Transpose", ["k"], ["turned"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"], name="score"),
        helper.make_node("Softmax", ["scores"], ["share"], name="soften", axis=-1),
        helper.make_node("MatMul", ["share", "v"], ["seen"], name="see"),
        helper.make_node("Add", ["seen", "imu"], ["both"], name="keep"),
        helper.make_node("Reshape", ["both", "flat"], ["row"], name="flatten"),
        helper.make_node("MatMul", ["row", "end"], ["event"], name="decide"),
    ]
    shapes = {"imu": ["batch", TOKENS, WIDE], "event": ["batch", 4]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    whole = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(value, name) for name, value in values.items()])
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def rows(count: int, seed: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"imu": np.random.default_rng([seed, row]).normal(size=(1, TOKENS, WIDE)).astype(np.float32)} for row in range(count)]


def context(folder, large: float, numerics: str = "mixed") -> tuple[Context, list[str]]:
    model, notes = graph(large), list[str]()
    onnx.save(model, folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    for split, count in {"train": 100, "val": 120}.items():
        samples = rows(count, len(split))
        answers, _ = parity.run_reference(model, samples)
        imu = np.concatenate([row["imu"] for row in samples])
        np.savez(folder / f"{split}.npz", imu=imu, event=answers["event"].reshape(count, -1).argmax(1))
    job = start(folder, folder)
    return Context(job.card, job.dataset, folder / "scratch", numerics=Numerics(numerics), note=notes.append), notes


def distance(model: onnx.ModelProto, floats: onnx.ModelProto) -> float:
    """How far answers to new rows are off, as a share of the float model's."""
    samples = rows(100, 9)
    own, exact = (parity.run_reference(each, samples)[0]["event"] for each in (model, floats))
    return float(np.linalg.norm(own - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("numerics", ["mixed", "uint8", "int8"])
def test_few_large_channels_behind_a_norm_are_balanced_and_the_answers_come_nearer(tmp_path, numerics):
    ctx, notes = context(tmp_path, 300.0, numerics)
    chosen = quantize(graph(300.0), ctx, calibration_samples=64)
    usual = quantize(graph(300.0), ctx, calibration_samples=64, ranges="minmax")
    assert distance(chosen, graph(300.0)) < 0.5 * distance(usual, graph(300.0))
    assert [note for note in notes if "SmoothQuant" in note and "on val" in note] == notes[-1:]


def test_where_no_channel_is_large_nothing_is_balanced(tmp_path):
    ctx, notes = context(tmp_path, 1.0)
    chosen = quantize(graph(1.0), ctx, calibration_samples=64)
    assert not [node.name for node in chosen.graph.node if node.name.endswith(smoothing.SMOOTHED)]
    assert not [note for note in notes if "SmoothQuant" in note]


def test_a_balanced_graph_computes_the_same_in_float_with_nearer_channels():
    model = graph(300.0)
    changed = balancing.balanced(model, rows(8), [])
    assert distance(changed, model) < 1e-4
    values = parity.run_rows(changed, rows(8), beside=["normed" + smoothing.SMOOTHED])
    most = np.max([np.abs(row["normed" + smoothing.SMOOTHED]).reshape(-1, WIDE).max(0) for row in values], axis=0)
    assert most.max() / most.min() < 30


def test_layers_that_are_left_alone_read_the_norm_as_it_was():
    changed = balancing.balanced(graph(300.0), rows(8), ["make_v"])
    read = {node.name: node.input[0] for node in changed.graph.node if node.name.startswith("make_")}
    assert read == {"make_q": "normed/smoothed", "make_k": "normed/smoothed", "make_v": "normed"}
    assert distance(changed, graph(300.0)) < 1e-4


@pytest.mark.parametrize("layers", [["make_q"], ["make_q", "make_k", "make_v"], [node.name for node in graph(1.0).graph.node]])
def test_balanced_layers_go_back_to_float_with_their_own_weights_and_norm(tmp_path, layers):
    ctx, _ = context(tmp_path, 300.0)
    model = graph(300.0)
    quantized = quantize(model, ctx, calibration_samples=64)
    assert "norm/smoothed" in [node.name for node in quantized.graph.node]
    back = back_to_float.revert(quantized, model, layers)
    onnx.checker.check_model(back, full_check=True)
    before, after = distance(quantized, model), distance(back, model)
    assert after <= 1.05 * before
    assert after < 1e-5 or len(layers) < len(model.graph.node)
