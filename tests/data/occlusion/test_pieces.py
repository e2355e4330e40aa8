"""Pieces of samples: each takes away what it says, and what it takes away says nothing."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import modality
from edgemm.contracts.card import Input
from edgemm.data.modalities.text import build_vocabulary
from edgemm.data.occlusion.pieces import pieces
from edgemm.data.occlusion.spectrum import Spectrum

RATE_HZ = 8000
TIME = np.arange(RATE_HZ) / RATE_HZ


def apart(kind, sample=None, cell=None, **options):
    part = modality.of(Input("x", kind, options))
    sample = part.synthetic(np.random.default_rng(0))[None] if sample is None else sample
    return pieces(part, sample, cell, Path()), sample


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("image", {"height": 48, "width": 64}),
        ("image", {"height": 5, "width": 64, "channels": 1}),
        ("audio", {"rate_hz": RATE_HZ, "seconds": 0.5}),
        ("audio", {"rate_hz": 16000, "seconds": 0.02}),
        ("sensor", {"shape": [50, 6], "mean": [0.0] * 6, "std": [1.0] * 6}),
        ("sensor", {"shape": [40, 30]}),
        ("sensor", {"shape": [7]}),
        ("tensor", {"dtype": "float32", "shape": ["batch", 3, 32, 40]}),
    ],
)
def test_every_cell_is_in_some_piece_and_a_piece_is_a_sample(kind, options):
    found, sample = apart(kind, **options)
    assert (found.map(np.ones(len(found.blocks))) == 1).all()
    for block in (found.blocks[0], found.blocks[-1]):
        without = found.without(block)
        assert (without.shape, without.dtype) == (sample.shape, sample.dtype)
        assert not np.array_equal(without, sample)
    assert found.cells_of(np.ones((80, 80))).sum() == pytest.approx(6400)


def test_a_place_of_a_picture_gets_the_mean_colour_and_the_rest_stays():
    found, sample = apart("image", height=64, width=64, order="bgr")
    without = found.without((0, 2, 4, 6))
    assert (without[0, :8, 16:24] == np.rint(sample.mean((0, 1, 2)))).all()
    kept = np.ones((64, 64), bool)
    kept[:8, 16:24] = False
    assert (without[0][kept] == sample[0][kept]).all()


def test_a_map_is_the_mean_of_what_the_pieces_over_a_cell_lost():
    found, _ = apart("image", height=3, width=2, channels=1)
    assert (found.rows, found.columns, found.blocks) == (3, 2, [(0, 2, 0, 2), (1, 3, 0, 2)])
    np.testing.assert_allclose(found.map(np.array([2.0, 4.0])), [[2, 2], [3, 3], [4, 4]])


def test_a_word_is_taken_out_of_its_text(tmp_path):
    (tmp_path / "words.json").write_text(build_vocabulary(["is there a red circle"], 20))
    found, _ = apart("text", np.zeros((1, 8), np.int64), "is there a red circle", length=8, tokenizer=str(tmp_path / "words.json"))
    part = modality.of(Input("x", "text", {"length": 8, "tokenizer": str(tmp_path / "words.json")}))
    assert found.canvas.words == ("is", "there", "a", "red", "circle")
    np.testing.assert_array_equal(found.without(found.blocks[3])[0], part.decode("is there a circle", tmp_path))
    np.testing.assert_allclose(found.cells_of(np.arange(8.0)[None]), [[0, 1, 2, 3, 4 + 5 + 6 + 7]])


def test_what_has_no_pieces_has_none(tmp_path):
    assert apart("text", np.zeros((1, 8), np.int64), None, length=8, vocab=20)[0] is None
    assert apart("tensor", dtype="int64", shape=["batch", 4])[0] is None
    assert apart("tensor", dtype="float32", shape=["batch", 1, 4], state="h")[0] is None


def test_a_band_of_sound_goes_down_to_its_background_and_the_others_stay():
    low, high = 0.3 * np.sin(2 * np.pi * 500 * TIME), 0.3 * np.sin(2 * np.pi * 2500 * TIME)
    spectrum = Spectrum(low + high, RATE_HZ)
    left = spectrum.without(2000, 3000, 0, spectrum.frames)
    assert np.abs(left - low)[200:-200].max() < 0.01
    np.testing.assert_allclose(spectrum.without(3500, 4000, 0, spectrum.frames)[200:-200], (low + high)[200:-200], atol=1e-3)


def test_a_stretch_of_sound_is_as_quiet_as_the_rest():
    noise = np.random.default_rng(0).normal(0, 0.01, RATE_HZ)
    burst = np.where((TIME > 0.4) & (TIME < 0.6), np.sin(2 * np.pi * 1000 * TIME), 0)
    spectrum = Spectrum(noise + burst, RATE_HZ)
    left = spectrum.without(0, RATE_HZ / 2, 0, spectrum.frames)
    assert np.abs(left).max() < 0.06
    first_half = spectrum.without(0, RATE_HZ / 2, 0, spectrum.frames // 4)
    np.testing.assert_allclose(first_half[RATE_HZ // 2 :], (noise + burst)[RATE_HZ // 2 :], atol=1e-9)
    assert Spectrum(np.zeros(RATE_HZ), RATE_HZ).picture().max() == 0
