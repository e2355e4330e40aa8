"""Front-ends of Hugging Face folders, held against the library's own processors on real files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from edgemm.contracts import frontend_ops  # noqa: E402  (transformers may be absent)
from edgemm.contracts.card import Input  # noqa: E402
from edgemm.contracts.modality import of  # noqa: E402
from edgemm.data.modalities._audio import sounds  # noqa: E402
from edgemm.data.modalities._audio.resample import resample  # noqa: E402
from edgemm.workshop.models.hf_folder import Folder, require_family  # noqa: E402
from tests import towers  # noqa: E402

MEDIA = Path(os.environ.get("EDGEMM_DATA", "data")) / "media_samples"
PICTURES = ("photo_cat_chelsea.png", "photo_coffee.png", "av_car.jpg")
pytestmark = pytest.mark.skipif(not MEDIA.is_dir(), reason="no pictures and sounds in $EDGEMM_DATA")


def features(side, sample):
    part = of(Input("x", side.modality, side.options))
    return frontend_ops.run(part.frontend(), part.decode(sample, Path())[None])[0][0]


def side_of(kind, tmp_path, name):
    folder = Folder(towers.folder(kind, tmp_path / kind))
    return require_family(folder).sides(folder)[name], folder.path


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit", "dinov2", "convnext", "swin"])
def test_a_picture_becomes_what_the_librarys_own_processor_makes_of_it(kind, tmp_path):
    side, folder = side_of(kind, tmp_path, "image")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    for name in PICTURES:
        with Pillow.open(MEDIA / name) as picture:
            want = processor(images=picture.convert("RGB"), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(features(side, str(MEDIA / name)), want, atol=1e-4)


def wave_of(name, rate_hz, seconds):
    wave, own = sounds.read(MEDIA / name, name, lambda rate: 10**9)
    wave = wave.mean(axis=1, dtype=np.float32) if wave.ndim == 2 else wave
    return resample(wave, own, rate_hz)[: round(rate_hz * seconds)]


@pytest.mark.parametrize("name", ["speech_jfk_11s.flac", "av_bird.wav"])
@pytest.mark.parametrize("kind", ["whisper", "clap", "spectrogram", "wav2vec2"])
def test_a_sound_becomes_what_the_librarys_own_processor_makes_of_it(kind, name, tmp_path):
    side, folder = side_of(kind, tmp_path, "audio")
    options = dict(side.options) | ({"seconds": 2.0} if kind in ("spectrogram", "wav2vec2") else {})
    part = of(Input("x", "audio", options))
    wave = wave_of(name, part.rate_hz, options["seconds"])
    if kind in ("spectrogram", "wav2vec2") and len(wave) < part.samples:
        pytest.skip("the sound is shorter than the clip, which these processors do not fill")
    processor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    made = processor(wave, sampling_rate=part.rate_hz, return_tensors="np")
    want = made["input_features" if kind in ("whisper", "clap") else "input_values"].squeeze()
    got = frontend_ops.run(part.frontend(), part.prepare(wave, rate_hz=part.rate_hz)[None])[0][0]
    assert got.shape == want.shape
    apart = np.abs(got - want) / max(1.0, float(np.abs(want).max()))
    assert np.quantile(apart, 0.999) < 1e-4
    assert apart.max() < 3e-4, "at the floor of silence float32 rounds off the last digit"


def test_a_short_sound_is_repeated_as_clap_does(tmp_path):
    side, folder = side_of("clap", tmp_path, "audio")
    part = of(Input("x", "audio", side.options))
    wave = wave_of("word_yes_1s.wav", 48000, 0.7)
    want = transformers.AutoFeatureExtractor.from_pretrained(folder)(wave, sampling_rate=48000, return_tensors="np")["input_features"]
    got = frontend_ops.run(part.frontend(), part.prepare(wave, rate_hz=48000)[None])[0]
    np.testing.assert_allclose(got, want[0], atol=1e-2)
