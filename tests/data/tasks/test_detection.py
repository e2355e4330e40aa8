"""Boxes with labels: cells into the model's picture, answers of one tensor or several, what is said of odd ones."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts.card_file import parse
from edgemm.contracts.decision import Box
from edgemm.contracts.task import Cells, of, tensors
from edgemm.errors import CardError, DataError, MeasureError

LABELS = ["person", "parcel"]
RGB = {"modality": "image", "height": 64, "width": 96}


def task(*, rgb=None, **options):
    output = {"task": "detection", "labels": LABELS, "frame": "rgb", **options}
    return of(card(objects=output, rgb=rgb).outputs["objects"])


def card(*, rgb=None, **outputs):
    inputs = {"rgb": {**RGB, **(rgb or {})}, "sound": {"modality": "sensor", "shape": [4]}}
    return parse({"factory": "own:build", "inputs": inputs, "outputs": outputs})


def answer(*boxes, places=8):
    """(1, 6, places) of cx cy w h score score; the other places have no score."""
    array = np.zeros((1, 6, places), np.float32)
    array[0, :4] = 5.0
    for place, box in enumerate(boxes):
        array[0, :, place] = box
    return {"objects": array}


def test_an_output_joins_tensors_of_the_model_in_the_order_of_its_card():
    found = {"task": "detection", "labels": LABELS, "frame": "rgb", "layout": "set", "from": {"scores": "logits", "boxes": "pred_boxes"}}
    outputs = card(found=found, event={"task": "classification", "labels": ["a", "b"]})
    assert tensors(outputs) == {"logits": "found", "pred_boxes": "found", "event": "event"}
    assert parse(outputs.to_dict()).outputs == outputs.outputs


@pytest.mark.parametrize(("fit", "expected"), [("stretch", [48, 16, 96, 48]), ("letterbox", [48, 20, 96, 44]), ("crop", [48, 16, 96, 48])])
def test_boxes_go_where_their_picture_goes(fit, expected):
    picture = np.zeros((100, 200, 3), np.uint8)
    truth = task(rgb={"fit": fit, "width": 96, "height": 64}).truth("parcel 100 25 200 75", Cells(Path(), {"rgb": picture}))
    assert truth.shape == (100, 6)
    assert truth[0] == pytest.approx([1, *expected, 0], abs=1.0)
    assert (truth[1:, 0] == -1).all()


def test_what_a_crop_leaves_less_than_a_tenth_of_is_no_truth():
    picture = np.zeros((64, 192, 3), np.uint8)
    truth = task(rgb={"fit": "crop"}).truth("person 0 0 50 64; parcel 0 0 90 64", Cells(Path(), {"rgb": picture}))
    assert truth[truth[:, 0] >= 0].tolist() == [[1, 0, 0, 42, 64, 0]]


def test_boxes_without_their_picture_are_refused():
    with pytest.raises(DataError, match=r"'rgb' is empty(.|\n)*in its pixels"):
        task().truth("person 1 2 3 4", Cells(Path(), {"rgb": ""}))
    assert (task().truth("-", Cells(Path(), {"rgb": ""}))[:, 0] == -1).all()


def test_a_reading_has_boxes_in_the_model_s_picture_and_then_in_the_camera_s():
    seen = task(rgb={"fit": "letterbox"}).read(answer([48, 32, 20, 10, 0.9, 0.2], [10, 10, 8, 8, 0.1, 0.6]))
    assert seen.scores == pytest.approx({"person": 0.9, "parcel": 0.6})
    assert [(box.label, box.x0) for box in seen.boxes] == [("person", 38), ("parcel", 6), ("parcel", 38), ("person", 6)]
    placed = task(rgb={"fit": "letterbox"}).placed(seen, {"rgb": (640, 1280)})
    assert placed.boxes[0] == Box(
        "person", pytest.approx(0.9), *(pytest.approx(edge, abs=1e-3) for edge in (506.667, 253.333, 773.333, 386.667))
    )
    assert task().placed(seen, {}) == seen


def test_metrics_beside_the_guarded_one():
    right = answer([48, 32, 20, 10, 0.9, 0.0])
    truth = task().truth("person 38 27 58 37", Cells(Path(), {"rgb": np.zeros((64, 96, 3), np.uint8)}))[None]
    assert task().measure(right, truth).score().value == pytest.approx(1.0)
    found = task().further(right, truth)
    assert {name: value for name, value in found.items() if np.isfinite(value)} == pytest.approx(
        {"map50": 1.0, "map75": 1.0, "map of person": 1.0, "map small": 1.0}
    )
    half = answer([48, 32, 20, 16, 0.9, 0.0])
    assert task().further(half, truth)["map50"] == pytest.approx(1.0)
    assert task().further(half, truth)["map75"] == 0.0


def test_a_missed_box_and_one_that_was_made_up_are_confused_with_nothing():
    truth = np.full((1, 100, 6), -1, np.float32)
    truth[0, :2] = [[0, 38, 27, 58, 37, 0], [1, 0, 0, 10, 10, 0]]
    answered = answer([48, 32, 20, 10, 0.0, 0.9], [80, 50, 10, 10, 0.8, 0.0])
    detection = task()
    assert detection.confused == ("person", "parcel", "nothing")
    matrix = detection.confusion(answered | {"objects": np.concatenate([answered["objects"], answer([48, 32, 20, 10, 0.9, 0])["objects"]])},
                                 np.concatenate([truth, truth[:, [0, 99, *range(2, 100)]]]))  # fmt: skip
    assert matrix.sum(axis=1)[:2].tolist() == [2, 1]
    assert matrix[1, 2] == 1, "the second box was missed"


def test_what_is_found_of_each_label_and_what_is_wrong_with_it():
    truth = np.full((2, 100, 6), -1, np.float32)
    truth[:, 0] = [0, 38, 27, 58, 37, 0]
    answered = np.concatenate([answer([48, 32, 20, 10, 0.9, 0.0])["objects"], answer([80, 50, 10, 10, 0.8, 0.0])["objects"]])
    found = task().boxes_found({"objects": answered}, truth)
    person, parcel = found.labels
    assert (person.label, person.there, person.precision, person.recall) == ("person", 2, 1.0, 0.5)
    assert person.threshold == pytest.approx(0.9)
    assert person.ap == pytest.approx(person.ap50) == pytest.approx(51 / 101)
    assert list(person.curve) == [1.0] * 51 + [0.0] * 50
    assert (parcel.there, list(parcel.curve), np.isnan(parcel.ap), np.isnan(parcel.recall)) == (0, [], True, True)
    assert {kind: count for kind, count in found.mistakes.items() if count} == {"right": 1, "missed": 1}


def test_boxes_in_another_unit_than_the_card_says_are_found_by_their_values():
    parts = answer(*([[0.3, 0.4, 0.2, 0.1, 0.9, 0.1]] * 3 + [[0.6, 0.8, 0.2, 0.3, 0.8, 0.1]] * 3))
    parts["objects"][0, 0] += np.arange(8) * 0.03
    with pytest.raises(MeasureError, match=r"all boxes end at .* 96 x 64 pixels(.|\n)*unit: ratio"):
        task(nms={"iou": 1.0}).detections(parts)
    pixels = answer(*([[40 + 5 * place, 30, 20, 12, 0.9, 0.1] for place in range(6)]))
    with pytest.raises(MeasureError, match=r"half of the boxes end beyond 4 pictures(.|\n)*unit: pixels"):
        task(boxes={"unit": "ratio"}, nms={"iou": 1.0}).detections(pixels)
    assert len(task(nms={"iou": 1.0}).detections(pixels)[0])


def test_two_answers_are_compared_by_scores_and_by_the_boxes_that_are_there():
    one = answer([48, 32, 20, 10, 0.9, 0.0], [10, 10, 8, 8, 0.01, 0.0])
    other = {"objects": one["objects"] + np.float32(0)}
    other["objects"][0, 0, :2] += [2, 30]
    compared = task().compared(one, other)
    assert np.array_equal(*compared["scores"])
    assert (compared["boxes"][1] - compared["boxes"][0]).tolist() == [[2, 0, 2, 0]]


def test_a_set_in_another_order_is_the_same():
    rng = np.random.default_rng(0)
    boxes, logits = rng.uniform(0.2, 0.8, (1, 8, 4)).astype(np.float32), rng.normal(size=(1, 8, 3)).astype(np.float32)
    found = task(layout="set", boxes={"unit": "ratio"}, scores="softmax_with_nothing", most=8, **{"from": {"scores": "s", "boxes": "b"}})
    order = rng.permutation(8)
    compared = found.compared({"s": logits, "b": boxes}, {"s": logits[:, order], "b": boxes[:, order]})
    for one, other in compared.values():
        assert np.array_equal(one, other)
    assert len(found.detections({"s": logits, "b": boxes})[0]) == 8


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"frame": "sound"}, "frame names 'sound', which is no picture"),
        ({"boxes": {"form": "dfl"}}, "boxes.form dfl wants strides"),
        ({"boxes": {"form": "xywh"}}, r"boxes.form is 'xywh'(.|\n)*xyxy"),
        ({"boxes": {"unit": "stride"}}, "boxes.unit is 'stride' with form cxcywh"),
        ({"boxes": {"bins": 8}}, "boxes.bins goes with form dfl"),
        ({"boxes": {"size": 8}}, "boxes has 'size'"),
        ({"layout": "set"}, "layout set wants from"),
        ({"layout": "levels", "from": {"boxes": ["a", "b"]}, "nms": {"iou": 0.5}}, "from names no scores"),
        ({"layout": "levels", "from": {"boxes": ["a", "b"], "scores": "c"}}, "unequal numbers of tensors: boxes 2, scores 1"),
        ({"layout": "set", "from": {"boxes": "a", "scores": "c"}, "nms": {"iou": 0.5}}, "layout set with nms"),
        ({"nms": {"iou": 7}}, "nms.iou is 7"),
        ({"nms": {"overlap": 0.7}}, "nms has 'overlap'"),
        ({"most": 0}, "most is 0"),
        ({"truths": 0}, "truths is 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, what):
    with pytest.raises(CardError, match=what) as caught:
        task(**options)
    assert "outputs.objects" in str(caught.value)


def test_labels_fewer_than_classes_are_told_with_their_number():
    with pytest.raises(CardError, match=r"does not fit layout yolo of 2 labels(.|\n)*80 labels \(2 are listed\)"):
        task().measure({"objects": np.zeros((3, 84, 100), np.float32)}, np.full((3, 100, 6), -1, np.float32))


def test_a_label_that_val_never_has_is_told_before_work_starts(tmp_path):
    from PIL import Image as Pillow

    from edgemm.data.checking import check
    from edgemm.data.dataset import open_dataset

    Pillow.new("RGB", (96, 64)).save(tmp_path / "a.png")
    rows = ["train,a.png,person 1 2 30 40; parcel 1 2 9 9", "val,a.png,person 1 2 30 40", "test,a.png,-", "test,a.png,parcel 1 1 9 9"]
    (tmp_path / "manifest.csv").write_text("\n".join(["split,rgb,objects", *rows]) + "\n")
    output = {"task": "detection", "labels": LABELS, "frame": "rgb"}
    plain = parse({"factory": "own:build", "inputs": {"rgb": RGB}, "outputs": {"objects": output}})
    told = list[str]()
    check(open_dataset(str(tmp_path), plain), note=told.append)
    assert told == [
        "column 'objects': no row of val has 'parcel': the metric there leaves it out.",
        "column 'objects': no row of test has 'person': the metric there leaves it out.",
    ]


def test_a_wrong_box_is_told_with_row_and_column_and_an_equal_cell_is_held_against_its_own_picture(tmp_path):
    from PIL import Image as Pillow

    from edgemm.data.checking import check
    from edgemm.data.dataset import open_dataset

    Pillow.new("RGB", (96, 64)).save(tmp_path / "large.png")
    Pillow.new("RGB", (48, 32)).save(tmp_path / "small.png")
    rows = ["train,large.png,person 1 2 90 40", "train,small.png,person 1 2 90 40"]
    (tmp_path / "manifest.csv").write_text("\n".join(["split,rgb,objects", *rows]) + "\n")
    output = {"task": "detection", "labels": LABELS, "frame": "rgb"}
    plain = parse({"factory": "own:build", "inputs": {"rgb": RGB}, "outputs": {"objects": output}})
    with pytest.raises(DataError, match=r"row 3, column 'objects': the box 1 2 90 40 lies outside of its picture(.|\n)*48 x 32"):
        check(open_dataset(str(tmp_path), plain))


def test_thresholds_are_those_of_the_best_f1():
    truth = np.full((2, 100, 6), -1, np.float32)
    truth[:, 0] = [0, 38, 27, 58, 37, 0]
    right, wrong = [48, 32, 20, 10, 0.7, 0.0], [80, 50, 10, 10, 0.4, 0.0]
    answers = np.concatenate([answer(right, wrong)["objects"], answer([48, 32, 20, 10, 0.6, 0.0], wrong)["objects"]])
    assert task().thresholds({"objects": answers}, truth) == pytest.approx({"person": 0.6, "parcel": 1.0})


def test_metrics_count_boxes_that_score_too_little_to_be_told_and_a_fitted_threshold_below_lets_them_be_told():
    truth = np.full((1, 100, 6), -1, np.float32)
    truth[0, :2] = [[0, 38, 27, 58, 37, 0], [0, 4, 4, 16, 16, 0]]
    faint = answer([48, 32, 20, 10, 0.9, 0.0], [10, 10, 12, 12, 0.02, 0.0], [80, 50, 8, 8, 0.0005, 0.0])
    detection = task()
    assert [len(found) for found in detection.detections(faint)] == [2]
    assert detection.measure(faint, truth).score().value == pytest.approx(1.0)
    assert len(detection.read(faint).boxes) == 1
    fitted = detection.thresholds(faint, truth)
    assert fitted == pytest.approx({"person": 0.02, "parcel": 1.0})
    assert len(detection.counting_from(fitted).read(faint).boxes) == 2
    assert detection.counting_from({"person": 0.5}) is detection
    eager = task(nms={"score": 0.0001})
    assert len(eager.detections(faint)[0]) == len(eager.read(faint).boxes) == 3


def test_answers_are_not_told_in_a_warped_picture():
    with pytest.raises(CardError, match=r"outputs.objects: it is told in the picture of 'rgb', which is warped"):
        task(rgb={"homography": [1, 0, 0.1, 0, 1, 0, 0, 0, 1]})


def test_few_rows_and_labels_without_any_are_told():
    truth = np.full((9, 100, 6), -1, np.float32)
    truth[:3, 0] = [0, 38, 27, 58, 37, 0]
    assert task().notes(truth) == [
        "no box of 'parcel' is in these rows: mAP leaves such labels out.",
        "9 pictures, of 'person' 3 boxes: too few to tell small losses; 50 and 20 of a label do.",
    ]
