"""Sound: what is read, resampling against scipy, and features against an independent reference."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile

from edgemm.contracts import frontend_ops
from edgemm.contracts.card import Input
from edgemm.contracts.modality import of
from edgemm.data.modalities._audio.features import KINDS
from edgemm.data.modalities._audio.mel import Mel
from edgemm.data.modalities._audio.resample import needed, resample
from edgemm.data.modalities.audio import Audio
from edgemm.errors import CardError, DataError, Mistakes


def tone(samples, rate_hz=8000, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz)).astype(np.float32)


def test_a_wav_of_the_right_rate_is_read_as_it_is(tmp_path):
    wave = tone(8000)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="PCM_16")
    got = Audio(rate_hz=8000, seconds=1.0).decode("a.wav", tmp_path)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wave, atol=1 / 32767)


@pytest.mark.parametrize(("name", "error"), [("a.flac", 1e-4), ("a.ogg", 0.05), ("a.aiff", 1e-4)])
def test_other_formats_are_read(tmp_path, name, error):
    wave = tone(8000)
    soundfile.write(tmp_path / name, wave, 8000)
    assert np.abs(Audio(rate_hz=8000, seconds=1.0).decode(name, tmp_path) - wave).max() < error


def test_the_encoded_bytes_are_read_like_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    spec = Audio(rate_hz=8000, seconds=1.0)
    np.testing.assert_array_equal(spec.decode((tmp_path / "a.wav").read_bytes(), tmp_path), spec.decode("a.wav", tmp_path))


def test_channels_are_averaged(tmp_path):
    left, right = tone(8000), tone(8000, hz=1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(Audio(rate_hz=8000, seconds=1.0).decode("a.wav", tmp_path), (left + right) / 2, atol=1e-6)


def test_a_clip_is_cut_or_padded_with_zeros_at_the_end(tmp_path):
    wave = tone(8000)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(Audio(rate_hz=8000, seconds=0.25).decode("a.wav", tmp_path), wave[:2000])
    longer = Audio(rate_hz=8000, seconds=1.5).decode("a.wav", tmp_path)
    np.testing.assert_array_equal(longer, np.concatenate([wave, np.zeros(4000, np.float32)]))


@pytest.mark.parametrize(
    ("rate_hz", "wanted_hz"), [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 11025), (44100, 48000), (22051, 8000)]
)
def test_resampling_equals_scipys(rate_hz, wanted_hz):
    wave = np.random.default_rng(0).normal(0, 0.2, 5001).astype(np.float32)
    common = np.gcd(rate_hz, wanted_hz)
    want = scipy.signal.resample_poly(wave.astype(np.float64), wanted_hz // common, rate_hz // common)
    got = resample(wave, rate_hz, wanted_hz)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 37])
def test_even_the_shortest_sounds_are_resampled_like_scipys(samples):
    wave = np.random.default_rng(0).normal(0, 0.2, samples).astype(np.float32)
    for up, down in ((3, 7), (7, 3), (1, 4)):
        np.testing.assert_allclose(resample(wave, down * 100, up * 100), scipy.signal.resample_poly(wave, up, down), atol=1e-5)


def test_no_more_of_a_long_file_is_read_than_decides_the_clip():
    wave = np.random.default_rng(0).normal(0, 0.2, 20000).astype(np.float32)
    for rate_hz, wanted_hz in ((44100, 16000), (8000, 16000), (48000, 8000)):
        enough = needed(1000, rate_hz, wanted_hz)
        assert enough < 20000
        np.testing.assert_allclose(resample(wave[:enough], rate_hz, wanted_hz)[:1000], resample(wave, rate_hz, wanted_hz)[:1000], atol=1e-6)


@pytest.mark.parametrize(("name", "rate_hz"), [("av_dog.wav", 44100), ("speech_jfk_11s.flac", 44100), ("word_yes_1s.wav", 16000)])
def test_real_recordings_equal_a_reading_by_soundfile_and_scipy(media, name, rate_hz):
    wave, rate = soundfile.read(media / name, always_2d=True)
    assert rate == rate_hz
    want = scipy.signal.resample_poly(wave.mean(axis=1), 160, 441) if rate_hz == 44100 else wave.mean(axis=1)
    np.testing.assert_allclose(Audio(rate_hz=16000, seconds=1.0).decode(name, media), want[:16000], atol=1e-5)


def test_samples_from_a_microphone_go_the_same_way():
    spec, wave = Audio(rate_hz=8000, seconds=0.5), tone(8000, rate_hz=16000)
    np.testing.assert_array_equal(spec.prepare(wave, rate_hz=16000), resample(wave, 16000, 8000)[:4000])
    np.testing.assert_allclose(spec.prepare((wave * 32768).astype(np.int16), rate_hz=16000), spec.prepare(wave, rate_hz=16000), atol=1e-4)


def test_another_rate_with_resampling_off_is_an_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 16000)
    with pytest.raises(DataError, match=r"a\.wav' has 16000 Hz, the card says 8000 Hz\.\n  why: the card says resample: false\."):
        Audio(rate_hz=8000, seconds=1.0, resample=False).decode("a.wav", tmp_path)
    with pytest.raises(DataError, match="the sound has 16000 Hz"):
        Audio(rate_hz=8000, seconds=1.0, resample=False).prepare(tone(8000), rate_hz=16000)


def test_missing_damaged_and_empty_sounds_are_errors_that_name_them(tmp_path):
    spec = Audio(rate_hz=8000, seconds=1.0)
    (tmp_path / "text.wav").write_text("not a sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    for name, words in (
        ("gone.wav", "'gone.wav' is missing"),
        ("text.wav", "text.wav' cannot be read as sound"),
        ("empty.wav", "empty.wav' holds no samples"),
    ):
        with pytest.raises(DataError, match=words):
            spec.decode(name, tmp_path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.ogg"])
def test_a_truncated_sound_is_an_error_and_not_silence(tmp_path, name):
    soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.2, 8000), 8000)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{name}' (cannot be read as sound|holds no samples)"):
        Audio(rate_hz=8000, seconds=1.0).decode(name, tmp_path)


def test_a_sample_that_is_not_finite_is_an_error(tmp_path):
    wave = tone(8000)
    wave[17] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav' holds nan at sample 17"):
        Audio(rate_hz=8000, seconds=1.0).decode("a.wav", tmp_path)


def test_an_array_that_is_no_sound_is_an_error():
    for array in (np.zeros(8000, np.int64), np.zeros((2, 2, 2), np.float32), "word"):
        with pytest.raises(DataError, match="a sound array has dtype"):
            Audio(rate_hz=8000, seconds=1.0).prepare(array, rate_hz=8000)


# --- features, against a reference that shares no code with them


def reference(wave, rate_hz, kind="log_mel", **keys):
    """Log-mel or MFCC in float64 with numpy's FFT, bin by bin."""
    window = round(keys.get("window_ms", 25) * rate_hz / 1000)
    hop = round(keys.get("hop_ms", 10) * rate_hz / 1000)
    fft = keys.get("fft") or int(2 ** np.ceil(np.log2(window)))
    wave = wave.astype(np.float64)
    if keys.get("normalize") == "peak":
        wave = wave / wave.max()
    if keys.get("center"):
        wave = np.concatenate([wave[window // 2 : 0 : -1], wave, wave[-2 : -2 - window // 2 : -1]])
    hann = np.array([np.sin(np.pi * n / window) ** 2 for n in range(window)])
    frames = [np.fft.rfft(wave[start : start + window] * hann, fft) for start in range(0, len(wave) - window + 1, hop)]
    spectrum = np.abs(np.array(frames)).T ** keys.get("power", 2.0)
    mel = reference_bands(rate_hz, fft, **{key: value for key, value in keys.items() if key != "fft"}) @ spectrum
    out = np.log(np.maximum(mel + keys.get("offset", 0.0), keys.get("floor", 1e-6)))
    if kind == "mfcc":
        out = scipy.fft.dct(out, type=2, axis=0, norm="ortho")[: keys.get("coefs", 13)]
        if keys.get("dct") == "htk":
            out[0] *= np.sqrt(2)
    return (out - out.mean()) / (out.std() + 1e-5) if keys.get("normalize") == "clip" else out


def reference_bands(rate_hz, fft, mels=40, fmin_hz=0.0, fmax_hz=None, mel_scale="htk", mel_norm="none", mel_slope="hz", **_):
    def to_mel(hz):
        if mel_scale == "htk":
            return 1127.0104805 * np.log(1 + hz / 700)
        return hz / (200 / 3) if hz < 1000 else 15 + np.log(hz / 1000) / (np.log(6.4) / 27)

    def to_hz(mel):
        low, high = 0.0, float(rate_hz)
        for _ in range(80):  # by halving, so that no inverse formula is shared either
            middle = (low + high) / 2
            low, high = (middle, high) if to_mel(middle) < mel else (low, middle)
        return low

    top = rate_hz / 2 if fmax_hz is None else fmax_hz
    edges = [to_hz(mel) for mel in np.linspace(to_mel(fmin_hz), to_mel(top), mels + 2)]
    bank = np.zeros((mels, fft // 2 + 1))
    for band in range(mels):
        for number in range(fft // 2 + 1):
            x, (left, middle, right) = number * rate_hz / fft, edges[band : band + 3]
            if mel_slope == "mel":
                x, left, middle, right = (to_mel(value) for value in (x, left, middle, right))
            if left < x < right:
                bank[band, number] = (x - left) / (middle - left) if x <= middle else (right - x) / (right - middle)
        if mel_norm == "slaney":
            bank[band] *= 2 / (edges[band + 2] - edges[band])
    return bank


RECIPES = [
    ("log_mel", {}),
    ("log_mel", {"mels": 32, "window_ms": 32, "hop_ms": 20, "fmin_hz": 50, "fmax_hz": 4000}),
    ("log_mel", {"mels": 64, "mel_scale": "slaney", "mel_norm": "slaney", "center": True}),
    ("log_mel", {"mels": 80, "fft": 512, "power": 1.0, "floor": 1e-5}),
    ("log_mel", {"mels": 20, "power": 1.5, "offset": 1e-3, "mel_slope": "mel"}),
    ("log_mel", {"normalize": "clip"}),
    ("mfcc", {}),
    ("mfcc", {"mels": 26, "coefs": 10, "dct": "htk", "center": True, "normalize": "clip"}),
    ("mfcc", {"mels": 24, "normalize": "peak", "fmin_hz": 20}),
]


@pytest.mark.parametrize(("kind", "keys"), RECIPES, ids=lambda value: value if isinstance(value, str) else ",".join(value) or "defaults")
def test_features_equal_the_reference_on_real_speech(media, kind, keys):
    spec = Audio(rate_hz=16000, seconds=1.0, features={kind: keys})
    for name in ("word_yes_1s.wav", "av_bird.wav", "word_silence_1s.wav"):
        wave = spec.decode(name, media)
        (got,) = frontend_ops.run(spec.frontend(), wave[None])
        want = reference(wave, 16000, kind, **keys)
        assert got.shape == (1, *want.shape)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[0], want, atol=2e-4)  # logarithms of sums in float32, in the order of the processor


def test_features_equal_torchaudios_and_librosas_definition_of_the_frames():
    mel = Audio(rate_hz=16000, seconds=1.0, features={"log_mel": {}}).mel()
    assert (mel.window_samples, mel.hop, mel.fft_length, mel.frames) == (400, 160, 512, 98)
    assert Audio(rate_hz=16000, seconds=1.0, features={"log_mel": {"center": True}}).mel().frames == 101


def test_the_keyword_spotting_recipe_of_a_known_model_is_expressible(media):
    """MFCCs that MLCommons Tiny's keyword model was trained on, stored with that model."""
    path = media.parent / "real_models" / "kws_check.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    stored = np.load(path)
    keys = {
        "window_ms": 30, "hop_ms": 20, "fft": 512, "power": 1, "mels": 40, "fmin_hz": 20, "fmax_hz": 4000, "mel_slope": "mel",
        "offset": 1e-6, "coefs": 10, "dct": "htk", "normalize": "peak",
    }  # fmt: skip
    spec = Audio(rate_hz=16000, seconds=1.0, features={"mfcc": keys})
    for place, name in enumerate(("word_yes_1s.wav", "word_no_1s.wav")):
        (got,) = frontend_ops.run(spec.frontend(), spec.decode(name, media)[None])
        np.testing.assert_allclose(got[0].T, stored["mfcc"][place, :, :, 0], atol=1e-4)


def test_without_features_forward_gets_the_samples():
    for features in (None, "none"):
        assert Audio(rate_hz=8000, seconds=1.0, features=features).frontend() == []


def test_a_kind_of_features_may_stand_alone():
    assert Audio(rate_hz=8000, seconds=1.0, features="mfcc").mel() == Audio(rate_hz=8000, seconds=1.0, features={"mfcc": None}).mel()


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"logmel": {}}, r"features is \{'logmel': \{\}\}"),
        ({"log_mel": {"mel": 40}}, "features.log_mel: unknown key 'mel'.\n  fix: did you mean 'mels'"),
        ({"log_mel": {"coefs": 13}}, "unknown key 'coefs'"),
        ({"log_mel": {"mels": "many"}}, "features.log_mel.mels: 'many' is not a whole number"),
        ({"log_mel": {"mel_scale": "bark"}}, "mel_scale: unknown value 'bark'"),
        ({"log_mel": 40}, "features.log_mel is 40"),
        ({"log_mel": {"fft": 128}}, "fft is 128, shorter than the window of 200 samples"),
        ({"log_mel": {"fmax_hz": 9000}}, "the bands reach from 0.0 to 9000 Hz"),
        ({"log_mel": {"mels": 0}}, "mels is 0"),
        ({"log_mel": {"hop_ms": 0}}, "hop_ms is 0"),
        ({"log_mel": {"hop_ms": 0.05}}, "hop_ms is 0.05.\n  why: at 8000 Hz one sample lasts 0.125 ms.*\n  fix: write at least 0.125."),
        ({"log_mel": {"window_ms": 0.1}}, "window_ms is 0.1.\n  why: .*\n  fix: write at least 0.25."),
        ({"log_mel": {"window_ms": 2000}}, "shorter than one window.\n  why: the clip has 8000 samples, a window of 2000 ms has 16000."),
        ({"log_mel": {"window_ms": float("inf")}}, "window_ms is inf.\n  fix: write a finite number."),
        ({"mfcc": {"hop_ms": float("nan")}}, "hop_ms is nan"),
        ({"log_mel": {"fft": 0}}, "fft is 0, shorter than the window"),
        ({"log_mel": {"fft": 10**9}}, "takes more than 512 MiB.\n  why: a window of 200 samples, fft 1000000000 and 40 bands"),
        ({"log_mel": {"mels": 10**9}}, "takes more than 512 MiB"),
        ({"log_mel": {"fmin_hz": 1001, "fmax_hz": 1010, "mels": 2}}, "no band has a bin of the transform.\n  why: bins are 31.25 Hz apart"),
        ({"log_mel": {"floor": 0}}, "floor is 0"),
        ({"log_mel": {"floor": 1e-60}}, "floor is 1e-60.\n  why: the logarithm needs a float32 above 0"),
        ({"log_mel": {"offset": 1e39}}, "offset is 1e\\+39"),
        ({"log_mel": {"power": 40}}, "power is 40.\n  why: of a loud sound it is more than a float32 can hold"),
        ({"mfcc": {"mels": 10, "coefs": 13}}, "coefs is 13"),
    ],
)
def test_impossible_features_are_card_errors(features, words):
    with pytest.raises(CardError, match=words):
        Audio(rate_hz=8000, seconds=1.0, features=features)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({}, []),
        ({"mels": 90}, ["falls into band 0 of 90, counted from 0: there the features never change"]),
        ({"mels": 300}, ["falls into bands 0, 1, 2, 3, 4, 7, 8, 9 and 79 more of 300"]),
        ({"fft": 2 * 239}, ["a transform of 478, with the prime factor 239, runs as one dense matrix: 95,200 multiplications a frame"]),
        ({"fft": 401}, ["0.3 MiB. Where the model is not trained yet, fft: 512 takes 21,648."]),
        ({"fft": 400}, []),
    ],
)
def test_bands_that_hear_nothing_and_a_dear_transform_are_told_of_and_taken(features, words):
    notes = Audio(rate_hz=8000, seconds=1.0, features={"log_mel": features}).notes()
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True)), notes


def test_the_bands_told_of_are_those_whose_features_never_change():
    spec = Audio(rate_hz=8000, seconds=1.0, features={"log_mel": {"mels": 120}})
    (features,) = frontend_ops.run(spec.frontend(), np.random.default_rng(0).normal(0, 0.3, (1, 8000)).astype(np.float32))
    still = np.flatnonzero(np.ptp(features[0], axis=1) == 0)
    assert f"bands {', '.join(map(str, still))} of 120" in spec.notes()[0]


def test_all_mistakes_in_features_are_told_with_the_inputs_name():
    with pytest.raises(Mistakes) as caught:
        of(Input("mic", "audio", {"rate_hz": 8000, "seconds": 1.0, "features": {"log_mel": {"mel": 40, "hop": 10}}}))
    assert str(caught.value).count("inputs.mic: features.log_mel: unknown key") == 2


@pytest.mark.parametrize(("options", "words"), [({"rate_hz": 0}, "rate_hz is 0"), ({"seconds": 0.0}, "seconds is 0.0")])
def test_impossible_options_are_card_errors(options, words):
    with pytest.raises(CardError, match=words):
        Audio(**{"rate_hz": 8000, "seconds": 1.0} | options)


def test_a_wav_written_to_a_pipe_without_a_length_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(4000), 8000, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_allclose(Audio(rate_hz=8000, seconds=1.0).decode("a.wav", tmp_path)[:4000], tone(4000), atol=1 / 32767)


@pytest.mark.parametrize("key", KINDS["mfcc"])
def test_every_key_of_the_features_is_documented(key):
    assert key in Mel.__doc__
