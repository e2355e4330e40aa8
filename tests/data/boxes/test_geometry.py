"""Boxes by hand, and the way of a picture into the model's and back, against what the pictures themselves do."""

import numpy as np
import pytest
from PIL import Image as Pillow

from edgemm.contracts.stream import Pictures
from edgemm.data.boxes import geometry
from edgemm.data.modalities._image import pictures


def test_overlaps_by_hand():
    ours = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    theirs = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    assert geometry.iou(ours, theirs) == pytest.approx(np.array([[50 / 150, 1, 0], [0, 0, 0]]))
    assert geometry.area(np.array([4, 4, 2, 9])) == 0, "an edge beyond its opposite is no area"


def test_forms_of_edges_are_turned_into_each_other():
    boxes = np.array([[2, 4, 12, 24]], np.float32)
    assert np.array_equal(geometry.corners_of_centres(np.array([[7, 14, 10, 20]], np.float32)), boxes)
    assert np.array_equal(geometry.corners_of_sizes(geometry.sizes_of_corners(boxes)), boxes)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(90, 61), (61, 90), (33, 200), (96, 96)])
def test_a_box_lies_where_its_picture_does(fit, size):
    width, height = size
    spec = Pictures(64, 96, 1, fit, bar=(0,))
    box = np.array([[width // 2 - 6, height // 2 - 8, width // 2 + 8, height // 2 + 8]], np.float32)
    picture = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = box[0].astype(int)
    picture[y0:y1, x0:x1] = 255
    fitted = pictures.prepare(picture, spec)[..., 0] > 127
    rows, columns = np.flatnonzero(fitted.any(axis=1)), np.flatnonzero(fitted.any(axis=0))
    placement = geometry.Placement.of(spec, width, height)
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    expected = geometry.clip(placement.to_model(box), spec.width, spec.height)
    assert expected[0] == pytest.approx(seen, abs=1.01)
    if fit != "crop":
        assert placement.to_picture(placement.to_model(box)) == pytest.approx(box, abs=1e-3)


def test_a_letterbox_is_undone_with_the_whole_pixels_it_was_made_with():
    placement = geometry.Placement.of(Pictures(64, 64, fit="letterbox"), 101, 57)
    assert placement.scale == (64 / 101, 36 / 57), "57 * 64 / 101 is 36.1, and the picture has 36 rows"
    assert placement.shift == (0, 14)
    assert placement.to_picture(np.array([[0, 14, 64, 50]], np.float32)) == pytest.approx(np.array([[0, 0, 101, 57]]))


def test_the_size_of_a_file_is_told_upright_and_without_decoding(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Pillow.new("RGB", (40, 20)).save(tmp_path / "plain.png")
    assert pictures.extent(tmp_path / "turned.jpg") == (40, 20) == pictures.read(tmp_path / "turned.jpg", Pictures(40, 20)).shape[:2]
    whole = (tmp_path / "plain.png").read_bytes()
    assert pictures.extent(whole[: len(whole) // 2]) == (20, 40)
    Pillow.new("RGB", (40, 20)).save(tmp_path / "turned.png", exif=exif)
    assert pictures.extent(tmp_path / "turned.png") == (40, 20)
