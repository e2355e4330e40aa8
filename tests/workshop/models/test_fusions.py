"""Every fusion: it trains, exports, and does what its name says."""

import pytest

from edgemm.contracts import plugins
from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.feature_taps import find_ends  # noqa: E402
from edgemm.workshop.models.protocols import Fusion, Maps  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402  (torch may be absent)

TINY = {"image": {"cnn": {"channels": [4, 8], "width": 16}}, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 16}}}
THREE = {**TINY, "motion": {"tcn": {"channels": 8, "blocks": 1, "width": 16}}}
UNEVEN = {**TINY, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 24}}}
MAPS = {**THREE, "image": {"c2f": {"channels": [4, 8, 12]}}}
CAMERAS = {**MAPS, "night": {"c2f": {"channels": [4, 6, 8]}}}
BOXES = {"label": {"task": "detection", "labels": ["a", "b", "c"], "frame": "image"}}
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
    "film": {"width": 8},
    "gated_maps": {"width": 8},
    "attended_maps": {"width": 8, "heads": 2},
}
INDEX_OPS = {"Shape", "Range", "Loop", "GatherND", "ConstantOfShape", "IsNaN"}


def _model(case, make_model):
    kind = case.partition(",")[0]
    seen = {"towers": (TINY, TOWERS), "film": (MAPS, BOXES), "gated_maps": (CAMERAS, BOXES), "attended_maps": (CAMERAS, BOXES)}
    inputs, outputs = seen.get(kind, (THREE, None))
    return make_model(inputs, outputs=outputs, fusion={kind: CASES[case]})


def _maps(*names, size=(32, 32), strides=(4, 8)):
    return {name: Maps(name, size, strides, (4,) * len(strides)) for name in names}


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


@pytest.mark.parametrize("case", ["film", "gated_maps", "attended_maps"])
def test_branches_around_a_fusion_of_maps_can_be_done_without_one_by_one(case, make_model):
    """Each ends in submodules, where a mean can stand in for it."""
    model = _model(case, make_model)
    assert set(find_ends(model).replaceable) == set(model.card.inputs)


def test_what_is_heard_scales_and_shifts_whole_channels_and_moves_nothing():
    heard = plugins.find(Fusion, "film")({"image": 4, "word": 3}, ("label",), _maps("image"), width=4).eval().before
    seen = (torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4))
    one, other = ({"word": torch.full((1, 3), word)} for word in (0.0, 1.0))
    assert not torch.allclose(heard(seen, one)[0], heard(seen, other)[0])
    moved = tuple(x.roll((1, 2), (2, 3)) for x in seen)
    for before, after in zip(heard(seen, one), heard(moved, one), strict=True):
        torch.testing.assert_close(before.roll((1, 2), (2, 3)), after)


def test_gates_of_maps_share_one_at_every_place():
    maps = _maps("day", "night")
    fusion = plugins.find(Fusion, "gated_maps")({"day": 4, "night": 4}, ("label",), maps, width=4).eval()
    seen = {name: tuple(torch.rand(1, 4, *cells) for cells in of.cells) for name, of in maps.items()}
    mapped = [fusion.mapped[name][0](seen[name][0]) for name in maps]
    assert fusion.gates[0](torch.cat(mapped, 1)).softmax(1).sum(1).allclose(torch.ones(1, 8, 8))
    dark = {**seen, "night": tuple(torch.zeros_like(x) for x in seen["night"])}
    assert not torch.allclose(fusion(seen)[0], fusion(dark)[0])


def test_a_cell_finds_what_another_camera_sees_at_any_place_of_a_picture_of_another_size():
    maps = _maps("day") | _maps("night", size=(64, 32))
    fusion = plugins.find(Fusion, "attended_maps")({"day": 4, "night": 4}, ("label",), maps, width=4, heads=2).eval()
    seen = {name: tuple(torch.rand(1, 4, *cells) for cells in of.cells) for name, of in maps.items()}
    far = tuple(x.clone() for x in seen["night"])
    far[-1][..., -1, -1] += 3.0
    before, after = fusion(seen)[0], fusion({**seen, "night": far})[0]
    assert before.shape == (1, 4, 8, 8)
    assert not torch.allclose(before[..., 0, 0], after[..., 0, 0])


@pytest.mark.parametrize(
    ("name", "maps", "what", "fix"),
    [
        ("film", {}, "fusion 'film': no input has feature maps.", "such as c2f"),
        (
            "film",
            _maps("image", "night"),
            "fusion 'film': 'image', 'night' have feature maps.",
            "write picture: image, or join the pictures",
        ),
        ("film", _maps("image", size=(90, 96)), "inputs.image: a picture of 90 x 96 pixels has no maps that fit each other.", "88 x 96"),
        ("gated_maps", _maps("image"), "fusion 'gated_maps': one input has feature maps.", "fusion: film"),
        ("attended_maps", _maps("image"), "fusion 'attended_maps': one input has feature maps.", "fusion: film"),
        (
            "gated_maps",
            _maps("image") | _maps("night", size=(64, 64)),
            "the maps of 'image' and 'night' have different sizes.",
            "one height",
        ),
    ],
)
def test_maps_that_do_not_fit_say_why(name, maps, what, fix):
    with pytest.raises(CardError) as caught:
        plugins.find(Fusion, name)(dict.fromkeys(("image", "night"), 4), ("label",), maps)
    assert what in caught.value.what
    assert fix in caught.value.fix


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
