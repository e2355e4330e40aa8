"""Pictures of the report: which rows are shown, and that what is drawn lies where it was answered."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgemm.contracts import card_file as cards
from edgemm.contracts.answers import Answers
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.data.dataset import open_dataset
from edgemm.pipeline.picturing import pictures
from edgemm.report.pictured import pictured

ROWS, SIDE = 12, 32
BOXES = {"task": "detection", "labels": ["cat"], "frame": "image"}
AREA = {"task": "segmentation", "labels": ["ground", "cat"], "frame": "image"}
POSE = {"task": "keypoints", "labels": ["cat"], "points": ["nose", "tail"], "frame": "image", "layout": "list", "skeleton": [[0, 1]]}


@pytest.fixture
def job(tmp_path):
    """A set of pictures with a box, a mask and two points each, as much of a job as is asked."""
    lines = ["split,image,boxes,area,pose"]
    for row in range(ROWS):
        Image.fromarray(np.full((SIDE, SIDE, 3), 60 + row, np.uint8)).save(tmp_path / f"{row}.png")
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8:16, 4:12] = 1
        Image.fromarray(mask).save(tmp_path / f"mask{row}.png")
        lines.append(f"test,{row}.png,cat 4 8 12 16,mask{row}.png,cat 4 8 2 12 16 2")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    image = {"modality": "image", "height": SIDE, "width": SIDE}
    outputs = {"boxes": BOXES, "area": AREA, "pose": POSE}
    card = cards.parse({"factory": "own:build", "inputs": {"image": image}, "outputs": outputs})
    return SimpleNamespace(card=card, dataset=open_dataset(tmp_path, card))


def answered(job, harmed=()):
    """Everything right, but in rows that are ``harmed``, where all lies elsewhere."""
    boxes, area = np.zeros((ROWS, 5, 3), np.float32), np.zeros((ROWS, 2, SIDE, SIDE), np.float32)
    pose = np.full((ROWS, 2, 7), -9, np.float32)
    area[:, 0], area[:, 1, 8:16, 4:12] = 0.5, 1.0
    boxes[:, :, 0] = [8, 12, 8, 8, 0.9]
    pose[:, 0] = [3, 4, 8, 3, 12, 16, 3]
    for row in harmed:
        boxes[row, 0, 0], area[row, 1], pose[row, 0, [1, 4]] = 24, 0.0, [20, 28]
    return Answers({"boxes": boxes, "area": area, "pose": pose})


def test_rows_that_compression_harmed_come_first_each_row_once_with_what_is_there(job):
    (batch,) = job.dataset.batches("test", ROWS)
    shown = pictures(job, batch.truth, {"before": answered(job), "after": answered(job, harmed=[5, 7])})
    assert set(shown) == {"boxes", "area", "pose"}
    for samples in shown.values():
        assert {sample.row for sample in samples if sample.why == "lost most"} == {batch.rows[5], batch.rows[7]}
        assert len({sample.row for sample in samples}) == len(samples) == 8
        assert [panel.title for panel in samples[0].panels] == ["there", "before", "after"]
        assert (samples[0].panels[1].quality, samples[-1].panels[2].quality) == (1.0, 1.0)
    harmed = shown["boxes"][0].panels
    assert harmed[0].shapes[0].box == pytest.approx([4 / SIDE, 8 / SIDE, 12 / SIDE, 16 / SIDE])
    assert harmed[2].shapes[0].box[0] == pytest.approx(20 / SIDE)
    assert shown["pose"][0].panels[0].shapes[0].points == [[0.125, 0.25], [0.375, 0.5]]
    assert shown["pose"][0].panels[2].shapes[0].lines == [[0, 1]]
    there, gone = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["area"][0].panels[panel].jpeg)))).astype(int) for panel in (0, 2)
    )
    assert np.abs(there[9:15, 5:11] - gone[9:15, 5:11]).mean() > 30


def test_the_page_shows_them_and_nothing_of_a_label_is_markup(job):
    (batch,) = job.dataset.batches("test", ROWS)
    shown = pictures(job, batch.truth, {"before": answered(job), "after": answered(job, harmed=[5])})
    page = pictured(Report({}, details=Details(pictures=shown)))
    assert "Lost most by compression" in page
    assert page.count("<svg") == 3 * sum(map(len, shown.values()))
    assert page.count("data:image/jpeg;base64,") == page.count("<svg")
    assert pictured(Report({})) == ""


def test_a_model_that_is_alone_is_shown_without_a_before(job):
    (batch,) = job.dataset.batches("test", ROWS)
    shown = pictures(job, batch.truth, {"after": answered(job, harmed=[0])})["boxes"]
    assert [sample.why for sample in shown] == ["worst"] * 3 + ["usual"] * 3
    assert [panel.title for panel in shown[0].panels] == ["there", "after"]
