"""Is what comes in still like what the model was calibrated with? Means of inputs and of branch outputs, and how sure the model is.

Nothing is kept but sums, unless ``drift.save`` asks for samples: then a few, bounded in size, encrypted where a key is given.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving.model import Model
from edgemm.box.serving.secrets import secret
from edgemm.box.serving.settings import DriftSettings
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Decision
from edgemm.errors import EdgemmError, RunError

SURE_QUANTILE = 0.05  # a window less sure on average than this share of single test samples is out of the ordinary
SAVE_EVERY_S = 60.0
NONCE = 12  # bytes, as AES-GCM wants
MIB = 1 << 20


class Mean:
    """A running mean of arrays, against a known mean and spread."""

    def __init__(self, mean: np.ndarray, spread: float) -> None:
        self._mean, self._spread = mean.astype(np.float64), max(spread, 1e-9)
        self._sum, self.count = np.zeros(mean.shape), 0

    def add(self, value: np.ndarray) -> None:
        self._sum += value
        self.count += 1

    def shift(self) -> float:
        """How far the mean has moved, in standard deviations, root mean square over its numbers. Starts anew."""
        gap = self._sum / max(self.count, 1) - self._mean
        self._sum, self.count = np.zeros(self._mean.shape), 0
        return float(np.sqrt(np.mean((gap / self._spread) ** 2)))


class Drift:
    """Watches decisions; ``state`` says what was found in the last full window.

    One camera shows one place, so its mean lies about one standard deviation off the training data's even when all is well; ``limit``
    (3 by default) is what no place of the training data comes near.
    """

    def __init__(
        self, bundle: Bundle, model: Model, card: Card, settings: DriftSettings, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._card, self._now = settings, card, now
        self._means: dict[str, dict[str, Mean]] = _calibration(bundle, model)
        self._sure = _least_sure(bundle, card)
        self._confidences: dict[str, list[float]] = {name: [] for name in self._sure}
        self._shifts: dict[str, float] = {}
        self._unsure: dict[str, float] = {}
        self._store = Store(settings) if settings.save else None
        self._saved_s = float("-inf")

    def see(self, decision: Decision) -> None:
        """Take a decision in; at the end of a window compare."""
        for name, sample in decision.samples.items():
            statistics = {**_statistics(sample.array), **decision.embedded.get(name, {})}
            for key, mean in self._means.get(name, {}).items():
                if key in statistics:
                    mean.add(np.asarray(statistics[key], np.float64).reshape(mean._mean.shape))
            counts = [mean.count for mean in self._means.get(name, {}).values()]
            if counts and min(counts) >= self._settings.window:
                self._shifts[name] = max(mean.shift() for mean in self._means[name].values())
        for output, seen in self._confidences.items():
            reading = decision.readings.get(output)
            if reading is not None and reading.scores and not decision.stood_in:
                seen.append(max(reading.scores.values()))
                if len(seen) >= self._settings.window:
                    self._unsure[output] = float(np.mean(seen))
                    seen.clear()
        if self._store and self.reasons() and self._now() - self._saved_s >= SAVE_EVERY_S and decision.samples:
            self._saved_s = self._now()
            self._store.save({name: sample.array for name, sample in decision.samples.items()})

    def reasons(self) -> list[str]:
        """Why the model should be calibrated anew; [] where it need not."""
        limit = self._settings.limit
        moved = [f"{name} lies {shift:.1f} standard deviations off" for name, shift in self._shifts.items() if shift > limit]
        unsure = [
            f"'{name}' is only {sure:.0%} sure on average, usually {self._sure[name]:.0%} and more"
            for name, sure in self._unsure.items()
            if sure < self._sure[name]
        ]
        return moved + unsure

    def state(self) -> dict[str, Any]:
        """Plain values for the status."""
        reasons = self.reasons()
        state = {"recalibrate": bool(reasons), "why": "; ".join(reasons), "shift": {k: round(v, 2) for k, v in self._shifts.items()}}
        state["sure"] = {name: round(value, 3) for name, value in self._unsure.items()}
        return state | ({"saved": self._store.saved, "save_error": self._store.error} if self._store else {})


class Store:
    """Samples to calibrate with, in a folder that never grows beyond its bound.

    Raises:
        RunError: The key is none, or the package that encrypts is missing.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._folder, self._most = Path(str(settings.save)), settings.save_mib * MIB
        self._key = _key(settings)
        self.saved, self.error = 0, ""

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one sample; a full disk or a full folder is noted and stops nothing."""
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        raw, name = content.getvalue(), f"{time.time_ns()}.npz"
        if self._key is not None:
            raw, name = encrypt(raw, self._key), f"{name}.aes"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if sum(path.stat().st_size for path in self._folder.iterdir()) + len(raw) > self._most:
                self.error = f"{self._folder} holds as much as it may"
                return
            with open(os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(raw)
            self.saved += 1
        except OSError as err:
            self.error = str(err.strerror)
            with suppress(OSError):
                (self._folder / name).unlink()


def encrypt(raw: bytes, key: bytes) -> bytes:
    """AES-256-GCM: a nonce, then the ciphertext with its tag."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, raw, None)


def read_saved(path: Path, key: bytes | None = None) -> dict[str, np.ndarray]:
    """A saved sample: input -> array.

    Raises:
        RunError: It cannot be read, or not with this key.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".aes":
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            raw = AESGCM(key or b"").decrypt(raw[:NONCE], raw[NONCE:], None)
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            return dict(file)
    except Exception as err:  # InvalidTag, ValueError, BadZipFile and OSError all mean the same here
        raise RunError(f"the saved sample {path.name} cannot be read.", why=f"{err or type(err).__name__}.", fix="check the key.") from err


def _key(settings: DriftSettings) -> bytes | None:
    text = secret(settings.key_env, settings.key_file, "drift: key")
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
        encrypt(b"", key)
    except ModuleNotFoundError as err:
        raise RunError("drift: a key is given, and nothing here can encrypt.", fix="pip install 'edgemm[sign]'") from err
    except ValueError as err:
        raise RunError("drift: the key is no key.", why="it is 32 bytes, written as 64 hex digits.", fix="openssl rand -hex 32") from err
    return key


def _calibration(bundle: Bundle, model: Model) -> dict[str, dict[str, Mean]]:
    """Input -> statistic or cut tensor -> its mean and spread: means from the stand-ins, spreads over the golden samples."""
    golden = bundle.golden()
    if golden is None:
        return {}
    own = model.target if model.target in bundle.targets() else None
    standins = bundle.standins(own) or {}
    calibration: dict[str, dict[str, Mean]] = {}
    for name in model.inputs:
        rows: dict[str, list[np.ndarray]] = {}
        for index in range(len(golden)):
            sample = golden.sample(index)[name]
            embedded = model.embed(name, sample) if model.in_parts else {}
            for key, value in {**_statistics(sample), **embedded}.items():
                rows.setdefault(key, []).append(np.asarray(value, np.float64))
        calibration[name] = {key: _mean(np.stack(values), standins.get(key)) for key, values in rows.items() if len(values) > 1}
    return calibration


def _mean(rows: np.ndarray, standin: np.ndarray | None) -> Mean:
    """One spread for all numbers of a tensor: a few samples tell it well, each number's own they do not."""
    mean = rows.mean(axis=0) if standin is None else np.asarray(standin, np.float64).reshape(rows.shape[1:])
    return Mean(mean, float(np.sqrt(np.mean((rows - mean) ** 2))))


def _statistics(array: np.ndarray) -> dict[str, np.ndarray]:
    """What is told of an input itself: brightness and contrast of a picture, loudness of a sound (dB, as people hear it)."""
    if array.dtype.kind not in "fu" or array.dtype == np.bool_:
        return {}  # token ids have no mean that means anything
    values = array.astype(np.float64)
    if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1000:
        return {"level_db": np.asarray(10 * np.log10(np.mean(values**2) + 1e-10))}
    return {"mean": np.asarray(values.mean()), "deviation": np.asarray(values.std())}


def _least_sure(bundle: Bundle, card: Card) -> dict[str, float]:
    """Output -> how sure at least the original was on all but 5% of the test split."""
    try:
        reference = bundle.reference()
    except EdgemmError:
        return {}
    least_sure = {}
    for name, task in tasks.tasks(card).items():
        if reference is not None and task.is_one_label and all(read in reference.predictions for read in task.reads):
            answers = {read: reference.predictions[read] for read in task.reads}
            seen = [task.read({read: array[row : row + 1] for read, array in answers.items()}) for row in range(len(answers[name]))]
            sure = [max(one.scores.values()) for one in seen if one is not None and one.scores]
            least_sure[name] = float(np.quantile(sure, SURE_QUANTILE))
    return least_sure
