"""A label for every pixel: mean IoU against torchmetrics, masks from files into the model's picture, what cannot be, readings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from edgemm.contracts.card_file import parse
from edgemm.contracts.task import Cells, of
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError, DataError, MeasureError

LABELS = ["ground", "circle", "square"]


def task(fit="stretch", size=(48, 48), **options):
    picture = {"modality": "image", "height": size[0], "width": size[1], "channels": 3, "fit": fit}
    area = {"task": "segmentation", "labels": LABELS, "frame": "image", **options}
    return of(parse({"factory": "own:build", "inputs": {"image": picture}, "outputs": {"area": area}}).outputs["area"])


def beside(height, width, folder=Path()):
    return Cells(folder, {"image": np.zeros((height, width, 3), np.uint8)})


@pytest.fixture
def answered():
    """Logits that are right at most places, and the truth of 40 pictures; some pixels do not count."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (40, 4, 5)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    scores = rng.normal(size=(40, 3, 16, 20)).astype(np.float32)
    np.put_along_axis(scores, truth[:, None].astype(np.int64), np.take_along_axis(scores, truth[:, None].astype(np.int64), 1) + 1.5, 1)
    truth[rng.random(truth.shape) < 0.1] = 255
    return {"area": scores}, truth


def test_mean_iou_equals_torchmetrics_and_its_interval_holds_it(answered):
    answers, truth = answered
    score = task().measure(answers, truth).score()
    oracle = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    assert score.value == pytest.approx(
        float(oracle(torch.from_numpy(answers["area"]), torch.from_numpy(truth.astype(np.int64)))), abs=1e-6
    )
    assert (score.name, score.unit, score.better, score.n) == ("miou", "ratio", "higher", 40)
    assert score.low < score.value < score.high


def test_each_label_has_its_own_and_the_ground_may_be_left_out(answered):
    answers, truth = answered
    found = task().further(answers, truth)
    each = MulticlassJaccardIndex(3, average="none", ignore_index=255)(torch.from_numpy(answers["area"]), torch.from_numpy(truth).long())
    assert [found[f"iou of {label}"] for label in LABELS] == pytest.approx(each.tolist(), abs=1e-6)
    without = task(ground="ignore").measure(answers, truth).score().value
    assert without == pytest.approx(float(each[1:].mean()), abs=1e-6)
    counted = truth != 255
    assert found["pixel_accuracy"] == pytest.approx((answers["area"].argmax(1) == truth)[counted].mean())


def test_a_picture_drawn_twice_counts_as_if_it_stood_there_twice(answered):
    answers, truth = answered
    pieces = task().measure(answers, truth)
    rows = np.array([3, 3, 7, 0, 3, 9])
    weights = np.bincount(rows, minlength=40)[None].astype(float)
    again = task().measure({"area": answers["area"][rows]}, truth[rows])
    assert pieces.values(weights)[0] == pytest.approx(again.value(), abs=1e-12)


def test_a_loss_is_paired_over_pictures(answered):
    answers, truth = answered
    worse = {"area": answers["area"] + np.random.default_rng(1).normal(size=answers["area"].shape).astype(np.float32)}
    lost = task().measure(answers, truth).drop(task().measure(worse, truth))
    alone = task().measure(answers, truth).score()
    assert 0 < lost.low < lost.value < lost.high
    assert (lost.high - lost.low) / 100 < alone.high - alone.low
    assert lost.unit == "points"


def test_a_label_that_no_truth_holds_is_left_out_and_costs_those_it_is_taken_for():
    truth = np.zeros((1, 2, 4), np.uint8)
    truth[0, 0] = 1
    numbers = truth.copy()
    numbers[0, 1, 0] = 2
    found = task()
    assert found.measure({"area": numbers}, truth).value() == pytest.approx((1.0 + 3 / 4) / 2)
    assert np.isnan(found.further({"area": numbers}, truth)["iou of square"])
    assert found.notes(truth) == ["no pixel of 'square' is in these rows: mean IoU leaves such labels out."]
    assert found.notes(np.array([[[0, 1, 2, 255]]], np.uint8)) == []


def test_scores_of_another_size_are_drawn_to_the_truths_before_the_greatest_is_taken():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 3, 6, 10)).astype(np.float32)
    drawn = torch.nn.functional.interpolate(torch.from_numpy(scores), size=(13, 20), mode="bilinear", align_corners=False).numpy()
    truth = drawn.argmax(1).astype(np.uint8)
    assert task().measure({"area": scores}, truth).value() == pytest.approx(1.0)
    assert task().measure({"area": drawn}, truth).value() == pytest.approx(1.0)
    halves = truth[:, :12].repeat(2, 1).repeat(2, 2)
    assert task().measure({"area": truth[:, :12]}, halves).value() == pytest.approx(1.0)


def test_numbers_of_labels_count_as_scores_do(answered):
    answers, truth = answered
    numbers = answers["area"].argmax(1)
    wanted = task().measure(answers, truth).value()
    assert task().measure({"area": numbers}, truth).value() == wanted
    assert task().measure({"area": numbers[:, None].astype(np.float32)}, truth).value() == wanted
    with pytest.raises(MeasureError, match=r"a mask holds 0\.5, which is no label's number(.|\n)*0 to 2"):
        task().measure({"area": numbers * 0.5}, truth)


def test_an_answer_of_another_count_of_labels_is_refused(answered):
    answers, truth = answered
    with pytest.raises(MeasureError, match="do not belong together"):
        task().measure({"area": answers["area"][:, :2]}, truth)
    task().check({"area": (1, 3, 8, 8)})
    with pytest.raises(CardError, match=r"has shape \(1, 8, 8, 3\)(.|\n)*on the last axis(.|\n)*permute\(0, 3, 1, 2\)"):
        task().check({"area": (1, 8, 8, 3)})
    with pytest.raises(CardError, match=r"has shape \(1, 5, 8, 8\), and the card names 3 labels(.|\n)*as many labels as there are scores"):
        task().check({"area": (1, 5, 8, 8)})


def test_the_confusion_counts_every_pixel_that_counts(answered):
    answers, truth = answered
    matrix = task().confusion(answers, truth)
    assert matrix.sum() == (truth != 255).sum()
    assert matrix[1, 2] == ((truth == 1) & (answers["area"].argmax(1) == 2)).sum()


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("shape", [(40, 80), (90, 70), (48, 48)])
def test_a_mask_goes_the_way_of_its_picture(tmp_path, fit, shape):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (5, 5)).repeat(shape[0] // 5, 0).repeat(shape[1] // 5, 1)
    mask = np.pad(mask, ((0, shape[0] - mask.shape[0]), (0, shape[1] - mask.shape[1])), mode="edge").astype(np.uint8)
    picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask, mode="L").save(tmp_path / "m.png")
    found = task(fit)
    seen = found.parts["image"].decode("a.png", tmp_path)[..., 0]
    truth = found.truth("m.png", Cells(tmp_path, {"image": "a.png"}))
    assert truth.shape == (48, 48)
    assert truth.dtype == np.uint8
    counted = truth != 255
    assert counted.all() == (fit != "letterbox" or shape == (48, 48))
    sure = counted & ((seen < 64) | (seen > 191))
    assert (sure.sum() > 0.6 * counted.sum()) & ((seen[sure] > 127) == truth[sure]).all()


def test_a_mask_is_read_from_palettes_bytes_and_arrays(tmp_path):
    mask = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette([0, 0, 0, 230, 80, 60, 60, 140, 230] + [90] * 759)
    picture.save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", mask.astype(np.int64))
    found, row = task(frame=None), Cells(tmp_path)
    for cell in ("m.png", "m.npy", (tmp_path / "m.png").read_bytes(), {"bytes": (tmp_path / "m.png").read_bytes()}, mask, mask[..., None]):
        assert (found.truth(cell, row) == mask).all()
    assert (task(frame=None, ignore=7).truth(np.array([[0, 7]]), row) == [[0, 255]]).all()


def test_a_mask_with_values_of_no_label_says_which_and_where():
    mask = np.zeros((8, 9), np.uint8)
    mask[2, 3:5], mask[5, 6] = 7, 4
    with pytest.raises(
        DataError, match=r"holds 4 \(1 pixel\), 7 \(2 pixels\)(.|\n)*x 3, y 2(.|\n)*0 to 2 \(ground, circle, square\), and 255"
    ):
        task().truth(mask, beside(8, 9))
    with pytest.raises(DataError, match="write 1 for 255"):
        task(labels=["ground", "road"], ignore=254).truth(mask // 7 * 255, beside(8, 9))


def test_a_mask_of_another_size_than_its_picture_is_refused():
    with pytest.raises(DataError, match=r"the mask is 9 x 8 pixels, its picture 18 x 16"):
        task().truth(np.zeros((8, 9), np.uint8), beside(16, 18))


def test_a_mask_that_is_no_mask_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    Image.new("L", (4, 4)).save(tmp_path / "lossy.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    for cell, words in (
        ("colours.png", "mode RGB, and a mask has one channel"),
        ("lossy.jpg", "is a JPEG(.|\n)*store masks as PNG"),
        ("broken.png", "cannot be read as a mask"),
        ("absent.png", "does not exist"),
        ("", "the cell is empty"),
        (np.full((4, 4), 0.5), r"dtype float64 and shape \(4, 4\)"),
    ):
        with pytest.raises(DataError, match=words):
            task().truth(cell, beside(4, 4, tmp_path))


def test_options_that_cannot_be_are_refused():
    with pytest.raises(CardError, match=r"outputs\.area: ignore is 1(.|\n)*that is 'circle'"):
        task(ignore=1)
    with pytest.raises(CardError, match=r"labels has 1"):
        task(labels=["road"])
    sound = {"modality": "audio", "rate_hz": 8000, "seconds": 1.0}
    area = {"task": "segmentation", "labels": LABELS, "frame": "sound"}
    with pytest.raises(CardError, match="frame is 'sound', which is no picture"):
        of(parse({"factory": "own:build", "inputs": {"sound": sound}, "outputs": {"area": area}}).outputs["area"])


def test_it_is_read_as_each_labels_share_of_the_cameras_picture():
    found = task("letterbox")
    mask = np.zeros((40, 80), np.uint8)
    mask[:, :20] = 1
    truth = found.truth(mask, beside(40, 80))
    answer = np.eye(3, dtype=np.float32)[np.where(truth == 255, 2, truth)].transpose(2, 0, 1)[None]
    seen = found.placed(found.read({"area": answer}), {"image": (40, 80)})
    assert seen.scores == {"ground": 0.75, "circle": 0.25, "square": 0.0}
    assert seen.mask.numbers.shape == (24, 48)
    assert seen.mask.labels == tuple(LABELS)
    cropped = task("crop")
    everywhere = np.zeros((1, 3, 12, 12), np.float32)
    seen = cropped.placed(cropped.read({"area": everywhere}), {"image": (40, 80)})
    assert seen.mask.numbers.shape == (12, 24)
    assert (seen.mask.numbers[:, :6] == 255).all()
    assert seen.scores["ground"] == 1.0


def test_another_mask_is_other_data(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "m.png")
    (tmp_path / "manifest.csv").write_text("split,image,area\ntrain,a.png,m.png\nval,a.png,m.png\n")
    picture = {"modality": "image", "height": 4, "width": 4}
    area = {"task": "segmentation", "labels": LABELS, "frame": "image"}
    card = parse({"factory": "own:build", "inputs": {"image": picture}, "outputs": {"area": area}})
    before = open_dataset(tmp_path, card).fingerprint()
    batch = next(open_dataset(tmp_path, card).batches("train", 8))
    assert batch.truth["area"].shape == (1, 4, 4)
    Image.new("L", (4, 4), 1).save(tmp_path / "m.png")
    assert open_dataset(tmp_path, card).fingerprint() != before
