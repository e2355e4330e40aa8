"""Weights alone in few bits: what is packed, how near it answers, how small it gets, what each runtime makes of it, what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.contracts import onnx_file, plugins
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics, Target
from edgemm.errors import QuantizeError
from edgemm.graph import checks, files, parity
from edgemm.graph.back_to_float import int8_layers, revert
from edgemm.graph.branches import find_branches
from edgemm.graph.costs import branch_costs
from edgemm.graph.tensorrt import form
from edgemm.workshop.quantizing.weights import rounded_rows
from edgemm.workshop.steps import quantize as step

CARD = {
    "model": "tower.onnx",
    "inputs": {
        "words": {"modality": "tensor", "dtype": "int64", "shape": ["batch", 6]},
        "sensor": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 96]},
    },
    "outputs": {"event": {"task": "tensor"}, "vector": {"task": "tensor"}},
}
TARGETS = ("openvino", "onnxruntime")


def build() -> onnx.ModelProto:
    """A table and a product on one side, a Gemm on the other, a head that joins them; the rest too small to pack."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(0, 1, (300, 64)), "w": rng.normal(0, 0.1, (64, 128)), "b": rng.normal(0, 0.1, 128),
        "g": rng.normal(0, 0.1, (128, 96)), "gb": rng.normal(0, 0.1, 128), "h": rng.normal(0, 0.1, (256, 64)),
        "small": rng.normal(0, 0.1, (64, 4)),
    }  # fmt: skip
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "second"))
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["seen"], name="look"),
        helper.make_node("MatMul", ["seen", "w"], ["product"], name="up"),
        helper.make_node("Add", ["product", "b"], ["biased"], name="bias"),
        helper.make_node("Relu", ["biased"], ["active"], name="relu"),
        helper.make_node("ReduceMean", ["active", "second"], ["read"], name="pool", keepdims=0),
        helper.make_node("Gemm", ["sensor", "g", "gb"], ["felt"], name="feel", transB=1),
        helper.make_node("Concat", ["read", "felt"], ["joined"], name="join", axis=1),
        helper.make_node("MatMul", ["joined", "h"], ["vector"], name="mix"),
        helper.make_node("MatMul", ["vector", "small"], ["event"], name="head"),
    ]
    inputs = [
        helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", 6]),
        helper.make_tensor_value_info("sensor", TensorProto.FLOAT, ["batch", 96]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("event", 4), ("vector", 64))]
    graph = helper.make_graph(nodes, "tower", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build()


@pytest.fixture(scope="module")
def card():
    return cards.parse(CARD)


@pytest.fixture(scope="module")
def samples(card):
    """Ids within the table; synthetic ones know no vocabulary."""
    rng = np.random.default_rng(1)
    return [{"words": rng.integers(0, 300, (1, 6)), "sensor": rng.normal(size=(1, 96)).astype(np.float32)} for _ in range(8)]


@pytest.fixture
def packed(model, card, samples, tmp_path, monkeypatch):
    """``packed(target, **options)``: the graph with packed weights, for that target's numerics."""
    monkeypatch.setattr("edgemm.workshop.quantizing.calibration.samples", lambda *_: samples)

    def make(target: str, notes: list[str] | None = None, **options):
        numerics = plugins.load(Target, target).numerics
        context = Context(card, None, tmp_path, target=target, numerics=numerics, note=(notes if notes is not None else []).append)
        return step.quantize(model, context, **{"method": "weights", **options})

    return make


def worst(model, other, samples):
    before, _ = parity.run_reference(model, samples)
    after, _ = parity.run_reference(other, samples)
    return parity.worst(parity.compare(before, after)).sqnr_db


@pytest.mark.parametrize(("bits", "decibels", "smaller"), [(4, 17, 6.5), (8, 36, 3.5)])
@pytest.mark.parametrize("target", [*TARGETS, "tensorrt"])
def test_products_and_tables_are_packed_small_and_answer_alike(model, packed, samples, target, bits, decibels, smaller):
    notes: list[str] = []
    quantized = packed(target, notes, bits=bits)
    assert int8_layers(quantized) == ["look", "up", "feel", "mix"]
    assert worst(model, quantized, samples) > decibels
    assert files.weight_bytes(model) / files.weight_bytes(quantized) > smaller
    assert notes == [f"0.0561 M weights of 4 layers are kept in {bits} bits."]


@pytest.mark.parametrize("target", TARGETS)
def test_a_runtime_keeps_them_small_and_says_so(packed, samples, target, tmp_path):
    path = files.save(packed(target), tmp_path / "w4.onnx")
    face = onnx_file.read(path)
    assert (face.precision_words, face.is_quantized) == (("w4",), False)
    expected, _ = parity.run_reference(files.load(path), samples)
    with plugins.load(Target, target).open(path) as session:
        rows = [session.run(sample) for sample in samples]
        precision = session.precision().split("+")
    found = {name: np.concatenate([row[name].reshape(-1) for row in rows]) for name in expected}
    assert parity.worst(parity.compare(expected, found)).sqnr_db > 30
    assert "w4" in precision
    assert "int8" not in precision


@pytest.mark.parametrize("target", [*TARGETS, "tensorrt"])
def test_a_layer_goes_back_to_its_float_weights(model, packed, samples, target):
    quantized = packed(target)
    half = revert(quantized, model, ["look", "up", "feel"])
    assert int8_layers(half) == ["mix"]
    whole = revert(half, model, [node.name for node in model.graph.node])
    assert int8_layers(whole) == []
    assert worst(model, half, samples) > worst(model, quantized, samples)
    assert worst(model, whole, samples) > 100


def test_what_a_branch_costs_is_counted_as_of_its_float_graph(model, card, packed):
    before, after = (branch_costs(graph, find_branches(graph, card)) for graph in (model, packed("openvino")))
    assert {name: (cost.macs, cost.size_bytes) for name, cost in before.items()} == {
        name: (cost.macs, cost.size_bytes) for name, cost in after.items()
    }
    assert before["words"].stored_bytes / after["words"].stored_bytes > 6.5


def test_branches_get_what_their_precision_says(model, packed, samples):
    mixed = packed("openvino", precision={"words": "w8", "sensor": "fp32", "head": "w4", "fusion": "int8"}, calibration_samples=8)
    kinds = {node.name: (node.op_type, next((a.i for a in node.attribute if a.name == "bits"), 0)) for node in mixed.graph.node}
    assert kinds["look"] == ("GatherBlockQuantized", 8)
    assert kinds["up"] == ("MatMulNBits", 8)
    assert kinds["feel"][0] == "Gemm"
    assert worst(model, mixed, samples) > 15


def test_one_branch_in_few_bits_leaves_the_others_in_int8(packed):
    mixed = packed("openvino", method="ptq", precision={"words": "w4"}, calibration_samples=8)
    kinds = {node.name: node.op_type for node in mixed.graph.node}
    readers = {name for node in mixed.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    rounded = {node.name for node in mixed.graph.node if readers & set(node.input)}
    assert (kinds["look"], kinds["up"]) == ("GatherBlockQuantized", "MatMulNBits")
    assert {"feel", "mix"} <= rounded


def test_tensorrt_gets_blocks_that_keep_its_rules_in_half_precision_too(packed, samples):
    graph = packed("tensorrt")
    assert checks.check(graph) == []
    assert {node.op_type for node in graph.graph.node} & {"MatMulNBits", "GatherBlockQuantized"} == set()
    half = form(graph, precision="f16", int8=True)
    assert checks.check(half) == []
    assert worst(graph, half, samples) > 40
    floats = form(graph, precision="f32", int8=False)
    assert not any(node.op_type == "DequantizeLinear" for node in floats.graph.node)
    assert worst(graph, floats, samples) > 80


def test_scales_are_searched_where_few_bits_are_left_and_inputs_that_matter_count_more():
    rng = np.random.default_rng(3)
    rows = rng.standard_t(4, (32, 128)).astype(np.float32)
    importance = np.where(np.arange(128) % 8 == 0, 100, 0.01).astype(np.float32)

    def error(rounded, weight):
        back = rounded.values.reshape(32, -1, rounded.group) * rounded.scales[..., None]
        return float(((back.reshape(32, 128) - rows) ** 2 * weight).sum())

    plain = np.abs(rows.reshape(32, 2, 64)).max(2, keepdims=True) / 7
    nearest = (np.round(rows.reshape(32, 2, 64) / plain) * plain).reshape(32, 128)
    searched, weighed = rounded_rows(rows, 4, 64), rounded_rows(rows, 4, 64, importance)
    assert error(searched, 1) < 0.8 * float(((nearest - rows) ** 2).sum())
    assert error(weighed, importance) < 0.8 * error(searched, importance)
    assert rounded_rows(np.zeros((4, 64), np.float32), 4, 32).values.any() == np.False_


def test_what_no_target_can_do_is_said_before_any_work(card, tmp_path):
    def refused(numerics: Numerics, **given):
        context = Context(card, None, Path(tmp_path), target="box", numerics=numerics)
        options = {"method": "weights", "bits": 4, "group": 64, "calibration_samples": 8, "precision": None} | given
        with pytest.raises(QuantizeError) as caught:
            step.check(context, **options)
        return f"{caught.value.what} {caught.value.fix}"

    able = Numerics("mixed", weight_bits=(4, 8))
    assert refused(able, bits=3) == "bits: target 'box' computes with no weights of 3 bits. one of: 4, 8."
    assert "set method: ptq" in refused(Numerics("int8"))
    assert refused(able, group=48).startswith("group: 48 weights to a scale.")
    assert "has no w4. one of: int8, fp32." in refused(Numerics("int8"), method="ptq", precision={"words": "w4"})
