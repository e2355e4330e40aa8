"""Graphs for TensorRT: every rule finds its node, what is rewritten keeps its meaning, what others make is refused for the right reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.errors import EdgemmError, Mistakes, QuantizeError
from edgemm.graph import checks, float16, parity, placement, symmetric_qdq, tensorrt
from tests.onnx_models import model as onnx_model

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def graph(nodes, weights, inputs=None, outputs=None, opset=18):
    """A model of nodes on x (batch, 16, 8, 8) -> y, unless told otherwise."""
    return onnx_model(nodes, inputs or {"x": ["batch", 16, 8, 8]}, outputs or {"y": None}, weights, opset=opset)


def pair(name, source, scale="s", zero="z", **options):
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}_q"], f"{name}_quantize", **options),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [name], f"{name}_dequantize", **options),
    ]


def weight(name, stored="w8", scale="ws", zero="w0", **options):
    return helper.make_node("DequantizeLinear", [stored, scale, zero], [name], f"{name}_dequantize", **options)


def conv_weights(channels=32, **changes):
    rng = np.random.default_rng(0)
    plain = {
        "w8": rng.integers(-127, 127, (channels, 16, 3, 3), dtype=np.int8),
        "ws": np.full(channels, 0.01, np.float32),
        "w0": np.zeros(channels, np.int8),
        "s": np.float32(0.02),
        "z": np.int8(0),
    }
    return plain | changes


def conv_graph(before=(), after=(), weights=None, source="xd", result="y", **weight_options):
    """x -> pair -> Conv with int8 weights -> y; ``after`` continues from ``c`` where ``result`` is ``c``."""
    nodes = [*(before or pair("xd", "x")), weight("w", **{"axis": 0, **weight_options})]
    nodes += [helper.make_node("Conv", [source, "w"], [result], "the_conv", pads=[1, 1, 1, 1]), *after]
    return graph(nodes, conv_weights() if weights is None else weights)


def rules(model, *, slow=None):
    return [(fault.rule, fault.node) for fault in checks.check(model) if slow is None or fault.slow == slow]


def samples(count=4, shape=(1, 16, 8, 8)):
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def sqnr_db(reference, other, feeds):
    expected, _ = parity.run_reference(reference, feeds)
    found, _ = parity.run_reference(other, feeds)
    return min(entry.sqnr_db for entry in parity.compare(expected, found).values())


def test_a_graph_in_the_right_form_breaks_no_rule():
    assert checks.check(conv_graph()) == []
    assert checks.require(conv_graph()) == []


@pytest.mark.parametrize(
    ("changes", "options", "rule", "node"),
    [
        ({"z": np.uint8(0)}, {}, "unsigned", "xd_quantize"),
        ({"z": np.uint8(128)}, {}, "unsigned", "xd_quantize"),
        ({"z": np.int8(5)}, {}, "asymmetric", "xd_quantize"),
        ({"z": np.int16(0)}, {}, "type", "xd_quantize"),
        ({"w0": np.full(32, 3, np.int8)}, {}, "asymmetric", "w_dequantize"),
        ({"w8": np.zeros((32, 16, 3, 3), np.uint8), "w0": np.zeros(32, np.uint8)}, {}, "unsigned", "w_dequantize"),
        ({"s": np.float32(0)}, {}, "scale", "xd_quantize"),
        ({"ws": np.full(32, np.nan, np.float32)}, {}, "scale", "w_dequantize"),
        ({"s": np.full(16, 0.02, np.float32), "z": np.zeros(16, np.int8)}, {}, "axis", "xd_quantize"),
        ({"ws": np.full(16, 0.01, np.float32), "w0": np.zeros(16, np.int8)}, {"axis": 1}, "channel", "w_dequantize"),
    ],
)
def test_each_rule_about_numbers_names_its_node(changes, options, rule, node):
    assert (rule, node) in rules(conv_graph(weights=conv_weights(**changes), **options))


def test_a_quantizer_without_a_zero_point_makes_uint8():
    model = conv_graph()
    for node in model.graph.node:
        if node.name.startswith("xd"):
            del node.input[2]
    assert {("unsigned", "xd_quantize"), ("zero point", "xd_dequantize")} <= set(rules(model))


def test_a_bias_stored_as_int32_is_named():
    nodes = [*pair("xd", "x"), weight("w", axis=0), weight("b", "b32", "bs", "b0", axis=0)]
    nodes += [helper.make_node("Conv", ["xd", "w", "b"], ["y"], "the_conv")]
    extra = {"b32": np.ones(32, np.int32), "bs": np.full(32, 1e-4, np.float32), "b0": np.zeros(32, np.int32)}
    model = graph(nodes, conv_weights(**extra))
    assert ("bias", "b_dequantize") in rules(model)
    before = samples()
    tensorrt.normalise(fixed := onnx.ModelProto.FromString(model.SerializeToString()))
    assert rules(fixed) == []
    assert sqnr_db(model, fixed, before) > 60


def test_integers_that_something_touched_before_they_are_dequantized_are_named():
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["rows"], "the_lookup"),
        helper.make_node("DequantizeLinear", ["rows", "s", "z"], ["y"], "late_dequantize"),
    ]
    weights = {"table": np.ones((20, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    model = graph(nodes, weights, {"x": (TensorProto.INT64, ["batch", 4])}, {"y": (FLOAT, ["batch", 4, 8])})
    found = [fault for fault in checks.check(model) if fault.rule == "constant"]
    assert [(fault.node, "the_lookup" in fault.what) for fault in found] == [("late_dequantize", True)]


@pytest.mark.parametrize("kind", ["QLinearConv", "MatMulInteger", "DynamicQuantizeLinear"])
def test_operators_that_compute_in_integers_are_named(kind):
    model = graph([helper.make_node(kind, ["x"], ["y"], "foreign")], {})
    assert ("operator", "foreign") in rules(model)


def test_dequantized_halves_and_floats_at_one_node_are_named():
    weights = conv_weights(ws=np.full(32, 0.01, np.float16))
    assert ("mixed", "the_conv") in rules(conv_graph(weights=weights))


def test_the_error_says_which_node_why_and_what_to_do():
    with pytest.raises(QuantizeError) as caught:
        checks.require(conv_graph(weights=conv_weights(z=np.uint8(0))))
    text = str(caught.value)
    assert "node 'xd_quantize' of branch 'x' is uint8 with zero point 0 (1 more like it)" in text
    assert "clips everything above 127 steps" in text
    assert "edgemm quantize -r tensorrt-int8" in text


def test_several_broken_rules_are_told_at_once():
    with pytest.raises(Mistakes) as caught:
        checks.require(conv_graph(weights=conv_weights(z=np.int8(4), ws=np.full(32, -1, np.float32))))
    assert len(caught.value.errors) == 2


def as_tensorrt_reads(model):
    """What TensorRT makes of uint8 pairs with zero point 0: int8 pairs of the same step, which clip at 127."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.data_type == UINT8 and not tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(np.int8(0), tensor.name))
    del copy.graph.value_info[:]
    return copy


def test_the_clipped_reading_of_unsigned_pairs_never_gets_through():
    """A picture in [0, 1], quantized as NNCF does after a ReLU: 54 dB as ONNX means it, 9 dB as TensorRT reads it, 48 dB rewritten."""
    plain = graph([helper.make_node("Relu", ["x"], ["y"], "relu")], {})
    unsigned = graph([helper.make_node("Relu", ["x"], ["r"], "relu"), *pair("y", "r")], {"s": np.float32(1 / 255), "z": np.uint8(0)})
    feeds = [{"x": np.random.default_rng(0).uniform(0, 1, (1, 16, 8, 8)).astype(np.float32)}]
    assert sqnr_db(plain, unsigned, feeds) > 50
    assert sqnr_db(plain, as_tensorrt_reads(unsigned), feeds) < 12
    with pytest.raises(QuantizeError, match="uint8 with zero point 0"):
        checks.require(unsigned)
    symmetric_qdq.make_symmetric(unsigned)
    checks.require(unsigned)
    assert sqnr_db(plain, unsigned, feeds) > 46
    assert as_tensorrt_reads(unsigned).SerializeToString() == unsigned.SerializeToString()


@pytest.mark.parametrize(("kind", "zero", "step"), [(np.uint8, 128, 0.04), (np.uint8, 20, 0.03), (np.int8, -128, 0.02), (np.int8, 7, 0.05)])
def test_an_asymmetric_pair_becomes_a_symmetric_one_that_covers_its_range(kind, zero, step):
    model = graph(pair("y", "x"), {"s": np.float32(step), "z": np.array(zero, kind)})
    symmetric_qdq.make_symmetric(model)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = {tuple(node.input[1:]) for node in model.graph.node}
    assert len(names) == 1, "both of a pair read the same constants"
    scale, zero_point = (found[name] for name in names.pop())
    info = np.iinfo(kind)
    assert zero_point.dtype == np.int8
    assert zero_point == 0
    np.testing.assert_allclose(scale * 127, max(zero - info.min, info.max - zero) * step, rtol=1e-6)


def test_asymmetric_weights_are_rounded_anew_within_one_step():
    stored = np.random.default_rng(0).integers(0, 255, (32, 16, 3, 3), dtype=np.uint8)
    model = conv_graph(weights=conv_weights(w8=stored, w0=np.full(32, 130, np.uint8)))
    wiring = symmetric_qdq.Wiring(model)
    before = symmetric_qdq.values_of(wiring, wiring.maker["w"])
    symmetric_qdq.make_symmetric(model)
    wiring = symmetric_qdq.Wiring(model)
    after = symmetric_qdq.values_of(wiring, wiring.maker["w"])
    assert rules(model) == []
    assert np.abs(before - after).max() <= 0.5 * 1.3 / 127 + 1e-6


def test_a_scale_a_channel_of_an_activation_becomes_one():
    weights = conv_weights(s=np.linspace(0.01, 0.03, 16).astype(np.float32), z=np.zeros(16, np.int8))
    model = conv_graph(before=pair("xd", "x", axis=1), weights=weights)
    assert ("channel", "xd_dequantize") in rules(model, slow=False)
    tensorrt.normalise(model)
    assert rules(model) == []


def residual(first, second):
    """x -> Conv -> c; y = first + second of tensors c, cd (c quantized), x, xd (x quantized)."""
    after = [*pair("cd", "c"), helper.make_node("Add", [first, second], ["y"], "the_sum")]
    weights = conv_weights(w8=np.ones((16, 16, 3, 3), np.int8), ws=np.full(16, 0.01, np.float32), w0=np.zeros(16, np.int8))
    return conv_graph(after=after, weights=weights, result="c")


def test_of_a_residual_sum_only_the_skip_stays_quantized():
    model = residual("cd", "xd")
    assert ("residual", "the_sum") in rules(model)
    tensorrt.normalise(model)
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert list(add.input) == ["c", "xd"]
    assert rules(model) == []


def test_around_norms_softmax_and_products_of_activations_nothing_stays_quantized():
    nodes = [
        *pair("xd", "x"),
        helper.make_node("MatMul", ["xd", "xd"], ["m"], "the_scores"),
        *pair("md", "m"),
        helper.make_node("Softmax", ["md"], ["p"], "the_softmax"),
        *pair("pd", "p"),
        helper.make_node("LayerNormalization", ["pd", "g"], ["y"], "the_norm"),
    ]
    model = graph(nodes, {"s": np.float32(0.02), "z": np.int8(0), "g": np.ones(8, np.float32)})
    assert {("range", "the_scores"), ("range", "the_softmax"), ("range", "the_norm")} <= set(rules(model, slow=True))
    tensorrt.normalise(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Softmax", "LayerNormalization"]


def test_before_a_concat_pairs_of_different_scales_become_one_behind_it():
    nodes = [
        *pair("a", "x", "s1"),
        *pair("b", "x", "s2"),
        helper.make_node("Concat", ["a", "b"], ["j"], "the_join", axis=1),
        weight("w", axis=0),
        helper.make_node("Conv", ["j", "w"], ["y"], "the_conv"),
    ]
    weights = conv_weights(w8=np.ones((32, 32, 3, 3), np.int8)) | {"s1": np.float32(0.01), "s2": np.float32(0.03)}
    model = graph(nodes, weights)
    assert ("concat", "the_join") in rules(model)
    tensorrt.normalise(model)
    kinds = [node.op_type for node in model.graph.node if node.name != "w_dequantize"]
    assert kinds == ["Concat", "QuantizeLinear", "DequantizeLinear", "Conv"]
    scale = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[1]
    assert numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == scale)) == np.float32(0.03)
    assert rules(model) == []


def test_weights_of_a_product_that_reads_floats_become_floats_again():
    model = conv_graph(source="x")
    tensorrt.normalise(model)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert sqnr_db(conv_graph(source="x"), model, samples()) > 100


@pytest.mark.parametrize(
    ("kind", "shape", "rows", "attributes", "why"),
    [
        ("MatMul", (64, 64), ("batch", 1, 64), {}, "one row"),
        ("MatMul", (64, 64), ("batch", 10, 64), {}, ""),
        ("Gemm", (64, 64), ("batch", 64), {"transB": 1}, "one row"),
        ("MatMul", (64, 8), ("batch", 10, 64), {}, "tiny"),
        ("Conv", (32, 3, 3, 3), ("batch", 3, 8, 8), {}, ""),
        ("Conv", (8, 8, 3, 3), ("batch", 8, 8, 8), {}, "tiny"),
        ("Conv", (16, 8, 3, 3), ("batch", 8, 8, 8), {}, ""),
        ("Conv", (16, 8, 3, 1), ("batch", 8, 8, 8), {}, "tiny"),
        ("Conv", (32, 1, 3, 3), ("batch", 32, 8, 8), {"group": 32}, ""),
        ("Conv", (32, 1, 1, 1), ("batch", 32, 8, 8), {"group": 32}, "grouped"),
        ("ConvTranspose", (32, 32, 2, 2), ("batch", 32, 8, 8), {}, ""),
    ],
)
def test_sizes_that_gain_nothing_stay_in_float(kind, shape, rows, attributes, why):
    model = graph([helper.make_node(kind, ["x", "w"], ["y"], "it", **attributes)], {"w": np.ones(shape, np.float32)}, {"x": (FLOAT, rows)})
    found = placement.unfit(model).get("it", "")
    assert why in found if why else found == ""


def test_a_graph_without_its_pairs_computes_in_float():
    model = residual("c", "xd")
    plain = placement.without_pairs(model)
    assert [node.op_type for node in plain.graph.node] == ["Conv", "Add"]
    assert 20 < sqnr_db(plain, model, [{"x": np.clip(feed["x"], -2.5, 2.5)} for feed in samples()]) < 80


def test_bytes_are_cast_before_they_are_turned():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "frontend/x/0_Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["y"], "frontend/x/1_Cast", to=FLOAT),
    ]
    model = graph(nodes, {}, {"x": (UINT8, ["batch", 4, 4, 3])}, {"y": (FLOAT, ["batch", 3, 4, 4])})
    made = tensorrt.form(model, precision="f32", int8=False)
    assert made.graph.node[0].name == "frontend/x/cast_first"
    onnx.checker.check_model(made, full_check=True)
    feeds = [{"x": np.random.default_rng(0).integers(0, 255, (1, 4, 4, 3), dtype=np.uint8)}]
    assert sqnr_db(model, made, feeds) == np.inf


def transformer_like():
    """x (batch, 10, 32) -> product, mean over tokens, norm with an epsilon, guarded division."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"], "fc"),
        helper.make_node("LayerNormalization", ["m", "g"], ["n"], "norm"),
        helper.make_node("Add", ["n", "m"], ["k"], "sum"),
        helper.make_node("ReduceMean", ["k", "axis"], ["p"], "pool", keepdims=0),
        helper.make_node("ReduceL2", ["p", "axis"], ["l"], "length", keepdims=1),
        helper.make_node("Max", ["l", "least"], ["d"], "guard"),
        helper.make_node("Div", ["p", "d"], ["q"], "unit"),
        helper.make_node("MatMul", ["q", "b"], ["y"], "head"),
    ]
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in {"a": (32, 32), "b": (32, 4)}.items()}
    weights |= {"g": np.ones(32, np.float32), "axis": np.array([1]), "least": np.float32(1e-12)}
    return graph(nodes, weights, {"x": (FLOAT, ["batch", 10, 32])}, {"y": (FLOAT, ["batch", 4])})


def test_a_half_body_keeps_norms_means_and_tiny_guards_in_full_and_answers_alike():
    plain = transformer_like()
    half = float16.to_half(plain)
    onnx.checker.check_model(half, full_check=True)
    frame = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in frame.graph.value_info}
    makers = {node.name: node for node in half.graph.node}
    full = {name for name, node in makers.items() if kinds.get(node.output[0]) == FLOAT and node.op_type != "Cast"}
    assert full == {"norm", "pool", "length", "guard", "unit"}
    assert kinds[makers["fc"].output[0]] == kinds[makers["sum"].output[0]] == TensorProto.FLOAT16
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*half.graph.input, *half.graph.output)] == [("x", FLOAT), ("y", FLOAT)]
    feeds = [{"x": sample["x"][:, :10, :, :1].reshape(1, 10, 8).repeat(4, 2)} for sample in samples(4, (1, 10, 8, 1))]
    assert sqnr_db(plain, half, feeds) > 50


def test_a_half_body_rounds_weights_anew_and_leaves_steps_that_half_cannot_hold():
    model = conv_graph(weights=conv_weights(ws=np.linspace(1e-8, 0.0123, 32).astype(np.float32)))
    half = float16.to_half(model)
    onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    assert checks.check(half) == []
    assert sqnr_db(model, half, samples()) > 45
    tiny = float16.to_half(conv_graph(weights=conv_weights(s=np.float32(1e-6))))
    quantize = next(node for node in tiny.graph.node if node.name == "xd_quantize")
    assert numpy_helper.to_array(next(t for t in tiny.graph.initializer if t.name == quantize.input[1])).dtype == np.float32


def test_a_constant_beyond_half_keeps_its_node_in_full():
    nodes = [helper.make_node("Mul", ["x", "big"], ["m"], "loud"), helper.make_node("Relu", ["m"], ["y"], "relu")]
    half = float16.to_half(graph(nodes, {"big": np.float32(1e6)}))
    assert [node.op_type for node in half.graph.node] == ["Mul", "Cast", "Relu", "Cast"]


def test_a_graph_whose_types_cannot_be_followed_is_an_error():
    model = graph([helper.make_node("Mystery", ["x"], ["y"], "odd", domain="elsewhere")], {}, outputs={"y": (FLOAT, [1])})
    model.graph.node.append(helper.make_node("Mystery", ["x"], ["unseen"], "odder", domain="elsewhere"))
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(EdgemmError, match="the type of tensor 'unseen' is not known"):
        float16.to_half(model)


# What other quantizers make of one graph: a residual convolution, a second branch, joined.


def float_graph():
    rng = np.random.default_rng(0)
    weights = {
        "k1": rng.normal(0, 0.2, (16, 3, 3, 3)), "b1": rng.normal(0, 0.5, 16), "k2": rng.normal(0, 0.1, (16, 16, 3, 3)),
        "b2": rng.normal(0, 0.1, 16), "k3": rng.normal(0, 0.1, (16, 32, 1, 1)), "fc": rng.normal(0, 0.2, (16, 4)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "k2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s2"], "residual"),
        helper.make_node("Relu", ["s2"], ["r2"], "relu2"),
        helper.make_node("Concat", ["r2", "r1"], ["j"], "join", axis=1),
        helper.make_node("Conv", ["j", "k3"], ["c3"], "conv3"),
        helper.make_node("ReduceMean", ["c3", "hw"], ["m"], "pool", keepdims=0),
        helper.make_node("MatMul", ["m", "fc"], ["y"], "head"),
    ]
    weights = {name: value.astype(np.float32) for name, value in weights.items()} | {"hw": np.array([2, 3])}
    return graph(nodes, weights, {"x": (FLOAT, ["batch", 3, 12, 12])}, {"y": (FLOAT, ["batch", 4])})


def nncf_of(**options):
    from edgemm.workshop.quantizing import nncf as _nncf

    nncf = _nncf._import()
    with _nncf.quiet_calls():
        return nncf.quantize(float_graph(), nncf.Dataset(samples(8, (1, 3, 12, 12))), subset_size=8, **options)


def ort_of(tmp_path, **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(samples(8, (1, 3, 12, 12)))

        def get_next(self):
            return next(self.feeds, None)

    onnx.save(float_graph(), tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "made.onnx"), Reader(), quant_format=QuantFormat.QDQ, **options)
    return onnx.load(tmp_path / "made.onnx")


def reasons(model):
    with pytest.raises(EdgemmError) as caught:
        checks.require(model)
    return str(caught.value)


def test_nncfs_default_is_refused_as_unsigned_and_right_once_rewritten():
    pytest.importorskip("nncf")
    model = nncf_of()
    assert "is uint8 with zero point 0" in reasons(model)
    feeds = samples(8, (1, 3, 12, 12))
    meant = sqnr_db(float_graph(), model, feeds)
    assert sqnr_db(float_graph(), as_tensorrt_reads(model), feeds) < meant - 6, "clipped"
    tensorrt.normalise(model)
    checks.require(model, fast=True)
    assert sqnr_db(float_graph(), model, feeds) > meant - 3


def test_nncfs_mixed_preset_is_refused_as_asymmetric():
    nncf = pytest.importorskip("nncf")
    assert "has the zero point" in reasons(nncf_of(preset=nncf.QuantizationPreset.MIXED)) or "uint8 with zero point 1" in reasons(
        nncf_of(preset=nncf.QuantizationPreset.MIXED)
    )


def test_onnx_runtimes_static_default_is_refused_for_its_biases_and_zero_points(tmp_path):
    text = reasons(ort_of(tmp_path))
    assert "is a bias stored as int32" in text
    assert "has the zero point" in text or "is uint8" in text


def test_onnx_runtimes_uint8_is_refused(tmp_path):
    from onnxruntime.quantization import QuantType

    assert "is uint8" in reasons(ort_of(tmp_path, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8))
