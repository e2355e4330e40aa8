"""The forms of the Fourier transform: equal to numpy's own and to each other, in every language, for any length, window and hop."""

import numpy as np
import onnxruntime
import openvino
import pytest
import soundfile
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts import frontend_ops
from edgemm.contracts.modality import modalities
from edgemm.data.modalities._audio.mel import DENSE, FACTORIZED, Mel, bands
from edgemm.graph import frontend
from edgemm.workshop.models.frontend import Chain
from tests.places import PACKS

SETTINGS = {
    "plain": {},
    "window and transform alike": {"window_ms": 64, "hop_ms": 16, "mels": 64},
    "centred": {"center": True, "power": 1.0},
    "no power of two": {"fft": 600, "window_ms": 20, "hop_ms": 7.3},
    "a voice's band": {"fft": 480, "fmin_hz": 300, "fmax_hz": 3400, "mel_norm": "slaney"},
    "window much shorter": {"fft": 2048, "power": 1.5},
}


def made(settings, seconds=1.0, rate_hz=16000):
    return Mel(**settings, rate_hz=rate_hz, samples=round(seconds * rate_hz))


def recordings():
    folder = PACKS / "media_samples"
    if not folder.is_dir():
        pytest.skip(f"no real sounds in {folder} (set EDGEMM_DATA)")
    waves = [soundfile.read(folder / name, dtype="float32")[0] for name in ("word_yes_1s.wav", "word_no_1s.wav", "av_car.wav")]
    return np.stack([np.resize(wave, 16000) for wave in waves])


def card_of(audio):
    return cards.parse({"factory": "a:b", "inputs": {"a": audio}, "outputs": {"y": {"task": "embedding"}}})


def by_runtimes(graph, wave):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return {"onnxruntime": session.run(None, {"a": wave})[0], "openvino": compiled({"a": wave})[0]}


def by_numpy(mel, wave):
    """Bands of the power spectrum by ``np.fft`` in double precision."""
    padded = np.pad(wave, ((0, 0), (mel.window_samples // 2,) * 2), mode="reflect") if mel.center else wave
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window_samples) / mel.window_samples)
    frames = np.lib.stride_tricks.sliding_window_view(padded.astype(np.float64), mel.window_samples, axis=-1)[:, :: mel.hop] * hann
    return np.log(np.maximum(bands(mel) @ (np.abs(np.fft.rfft(frames, mel.fft_length)) ** mel.power).transpose(0, 2, 1), mel.floor))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_both_forms_equal_numpys_transform_on_real_sounds(settings):
    mel, wave = made(settings), recordings()
    want = by_numpy(mel, wave)
    for ops in mel.forms().values():
        (got,) = frontend_ops.run(ops, wave)
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def digits():
    """Spoken digits as people recorded them at home: quiet, hissing, with zeros at the end."""
    path = PACKS / "avdigits" / "avdigits_wave.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent (set EDGEMM_DATA)")
    return np.load(path)["audio"][::60].astype(np.float32) / 32768


@pytest.mark.parametrize(
    ("settings", "rate_hz"),
    [*((name, 16000) for name in ("plain", "window and transform alike", "no power of two", "a voice's band")), ("plain", 8000)],
)
def test_every_runtime_holds_a_band_to_2e_6_of_the_loudest_of_its_frame_in_both_forms(settings, rate_hz):
    """What float32 can promise of any Fourier transform; the logarithm of a band d dB below is known to 4e-6 times 10 ** (d / 20)."""
    mel, wave = made(SETTINGS[settings] | {"floor": 1e-30}, rate_hz=rate_hz), recordings() if rate_hz == 16000 else digits()
    want = np.exp(by_numpy(mel, wave) / 2)
    loudest = want.max(axis=1, keepdims=True)
    heard = np.broadcast_to(loudest > 1e-4, want.shape)  # where all is zero there is nothing to compare
    features = {"log_mel": SETTINGS[settings] | {"floor": 1e-30}}
    card = card_of({"modality": "audio", "rate_hz": rate_hz, "seconds": 1.0, "features": features})
    errors = {}
    for form, ops in mel.forms().items():
        graph = frontend.alone(card, "a", form).SerializeToString()
        for runtime, log in {"numpy": frontend_ops.run(ops, wave)[0], **by_runtimes(graph, wave)}.items():
            errors[form, runtime] = (np.abs(np.exp(log.astype(np.float64) / 2) - want) / loudest)[heard].max()
    assert max(errors.values()) < 2e-6, errors
    by_form = [max(error for (form, _), error in errors.items() if form == name) for name in (FACTORIZED, DENSE)]
    assert by_form[0] < 1.5 * by_form[1], "the fast form is no worse"


def test_its_tables_are_a_small_share_of_the_dense_ones():
    forms = made(SETTINGS["window and transform alike"]).forms()
    sizes = {
        name: sum(value.nbytes for op in ops for value in vars(op).values() if isinstance(value, np.ndarray)) for name, ops in forms.items()
    }
    bank = next(op for op in forms[FACTORIZED] if isinstance(op, frontend_ops.Bands)).weight.nbytes
    assert sizes[FACTORIZED] - bank < 32_000
    assert sizes[FACTORIZED] < sizes[DENSE] / 20


@pytest.mark.parametrize("fft", [401, 443, 2 * 239])
def test_a_length_with_a_large_prime_factor_has_the_dense_form_alone(fft):
    assert list(made({"fft": fft}).forms()) == [DENSE]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("steps", [None, 2])
def test_torch_onnxruntime_and_openvino_compute_it_as_numpy_does(settings, steps):
    card = card_of({"modality": "audio", "rate_hz": 16000, "seconds": 1.0, "features": {"log_mel": settings}, "steps": steps})
    ops = modalities(card)["a"].frontend_forms()[FACTORIZED]
    wave = recordings()
    rows = np.stack([wave[:2], wave[1:]]) if steps else wave
    (want,) = frontend_ops.run(ops, rows, steps=steps)
    graph = frontend.alone(card, "a", FACTORIZED).SerializeToString()
    for got in (Chain(ops, steps=steps)(torch.from_numpy(rows)).numpy(), *by_runtimes(graph, rows).values()):
        np.testing.assert_allclose(got, want, atol=5e-4)  # logarithms of sums in float32, in the order of the processor
