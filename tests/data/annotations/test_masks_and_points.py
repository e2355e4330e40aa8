"""Masks and points of annotated sets: outlines, COCO's run lengths, keypoints, and what stands beside instead."""

import numpy as np
import pytest
from PIL import Image

from edgemm.contracts import card_file as cards
from edgemm.data._annotations import runs
from edgemm.data.dataset import open_dataset
from edgemm.data.tasks._segmentation.outlines import filled
from edgemm.errors import DataError, Mistakes
from tests.data.annotations.test_yolo import yolo  # noqa: F401  (a YOLO set of some texts)

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "door"}]
IMAGE = [{"id": 1, "file_name": "a.png"}]
AREA = {"task": "segmentation", "labels": ["ground", "cat", "door"], "frame": "image"}
POSE = {"task": "keypoints", "labels": ["cat"], "points": ["nose", "tail"], "frame": "image"}


def card(**outputs):
    image = {"modality": "image", "height": 32, "width": 48}
    return cards.parse({"factory": "own:build", "inputs": {"image": image}, "outputs": outputs})


def truth(data, **outputs):
    (batch,) = open_dataset(data, card(**outputs)).batches("train", 4)
    return {name: rows[0] for name, rows in batch.truth.items()}


def marked(number, category=1, box=(0, 0, 48, 32), **more):
    x0, y0, x1, y1 = box
    return {"id": number, "image_id": 1, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], **more}


def test_outlines_become_masks_the_smaller_over_the_larger_and_crowds_do_not_count(coco):
    large = marked(1, segmentation=[[0, 0, 20, 0, 20, 20, 0, 20], [30, 0, 40, 0, 40, 10, 30, 10]])
    small = marked(2, 2, segmentation=[[5, 5, 10, 5, 10, 10, 5, 10]])
    crowd = marked(3, iscrowd=1, segmentation={"size": [32, 48], "counts": [32 * 46, 64]})
    mask = truth(f"coco:{coco(IMAGE, [small, large, crowd], categories=CATEGORIES)}", area=AREA)["area"]
    expected = np.zeros((32, 48), np.uint8)
    expected[:20, :20] = expected[:10, 30:40] = 1
    expected[5:10, 5:10] = 2
    expected[:, 46:] = 255
    np.testing.assert_array_equal(mask, expected)


def test_packed_run_lengths_are_what_pycocotools_makes_of_them(coco):
    oracle = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((32, 48)) > 0.6
    packed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    outline = {"size": [32, 48], "counts": packed["counts"].decode()}
    found, size = runs.read(outline)
    x0, y0, wide, high = oracle.toBbox(packed)
    assert runs.extent(found, size) == (x0, y0, x0 + wide, y0 + high)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": outline}
    boxes = {"task": "detection", "labels": ["cat"], "frame": "image"}
    told = truth(f"coco:{coco(IMAGE, [annotation], categories=CATEGORIES)}", area=AREA, found=boxes)
    np.testing.assert_array_equal(told["area"], mask)
    assert told["found"][0].tolist() == [0, x0, y0, x0 + wide, y0 + high, 0]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools, with numpy 2
def test_a_polygon_covers_the_pixels_whose_middles_lie_in_it():
    oracle = pytest.importorskip("pycocotools.mask")
    corners = np.array([[3.2, 4.1], [40.7, 9.3], [25.5, 29.8], [18.0, 15.0]])
    ours = filled(corners, 32, 48)
    theirs = oracle.decode(oracle.merge(oracle.frPyObjects([corners.reshape(-1).tolist()], 32, 48))).astype(bool)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97
    assert not filled(corners + 100, 32, 48).any()


def test_keypoints_come_with_their_boxes_and_other_labels_are_no_objects(coco):
    posed = marked(1, box=(4, 4, 24, 20), keypoints=[8, 6, 2, 20, 18, 1], num_keypoints=2)
    crowd = marked(2, box=(0, 0, 48, 32), iscrowd=1, keypoints=[0] * 6)
    told = truth(f"coco:{coco(IMAGE, [posed, crowd, marked(3, 2)], categories=CATEGORIES)}", pose=POSE)["pose"]
    assert told[0].tolist() == [0, 4, 4, 24, 20, 8, 6, 2, 20, 18, 1]
    assert told[1].tolist() == [0, 0, 0, 48, 32, *[0] * 6]
    assert told[2, 0] == -1


def test_what_yolo_marks_is_read_the_same_way(yolo):  # noqa: F811
    points = "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.75 0.5 1\n"
    names = "train: images/train\nval: images/val\nnames: [cat, door]\n"
    path = yolo({"train": {"a": points}, "val": {"b": ""}}, names + "kpt_shape: [2, 3]\n")
    assert truth(f"yolo:{path}", pose=POSE)["pose"][0].tolist() == [0, 12, 8, 36, 24, 12, 16, 2, 36, 16, 1]
    path = yolo({"train": {"a": "1 0 0 0.5 0 0.5 0.5 0 0.5\n"}, "val": {"b": ""}}, names)
    mask = truth(f"yolo:{path}", area=AREA)["area"]
    assert (mask[:16, :24] == 2).all()
    assert mask.sum() == 2 * 16 * 24


def test_masks_of_their_own_go_before_outlines(coco, tmp_path):
    (tmp_path / "area").mkdir()
    Image.fromarray(np.full((32, 48), 2, np.uint8)).save(tmp_path / "area" / "a.png")
    (tmp_path / "manifest.csv").write_text("image,area\na.png,area/a.png\n")
    path = coco(IMAGE, [marked(1)], categories=CATEGORIES)
    assert (truth(f"coco:{path}", area=AREA)["area"] == 2).all()


@pytest.mark.parametrize(
    ("annotation", "outputs", "what"),
    [
        (marked(1), {"area": AREA}, "'cat' at 0 0 48 32 has no outline"),
        (marked(1, segmentation={"size": [8, 8], "counts": [60, 4]}), {"area": AREA}, "the runs of 'cat' are of a picture of 8 x 8"),
        (marked(1, keypoints=[1, 2, 2]), {"pose": POSE}, "'cat' has 1 points"),
    ],
)
def test_marks_that_say_nothing_of_what_is_asked_are_refused(annotation, outputs, what, coco):
    with pytest.raises((DataError, Mistakes), match=what):
        open_dataset(f"coco:{coco(IMAGE, [annotation], categories=CATEGORIES)}", card(**outputs))


@pytest.mark.parametrize("counts", ["", "~", [10], [-1, 1537], "0"])
def test_damaged_run_lengths_are_none(counts):
    assert runs.read({"size": [32, 48], "counts": counts}) is None
