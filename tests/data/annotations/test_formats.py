"""The same boxes as COCO, YOLO, VOC and a manifest are the same rows."""

import shutil

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.checking import check
from edgemm.data.dataset import find_labels, open_dataset

FORMS = ("coco:{}/objects", "yolo:{}/objects/data.yaml", "voc:{}/objects")


@pytest.fixture
def spoken():
    plain = {
        "factory": "own:build",
        "inputs": {
            "image": {"modality": "image", "height": 96, "width": 96, "channels": 1},
            "audio": {"modality": "audio", "rate_hz": 8000, "seconds": 1.0},
        },
        "outputs": {"objects": {"task": "detection", "frame": "image", "labels": [str(digit) for digit in range(10)]}},
    }
    return cards.parse(plain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_cells_equal_those_of_the_manifest(form, split, spoken_box, spoken):
    manifest, dataset = open_dataset(spoken_box, spoken), open_dataset(form.format(spoken_box), spoken)
    assert dataset.count(split) == manifest.count(split) > 0
    theirs = {row.cells["image"].rsplit("/")[-1]: row.cells for row in manifest.source.rows(split)}
    for row in dataset.source.rows(split):
        expected = theirs[row.cells["image"].rsplit("/")[-1]]
        assert row.cells["objects"] == expected["objects"]
        for column in ("image", "audio"):
            ours = (dataset.source.folder / row.cells[column]).resolve()
            assert ours.read_bytes() == (spoken_box / expected[column]).read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_decoded_rows_are_the_manifest_s(form, spoken_box, spoken):
    manifest, dataset = open_dataset(spoken_box, spoken), open_dataset(form.format(spoken_box), spoken)
    check(dataset, needed=["train", "val", "test"])
    before, after = (next(iter(entry.batches("test", 6))) for entry in (manifest, dataset))
    for name in ("image", "audio"):
        np.testing.assert_array_equal(after.inputs[name], before.inputs[name])
    np.testing.assert_allclose(after.truth["objects"], before.truth["objects"], atol=0.01)
    assert dataset.fingerprint() == open_dataset(form.format(spoken_box), spoken).fingerprint()


def test_the_fingerprint_changes_with_a_box(spoken_box, spoken, tmp_path):
    copy = shutil.copytree(spoken_box, tmp_path / "copy")
    before = open_dataset(f"yolo:{copy}/objects/data.yaml", spoken).fingerprint()
    text = copy / "objects/labels/train/train_00000.txt"
    text.write_text("3 0.5 0.5 0.25 0.25\n")
    assert open_dataset(f"yolo:{copy}/objects/data.yaml", spoken).fingerprint()["manifest"] != before["manifest"]


def test_labels_are_found_as_in_a_manifest(spoken_box, spoken):
    bare = spoken.replace(outputs={"objects": spoken.outputs["objects"].with_options(labels=None)})
    for form in FORMS:
        assert find_labels(form.format(spoken_box), bare).outputs["objects"].labels == tuple(str(digit) for digit in range(10))
