"""Branches, fusion and heads from the graph alone, on graphs written by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.errors import EdgemmError
from edgemm.graph.branches import find_branches

CARD = {
    "factory": "a:b",
    "inputs": {"image": {"modality": "sensor", "shape": [4]}, "audio": {"modality": "sensor", "shape": [4]}},
    "outputs": {"event": {"task": "tensor"}, "level": {"task": "tensor"}},
}


def graph(inputs: list[str], outputs: list[str], *lines: str) -> onnx.ModelProto:
    """Lines such as ``"hidden = Gemm(image, w)"``; a node is called like its first output, and ``w`` and ``k`` are constants."""
    nodes = []
    for line in lines:
        made, _, call = line.partition(" = ")
        kind, _, read = call.rstrip(")").partition("(")
        out = made.split(", ")
        nodes.append(helper.make_node(kind, read.split(", "), out, name=f"n_{out[0]}"))
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in names] for names in (inputs, outputs)]
    constants = [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"), numpy_helper.from_array(np.array([0]), "k")]
    return helper.make_model(helper.make_graph(nodes, "g", *values, constants), opset_imports=[helper.make_opsetid("", 18)])


TWO_HEADS = (
    "a = Gemm(image, w)", "b = Gemm(audio, w)", "joined = Concat(a, b)", "shared = Gemm(joined, w)",
    "event = Gemm(shared, w)", "hidden = Gemm(shared, w)", "level = Relu(hidden)",
)  # fmt: skip


def of(model: onnx.ModelProto, **options) -> dict[str, str]:
    return {name.removeprefix("n_"): branch for name, branch in find_branches(model, **options).of_node.items()}


def test_what_depends_on_one_input_is_its_branch_and_heads_begin_after_the_last_shared_node():
    assert of(graph(["image", "audio"], ["event", "level"], *TWO_HEADS)) == {
        "a": "image", "b": "audio", "joined": "fusion", "shared": "fusion", "event": "head:event", "hidden": "head:level",
        "level": "head:level",
    }  # fmt: skip


def test_branches_are_named_in_the_order_inputs_fusion_heads_and_cuts_are_where_branches_end():
    branches = find_branches(graph(["image", "audio"], ["event", "level"], *TWO_HEADS))
    assert branches.names() == ["image", "audio", "fusion", "head:event", "head:level"]
    assert branches.cuts == {"image": ["a"], "audio": ["b"]}
    assert branches.nodes("head:level") == ["n_hidden", "n_level"]


def test_with_a_single_output_the_head_is_the_last_weighted_layer_and_what_follows():
    model = graph(
        ["image", "audio"], ["event"], "a = Gemm(image, w)", "b = Gemm(audio, w)", "j = Add(a, b)", "h = Gemm(j, w)", "r = Relu(h)",
        "l = Gemm(r, w)", "event = Softmax(l)",
    )  # fmt: skip
    assert of(model) == {
        "a": "image", "b": "audio", "j": "fusion", "h": "fusion", "r": "fusion", "l": "head:event", "event": "head:event",
    }  # fmt: skip


def test_a_single_input_has_no_fusion():
    branches = find_branches(graph(["image"], ["event"], "a = Gemm(image, w)", "r = Relu(a)", "event = Gemm(r, w)"))
    assert branches.names() == ["image", "head:event"]
    assert branches.select("fusion") == []
    assert branches.cuts == {"image": ["r"]}


def test_several_heads_on_one_input_begin_after_what_they_share():
    model = graph(["image"], ["event", "level"], "a = Gemm(image, w)", "event = Gemm(a, w)", "level = Gemm(a, w)")
    assert of(model) == {"a": "image", "event": "head:event", "level": "head:level"}


def test_two_towers_have_a_head_each_and_no_fusion():
    model = graph(
        ["image", "audio"], ["event", "level"], "a = Gemm(image, w)", "b = Gemm(audio, w)", "event = Gemm(a, w)", "l = Gemm(b, w)",
        "level = Relu(l)",
    )  # fmt: skip
    assert of(model) == {"a": "image", "b": "audio", "event": "head:event", "l": "head:level", "level": "head:level"}


def test_an_output_of_one_branch_beside_a_fused_one_keeps_both_heads_apart():
    model = graph(
        ["image", "audio"], ["event", "level"], "a = Gemm(image, w)", "b = Gemm(audio, w)", "level = Gemm(a, w)", "j = Add(a, b)",
        "h = Gemm(j, w)", "event = Gemm(h, w)",
    )  # fmt: skip
    assert of(model)["event"] == "head:event"
    assert of(model)["h"] == "fusion"
    assert of(model)["level"] in ("image", "head:level")


def test_a_batch_size_read_from_another_input_makes_no_dependence():
    model = graph(
        ["image", "audio"], ["event"], "n = Shape(audio)", "m = Gather(n, k)", "a = Expand(w, m)", "c = Add(image, a)",
        "b = Gemm(audio, w)", "j = Add(c, b)", "event = Gemm(j, w)",
    )  # fmt: skip
    assert of(model)["c"] == "image"
    assert find_branches(model).cuts["image"] == ["c"]


def test_a_text_and_its_mask_count_as_one():
    model = graph(["text", "text_mask", "image"], ["event"], "a = Mul(text, text_mask)", "j = Add(a, image)", "event = Gemm(j, w)")
    branches = find_branches(model)
    assert branches.inputs == ("text", "image")
    assert of(model)["a"] == "text"
    assert branches.cuts == {"text": ["a"], "image": ["image"]}


def test_the_companions_of_input_ids_belong_to_them():
    model = graph(
        ["input_ids", "attention_mask", "image"], ["event"], "a = Mul(input_ids, attention_mask)", "j = Add(a, image)", "event = Gemm(j, w)"
    )
    assert find_branches(model).inputs == ("input_ids", "image")


def test_states_and_constants_make_no_branch():
    card = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {
                "input": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4]},
                "state": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 4], "state": "stateN"},
                "sr": {"modality": "tensor", "dtype": "int64", "shape": [], "value": 16000},
            },
            "outputs": {"output": {"task": "tensor"}, "stateN": {"task": "tensor"}},
        }
    )
    model = graph(
        ["input", "state", "sr"], ["output", "stateN"], "a = Gemm(input, w)", "s = Mul(state, w)", "stateN = Add(a, s)",
        "r = Relu(stateN)", "output = Gemm(r, w)",
    )  # fmt: skip
    branches = find_branches(model, card)
    assert branches.names() == ["input", "head:output"]
    assert branches.of_node["n_s"] == "input"


def test_what_bodies_of_if_read_from_outside_counts():
    model = graph(["image", "audio"], ["event"], "g = ReduceMax(audio)", "c = Cast(g)", "event = If(c)")
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["inner"])], "body", [], [helper.make_empty_tensor_value_info("inner")])
    model.graph.node[2].attribute.append(helper.make_attribute("then_branch", body))
    model.graph.node[2].attribute.append(helper.make_attribute("else_branch", body))
    assert of(model)["event"] == "fusion"


def test_front_end_nodes_belong_to_their_input_and_are_marked():
    model = graph(["image", "audio"], ["event"], "f = Mul(image, w)", "a = Gemm(f, w)", "j = Add(a, audio)", "event = Gemm(j, w)")
    model.graph.node[0].name = "frontend/image/0_Mul"
    branches = find_branches(model)
    assert branches.of_node["frontend/image/0_Mul"] == "image"
    assert branches.frontend == {"frontend/image/0_Mul"}


def test_a_selector_is_an_input_a_modality_fusion_head_or_one_head():
    branches = find_branches(graph(["image", "audio"], ["event", "level"], *TWO_HEADS), cards.parse(CARD))
    assert branches.select("image") == ["image"]
    assert branches.select("sensor") == ["image", "audio"]
    assert branches.select("fusion") == ["fusion"]
    assert branches.select("head") == ["head:event", "head:level"]
    assert branches.select("head:level") == ["head:level"]
    assert branches.select("text") == [], "a modality the model lacks"


def test_an_unknown_selector_is_refused_with_the_known_ones():
    branches = find_branches(graph(["image", "audio"], ["event", "level"], *TWO_HEADS), cards.parse(CARD))
    with pytest.raises(EdgemmError, match=r"'imgae' is no part of this model") as caught:
        branches.select("imgae")
    assert "did you mean 'image'?" in str(caught.value)
    assert "head:level" in str(caught.value)


def test_tensors_that_one_output_joins_make_one_head():
    plain = {
        "factory": "a:b",
        "inputs": {"picture": {"modality": "image", "height": 8, "width": 8}, "audio": {"modality": "sensor", "shape": [4]}},
        "outputs": {
            "found": {"task": "detection", "labels": ["a"], "frame": "picture", "layout": "set", "from": {"scores": "s", "boxes": "b"}},
            "level": {"task": "tensor"},
        },
    }
    lines = (
        "p = Gemm(picture, w)", "q = Gemm(audio, w)", "joined = Concat(p, q)", "shared = Gemm(joined, w)", "both = Gemm(shared, w)",
        "s = Gemm(both, w)", "b = Gemm(both, w)", "level = Gemm(shared, w)",
    )  # fmt: skip
    model = graph(["picture", "audio"], ["s", "b", "level"], *lines)
    branches = find_branches(model, cards.parse(plain))
    assert branches.names() == ["picture", "audio", "fusion", "head:found", "head:level"]
    assert branches.nodes("head:found") == ["n_both", "n_s", "n_b"]
    assert branches.select("head:found") == ["head:found"]
    assert "head:s" in find_branches(model).names(), "without a card each tensor is an output"


def test_a_single_output_of_two_tensors_has_a_last_layer_for_each():
    plain = {
        "factory": "a:b",
        "inputs": {"picture": {"modality": "image", "height": 8, "width": 8}},
        "outputs": {
            "found": {"task": "detection", "labels": ["a"], "frame": "picture", "layout": "set", "from": {"scores": "s", "boxes": "b"}},
        },
    }
    model = graph(["picture"], ["s", "b"], "p = Gemm(picture, w)", "s = Gemm(p, w)", "u = Gemm(p, w)", "b = Relu(u)")
    assert find_branches(model, cards.parse(plain)).nodes("head:found") == ["n_s", "n_u", "n_b"]
