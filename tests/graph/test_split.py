"""A graph in parts computes what the whole does: on every fusion, float and INT8, and on graphs written by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.contracts import card_file as cards
from edgemm.errors import ExportError
from edgemm.graph import files
from edgemm.graph.parity import reference_session
from edgemm.graph.split import split
from tests.onnx_models import model as onnx_model

IMAGE = {"modality": "image", "height": 16, "width": 16, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TEXT = {"modality": "text", "vocab": 40, "length": 8, "mask": True}
NUMBERS = {"modality": "sensor", "shape": [5], "rate_hz": 1}
LABEL = {"task": "classification", "labels": ["a", "b", "c"]}
VECTORS = {"image_vector": {"task": "embedding", "pair": "text_vector"}, "text_vector": {"task": "embedding"}}
FUSIONS = {
    "average": {}, "concat": {"width": 16}, "cross_attention": {"width": 16, "heads": 2}, "film": {"width": 8},
    "gated": {"gate": "scalar", "width": 16},
    "graph": {"width": 16}, "mlp": {"hidden": [16]}, "product": {"width": 16}, "towers": {}, "weighted": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """``graphs(fusion)``: card, float graph, INT8 graph of a tiny image + text model."""
    pytest.importorskip("torch")
    pytest.importorskip("nncf")
    from edgemm.contracts.step import Context
    from edgemm.contracts.target import Numerics
    from edgemm.workshop.models.build import build
    from edgemm.workshop.models.fused import FusedModel
    from edgemm.workshop.models.onnx_export import export_onnx
    from edgemm.workshop.models.tried import sample_inputs
    from edgemm.workshop.steps.quantize import quantize

    def make(fusion):
        import torch

        folder = tmp_path_factory.mktemp(fusion)
        picture = {"c2f": {"channels": [4, 8, 8]}} if fusion == "film" else {"cnn": {"channels": [8], "width": 16}}
        encoders = {"image": picture, "text": {"bag": {"embedding": 16, "width": 16}}}
        kwargs = {"encoders": encoders, "fusion": {fusion: FUSIONS[fusion]}}
        outputs = VECTORS if fusion == "towers" else {"event": LABEL, "level": {"task": "regression"}}
        card = cards.parse({"factory": "models:digits", "kwargs": kwargs, "inputs": {"image": IMAGE, "text": TEXT}, "outputs": outputs})
        torch.manual_seed(0)
        model = FusedModel(card, build(card))
        model(sample_inputs(card, batch=8))
        exported = files.load(export_onnx(model.eval(), folder / "model.onnx"))
        context = Context(card=card, dataset=None, scratch=folder, numerics=Numerics("mixed"))
        return card, exported, quantize(exported, context, calibration_samples=8)

    return make


def answers(model, feed):
    session = reference_session(model)
    wanted = [value.name for value in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, {value.name: feed[value.name] for value in session.get_inputs()}), strict=True))


def in_parts(parts, feed):
    between = dict(feed)
    for branch in parts.branches.values():
        between |= answers(branch, feed)
    return answers(parts.rest, between)


def checked(parts):
    for part in [*parts.branches.values(), parts.rest]:
        onnx.checker.check_model(part, full_check=True)
    return parts


def random_feed(rng, batch):
    return {
        "image": rng.integers(0, 255, (batch, 16, 16, 3)).astype(np.uint8),
        "text": np.concatenate([rng.integers(2, 40, (batch, 5)), np.zeros((batch, 3), np.int64)], axis=1),
    }


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_of_every_fusion_compute_what_the_whole_does_in_float_and_int8(graphs, fusion):
    card, exported, quantized = graphs(fusion)
    feed = random_feed(np.random.default_rng(1), 3)
    for graph in (exported, quantized):
        parts = checked(split(graph, card, like=exported))
        assert list(parts.branches) == ["image", "text"]
        assert [value.name for value in parts.branches["text"].graph.input] == ["text"]
        assert [value.name for value in parts.rest.graph.input] == [*parts.cuts["image"], *parts.cuts["text"]]
        whole, joined = answers(graph, feed), in_parts(parts, feed)
        for name, value in whole.items():
            np.testing.assert_allclose(joined[name], value, atol=1e-5, rtol=0)
    assert parts.cuts == split(exported, card).cuts, "INT8 is cut at the same tensors as float, so that one stand-in serves both"
    assert all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in parts.rest.graph.input)
    assert all(shape_of(value)[0] == "batch" for value in parts.rest.graph.input), "the batch stays open, under its name"


def test_every_quantized_pair_stays_whole(graphs):
    card, exported, quantized = graphs("gated")
    parts = split(quantized, card, like=exported)
    for part in [*parts.branches.values(), parts.rest]:
        made = {name: node.op_type for node in part.graph.node for name in node.output}
        constants = {tensor.name for tensor in part.graph.initializer}
        pairs = [node for node in part.graph.node if node.op_type == "DequantizeLinear"]
        assert pairs
        assert all(made.get(node.input[0]) == "QuantizeLinear" or node.input[0] in constants for node in pairs)


def test_every_node_is_in_a_part_and_front_ends_are_in_their_branch(graphs):
    card, exported, _ = graphs("concat")
    parts = split(exported, card)
    found = [node.name for part in [*parts.branches.values(), parts.rest] for node in part.graph.node]
    assert sorted(found) == sorted(node.name for node in exported.graph.node)
    assert any(node.name.startswith("frontend/image/") for node in parts.branches["image"].graph.node)
    assert not any(node.name.startswith("frontend/") for node in parts.rest.graph.node)


def by_hand(inputs, outputs, nodes, **constants):
    faces = [{key: ["batch", 4] for key in names} for names in (inputs, outputs)]
    made = [helper.make_node(kind, read, out, name=f"n_{out[0]}", **more) for kind, read, out, more in nodes]
    return onnx_model(made, *faces, constants)


W = np.random.default_rng(0).normal(0, 1, (4, 4)).astype(np.float32)


def four(rng, *names, batch=3):
    return {name: rng.normal(0, 1, (batch, 4)).astype(np.float32) for name in names}


def agree(model, parts, feed):
    whole, joined = answers(model, feed), in_parts(parts, feed)
    for name, value in whole.items():
        np.testing.assert_allclose(joined[name], value, atol=1e-6)


def test_a_weight_that_two_parts_read_is_in_both():
    nodes = [
        ("Gemm", ["image", "w"], ["a"], {}), ("Gemm", ["audio", "w"], ["b"], {}), ("Add", ["a", "b"], ["j"], {}),
        ("Gemm", ["j", "w"], ["event"], {}),
    ]  # fmt: skip
    model = by_hand(["image", "audio"], ["event"], nodes, w=W)
    parts = checked(split(model))
    assert all([tensor.name for tensor in part.graph.initializer] == ["w"] for part in [*parts.branches.values(), parts.rest])
    agree(model, parts, four(np.random.default_rng(1), "image", "audio"))


def test_an_input_that_the_fusion_reads_as_it_is_has_no_branch_and_goes_to_the_rest():
    nodes = [("Gemm", ["image", "w"], ["a"], {}), ("Add", ["a", "motion"], ["j"], {}), ("Gemm", ["j", "w"], ["event"], {})]
    model = by_hand(["image", "motion"], ["event"], nodes, w=W)
    parts = checked(split(model))
    assert list(parts.branches) == ["image"]
    assert parts.cuts == {"image": ["a"], "motion": ["motion"]}
    agree(model, parts, four(np.random.default_rng(1), "image", "motion"))


def test_an_input_read_by_its_branch_and_by_the_fusion_and_an_output_that_is_a_cut_get_names_of_their_own():
    nodes = [
        ("Gemm", ["image", "w"], ["seen"], {}), ("Gemm", ["audio", "w"], ["b"], {}), ("Add", ["seen", "b"], ["j"], {}),
        ("Add", ["j", "audio"], ["k"], {}), ("Gemm", ["k", "w"], ["event"], {}),
    ]  # fmt: skip
    model = by_hand(["image", "audio"], ["event", "seen"], nodes, w=W)
    parts = checked(split(model))
    assert parts.cuts["audio"] == ["audio/cut", "b"]
    assert [value.name for value in parts.rest.graph.output] == ["event", "seen"]
    agree(model, parts, four(np.random.default_rng(1), "image", "audio"))


def test_a_batch_size_read_from_another_branch_is_read_from_the_parts_own_input():
    nodes = [
        ("Shape", ["image"], ["n"], {"start": 0, "end": 1}), ("Concat", ["n", "four"], ["m"], {"axis": 0}),
        ("Expand", ["w0", "m"], ["grown"], {}), ("Add", ["grown", "audio"], ["b"], {}), ("Gemm", ["image", "w"], ["a"], {}),
        ("Add", ["a", "b"], ["j"], {}), ("Expand", ["w0", "m"], ["again"], {}), ("Add", ["j", "again"], ["k"], {}),
        ("Gemm", ["k", "w"], ["event"], {}),
    ]  # fmt: skip
    model = by_hand(["image", "audio"], ["event"], nodes, w=W, w0=W[:1], four=np.array([4]))
    parts = checked(split(model))
    assert [value.name for value in parts.branches["audio"].graph.input] == ["audio"]
    assert {value.name for value in parts.rest.graph.input} == {"a", "b"}
    agree(model, parts, four(np.random.default_rng(1), "image", "audio"))


def test_a_size_that_no_own_input_has_is_refused_with_the_node():
    nodes = [
        ("Transpose", ["image"], ["t"], {"perm": [1, 0]}), ("Compress", ["t", "keep"], ["some"], {"axis": 0}),
        ("Shape", ["some"], ["n"], {"start": 0, "end": 1}), ("Concat", ["n", "four"], ["m"], {"axis": 0}),
        ("ConstantOfShape", ["m"], ["zeros"], {}), ("ReduceSum", ["zeros", "first"], ["sum"], {}), ("Gemm", ["image", "w"], ["a"], {}),
        ("Add", ["a", "audio"], ["j"], {}), ("Add", ["j", "sum"], ["k"], {}), ("Gemm", ["k", "w"], ["event"], {}),
    ]  # fmt: skip
    model = by_hand(["image", "audio"], ["event"], nodes, w=W, four=np.array([4]), first=np.array([0]), keep=np.array([True, False, True]))
    with pytest.raises(ExportError, match=r"cannot be split: 'rest' reads the size of 'some' at node 'n_n'") as caught:
        split(model)
    assert "no input of this part has the size" in str(caught.value)


def test_a_state_that_a_branch_computes_comes_out_of_the_rest_like_every_output():
    card = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {
                "input": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4]},
                "state": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4], "state": "stateN"},
                "image": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4]},
            },
            "outputs": {"output": {"task": "tensor"}, "stateN": {"task": "tensor"}},
        }
    )
    nodes = [
        ("Gemm", ["input", "w"], ["a"], {}), ("Mul", ["state", "w0"], ["s"], {}), ("Add", ["a", "s"], ["stateN"], {}),
        ("Relu", ["stateN"], ["r"], {}), ("Gemm", ["image", "w"], ["b"], {}), ("Add", ["r", "b"], ["j"], {}),
        ("Gemm", ["j", "w"], ["output"], {}),
    ]  # fmt: skip
    model = by_hand(["input", "state", "image"], ["output", "stateN"], nodes, w=W, w0=W[:1])
    parts = checked(split(model, card))
    assert [value.name for value in parts.branches["input"].graph.input] == ["input", "state"]
    assert parts.cuts["input"] == ["r", "stateN/cut"]
    agree(model, parts, four(np.random.default_rng(1), "input", "state", "image"))


def test_a_single_input_is_one_branch_and_its_head():
    model = by_hand(
        ["image"], ["event"], [("Gemm", ["image", "w"], ["a"], {}), ("Relu", ["a"], ["r"], {}), ("Gemm", ["r", "w"], ["event"], {})], w=W
    )
    parts = checked(split(model))
    assert parts.cuts == {"image": ["r"]}
    agree(model, parts, four(np.random.default_rng(1), "image"))


def test_a_float_graph_in_which_a_name_means_another_tensor_tells_no_shape_of_it():
    nodes = [("Gemm", ["image", "w"], ["a"], {}), ("Add", ["a", "audio"], ["j"], {}), ("Gemm", ["j", "w"], ["event"], {})]
    model = by_hand(["image", "audio"], ["event"], nodes, w=W)
    other = by_hand(["image", "audio"], ["event"], nodes, w=W)
    other.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 8]))
    assert shape_of(split(model, like=other).branches["image"].graph.output[0]) == ["batch", 4]
    other.graph.value_info[0].CopyFrom(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", 4]))
    assert shape_of(split(model, like=other).branches["image"].graph.output[0]) == ["rows", 4], "the same tensor: its names are better"
