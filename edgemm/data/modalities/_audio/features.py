"""The card's ``features`` of a sound: read, checked before anything is computed, and what a reader should know of them."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from edgemm.contracts import options
from edgemm.contracts.plugins import Option
from edgemm.data.modalities._audio import fourier
from edgemm.data.modalities._audio.mel import Mel, bands
from edgemm.errors import CardError, Mistakes

LOG_MEL_KEYS = tuple(f.name for f in fields(Mel) if f.name not in ("coefs", "dct", "rate_hz", "samples"))
MFCC_KEYS = (*LOG_MEL_KEYS, "coefs", "dct")
KINDS = {"log_mel": LOG_MEL_KEYS, "mfcc": MFCC_KEYS}
TABLE_MIB = 512
"""Constants of the dense transform that are still built: a window of 8192 samples at a full transform takes half of it."""
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
FAINT = 1e-6  # of the largest weight: what is below is the rounding of a band's edge
NAMED_BANDS = 8
MOST_FRAMES = 1 << 16


def parse(features: Any, *, rate_hz: int, samples: int) -> Mel | None:
    """Read and check the card's ``features``.

    Raises:
        CardError: One mistake in it; Mistakes: several. Neither names the input.
    """
    if features is None or features == "none":
        return None
    if isinstance(features, str) and features in KINDS:
        features = {features: {}}
    if not isinstance(features, dict) or len(features) != 1 or next(iter(features)) not in KINDS:
        raise CardError(f"features is {features!r}.", fix="write none, {log_mel: {...}} or {mfcc: {...}}.")
    kind, settings = next(iter(features.items()))
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise CardError(f"features.{kind} is {settings!r}.", fix=f"write {{{kind}: {{mels: 40, window_ms: 25, hop_ms: 10}}}}.")
    declared = _declared()
    where = f"features.{kind}"
    wrong = options.check(settings, {key: declared[key] for key in KINDS[kind]}, where, CardError)
    endless = [key for key, value in settings.items() if isinstance(value, float) and not math.isfinite(value)]
    wrong += [CardError(f"{where}: {key} is {settings[key]}.", fix="write a finite number.") for key in endless]
    if wrong:
        raise CardError(wrong[0].what, why=wrong[0].why, fix=wrong[0].fix) if len(wrong) == 1 else Mistakes(wrong)
    mel = Mel(**({"coefs": 13} if kind == "mfcc" else {}) | settings, rate_hz=rate_hz, samples=samples)
    for what, why, fix in _mistakes(mel):
        raise CardError(f"{where}: {what}", why=why, fix=fix)
    return mel


@functools.cache
def _declared() -> dict[str, Option]:
    return {field.name: Option(field.name, ast.parse(str(field.type), mode="eval").body, field.default) for field in fields(Mel)}


def notes(mel: Mel) -> list[str]:
    """Bands that hear nothing, and a length of the transform that makes it dear."""
    return [note for note in (_deaf(mel), _dear(mel)) if note]


def _mistakes(mel: Mel) -> Iterator[tuple[str, str, str]]:
    """What is wrong, why, and how to mend it; what comes later takes what came before for right."""
    one_ms = 1000 / mel.rate_hz
    lasts = f"at {mel.rate_hz} Hz one sample lasts {one_ms:g} ms"
    if mel.window_samples < 2:
        yield f"window_ms is {mel.window_ms}.", f"{lasts}, and a window holds at least two.", f"write at least {2 * one_ms:g}."
    if mel.hop < 1:
        yield f"hop_ms is {mel.hop_ms}.", f"{lasts}, and frames are at least one apart.", f"write at least {one_ms:g}."
    if mel.padded < mel.window_samples:
        why = f"the clip has {mel.samples} samples, a window of {mel.window_ms:g} ms has {mel.window_samples:g}."
        yield "the clip is shorter than one window.", why, "lengthen seconds or shorten window_ms."
    if mel.center and mel.window_samples // 2 >= mel.samples:
        why = f"half a window is {mel.window_samples // 2} samples, the clip has {mel.samples}."
        yield "center mirrors more than the clip holds.", why, "lengthen seconds or shorten window_ms."
    if mel.fft_length < mel.window_samples:
        what = f"fft is {mel.fft}, shorter than the window of {mel.window_samples} samples."
        yield what, "", "make fft at least that long, or leave it out."
    if mel.mels < 1:
        yield f"mels is {mel.mels}.", "", "write a number of bands, at least 1."
    if not 0 <= mel.fmin_hz < mel.top_hz <= mel.rate_hz / 2:
        fix = f"keep 0 <= fmin_hz < fmax_hz <= {mel.rate_hz / 2}, half the rate."
        yield f"the bands reach from {mel.fmin_hz} to {mel.top_hz} Hz.", "", fix
    mib = 4 * (2 * mel.window_samples + mel.mels) * mel.bins / 2**20
    if mib > TABLE_MIB:
        sizes = f"a window of {mel.window_samples} samples, fft {mel.fft_length} and {mel.mels} bands"
        why = f"{sizes} are tables of {mib:,.0f} MiB in the graph."
        yield f"the transform takes more than {TABLE_MIB} MiB.", why, "shorten fft or window_ms, or take fewer mels."
    if mel.power <= 0 or mel.power * math.log2(mel.window_samples) >= math.log2(LARGEST):
        why = "" if mel.power <= 0 else "of a loud sound it is more than a float32 can hold."
        yield f"power is {mel.power}.", why, "write 2 (power) or 1 (magnitude)."
    if not SMALLEST <= mel.floor <= LARGEST:
        yield f"floor is {mel.floor}.", "the logarithm needs a float32 above 0.", f"write at least {SMALLEST:.2g}, such as 1.0e-6."
    if not 0 <= mel.offset <= LARGEST:
        yield f"offset is {mel.offset}.", "", "write a number of at least 0, as a float32 holds it."
    if not 0 <= mel.preemphasis < 1:
        yield f"preemphasis is {mel.preemphasis}.", "", "write a number from 0 to below 1, such as 0.97."
    if mel.within is not None and mel.within <= 0:
        yield f"within is {mel.within}.", "it is a distance between natural logarithms.", "write a number above 0, such as 18.42068."
    if mel.length is not None and not 1 <= mel.length <= MOST_FRAMES:
        yield f"length is {mel.length}.", "", f"write a number of frames from 1 to {MOST_FRAMES}, or leave it out."
    if mel.scale == 0 or max(abs(mel.scale), abs(mel.shift)) > LARGEST:
        yield (
            f"scale is {mel.scale}, shift is {mel.shift}.",
            "no float32 tells features of them.",
            "write other numbers, or leave them out.",
        )
    if mel.last_frame == "cut" and mel.frames < 2:
        yield "last_frame is cut.", "there is one frame.", "lengthen seconds, or keep it."
    if mel.coefs is not None and not 1 <= mel.coefs <= mel.mels:
        yield f"coefs is {mel.coefs}.", "", f"keep between 1 and the {mel.mels} bands."
    if len(_without_bin(mel)) == mel.mels:
        why = f"bins are {mel.rate_hz / mel.fft_length:g} Hz apart, the bands reach from {mel.fmin_hz:g} to {mel.top_hz:g} Hz."
        yield "no band has a bin of the transform.", why, "widen fmin_hz to fmax_hz, lengthen fft, or take fewer mels."


@functools.lru_cache(maxsize=16)
def _without_bin(mel: Mel) -> list[int]:
    """Bands that read no bin, or touch one with the rounding of their edge."""
    most = bands(mel).max(axis=1)
    return [int(band) for band in np.flatnonzero(most <= FAINT * most.max())]


def _deaf(mel: Mel) -> str:
    deaf = _without_bin(mel)
    if not deaf:
        return ""
    more = f" and {len(deaf) - NAMED_BANDS} more" if len(deaf) > NAMED_BANDS else ""
    numbers = f"band{'s' if len(deaf) > 1 else ''} {', '.join(map(str, deaf[:NAMED_BANDS]))}{more}"
    return (
        f"no bin of the transform of {mel.fft_length} falls into {numbers} of {mel.mels}, counted from 0: there the features never change. "
        f"Where the model is not trained yet, take fewer mels, a longer fft or a higher fmin_hz."
    )


def _dear(mel: Mel) -> str:
    """Where a length of another making has a factorized form and this one has none."""
    smooth = replace(mel, fft=1 << (mel.fft_length - 1).bit_length())
    own, other = mel.transform(), smooth.transform()
    if fourier.pays(own) or not fourier.pays(other):
        return ""
    products, fewer = fourier.dense_products(own), fourier.factorized_products(other)
    return (
        f"a transform of {mel.fft_length}, with the prime factor {_largest_prime_factor(mel.fft_length)}, runs as one dense matrix: "
        f"{products:,} multiplications a frame and {4 * products / 2**20:.1f} MiB. Where the model is not trained yet, fft: {smooth.fft} "
        f"takes {fewer:,}."
    )


def _largest_prime_factor(number: int) -> int:
    factor = 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            number //= factor
    return number
