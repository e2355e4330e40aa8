"""Pictures: what is read, how it is fitted, and what the front-end makes of it."""

import numpy as np
import pytest
from PIL import Image as Pillow

from edgemm.contracts import frontend_ops
from edgemm.data.modalities.image import Image
from edgemm.errors import CardError, DataError


def noise(height, width, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def save(folder, array, name="picture.png", **options):
    Pillow.fromarray(array).save(folder / name, **options)
    return name


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.webp", {"lossless": True}), ("a.bmp", {}), ("a.tiff", {})])
def test_a_picture_of_the_right_size_is_read_as_it_is(tmp_path, name, options):
    pixels = noise(6, 5)
    np.testing.assert_array_equal(Image(height=6, width=5).decode(save(tmp_path, pixels, name, **options), tmp_path), pixels)


def test_a_photograph_is_read_and_reduced(media):
    spec = Image(height=64, width=96)
    for name in ("av_dog.jpg", "photo_coffee.png"):
        got = spec.decode(name, media)
        with Pillow.open(media / name) as photo:
            want = np.asarray(photo.convert("RGB").resize((96, 64), Pillow.Resampling.BILINEAR))
        np.testing.assert_array_equal(got, want)


def test_reducing_averages_instead_of_picking_pixels(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    got = Image(height=8, width=8, channels=1).decode(save(tmp_path, stripes), tmp_path)
    assert abs(got.astype(int) - 127).max() <= 8


def test_the_encoded_bytes_are_read_like_the_file(tmp_path):
    name = save(tmp_path, noise(9, 9))
    spec = Image(height=6, width=5)
    data = (tmp_path / name).read_bytes()
    np.testing.assert_array_equal(spec.decode(data, tmp_path), spec.decode(name, tmp_path))
    np.testing.assert_array_equal(spec.decode({"bytes": data, "path": None}, tmp_path), spec.decode(name, tmp_path))
    np.testing.assert_array_equal(spec.decode({"bytes": None, "path": name}, tmp_path), spec.decode(name, tmp_path))


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_an_array_is_fitted_exactly_as_a_file(tmp_path, fit):
    spec, pixels = Image(height=20, width=30, fit=fit), noise(50, 40)
    np.testing.assert_array_equal(spec.prepare(pixels), spec.decode(save(tmp_path, pixels), tmp_path))


def test_crop_keeps_the_centre_and_the_aspect():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    assert (Image(height=10, width=10, fit="crop").prepare(pixels)[:, 1:-1] == 255).all()


def test_letterbox_keeps_everything_between_bars_of_the_mean_colour():
    pixels = np.full((20, 40, 3), 255, np.uint8)
    spec = Image(height=16, width=16, fit="letterbox", mean=[0.2, 0.4, 0.6], std=[0.5, 0.5, 0.5])
    got = spec.prepare(pixels)
    assert (got[4:12] == 255).all()
    assert (got[:4] == [51, 102, 153]).all()
    assert (got[12:] == [51, 102, 153]).all()
    assert np.abs(frontend_ops.run(spec.frontend(), got[None])[0][0, :, 0]).max() < 1e-6


def test_bgr_turns_the_channels_around_and_means_go_with_the_cards_order():
    pixels = noise(4, 4)
    got = Image(height=4, width=4, order="bgr").prepare(pixels)
    np.testing.assert_array_equal(got, pixels[..., ::-1])
    boxed = Image(height=4, width=8, order="bgr", fit="letterbox", mean=[0.0, 0.0, 1.0]).prepare(pixels)
    assert (boxed[:, 0] == [0, 0, 255]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_a_camera_noted_is_applied(tmp_path, orientation):
    upright = noise(6, 4)
    turned = {  # how the sensor sees an upright scene, by the EXIF table
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    name = save(tmp_path, np.ascontiguousarray(turned), exif=exif)
    np.testing.assert_array_equal(Image(height=6, width=4).decode(name, tmp_path), upright)


def test_sixteen_bit_greys_keep_their_upper_eight_bits(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 5)).astype(np.uint16)
    name = save(tmp_path, deep)
    np.testing.assert_array_equal(Image(height=5, width=5, channels=1).decode(name, tmp_path)[..., 0], deep >> 8)


def test_a_grey_picture_becomes_three_equal_channels_and_a_coloured_one_grey(tmp_path):
    grey = noise(5, 5, 1)
    got = Image(height=5, width=5).decode(save(tmp_path, grey), tmp_path)
    assert all((got[..., channel] == grey).all() for channel in range(3))
    got = Image(height=5, width=5, channels=1).prepare(np.full((5, 5, 3), 80, np.uint8))
    assert got.shape == (5, 5, 1)
    assert (got == 80).all()


def test_transparent_places_are_black_and_palettes_are_looked_up(tmp_path):
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[:, :2, 3] = 0
    pixels[:, 2:, 3] = 255
    see_through = save(tmp_path, pixels)
    got = Image(height=4, width=4).decode(see_through, tmp_path)
    assert (got[:, :2] == 0).all()
    assert (got[:, 2:] == 200).all()
    np.testing.assert_array_equal(Image(height=4, width=4, channels=4).decode(see_through, tmp_path), pixels)
    Pillow.fromarray(noise(4, 4)).quantize(8).save(tmp_path / "palette.png", transparency=b"\x00" * 8)
    assert not Image(height=4, width=4).decode("palette.png", tmp_path).any()


def test_forward_gets_channels_first_scaled_and_normalised():
    spec, pixels = Image(height=5, width=4, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]), noise(5, 4)
    (got,) = frontend_ops.run(spec.frontend(), pixels[None])
    want = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], want.transpose(2, 0, 1), atol=1e-6)


def test_scale_and_one_number_for_all_channels():
    pixels = noise(5, 4)
    (got,) = frontend_ops.run(Image(height=5, width=4, scale=1.0, mean=127.0, std=128.0).frontend(), pixels[None])
    np.testing.assert_allclose(got[0], (pixels.transpose(2, 0, 1) - 127.0) / 128.0, atol=1e-6)


def test_a_missing_picture_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"'gone\.png' is missing\.\n  why: '.*gone\.png' does not exist\.\n  fix: add the file"):
        Image(height=5, width=4).decode("gone.png", tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        Image(height=5, width=4).decode(".", tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_truncated_picture_is_an_error_that_names_it(tmp_path, name):
    save(tmp_path, noise(64, 64), name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{name}' cannot be read as a picture\."):
        Image(height=5, width=4).decode(name, tmp_path)


def test_a_picture_with_a_flipped_byte_or_of_another_kind_is_an_error(tmp_path):
    name = save(tmp_path, noise(64, 64))
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    (tmp_path / "text.png").write_text("not a picture")
    for bad in (name, "text.png"):
        with pytest.raises(DataError, match="cannot be read as a picture"):
            Image(height=5, width=4).decode(bad, tmp_path)


def test_float_pictures_are_refused_since_their_range_is_unknown(tmp_path):
    Pillow.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="floats of unknown range"):
        Image(height=4, width=4).decode("a.tiff", tmp_path)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 5, 6), np.uint8), np.zeros(4, np.uint8), "no"])
def test_an_array_that_is_no_picture_is_an_error(array):
    with pytest.raises(DataError, match="a picture array has dtype"):
        Image(height=4, width=4).prepare(array)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 0}, "height is 0"),
        ({"channels": 2}, "channels is 2"),
        ({"mean": [0.5]}, "mean has 1 numbers, the picture has 3 channels"),
        ({"std": [1.0, 0.0, 1.0]}, "std is"),
        ({"std": [1.0, 1e-60, 1.0]}, r"std is \[1.0, 1e-60, 1.0\]"),
        ({"mean": float("nan")}, r"mean is \[nan, nan, nan\]"),
        ({"scale": -1.0}, "scale is -1"),
        ({"channels": 1, "order": "bgr"}, "order is 'bgr' with 1 channel"),
    ],
)
def test_impossible_options_are_card_errors(options, words):
    with pytest.raises(CardError, match=words):
        Image(**{"height": 4, "width": 4} | options)


def test_a_picture_is_warped_to_what_another_camera_sees_in_files_arrays_and_frames(tmp_path):
    pixels = noise(32, 64)
    right = [1.0, 0.0, 0.25, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]  # the other camera sees everything a fourth of the picture further to the right
    spec = Image(height=32, width=64, mean=[0.2, 0.4, 0.6], homography=right)
    got = spec.decode(save(tmp_path, pixels), tmp_path)
    np.testing.assert_array_equal(got[:, 16:], pixels[:, :-16])
    assert (got[:, :16] == [51, 102, 153]).all()

    class Frame:
        def fitted(self, wanted):
            return pixels

    for other in (spec.prepare(pixels), spec.received(Frame())):
        np.testing.assert_array_equal(other, got)
    deep = Image(height=32, width=64, channels=1, bits=16, homography=right)
    values = np.arange(32 * 64, dtype=np.uint16).reshape(32, 64)
    np.testing.assert_array_equal(deep.prepare(values)[:, 16:, 0], values[:, :-16])


def test_a_homography_with_perspective_takes_corners_where_it_says():
    corners = np.array([[0.25, 0.25], [0.75, 0.2], [0.8, 0.8], [0.2, 0.75]])
    matrix = np.array([[0.9, 0.05, 0.05], [0.02, 1.0, -0.03], [0.1, -0.05, 1.0]])
    picture = np.zeros((100, 200, 1), np.uint8)
    for x, y in corners:
        picture[round(y * 100) - 3 : round(y * 100) + 3, round(x * 200) - 3 : round(x * 200) + 3] = 255
    got = Image(height=100, width=200, channels=1, homography=matrix.reshape(-1).tolist()).prepare(picture)
    for x, y in corners:
        across, down, depth = matrix @ (x, y, 1.0)
        assert got[int(down / depth * 100), int(across / depth * 200), 0] == 255


@pytest.mark.parametrize(
    ("numbers", "what"),
    [([1, 0, 0], "homography has 3 numbers"), ([1, 0, 0, 0, 0, 0, 0, 0, 1], "cannot be inverted"), ([0] * 9, "cannot be inverted")],
)
def test_what_is_no_homography_is_refused(numbers, what):
    with pytest.raises(CardError, match=what):
        Image(height=8, width=8, homography=numbers)
