"""Every fusion: it trains, exports, and does what its name says."""

import pytest

from edgemm.contracts import plugins
from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.onnx_export import sample_inputs  # noqa: E402  (torch may be absent)
from edgemm.workshop.models.protocols import Fusion  # noqa: E402

TINY = {"image": {"cnn": {"channels": [4, 8], "width": 16}}, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 16}}}
THREE = {**TINY, "motion": {"tcn": {"channels": 8, "blocks": 1, "width": 16}}}
UNEVEN = {**TINY, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 24}}}
TOWERS = {"a": {"task": "embedding", "pair": "b"}, "b": {"task": "embedding"}}

CASES = {
    "concat": {"width": 16},
    "average": {},
    "weighted": {"width": 16},
    "product": {"width": 16},
    "product, beside": {"width": 16, "beside": True},
    "mlp": {"map_width": 16, "hidden": [16]},
    "gated": {"width": 16},
    "gated, vector": {"width": 16, "gate": "vector"},
    "cross_attention": {"width": 16, "heads": 2},
    "graph": {"width": 16},
    "graph, edges": {"width": 16, "edges": [["image", "text"]]},
    "towers": {},
}
INDEX_OPS = {"Shape", "Range", "Loop", "GatherND", "ConstantOfShape", "IsNaN"}


def _model(case, make_model):
    kind = case.partition(",")[0]
    inputs, outputs = (TINY, TOWERS) if kind == "towers" else (THREE, None)
    return make_model(inputs, outputs=outputs, fusion={kind: CASES[case]})


def _fusion(name, widths=(4, 4), outputs=("label",), **options):
    torch.manual_seed(0)
    return plugins.find(Fusion, name)(dict(zip("abc", widths, strict=False)), outputs, **options).eval()


def test_every_fusion_is_tried_here():
    assert {case.partition(",")[0] for case in CASES} == set(plugins.names("fusions"))


@pytest.mark.parametrize("case", CASES)
def test_a_fusion_learns_from_two_samples_and_from_one(case, make_model, gradients_are_finite):
    model = _model(case, make_model)
    assert gradients_are_finite(model, 2)
    assert gradients_are_finite(model.eval(), 1)


@pytest.mark.parametrize("case", CASES)
def test_a_fusion_exports_without_index_arithmetic_and_answers_the_same(case, make_model, exported):
    graph, difference = exported(_model(case, make_model))
    assert difference < 1e-4
    assert not {node.op_type for node in graph.graph.node} & INDEX_OPS


@pytest.mark.parametrize("name", ["weighted", "product", "mlp", "gated", "cross_attention", "graph", "concat"])
def test_branches_of_different_width_are_mapped_to_one(name, make_model):
    options = {"width": 16} if name != "mlp" else {}
    model = make_model(UNEVEN, fusion={name: options}).eval()
    assert model(sample_inputs(model.card))["label"].shape == (2, 3)


def test_the_average_is_the_mean_before_the_activation():
    a, b = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(_fusion("average")({"a": a, "b": b}), ((a + b) / 2).relu())


def test_fixed_weights_are_scaled_to_one_and_stay():
    fusion = _fusion("weighted", weights={"a": 3, "b": 1}, learned=False)
    a, b = torch.rand(2, 4), torch.rand(2, 4)
    torch.testing.assert_close(fusion({"a": a, "b": b}), 0.75 * a + 0.25 * b)
    assert not fusion.logits.requires_grad
    assert _fusion("weighted").logits.requires_grad


def test_the_product_passes_the_branches_on_beside_it_when_asked():
    assert _fusion("product", width=8).finish[0].in_features == 8
    assert _fusion("product", width=8, beside=True).finish[0].in_features == 24


def test_scalar_gates_share_one_and_vector_gates_weigh_every_number():
    scalar, vector = _fusion("gated", width=8), _fusion("gated", width=8, gate="vector")
    assert scalar.gate.out_features == 2
    assert {name: gate.out_features for name, gate in vector.gates.items()} == {"a": 8, "b": 8}


def test_cross_attention_does_not_look_at_masked_tokens():
    fusion = _fusion("cross_attention", width=8, heads=2)
    seen, mask = torch.randn(1, 3, 4), torch.tensor([[1.0, 1.0, 0.0]])
    changed = seen.clone()
    changed[:, 2] = 9.0
    other = (torch.randn(1, 2, 4), None)
    torch.testing.assert_close(fusion({"a": (seen, mask), "b": other}), fusion({"a": (changed, mask), "b": other}))


def test_nodes_without_an_edge_do_not_hear_each_other():
    fusion = _fusion("graph", widths=(4, 4, 4), edges=[["a", "b"]])
    shares = (fusion.strength[0] + fusion.apart).softmax(-1)
    torch.testing.assert_close(shares, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_towers_pair_outputs_and_inputs_in_card_order_or_as_told():
    a, b = torch.zeros(1, 4), torch.ones(1, 4)
    assert _fusion("towers", outputs=("x", "y"))({"a": a, "b": b}) == {"x": a, "y": b}
    assert _fusion("towers", outputs=("x", "y"), branches={"x": "b", "y": "a"})({"a": a, "b": b}) == {"x": b, "y": a}


@pytest.mark.parametrize(
    ("fusion", "what"),
    [
        ({"average": {}}, "fusion 'average': the branches have different widths: 'image' 16, 'text' 24."),
        ({"weighted": {"weights": {"image": 1.0}, "width": 16}}, "fusion 'weighted': weights lacks 'text'."),
        ({"weighted": {"weights": {"image": 1.0, "txt": 1.0}, "width": 16}}, "weights names 'txt', no input of this model."),
        ({"weighted": {"weights": {"image": 0.0, "text": 1.0}, "width": 16}}, "weights.image: 0.0 is not above 0."),
        ({"graph": {"edges": [["image"]]}}, "edges holds ['image'], no pair of two inputs."),
        ({"graph": {"edges": [["image", "audio"]]}}, "edges names 'audio', no input of this model."),
        ({"towers": {}}, "fusion 'towers': 1 outputs cannot be paired with 2 inputs."),
        ({"towers": {"branches": {}}}, "branches lacks output 'label'."),
        ({"towers": {"branches": {"label": "sound"}}}, "branches.label names 'sound', no input of this model."),
        ({"towers": {"branches": {"label": "image", "level": "text"}}}, "branches names 'level', no output of this model."),
        ({"cross_attention": {"width": 10, "heads": 4}}, "a width of 10 cannot be shared by 4 heads."),
    ],
)
def test_a_fusion_that_does_not_fit_says_why(fusion, what, make_card):
    with pytest.raises(CardError) as caught:
        build(make_card(UNEVEN, fusion=fusion))
    assert what in caught.value.what
    assert caught.value.fix
