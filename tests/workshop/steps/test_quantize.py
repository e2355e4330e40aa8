"""Quantizing: three numerics, what stays in float, what shrinks, what is refused; nothing is printed."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.data import dataset as data
from edgemm.errors import DataError, QuantizeError
from edgemm.graph import files, onnx_card, parity, user_onnx
from edgemm.graph.branches import find_branches
from edgemm.store.instructions import onednn_instructions, saturates
from edgemm.workshop.quantizing import calibration as _calibration
from edgemm.workshop.quantizing import nncf, onnxruntime
from edgemm.workshop.steps.quantize import quantize
from tests.graph import user_files

NUMERICS = ("mixed", "int8", "uint8")
PAIRS = ("QuantizeLinear", "DequantizeLinear")


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def activations(model):
    """(scale, zero point) of every quantizer of an activation."""
    found = constants(model)
    return [(found[n.input[1]], found[n.input[2]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]


def biases(model):
    """Node -> its bias."""
    found = constants(model)
    return {n.name: found[n.input[2]] for n in model.graph.node if n.op_type in ("Conv", "Gemm") and len(n.input) > 2}


def readers_of_floats(model):
    """Names of nodes that read nothing from a DequantizeLinear."""
    made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name for node in model.graph.node if node.op_type not in PAIRS and not made & set(node.input)}


@pytest.fixture(scope="module")
def quantized(model, card, tmp_path_factory):
    """One Q/DQ graph for each numerics, made once."""
    from edgemm.contracts.step import Context
    from edgemm.contracts.target import Numerics

    place = tmp_path_factory.mktemp("quantized")
    return {
        name: quantize(model, Context(card, data.synthetic(card), place, numerics=Numerics(name)), calibration_samples=32)
        for name in NUMERICS
    }


@pytest.mark.parametrize("name", NUMERICS)
def test_outputs_stay_close_to_the_float_graphs(model, quantized, samples, name):
    reference, _ = parity.run_reference(model, samples)
    found, _ = parity.run_reference(quantized[name], samples)
    assert {output: round(entry.sqnr_db) for output, entry in parity.compare(reference, found).items() if entry.sqnr_db < 12} == {}


@pytest.mark.parametrize("name", NUMERICS)
def test_tensors_on_the_way_keep_their_names_and_meaning(model, quantized, samples, name):
    tensors = ("r1", "seen", "heard", "read", "active")
    reference, _ = parity.run_reference(parity.with_outputs(model, tensors), samples)
    found, _ = parity.run_reference(parity.with_outputs(quantized[name], tensors), samples)
    assert all(entry.sqnr_db > 20 for output, entry in parity.compare(reference, found).items() if output in tensors)


@pytest.mark.parametrize("name", ["mixed", "int8"])
def test_biases_stay_as_they_were_trained(model, quantized, name):
    """NNCF's fast correction moves them by a rounding error that real samples do not have: digits lost 2.0 points with it, 0.2 without."""
    before, after = biases(model), biases(quantized[name])
    assert set(before) == {"conv1", "conv2", "mix"}
    assert {node: np.abs(before[node] - after[node]).max() for node in before if not np.array_equal(before[node], after[node])} == {}


@pytest.mark.parametrize("name", NUMERICS)
def test_the_graph_is_valid_onnx_and_keeps_its_face(model, quantized, name):
    onnx.checker.check_model(quantized[name], full_check=True)
    assert [v.SerializeToString() for v in quantized[name].graph.input] == [v.SerializeToString() for v in model.graph.input]
    assert [v.name for v in quantized[name].graph.output] == ["event", "level"]


@pytest.mark.parametrize("name", NUMERICS)
def test_weights_and_embedding_tables_are_stored_in_one_byte_and_recurrent_ones_stay_float(model, quantized, name):
    stored = [value for value in constants(quantized[name]).values() if value.size >= 400]
    wide = [value.shape for value in stored if value.dtype.itemsize > 1]
    assert wide == [(1, 96, 6), (1, 96, 32)], "recurrent layers stay float"
    assert any(value.shape == (500, 16) for value in stored)
    rest = 4 * (96 * 6 + 96 * 32 + 192)
    assert files.weight_bytes(quantized[name]) - rest < 0.33 * (files.weight_bytes(model) - rest)


@pytest.mark.parametrize("name", ["mixed", "uint8"])
def test_where_sums_of_products_overflow_weights_take_seven_bits(model, quantized, context, name):
    narrow, told = dataclasses.replace(context().numerics, activations=name, narrow_weights=True), []
    made = quantize(model, dataclasses.replace(context(name, note=told.append), numerics=narrow))
    assert _largest_weight(made) <= 64 < _largest_weight(quantized[name])
    assert any("7 of 8 bits" in note for note in told)


def _largest_weight(model):
    found = constants(model)
    stored = {n.output[0]: found[n.input[0]] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in found}
    read = {name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") for name in n.input}
    summed = [one for name, one in stored.items() if name in read and one.dtype == np.int8 and one.shape[1] > 1]  # depthwise: one product
    return max(int(np.abs(one.astype(int)).max()) for one in summed)


@pytest.mark.parametrize("name", NUMERICS)
def test_recurrent_layers_stay_what_they_are(quantized, name):
    gru = next(node for node in quantized[name].graph.node if node.op_type == "GRU")
    assert {a.name: a.i for a in gru.attribute if a.type == onnx.AttributeProto.INT}["linear_before_reset"] == 1


@pytest.mark.parametrize("name", NUMERICS)
def test_front_ends_are_not_quantized(quantized, name):
    assert "frontend/image/0_Mul" in readers_of_floats(quantized[name])


def test_mixed_numerics_are_unsigned_only_where_nothing_is_negative_and_have_no_zero_point(quantized):
    pairs = activations(quantized["mixed"])
    assert {zero.dtype.name for _, zero in pairs} == {"int8", "uint8"}
    assert all(not zero.any() for _, zero in pairs)


def test_int8_numerics_are_signed_throughout_with_zero_point_0_axis_and_three_inputs(quantized):
    graph, found = quantized["int8"].graph, constants(quantized["int8"])
    for node in graph.node:
        if node.op_type in PAIRS:
            assert len(node.input) == 3
            assert (found[node.input[1]] > 0).all()
            assert found[node.input[2]].dtype == np.int8
            assert not found[node.input[2]].any()
            assert any(a.name == "axis" for a in node.attribute) or found[node.input[1]].ndim == 0
    assert not [v for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.UINT8]


def test_int8_numerics_cover_the_range_of_the_unsigned_ones(quantized):
    unsigned, signed = activations(quantized["mixed"]), activations(quantized["int8"])
    assert len(unsigned) == len(signed)
    for (old, zero), (new, _) in zip(unsigned, signed, strict=True):
        assert new.size == 1  # TensorRT fuses a scale a channel at weights only
        np.testing.assert_allclose(new * 127, old.max() * (255 if zero.dtype == np.uint8 else 127), rtol=1e-6)


def test_uint8_numerics_are_unsigned_and_run_in_integer_kernels(quantized, samples, tmp_path):
    assert {zero.dtype.name for _, zero in activations(quantized["uint8"])} == {"uint8"}
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(quantized["uint8"].SerializeToString(), settings)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert "Conv" not in kinds


@pytest.mark.parametrize("name", NUMERICS)
def test_a_branch_marked_fp32_stays_as_it_is(model, context, name):
    made = quantize(model, context(name), calibration_samples=4, precision={"head": "fp32", "image": "fp32", "audio": "fp32"})
    assert {"conv1", "conv2", "gru"} <= readers_of_floats(made)
    assert not {"mix", "look"} & readers_of_floats(made)
    stored = constants(made)
    assert {stored[weight].dtype.name for weight in ("k1", "k2", "w", "r", "eh", "lh")} == {"float32"}
    assert "fc" not in stored or stored["fc"].dtype == np.int8


def test_a_later_selector_overrides_an_earlier_one(model, context):
    made = quantize(model, context(), calibration_samples=4, precision={"head": "fp32", "head:level": "int8"})
    assert "event_head" in readers_of_floats(made)
    assert "level_head" not in readers_of_floats(made)


def test_a_model_kept_in_float_altogether_comes_back_unchanged(model, context):
    made = quantize(model, context(), precision=dict.fromkeys(("image", "audio", "words", "fusion", "head"), "fp32"))
    assert made == model
    assert made is not model


def test_the_given_model_is_left_alone(model, context):
    before = model.SerializeToString()
    quantize(model, context("int8"), calibration_samples=4)
    assert model.SerializeToString() == before


def test_cuts_of_the_float_graph_are_still_there(model, quantized, card):
    for name in NUMERICS:
        made = {out for node in quantized[name].graph.node for out in node.output}
        assert {tensor for tensors in find_branches(model, card).cuts.values() for tensor in tensors} <= made


def test_progress_is_told_and_nothing_is_printed(model, context, capfd):
    told = []
    quantize(model, context(progress=lambda text, done: told.append((text, done))), calibration_samples=4)
    assert capfd.readouterr() == ("", "")
    assert {"reading calibration samples", "taking ranges"} <= {text for text, _ in told}
    assert all(0 <= done <= 1 for _, done in told)


@pytest.mark.parametrize("name", NUMERICS)
def test_the_same_input_gives_the_same_bytes_in_another_process(quantized, name, tmp_path):
    code = f"""
import importlib.util, hashlib, pathlib
spec = importlib.util.spec_from_file_location("made", {os.path.join(os.path.dirname(__file__), "conftest.py")!r})
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
from edgemm.workshop.steps.quantize import quantize
from tests.graph import user_files
card = made.cards.parse(made.CARD)
ctx = made.Context(card, made.dataset.synthetic(card), pathlib.Path({str(tmp_path)!r}), numerics=made.Numerics({name!r}))
print(hashlib.sha256(quantize(made.build(), ctx, calibration_samples=32).SerializeToString(deterministic=True)).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "3"})
    assert done.stderr == ""
    assert done.stdout.strip() == hashlib.sha256(quantized[name].SerializeToString(deterministic=True)).hexdigest()


@pytest.fixture
def attending():
    """Two linear layers, attention over their steps, a sum and a last layer."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, (8, 8)).astype(np.float32) for name in ("wq", "wk", "wo")}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "wq"], ["q"], name="queries"),
        onnx.helper.make_node("MatMul", ["x", "wk"], ["k"], name="keys"),
        onnx.helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        onnx.helper.make_node("MatMul", ["q", "kt"], ["s"], name="scores"),
        onnx.helper.make_node("Softmax", ["s"], ["p"], name="softmax"),
        onnx.helper.make_node("MatMul", ["p", "x"], ["a"], name="mixing"),
        onnx.helper.make_node("Add", ["a", "x"], ["r"], name="residual"),
        onnx.helper.make_node("MatMul", ["r", "wo"], ["y"], name="last"),
    ]
    values = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 5, 8]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    card = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {"x": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 5, 8]}},
            "outputs": {"y": {"task": "tensor"}},
        }
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), card


@pytest.mark.parametrize("name", ["mixed", "int8"])
def test_in_a_transformer_sums_and_products_of_activations_stay_float(attending, context, name):
    model, card = attending
    made = quantize(model, dataclasses.replace(context(name), card=card, dataset=data.synthetic(card)), calibration_samples=8)
    float_nodes = readers_of_floats(made)
    assert "last" not in float_nodes
    assert "softmax" in float_nodes
    assert not [node for node in made.graph.node if node.op_type == "Mul"], "SmoothQuant's products are computed wrongly by OpenVINO"


def test_onnx_runtime_gets_only_products_and_tables_of_a_transformer_quantized(attending, model):
    assert onnxruntime._operators(attending[0]) == ["Conv", "MatMul", "Gemm", "Gather"]
    assert onnxruntime._operators(model) is None, "a row of convolutions passes integers on"


def test_attention_makes_a_transformer_of_the_model():
    nodes = [onnx.helper.make_node("Softmax", ["s"], ["p"]), onnx.helper.make_node("MatMul", ["p", "v"], ["y"])]
    assert nncf.has_attention(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])))
    assert not nncf.has_attention(onnx.helper.make_model(onnx.helper.make_graph(nodes[:1], "g", [], [])))


@pytest.fixture
def gated():
    """Two vectors joined by a gate, as a gated fusion does; beside it two maps multiplied, as attention over channels does."""
    rng = np.random.default_rng(0)
    sizes = {
        "w1": (16, 16),
        "w2": (16, 16),
        "wa": (16, 32),
        "wb": (16, 32),
        "wg": (96, 32),
        "wy": (32, 4),
        "k1": (8, 3, 3, 3),
        "k2": (8, 3, 3, 3),
        "k3": (8, 8, 3, 3),
    }
    sizes |= {"bias": (32,), "bias16": (16,), "bias4": (4,)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, size).astype(np.float32), name) for name, size in sizes.items()]
    node = onnx.helper.make_node
    nodes = [
        node("Gemm", ["a", "w1", "bias16"], ["a1"], name="before_first"),
        node("Gemm", ["a1", "wa", "bias"], ["ga"], name="first"),
        node("Tanh", ["ga"], ["ta"], name="bend_first"),
        node("Gemm", ["b", "w2", "bias16"], ["b1"], name="before_second"),
        node("Gemm", ["b1", "wb", "bias"], ["gb"], name="second"),
        node("Tanh", ["gb"], ["tb"], name="bend_second"),
        node("Mul", ["ta", "tb"], ["both"], name="product"),
        node("Concat", ["ta", "tb", "both"], ["joined"], name="join", axis=1),
        node("Gemm", ["joined", "wg", "bias"], ["opened"], name="gate"),
        node("Sigmoid", ["opened"], ["share"], name="squash"),
        node("Mul", ["both", "share"], ["let"], name="let_through"),
        node("Gemm", ["let", "wy", "bias4"], ["y"], name="last"),
        node("Conv", ["picture", "k1"], ["m1"], name="conv1"),
        node("Relu", ["m1"], ["r1"], name="relu1"),
        node("Conv", ["picture", "k2"], ["m2"], name="conv2"),
        node("Relu", ["m2"], ["r2"], name="relu2"),
        node("Mul", ["r1", "r2"], ["m"], name="maps"),
        node("Conv", ["m", "k3"], ["z"], name="conv3"),
    ]
    faces = {"a": [16], "b": [16], "picture": [3, 16, 16], "y": [4], "z": [8, 12, 12]}
    values = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in faces.items()]
    graph = onnx.helper.make_graph(nodes, "g", values[:3], values[3:], weights)
    inputs = {name: {"modality": "tensor", "dtype": "float32", "shape": ["batch", *faces[name]]} for name in ("a", "b", "picture")}
    card = cards.parse({"model": "m.onnx", "inputs": inputs, "outputs": {"y": {"task": "tensor"}, "z": {"task": "tensor"}}})
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), card


def test_products_of_vectors_read_floats_and_products_of_maps_integers(gated, context):
    model, card = gated
    made = quantize(model, dataclasses.replace(context("mixed"), card=card, dataset=data.synthetic(card)), calibration_samples=8)
    onnx.checker.check_model(made, full_check=True)
    floats = readers_of_floats(made)
    assert {"product", "let_through"} <= floats
    assert not {"maps", "gate", "last", "conv3"} & floats
    fed = {name for node in made.graph.node for name in node.input}
    assert all(set(node.output) & fed for node in made.graph.node if node.op_type in PAIRS), "a quantizer that nobody reads"


def test_openvinos_fusions_take_a_gate_and_compute_it_rightly(gated, context, tmp_path):
    """With quantizers before its products they kill the process while compiling, on one thread."""
    pytest.importorskip("openvino")
    model, card = gated
    dataset = data.synthetic(card)
    here = dataclasses.replace(context("mixed").numerics, narrow_weights=saturates())
    made = quantize(model, dataclasses.replace(context("mixed"), card=card, dataset=dataset, numerics=here), calibration_samples=8)
    onnx.save(made, tmp_path / "model.onnx")
    feed = next(iter(dataset.batches("train", 1))).inputs
    np.savez(tmp_path / "feed.npz", **feed)
    code = (
        "import sys, numpy as np, pathlib; from edgemm.box.targets.openvino import OpenVINO; place = pathlib.Path(sys.argv[1])\n"
        "with OpenVINO(threads=1).open(place / 'model.onnx', snippets='on') as session:\n"
        "    np.savez(place / 'answers.npz', **session.run(dict(np.load(place / 'feed.npz'))))\n"
        "    print({layer.precision for layer in session.layers() if 'MatMul' in layer.kind}, session.precision())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, capture_output=True, text=True)
    products = "{'int8'}" if "avx512f" in onednn_instructions() else "set()"  # else they are inside of a larger kernel
    assert done.stdout.split() == [products, "int8"]
    expected, _ = parity.run_reference(made, [feed])
    with np.load(tmp_path / "answers.npz") as answers:
        assert all(parity.difference(value, answers[name].reshape(-1)).sqnr_db > 30 for name, value in expected.items())


def test_the_state_of_a_sample_is_what_the_one_before_left(context, tmp_path):
    card = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {
                "x": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 2]},
                "h": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 2], "state": "hn"},
            },
            "outputs": {"y": {"task": "tensor"}, "hn": {"task": "tensor"}},
        }
    )
    values = {n: onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in ("x", "h", "y", "hn")}
    nodes = [onnx.helper.make_node("Add", ["x", "h"], ["hn"], name="add"), onnx.helper.make_node("Relu", ["hn"], ["y"], name="relu")]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"], values["h"]], [values["y"], values["hn"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    ctx = dataclasses.replace(context(), card=card, dataset=data.synthetic(card))
    found = _calibration.samples(model, ctx, 3)
    np.testing.assert_array_equal(found[0]["h"], 0)
    np.testing.assert_allclose(found[2]["h"], found[0]["x"] + found[1]["x"], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_no_or_one_calibration_sample_is_refused(model, context, count):
    with pytest.raises(QuantizeError, match=rf"{count} calibration samples?: too few") as caught:
        quantize(model, context(), calibration_samples=count)
    assert "set calibration_samples to 300" in str(caught.value)


def test_a_dataset_with_one_row_is_refused(model, card, context):
    with pytest.raises(DataError, match="split 'calib' has 1 row, calibration needs at least 2"):
        quantize(model, dataclasses.replace(context(), dataset=data.synthetic(card, samples=1)))


def test_a_dataset_of_which_one_good_row_is_left_is_refused(model, context, samples):
    class OneLeft:
        def calibration(self, samples_, *, seed):
            return [data.Batch(samples[0], {}, {}, np.array([0]))]

    with pytest.raises(QuantizeError, match="1 calibration sample: too few") as caught:
        quantize(model, dataclasses.replace(context(), dataset=OneLeft()))
    assert "broken and were skipped" in str(caught.value)


def test_an_unknown_precision_is_refused_with_the_known_ones(model, context):
    with pytest.raises(QuantizeError, match=r"precision.head: 'int4' is no precision") as caught:
        quantize(model, context(), precision={"head": "int4"})
    assert "int8, fp32, bf16" in str(caught.value)


def test_a_float_the_target_lacks_is_refused(model, context):
    with pytest.raises(QuantizeError, match=r"target 'here' has no fp16"):
        quantize(model, context(), precision={"head": "fp16"})


def test_a_graph_that_cannot_be_quantized_is_named_by_node_and_branch(model, context):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    next(node for node in broken.graph.node if node.name == "conv2").attribute[0].i = 7  # 16 channels are not 7 groups
    with pytest.raises(QuantizeError, match=r"at node 'conv2' of branch 'image'") as caught:
        quantize(broken, context(), calibration_samples=4)
    assert "precision: {image: fp32}" in str(caught.value)


def two_inputs(body, contents, **options):
    """A user's graph, and what a step needs for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = user_files.write(Path(folder) / "m.onnx", body, contents, **options)
        card = onnx_card.draft(path)
        return files.load(user_onnx.prepare(card, Path(folder) / "made.onnx")), card


@pytest.mark.parametrize("activations", ["mixed", "int8", "uint8"])
def test_what_a_mask_of_infinities_touches_stays_in_float(activations, context, tmp_path):
    mask = np.array([[0, -np.inf, 0, 0]], np.float32)
    body = [*user_files.nodes("o"), onnx.helper.make_node("Add", ["o", "mask"], ["m"]), onnx.helper.make_node("Softmax", ["m"], ["out"])]
    model, card = two_inputs(body, user_files.weights(mask=mask))
    ctx = dataclasses.replace(context(activations), card=card, dataset=data.synthetic(card))
    made = quantize(model, ctx, calibration_samples=64)
    feeds = [batch.inputs for batch in data.synthetic(card, seed=3).calibration(4)]
    found = parity.compare(parity.run_reference(model, feeds)[0], parity.run_reference(made, feeds)[0])
    assert found["out"].sqnr_db > 20


@pytest.mark.parametrize("operator", ["DynamicQuantizeLinear", "MatMulInteger"])
def test_a_graph_quantized_dynamically_is_refused_with_the_way_out(operator, context):
    stored = {"w1": np.ones((32, 32), np.int8)}
    body = [
        onnx.helper.make_node("DynamicQuantizeLinear", ["a"], ["ai", "as", "az"], name="DynamicQuantizeLinear"),
        onnx.helper.make_node("MatMulInteger", ["ai", "w1", "az"], ["xi"], name="MatMulInteger"),
        onnx.helper.make_node("Cast", ["xi"], ["x"], to=TensorProto.FLOAT),
        *user_files.nodes()[1:],
    ]
    model, card = two_inputs(body, user_files.weights(**stored))
    if operator == "MatMulInteger":
        del model.graph.node[0]
    with pytest.raises(QuantizeError, match=rf"quantized already: '{operator}' is a {operator}(.|\n)*before quantize_dynamic"):
        quantize(model, dataclasses.replace(context(), card=card))
