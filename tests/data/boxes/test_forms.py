"""Every form is decoded to one and the same boxes and scores; a shape that fits none is told what nearly fits."""

import numpy as np
import pytest

from edgemm.data.boxes import forms, shapes
from edgemm.data.boxes.layout import Layout
from edgemm.errors import CardError

WIDTH, HEIGHT, STRIDES = 64, 32, (8, 16)
JOINED = {"joined": ("y",)}
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def places() -> tuple[np.ndarray, np.ndarray]:
    return forms.places(Layout("yolo", 2, JOINED, WIDTH, HEIGHT, strides=STRIDES), (), 40)


@pytest.fixture(scope="module")
def boxes(places) -> np.ndarray:
    """A box around the middle of each of the 40 places, (2, 40, 4)."""
    middles, strides = places
    sides = rng.integers(1, 4, (2, 40, 4)) * strides[:, None]
    return np.concatenate([middles - sides[..., :2], middles + sides[..., 2:]], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return rng.uniform(0.05, 0.95, (2, 40, 2)).astype(np.float32)


def centres(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def logit(chances: np.ndarray) -> np.ndarray:
    return np.log(chances / (1 - chances))


def sides(boxes: np.ndarray, middles: np.ndarray) -> np.ndarray:
    return np.concatenate([middles - boxes[..., :2], boxes[..., 2:] - middles], axis=-1)


def test_the_first_place_of_a_level_lies_in_the_middle_of_its_first_square(places):
    middles, strides = places
    assert middles[0].tolist() == [4, 4]
    assert middles[8].tolist() == [4, 12], "row by row"
    assert middles[32].tolist() == [8, 8]
    assert strides[[0, 31, 32, 39]].tolist() == [8, 8, 16, 16]


@pytest.mark.parametrize("unit", ["pixels", "ratio"])
@pytest.mark.parametrize("form", ["xyxy", "cxcywh", "ltrb"])
def test_a_tensor_of_boxes_and_scores(form, unit, boxes, scores, places):
    told = {"xyxy": boxes, "cxcywh": centres(boxes), "ltrb": sides(boxes, places[0])}[form]
    told = told / np.array([WIDTH, HEIGHT] * 2) if unit == "ratio" else told
    answer = np.concatenate([told, scores], axis=-1).swapaxes(1, 2).astype(np.float32)
    layout = Layout("yolo", 2, JOINED, WIDTH, HEIGHT, form, unit, strides=STRIDES)
    found, shares = forms.decode({"y": answer}, layout)
    assert found == pytest.approx(boxes, abs=1e-4)
    assert shares == pytest.approx(scores)


def test_distributions_over_bins_are_their_means(boxes, scores, places):
    bins = (sides(boxes, places[0]) / places[1][:, None]).round().astype(int)
    spread = 20.0 * np.eye(8)[bins].reshape(2, 40, 32)
    answer = np.concatenate([spread, logit(scores)], axis=-1).swapaxes(1, 2).astype(np.float32)
    layout = Layout("yolo", 2, JOINED, WIDTH, HEIGHT, "dfl", "stride", 8, STRIDES, "sigmoid")
    found, shares = forms.decode({"y": answer}, layout)
    assert found == pytest.approx(boxes, abs=1e-3)
    assert shares == pytest.approx(scores, abs=1e-5)


def test_objectness_is_multiplied_into_every_score(boxes, scores):
    answer = np.concatenate([centres(boxes), np.full((2, 40, 1), 0.5), scores], axis=-1).astype(np.float32)
    found, shares = forms.decode({"y": answer}, Layout("objectness", 2, JOINED, WIDTH, HEIGHT))
    assert found == pytest.approx(boxes, abs=1e-4)
    assert shares == pytest.approx(scores / 2)


def test_levels_apart_of_maps_and_of_lists_say_the_same(boxes, scores, places):
    middles, strides = places
    grid = np.concatenate(
        [(centres(boxes)[..., :2] - middles) / strides[:, None] + 0.5, np.log(centres(boxes)[..., 2:] / strides[:, None])], -1
    )
    parts = {"boxes": grid, "scores": logit(scores), "objectness": np.full((2, 40, 1), 30.0)}
    names = {part: (f"{part}_8", f"{part}_16") for part in parts}
    layout = Layout("levels", 2, names, WIDTH, HEIGHT, "grid", "stride", strides=STRIDES, scores="sigmoid")
    flat, maps = {}, {}
    for part, whole in parts.items():
        for name, values, (high, wide) in zip(names[part], np.split(whole, [32], axis=1), [(4, 8), (2, 4)], strict=True):
            flat[name] = values.astype(np.float32)
            maps[name] = values.swapaxes(1, 2).reshape(2, -1, high, wide).astype(np.float32)
    for answers in (flat, maps):
        found, shares = forms.decode(answers, layout)
        assert found == pytest.approx(boxes, abs=1e-3)
        assert shares == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("nothing", ["first", "last"])
def test_a_score_for_nothing_takes_its_share_and_is_left_out(nothing, boxes, scores):
    logits = rng.normal(size=(2, 40, 3)).astype(np.float32)
    layout = Layout("set", 2, {"scores": ("s",), "boxes": ("b",)}, WIDTH, HEIGHT, "xyxy", scores="softmax", nothing=nothing)
    found, shares = forms.decode({"s": logits, "b": boxes}, layout)
    whole = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert shares == pytest.approx(whole[..., 1:] if nothing == "first" else whole[..., :2], abs=1e-6)
    assert np.array_equal(found, boxes)


def test_torch_decodes_with_the_same_lines(boxes, scores, places):
    torch = pytest.importorskip("torch")

    class Torch:
        exp, sigmoid = staticmethod(torch.exp), staticmethod(torch.sigmoid)
        softmax = staticmethod(lambda x: torch.softmax(x, -1))
        concatenate = staticmethod(lambda arrays, axis: torch.cat(list(arrays), axis))
        constant = staticmethod(lambda array, like: torch.as_tensor(array, dtype=torch.float32))

    answer = rng.normal(size=(2, 34, 40)).astype(np.float32)
    layout = Layout("yolo", 2, JOINED, WIDTH, HEIGHT, "dfl", "stride", 8, STRIDES, "sigmoid")
    ours = forms.decode({"y": answer}, layout)
    theirs = forms.decode({"y": torch.from_numpy(answer).requires_grad_()}, layout, Torch())
    assert theirs[0].requires_grad
    for one, other in zip(ours, theirs, strict=True):
        assert other.detach().numpy() == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "change", "what", "near"),
    [
        ((1, 84, 40), {}, r"tensor 'y' is \(batch, 84, 40\), which does not fit layout yolo of 2 labels", "80 labels"),
        ((1, 7, 40), {}, "does not fit layout yolo", r"layout: objectness"),
        ((1, 66, 40), {}, "does not fit layout yolo", r"form: dfl"),
        ((1, 40, 6), {"kind": "objectness"}, "does not fit layout objectness", r"layout: yolo"),
        ((1, 6, 41), {"form": "ltrb", "strides": (8, 16)}, "answers for 41 places", "write the strides"),
        ((1, 6, 42), {"form": "ltrb", "strides": (8, 16)}, r"answers for 42 places.*make 40", r"strides: \[8, 16, 32\]"),
    ],
)
def test_a_shape_that_fits_no_form_is_told_what_nearly_fits(shape, change, what, near):
    layout = Layout(**{"kind": "yolo", "labels": 2, "parts": JOINED, "width": WIDTH, "height": HEIGHT, **change})
    with pytest.raises(CardError, match=what) as caught:
        shapes.check({"y": shape}, layout)
    assert caught.match(near)


def test_boxes_and_scores_of_other_places_are_refused():
    layout = Layout("set", 2, {"scores": ("s",), "boxes": ("b",)}, WIDTH, HEIGHT)
    with pytest.raises(CardError, match="not of the same places: scores 9, boxes 8"):
        shapes.check({"s": (1, 9, 2), "b": (1, 8, 4)}, layout)
