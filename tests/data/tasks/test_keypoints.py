"""Named points of objects: OKS against pycocotools, heat maps to points, cells into the model's picture, what cannot be, readings."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts.card_file import parse
from edgemm.contracts.task import Cells, of
from edgemm.data.tasks._keypoints.similarity import AREA
from edgemm.errors import CardError, DataError, MeasureError

POINTS = ["top", "right", "left"]


def task(fit="stretch", size=(48, 48), **options):
    picture = {"modality": "image", "height": size[0], "width": size[1], "channels": 3, "fit": fit}
    pose = {"task": "keypoints", "labels": ["triangle"], "points": POINTS, "frame": "image", **options}
    return of(parse({"factory": "own:build", "inputs": {"image": picture}, "outputs": {"pose": pose}}).outputs["pose"])


def beside(height, width):
    return Cells(Path(), {"image": np.zeros((height, width, 3), np.uint8)})


def bells(places, size, step, width=1.2):
    """Heat maps (points, h, w) with a bell at each place, x and y in pixels of which a cell has ``step``."""
    rows, columns = (np.arange(side) + 0.5 for side in size)
    return np.stack([np.exp(-(np.square(columns - x / step) + np.square(rows[:, None] - y / step)) / 2 / width**2) for x, y in places])


@pytest.fixture
def scattered():
    """Objects of two labels in 60 pictures, as answered (ties, doubles and strangers among them) and as they are (some points unknown)."""
    rng = np.random.default_rng(0)
    found = task(labels=["triangle", "tent"], layout="list", scores="probability", sigmas=[0.05, 0.08, 0.1], size=(200, 300), most=20)
    truth = np.zeros((60, found.truths, 5 + 9), np.float32)
    truth[..., 0] = -1
    answers = np.zeros((60, 12, 2 + 9), np.float32)
    for row in range(60):
        for number in range(int(rng.integers(0, 5))):
            middle, label = rng.uniform(30, [270, 170]), int(rng.integers(2))
            points = middle + rng.uniform(-25, 25, (3, 2))
            seen = rng.integers(0, 3, 3) if rng.random() < 0.5 else np.full(3, 2)
            truth[row, number, 0] = label
            truth[row, number, 1:5] = [*points.min(0), *points.max(0)]
            truth[row, number, 5:] = np.column_stack([points * (seen > 0)[:, None], seen]).ravel()
            for copy in range(int(rng.integers(0, 3))):
                near = points + rng.normal(size=(3, 2)) * rng.choice([0.5, 2, 6])
                said = label if rng.random() < 0.9 else 1 - label
                answers[row, number * 2 + copy, said] = rng.integers(1, 20) / 20
                answers[row, number * 2 + copy, 2:] = np.column_stack([near, np.ones(3)]).ravel()
    return found, answers, truth


def test_average_precision_over_oks_equals_pycocotools(scattered):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed: it is an oracle, no part of edgemm")
    from pycocotools.cocoeval import COCOeval

    found, answers, truth = scattered
    things, results = [], []
    for row, objects in enumerate(truth):
        for line in objects[objects[:, 0] >= 0].astype(np.float64):
            x0, y0, x1, y1 = line[1:5]
            known = int((line[7::3] > 0).sum())
            box = [x0, y0, x1 - x0, y1 - y0]
            area = AREA * (x1 - x0) * (y1 - y0)
            facts = {"id": len(things) + 1, "image_id": row + 1, "category_id": int(line[0]) + 1, "iscrowd": 0}
            things.append({**facts, "bbox": box, "area": area, "keypoints": line[5:].tolist(), "num_keypoints": known})
        poses = found.found({"pose": answers[row : row + 1]})[0]
        of_image = {"image_id": row + 1}
        results += [of_image | {"category_id": int(one[0]) + 1, "score": float(one[1]), "keypoints": one[2:].tolist()} for one in poses]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = {
            "images": [{"id": row + 1} for row in range(len(truth))],
            "annotations": things,
            "categories": [{"id": 1, "name": "triangle"}, {"id": 2, "name": "tent"}],
        }
        theirs.createIndex()
        judged = COCOeval(theirs, theirs.loadRes(results), "keypoints")
        judged.params.kpt_oks_sigmas = np.array([0.05, 0.08, 0.1])
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][..., 0, 0]
    each = [precision[:, :, label][precision[:, :, label] > -1].mean() for label in (0, 1)]
    further = found.further({"pose": answers}, truth)
    assert found.measure({"pose": answers}, truth).value() == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
    assert [further["oks_map of triangle"], further["oks_map of tent"]] == pytest.approx(each, abs=1e-6)
    assert further["oks_map50"] == pytest.approx(precision[0][precision[0] > -1].mean(), abs=1e-6)
    assert further["oks_map75"] == pytest.approx(precision[5][precision[5] > -1].mean(), abs=1e-6)


def test_its_interval_holds_it_and_a_loss_is_paired(scattered):
    found, answers, truth = scattered
    before = found.measure({"pose": answers}, truth)
    moved = answers.copy()
    moved[..., 2::3] += 1.5
    lost, score = before.drop(found.measure({"pose": moved}, truth)), before.score()
    assert (score.name, score.unit, score.n) == ("oks_map", "ratio", 60)
    assert score.low < score.value < score.high
    assert lost.low < lost.value < lost.high
    assert lost.value > 0


def test_the_best_threshold_of_each_label_and_labels_that_are_few_are_told(scattered):
    found, answers, truth = scattered
    fitted = found.thresholds({"pose": answers}, truth)
    assert set(fitted) == {"triangle", "tent"}
    assert all(0 < one < 1 for one in fitted.values())
    assert found.notes(truth) == []
    (few,) = found.notes(truth[:3])
    assert "too few to tell small losses; 20 of a label do" in few
    assert found.notes(np.full_like(truth, -1)) == ["no object of 'triangle', 'tent' is in these rows: mAP leaves such labels out."]


def test_scores_and_points_of_a_list_are_compared_apart():
    found = task(layout="list", scores="probability")
    reference = np.zeros((2, 3, 10), np.float32)
    reference[:, 0] = [0.9, 30, 30, 1, 40, 40, 1, 20, 40, 1]
    other = reference.copy()
    other[:, 0, 0], other[:, 1, 1:] = 0.7, 50
    pairs = found.compared({"pose": reference}, {"pose": other})
    assert np.abs(np.subtract(*pairs["scores"])).max() == pytest.approx(0.2)
    assert np.array_equal(*pairs["points"]), "an object that nobody tells may lie anywhere"
    assert task().compared({"pose": reference}, {"pose": other}) == {}


def test_points_near_enough_are_counted_of_those_that_are_known():
    found = task(size=(100, 100), layout="list", scores="probability", truths=2)
    truth = np.stack([found.truth("triangle 20 20 2 40 20 2 20 60 1; triangle 70 70 2 90 70 2 70 90 0", beside(100, 100))])
    answer = np.zeros((1, 2, 10), np.float32)
    answer[0, 0] = [0.9, 20, 23.9, 1, 40, 24.1, 1, 20, 60, 1]
    answer[0, 1] = [0.8, 71, 71, 1, 90, 70, 1, 0, 0, 1]
    assert found.further({"pose": answer}, truth)["pck"] == pytest.approx(4 / 5)
    assert found.further({"pose": answer[:, :1]}, truth)["pck"] == pytest.approx(2 / 5)


def test_a_heat_map_is_read_to_a_hundredth_of_a_pixel():
    places = [(11.3, 20.7), (30.25, 22.0), (18.9, 38.1)]
    maps = bells(places, (24, 24), 2)
    probabilities = np.clip(0.9 * maps, 1e-6, None)[None].astype(np.float32)
    for answer, scores in ((probabilities, "probability"), (np.log(probabilities / (1 - probabilities)), "sigmoid")):
        (pose,) = task(scores=scores).found({"pose": answer})[0]
        assert pose[2:].reshape(3, 3)[:, :2] == pytest.approx(np.array(places), abs=0.01)
        assert pose[1] == pytest.approx(pose[4::3].mean())


def test_middles_tell_objects_apart_and_maps_say_where_their_points_are():
    triangles = [np.array([(10.4, 8.0), (20.0, 17.7), (3.9, 16.2)]), np.array([(36.0, 26.1), (44.3, 40.0), (28.0, 41.5)])]
    middles = [(one.min(0) + one.max(0)) / 2 for one in triangles]
    centres = np.maximum(*(share * bells([middle], (24, 24), 2)[0] for middle, share in zip(middles, (0.6, 0.9), strict=True)))[None]
    maps = np.maximum(*(bells(one, (24, 24), 2) for one in triangles))
    offsets = np.zeros((3, 2, 24, 24))
    for one, (x, y) in zip(triangles, middles, strict=True):
        column, row = int(x // 2), int(y // 2)
        offsets[:, :, row, column] = one / 2 - (column + 0.5, row + 0.5) + 0.7  # a guess, mended by the maps
    answer = np.concatenate([centres, maps, offsets.reshape(6, 24, 24)])[None].astype(np.float32)
    found = task(layout="centres", scores="probability")
    poses = found.found({"pose": answer})[0]
    assert poses[:2, 1] == pytest.approx([0.9, 0.6], abs=0.15)
    for pose, one in zip(poses, triangles[::-1], strict=False):
        assert pose[2:].reshape(3, 3)[:, :2] == pytest.approx(one, abs=0.05)
    truth = found.truth("; ".join("triangle " + " ".join(f"{x} {y} 2" for x, y in one) for one in triangles), beside(48, 48))
    assert found.measure({"pose": answer}, truth[None]).value() == pytest.approx(1.0)


def test_a_map_that_shows_nothing_leaves_the_middles_guess():
    answer = np.zeros((1, 10, 24, 24), np.float32)
    answer[0, 0, 12, 10] = 0.9
    answer[0, 4:, 12, 10] = [0, -4, 5, 3, -5, 3]
    (pose,) = task(layout="centres", scores="probability", most=1).found({"pose": answer})[0]
    assert pose[2:].reshape(3, 3)[:, :2] == pytest.approx(np.array([(21, 17), (31, 31), (11, 31)]), abs=1e-4)


def test_points_of_a_list_may_be_in_parts_of_the_picture():
    answer = np.array([[[0.9, 0.5, 0.25, 1, 0.75, 0.5, 1, 0.25, 0.5, 1]]], np.float32)
    (pose,) = task(layout="list", unit="ratio", scores="probability", size=(40, 80)).found({"pose": answer})[0]
    assert pose[2:].reshape(3, 3)[:, :2].tolist() == [[40, 10], [60, 20], [20, 20]]


def test_an_answer_that_fits_no_layout_is_refused():
    with pytest.raises(MeasureError, match="do not belong together"):
        task().measure({"pose": np.zeros((1, 4, 24, 24), np.float32)}, task().truth("-", beside(48, 48))[None])
    with pytest.raises(CardError, match=r"layout: heatmaps(.|\n)*\(N, 3, height, width\)(.|\n)*write layout: centres, which it fits"):
        task().check({"pose": (1, 10, 24, 24)})
    with pytest.raises(CardError, match=r"\(N, objects, 10\)(.|\n)*or what the model returns"):
        task(layout="list").check({"pose": (1, 5, 9)})
    task().check({"pose": (1, 3, 24, 24)})


def test_points_go_the_way_of_their_picture():
    cell = "triangle 40 4 2 76 36 2 4 36 1"
    stretched = task().truth(cell, beside(40, 80))
    assert stretched[0].tolist() == pytest.approx([0, 2.4, 4.8, 45.6, 43.2, 24, 4.8, 2, 45.6, 43.2, 2, 2.4, 43.2, 1], abs=1e-5)
    assert (stretched[1:, 0] == -1).all()
    boxed = task("letterbox").truth(cell, beside(40, 80))[0, 5:].reshape(3, 3)
    assert boxed == pytest.approx(np.array([[24, 14.4, 2], [45.6, 33.6, 2], [2.4, 33.6, 1]]), abs=1e-5)
    cropped = task("crop").truth(cell + "; triangle 1 1 2 5 1 2 1 5 2", beside(40, 80))
    assert cropped[0, 5:].reshape(3, 3) == pytest.approx(np.array([[24, 4.8, 2], [0, 0, 0], [0, 0, 0]]), abs=1e-5)
    assert cropped[1, 0] == -1
    assert task().truth("triangle 2 2 20 20 4 4 2 8 8 2 0 0 0", beside(48, 48))[0, 1:5].tolist() == [2, 2, 20, 20]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("", "the cell is empty(.|\n)*write '-'"),
        ("triangle 1 2 2", "has 3 numbers after the label(.|\n)*x, y and visibility of each make 9"),
        ("circle 1 2 2 3 4 2 5 6 2", "label 'circle' is not in the card"),
        ("triangle 1 2 2 3 4 2 5 6 7", "says visibility 7(.|\n)*0 = not known"),
        ("triangle 1 2 2 3 4 2 50 6 2", r"the point 50 6 lies outside of its picture(.|\n)*48 x 48"),
        ("triangle 1 2 0 3 4 0 5 6 0", "no point that is known"),
        ("triangle 1 2 2 3 4 2 5 6 2; triangle 1 2 2 3 4 2 5 6 2", "stands there twice"),
        ("triangle 9 9 3 3 1 2 2 3 4 2 5 6 2", "a box of no area: 9 9 3 3"),
        ("; ".join(f"triangle {n} 2 2 3 4 2 5 6 2" for n in range(21)), "holds 21 objects(.|\n)*set truths: 21"),
    ],
)
def test_cells_that_cannot_be_are_refused(cell, words):
    with pytest.raises(DataError, match=words):
        task().truth(cell, beside(48, 48))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skeleton": [[0, 1], [1, 3]]}, r"skeleton has \[1, 3\](.|\n)*points has 3: 0 top, 1 right, 2 left"),
        ({"sigmas": [0.05, 0.05]}, r"sigmas is \[0\.05, 0\.05\](.|\n)*points has 3"),
        ({"sigmas": 0.0}, "sigmas is 0"),
        ({"labels": ["a", "b"]}, "labels has 2(.|\n)*centres or list"),
        ({"truths": 0}, "most is 20 and truths 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(CardError, match=f"outputs\\.pose: {words}"):
        task(**options)


def test_it_is_read_as_objects_in_pixels_of_the_cameras_picture():
    found = task("letterbox", layout="list", scores="probability")
    answer = np.zeros((1, 2, 10), np.float32)
    answer[0, 0] = [0.9, 24, 14.4, 1, 45.6, 33.6, 0.5, 2.4, 33.6, 1]
    seen = found.placed(found.read({"pose": answer}), {"image": (40, 80)})
    assert seen.scores == {"triangle": pytest.approx(0.9)}
    (pose,) = seen.poses
    assert [(point.name, round(point.x, 3), round(point.y, 3)) for point in pose.points] == [
        ("top", 40, 4),
        ("right", 76, 36),
        ("left", 4, 36),
    ]
