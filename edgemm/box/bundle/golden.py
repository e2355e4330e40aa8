"""Golden samples: a few inputs with the outputs every target gave when the bundle was made, and how far another machine may be off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.target import Session

RELATIVE = {"f32": 1e-3, "f16": 1e-2, "bf16": 2e-2, "int8": 2 / 127, "w8": 2 / 127, "w4": 2 / 127}
"""Allowed difference as a part of the output's scale, for each precision that took part.

f32: sums in another order (1e-6 each) grown over the depth of a network. f16 and bf16: their rounding (2^-11, 2^-8) grown the same way.
int8: two steps of a symmetric 8-bit value: another kernel rounds a value on the border the other way. w8, w4: weights in few bits are the
same everywhere, but some kernels round what they multiply with to 8 bits.
"""

STEEPER = 3.0
"""What is computed of an output's tensors may move by more of its scale than they do: a sigmoid of logits from -6 to 6 is that steep."""


@dataclass(frozen=True)
class Golden:
    """A few samples and what came out.

    Attributes:
        inputs: Input name -> array (n, *one call's), so that ``[i]`` is what the graph takes in call i: (n, 1, 64, 64, 3), and (n,) for a
            scalar.
        outputs: Target -> output name -> array (n, *one call's), made on the packing machine by ``run``.
        tolerance: Target -> output name -> largest absolute difference that is no error; and ``<output> <word>`` for what an output means
            beside its tensors (``Task.compared``).
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    tolerance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def sample(self, index: int) -> dict[str, np.ndarray]:
        """The feed of one call."""
        return {name: np.asarray(array[index]) for name, array in self.inputs.items()}  # a scalar too is an array

    def arrays(self) -> dict[str, np.ndarray]:
        """The flat form of ``golden.npz``: ``inputs/<name>``, ``outputs/<target>/<name>``, ``tolerance/<target>/<name>``."""
        flat = {f"inputs/{name}": np.asarray(array) for name, array in self.inputs.items()}
        for target, outputs in self.outputs.items():
            flat |= {f"outputs/{target}/{name}": np.asarray(array) for name, array in outputs.items()}
            flat |= {f"tolerance/{target}/{name}": np.asarray(most, np.float64) for name, most in self.tolerance[target].items()}
        return flat

    @classmethod
    def of_arrays(cls, flat: Mapping[str, np.ndarray]) -> Golden:
        """Back from ``arrays``.

        Raises:
            ValueError: There is no input, or one array holds more samples than another.
        """
        inputs: dict[str, np.ndarray] = {}
        outputs: dict[str, dict[str, np.ndarray]] = {}
        tolerance: dict[str, dict[str, float]] = {}
        for key, array in flat.items():
            kind, _, rest = key.partition("/")
            target, _, name = rest.partition("/")
            if kind == "inputs":
                inputs[rest] = array
            elif kind == "outputs":
                outputs.setdefault(target, {})[name] = array
            else:
                tolerance.setdefault(target, {})[name] = float(array)
        counts = {len(array) for arrays in (inputs, *outputs.values()) for array in arrays.values()}
        if not inputs or len(counts) > 1:
            raise ValueError(f"its arrays hold {' and '.join(map(str, sorted(counts)))} samples" if inputs else "it holds no input")
        return cls(inputs, outputs, tolerance)


def stack(calls: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Calls' inputs or outputs, all of the same shapes, in the form that ``Golden`` holds."""
    return {name: np.stack([call[name] for call in calls]) for name in calls[0]}


def run(session: Session, samples: Golden) -> dict[str, np.ndarray]:
    """Run the samples one call at a time, as a box does: output name -> (n, *one call's)."""
    return stack([session.run(samples.sample(index)) for index in range(len(samples))])


def tolerance(
    outputs: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    precision: str,
    *,
    others: Iterable[Mapping[str, np.ndarray]] = (),
    card: Card | None = None,
) -> dict[str, float]:
    """How far another machine's answer may be from ``outputs``, per output, absolute.

    The scale of an output is its largest magnitude in ``reference``. Each precision that took part allows its part of that scale
    (``RELATIVE``); they add up. Integer outputs allow nothing.

    Args:
        outputs: What the target gave, by ``run``.
        reference: What the float model gave for the same samples.
        precision: What ran, as ``Session.precision`` says: ``f32``, ``int8+bf16``.
        others: What the same target gave with other options that a machine may fall back to (its safe default): they are allowed for,
            with as much again on top.
        card: Tells what outputs mean; without it their tensors alone are held.
    """
    others = list(others)
    part = sum(RELATIVE.get(_short(word), RELATIVE["bf16"]) for word in precision.split("+"))
    allowed = {}
    for name, array in outputs.items():
        if not np.issubdtype(array.dtype, np.floating):
            allowed[name] = 0.0
            continue
        scale = float(np.max(np.abs(np.asarray(reference.get(name, array), np.float64)), initial=0.0))
        seen = max((difference(array, other[name]) for other in others), default=0.0)
        allowed[name] = max(part * scale, 2 * seen, 1e-6)
    for name, (expected, _) in meanings(outputs, outputs, card).items():
        scale = float(np.abs(expected).max(initial=0.0))
        seen = max((difference(*meanings(outputs, other, card)[name]) for other in others), default=0.0)
        allowed[name] = max(STEEPER * part * scale, 2 * seen, 1e-6)
    return allowed


def compare(
    answers: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], allowed: Mapping[str, float], *, card: Card | None = None
) -> dict[str, tuple[float, float]]:
    """Per expected output: how far the answer is off, and how far it may be; and for what outputs mean, where ``allowed`` has it."""
    off = {
        name: (difference(answers[name], array) if name in answers else float("inf"), allowed.get(name, 0.0))
        for name, array in expected.items()
    }
    told = meanings(expected, answers, card) if answers.keys() >= expected.keys() else {}
    return off | {name: (difference(*pair), allowed[name]) for name, pair in told.items() if name in allowed}


def meanings(
    expected: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], card: Card | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What two answers to the samples, as ``run`` gives them, say beside their tensors: ``<output> <word>`` -> both."""
    told: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, task in tasks.tasks(card).items() if card else ():
        if all(read in expected and expected[read].ndim > 2 and expected[read].shape == answers[read].shape for read in task.reads):
            ours, theirs = ({read: _rows(side[read]) for read in task.reads} for side in (expected, answers))
            told |= {f"{name} {word}": pair for word, pair in task.compared(ours, theirs).items()}
    return told


def _rows(calls: np.ndarray) -> np.ndarray:
    """(n, rows of a call, ...) -> (n * rows, ...)."""
    return calls.reshape(-1, *calls.shape[2:])


def difference(left: np.ndarray, right: np.ndarray) -> float:
    """Largest absolute difference; infinite where shapes differ or only one side is not a number."""
    if left.shape != right.shape:
        return float("inf")
    a, b = left.astype(np.float64), right.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):  # inf - inf, where both sides are the same infinity
        gaps = np.where(same, 0.0, np.abs(a - b))
    return float("inf") if np.isnan(gaps).any() else float(gaps.max(initial=0.0))


def _short(word: str) -> str:
    names = {"fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "bfloat16": "bf16", "u8": "int8", "i8": "int8"}
    return names.get(word, word)
