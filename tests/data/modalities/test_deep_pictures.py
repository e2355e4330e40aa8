"""Pictures of more than 8 bits: depth in millimetres, thermal cameras, floats."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from edgemm.box.serving.sources.folder import Folder
from edgemm.box.serving.sources.stream import Stream
from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Input
from edgemm.contracts.modality import of
from edgemm.data.checking import check
from edgemm.data.dataset import open_dataset
from edgemm.data.modalities.image import Image
from edgemm.errors import CardError, DataError

MILLIMETRES = np.random.default_rng(0).integers(300, 460, (12, 20))


def saved(folder, array, name):
    if name.endswith(".npy"):
        np.save(folder / name, array)
    else:
        Pillow.fromarray(array).save(folder / name)
    return name


@pytest.mark.parametrize(
    ("name", "dtype", "bits"),
    [("a.png", np.uint16, 16), ("a.tif", np.uint16, 16), ("a.npy", np.uint16, 12), ("a.npy", np.int32, 16), ("a.tif", np.int32, 16),
     ("a.tif", np.float32, 32), ("a.npy", np.float64, 32), ("a.tif", np.int32, 32), ("a.png", np.uint16, 32)],
)  # fmt: skip
def test_every_value_arrives_as_it_is_in_training_and_on_the_box(tmp_path, name, dtype, bits):
    part = of(Input("depth", "image", {"height": 12, "width": 20, "channels": 1, "bits": bits}))
    saved(tmp_path, MILLIMETRES.astype(dtype), name)
    trained = part.decode(name, tmp_path)
    np.testing.assert_array_equal(trained[..., 0], MILLIMETRES)
    assert (trained.dtype, part.dtype()) == (np.float32, "float32")
    if not name.endswith(".npy"):
        (item,) = Folder(path=str(tmp_path), inputs="depth").items({"depth": part})
        np.testing.assert_array_equal(part.received(item.value), trained)
        assert item.value.jpeg(16).startswith(b"\xff\xd8")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_a_resized_picture_is_the_same_from_a_file_and_from_a_stream_and_keeps_its_precision(tmp_path, name, fit):
    part = of(Input("depth", "image", {"height": 5, "width": 7, "channels": 1, "bits": 16, "fit": fit, "mean": 0.25}))
    saved(tmp_path, MILLIMETRES.astype(np.uint16), name)
    trained = part.decode(name, tmp_path)
    (item,) = Stream(url=str(tmp_path / name), inputs="depth").items({"depth": part})
    np.testing.assert_array_equal(part.received(item.value), trained)
    if fit == "stretch":
        theirs = np.asarray(Pillow.fromarray(MILLIMETRES.astype(np.float32)).resize((7, 5), Pillow.Resampling.BILINEAR))
        np.testing.assert_allclose(trained[..., 0], theirs, rtol=1e-5)
    if fit == "letterbox":
        assert trained[-1, 0, 0] == pytest.approx(0.25 * 65535)


COLOURS = np.random.default_rng(1).integers(0, 65536, (6, 5, 4)).astype(np.uint16)


def encoded(codec, pixels, array, **options):
    """A picture's file as FFmpeg writes it: pillow writes no 16-bit colours."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt, context.time_base, context.options = *array.shape[:2], pixels, Fraction(1), options
    return b"".join(map(bytes, [*context.encode(av.VideoFrame.from_ndarray(array, format=pixels)), *context.encode(None)]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", encoded("png", "rgb48be", COLOURS[..., :3])),
        ("a.tif", encoded("tiff", "rgb48le", COLOURS[..., :3], compression_algo="raw")),
        ("b.tif", encoded("tiff", "rgb48le", COLOURS[..., :3], compression_algo="lzw")),
        ("a.ppm", b"P6\n# a comment\n5 6\n65535\n" + COLOURS[..., :3].astype(">u2").tobytes()),
    ],
)
def test_sixteen_bit_colours_arrive_as_they_are_in_training_and_on_the_box(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    part = of(Input("camera", "image", {"height": 6, "width": 5, "bits": 16}))
    trained = part.decode(name, tmp_path)
    np.testing.assert_array_equal(trained, COLOURS[..., :3])
    np.testing.assert_array_equal(part.decode(content, tmp_path), trained)
    (item,) = Stream(url=str(tmp_path / name), inputs="camera").items({"camera": part})
    np.testing.assert_array_equal(part.received(item.value), trained)
    words = "has 16 bits a value, and the upper 8 are used; bits: 16 in the card keeps all."
    assert words in Image(height=6, width=5).remark(name, tmp_path)
    assert abs(Image(height=6, width=5).decode(name, tmp_path) - COLOURS[..., :3] / 257).max() <= 1


@pytest.mark.parametrize("content", [encoded("png", "rgba64be", COLOURS), encoded("tiff", "rgba64le", COLOURS)])
def test_sixteen_bit_colours_with_opacity_are_laid_over_black_unless_the_card_takes_it(tmp_path, content):
    np.testing.assert_array_equal(Image(height=6, width=5, channels=4, bits=16).decode(content, tmp_path), COLOURS)
    wanted = np.rint(COLOURS[..., :3] * (COLOURS[..., 3:] / 65535))
    np.testing.assert_array_equal(Image(height=6, width=5, bits=16).decode(content, tmp_path), wanted)


def test_a_grey_map_counts_up_to_what_its_header_says(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 20 12 4095\n" + MILLIMETRES.astype(">u2").tobytes())
    part = Image(height=12, width=20, channels=1, bits=12)
    np.testing.assert_array_equal(part.decode("a.pgm", tmp_path)[..., 0], MILLIMETRES)
    assert "has 12 bits a value" in Image(height=12, width=20, channels=1).remark("a.pgm", tmp_path)
    with pytest.raises(DataError, match=r"values are text(.|\n)*store it as PNG or .npy"):
        part.decode(b"P2 1 1 4095 7", tmp_path)


def test_scale_follows_bits_and_may_be_set():
    def affine(**options):
        return next(op for op in Image(height=2, width=2, channels=1, **options).frontend() if hasattr(op, "scale")).scale.item()

    assert [affine(), affine(bits=12), affine(bits=16), affine(bits=32), affine(bits=16, scale=0.001)] == pytest.approx(
        [1 / 255, 1 / 4095, 1 / 65535, 1.0, 0.001]
    )
    with pytest.raises(CardError, match="bits is 64"):
        Image(height=2, width=2, bits=64)


@pytest.mark.parametrize(
    ("array", "bits", "words"),
    [
        (np.full((4, 4), 5000, np.uint16), 12, "5000 to 5000, the card says bits: 12"),
        (np.zeros((4, 4), np.uint8), 16, "are 8 bits, the card says bits: 16"),
        (np.full((4, 4), 0.5, np.float32), 16, "no whole numbers, the card says bits: 16"),
        (np.full((4, 4), np.nan, np.float32), 32, "NaN or infinity"),
        (np.zeros((4, 4, 3), np.uint16), 16, r"shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint16), 8, "dtype uint16"),
    ],
)
def test_values_that_do_not_fit_the_card_are_refused(tmp_path, array, bits, words):
    with pytest.raises(DataError, match=words):
        Image(height=4, width=4, channels=1, bits=bits).decode(saved(tmp_path, array, "a.npy"), tmp_path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_picture_of_unknown_range_is_not_black_but_refused(tmp_path, dtype):
    part = Image(height=12, width=20, channels=1)
    with pytest.raises(DataError, match="bits: 32 and scale in the card: they are taken as they are") as error:
        part.decode(saved(tmp_path, (MILLIMETRES % 255).astype(dtype), "a.tif"), tmp_path)
    assert "replace the file" not in str(error.value)
    assert not part.remark("a.tif", tmp_path)


def test_a_file_with_more_bits_than_the_card_says_is_noted(tmp_path):
    saved(tmp_path, MILLIMETRES.astype(np.uint16), "a.png")
    (tmp_path / "manifest.csv").write_text("split,depth,near\ntrain,a.png,yes\nval,a.png,no\n")
    card = {"factory": "a:b", "outputs": {"near": {"task": "classification", "labels": ["no", "yes"]}}}
    for bits, wanted in ((8, ["depth: 'a.png' has 16 bits a value, and the upper 8 are used; bits: 16 in the card keeps all."]), (16, [])):
        notes = []
        picture = {"modality": "image", "height": 12, "width": 20, "channels": 1, "bits": bits}
        check(open_dataset(tmp_path, cards.parse({**card, "inputs": {"depth": picture}})), note=notes.append)
        assert notes == wanted


def test_synthetic_samples_are_of_the_right_kind():
    for bits in (8, 12, 16, 32):
        part = Image(height=8, width=8, channels=1, bits=bits)
        sample = part.synthetic(np.random.default_rng(0))
        np.testing.assert_array_equal(part.prepare(sample), sample)
        assert str(sample.dtype) == part.dtype()
