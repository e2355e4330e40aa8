"""Mean average precision against pycocotools and faster-coco-eval, and its weights against pictures that really stand there twice."""

import contextlib
import io

import numpy as np
import pytest

from edgemm.data.boxes import average_precision as ap
from edgemm.data.boxes.average_precision import MeanPrecision

LABELS = 4


def scene(rng: np.random.Generator, *, crowds: bool = True, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Detections (K, 6) and truth (T, 6) of a picture of 320 pixels: moved, doubled, mislabelled and made-up boxes, scores that tie."""
    truth, found = [], []
    for _ in range(rng.integers(0, 9)):
        size, corner = rng.choice([12, 50, 130]) * rng.uniform(0.7, 1.3, 2), rng.uniform(0, 180, 2)
        box = np.concatenate([corner, corner + size])
        label = int(rng.integers(0, LABELS))
        truth.append([label, *box, float(crowds and rng.random() < 0.1)])
        for _ in range(rng.integers(0, 3)):
            moved = box + rng.normal(0, 0.06, 4) * np.tile(size, 2)
            found.append([label if rng.random() < 0.9 else rng.integers(0, LABELS), np.round(rng.random(), decimals), *moved])
    for _ in range(rng.integers(0, 4)):
        corner = rng.uniform(0, 200, 2)
        found.append([rng.integers(0, LABELS), np.round(rng.random(), decimals), *corner, *(corner + rng.uniform(5, 100, 2))])
    return np.array(found, np.float32).reshape(-1, 6), np.array(truth, np.float32).reshape(-1, 6)


def scenes(pictures: int, seed: int = 0, **options: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = [scene(rng, **options) for _ in range(pictures)]
    truth = np.full((pictures, 12, 6), -1, np.float32)
    for number, (_, boxes) in enumerate(pairs):
        truth[number, : len(boxes)] = boxes
    return [found for found, _ in pairs], truth


def oracle(module: str, detections: list[np.ndarray], truth: np.ndarray) -> list[float]:
    """AP, AP50, AP75, small, medium, large as COCO's tools tell them."""
    if module == "pycocotools":
        coco = pytest.importorskip("pycocotools.coco").COCO()
        evaluate = pytest.importorskip("pycocotools.cocoeval").COCOeval
    else:
        faster = pytest.importorskip("faster_coco_eval")
        coco, evaluate = faster.COCO(), faster.COCOeval_faster
    boxes = [(number, row) for number, rows in enumerate(truth) for row in rows[rows[:, 0] >= 0].astype(float)]
    annotations = [
        {"id": index, "image_id": number, "category_id": int(row[0]) + 1, "bbox": [*row[1:3], *(row[3:5] - row[1:3])],
         "area": float(np.prod(row[3:5] - row[1:3])), "iscrowd": int(row[5])}
        for index, (number, row) in enumerate(boxes, 1)
    ]  # fmt: skip
    coco.dataset = {
        "info": {}, "images": [{"id": number, "width": 320, "height": 320} for number in range(len(truth))],
        "annotations": annotations, "categories": [{"id": label + 1, "name": str(label)} for label in range(LABELS)],
    }  # fmt: skip
    answers = [
        {"image_id": number, "category_id": int(row[0]) + 1, "bbox": [*row[2:4], *(row[4:6] - row[2:4])], "score": float(row[1])}
        for number, rows in enumerate(detections)
        for row in rows.astype(float)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = evaluate(coco, coco.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


def whole(detections: list[np.ndarray], truth: np.ndarray, **options) -> MeanPrecision:
    return MeanPrecision(of_labels=ap.match(detections, truth, LABELS, **options), pictures=len(truth))


@pytest.mark.parametrize("module", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_tools_that_everybody_reports_by(module, seed):
    detections, truth = scenes(60, seed)
    every = whole(detections, truth)
    ours = [every.value(), *(float(ap.mean_of_known(every.of([index]))) for index in (0, 5))]
    ours += [whole(detections, truth, areas=areas).value() for areas in ap.SIZES.values()]
    assert ours == pytest.approx(oracle(module, detections, truth), abs=1e-6)
    assert 0.1 < ours[0] < 0.9


def test_a_weight_is_a_picture_that_stands_there_so_often():
    detections, truth = scenes(30, decimals=6)  # among scores that tie, the order of pictures would be another
    times = np.random.default_rng(1).integers(0, 4, 30)
    again = [number for number, count in enumerate(times) for _ in range(count)]
    repeated = whole([detections[number] for number in again], truth[again])
    assert whole(detections, truth).values(times[None].astype(float))[0] == pytest.approx(repeated.value(), abs=1e-9)


def test_many_draws_are_those_drawn_one_by_one():
    detections, truth = scenes(20)
    weights = np.random.default_rng(2).integers(0, 3, (7, 20)).astype(float)
    every = whole(detections, truth)
    assert every.values(weights) == pytest.approx([every.values(one[None])[0] for one in weights])


def test_a_label_that_no_picture_has_is_left_out_and_a_draw_without_boxes_is_none():
    detections, truth = scenes(20)
    truth[truth[:, :, 0] == 3] = -1
    every = whole(detections, truth)
    assert np.isnan(every.by_label[3])
    assert every.value() == pytest.approx(np.nanmean(every.by_label[:3]))
    assert np.isnan(every.values(np.zeros((1, 20)))[0])


def test_what_lies_on_an_ignored_box_is_neither_right_nor_wrong():
    truth = np.array([[[0, 0, 0, 50, 50, 0], [0, 100, 100, 200, 200, 1]]], np.float32)
    on_both = np.array([[0, 0.5, 0, 0, 50, 50], [0, 0.9, 110, 110, 150, 150], [0, 0.8, 150, 150, 190, 190]], np.float32)
    beside = np.array([[0, 0.5, 0, 0, 50, 50], [0, 0.9, 210, 210, 250, 250]], np.float32)
    assert whole([on_both], truth).value() == pytest.approx(1.0)
    assert whole([beside], truth).value() == pytest.approx(0.5)


def test_what_is_lost_is_paired_and_nothing_between_equals():
    detections, truth = scenes(80, crowds=False)
    fewer = [rows[rows[:, 1] > 0.3] for rows in detections]
    before, after = whole(detections, truth), whole(fewer, truth)
    lost = before.drop(after)
    assert lost.value == pytest.approx(100 * (before.value() - after.value()))
    assert 0 < lost.low < lost.value < lost.high
    unpaired = before.score()
    assert lost.high - lost.low < 100 * (unpaired.high - unpaired.low), "the same pictures are hard for both"
    assert before.drop(before).value == 0
