"""Whether a model answers each row for itself, and the same each time it is asked; what a box, which asks row by row, takes for granted."""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgemm.contracts.dataset import Dataset
from edgemm.contracts.rung import Difference
from edgemm.errors import ExportError
from edgemm.graph import parity
from edgemm.graph.chances import no_logit, softened
from edgemm.graph.row_by_row import ALONE, NO_CHANCE, OWN_ROW, TIMES, apart
from edgemm.workshop.models import chances
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tracing import Place, frames_of, place_of
from edgemm.workshop.models.tried import evaluating

ROWS = 8
"""Rows asked together: enough that a mean over them is none of theirs."""
UNFILLED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
"""Operators whose values are whatever stood there."""
KEEP_AXIS = "keep the axis of the rows whatever its size (flatten(1), squeeze(-1) and not squeeze());"
NORMS = "A batch norm needs track_running_stats=True, and F.batch_norm training=self.training."
Answers = dict[str, np.ndarray]
Features = tuple[Tensor, ...]


def require_own_answers(model: FusedModel, inputs: Mapping[str, np.ndarray], note: Callable[[str], None] = lambda text: None) -> None:
    """Refuse a model whose answer to a row is drawn by chance, or depends on the other rows of the batch. It is left as it was.

    Args:
        inputs: Raw inputs of several different rows.
        note: Gets what is odd about the answers and no error.

    Raises:
        ExportError: It does, or fails on a row alone; names module and line of its code.
    """
    with torch.no_grad(), evaluating(model), _left_as_it_was(model):
        try:
            features = model.features({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()})
            sizes = {len(feature) if feature.dim() else 0 for feature in features}
            answers = [_asked(model, features) for _ in range(TIMES)]
        except Exception:  # a model that answers nobody: told where it is used, with more words
            return
        for again in answers[1:]:
            for name, first in answers[0].items():
                error = parity.difference(first, again[name]) if first.shape == again[name].shape else None
                if error is None or not parity.within(error):
                    raise _by_chance(model, features, name)
        for words in softened(model.card, answers[0]):
            note(words)
        _require_logits(model, features)
        rows = max(sizes) if len(sizes) == 1 else 1
        for row in (0, rows - 1) if rows > 1 else ():
            _require_alone(model, features, answers[0], row)


def require_own_answers_on(model: FusedModel, dataset: Dataset | None, note: Callable[[str], None] = lambda text: None) -> None:
    """The same on the first rows of a dataset; nothing where there is none.

    Raises:
        ExportError: As ``require_own_answers``.
        DataError: A row cannot be read.
    """
    split = next((name for name in ("train", "val", "test") if dataset is not None and dataset.count(name)), None)
    if dataset is not None and split is not None:
        require_own_answers(model, next(iter(dataset.batches(split, ROWS, limit=ROWS))).inputs, note)


def one_batch(samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Samples of batch size 1 as one batch of at most ``ROWS``; the first alone where their shapes do not allow it."""
    first = samples[0]
    if any(value.shape[:1] != (1,) or value.shape != first[name].shape for sample in samples for name, value in sample.items()):
        return dict(first)
    return {name: np.concatenate([sample[name] for sample in samples[:ROWS]]) for name in first}


def _require_logits(model: FusedModel, features: Features) -> None:
    """Raises ExportError where an answer that is read by its sign is a chance already: it would be taken for a logit."""
    stuck = chances.stuck(model, features)
    if stuck is None:
        return
    place = next((f"{call.place}: " for call in reversed(_recorded(model, features)) if call.place.file), "")
    raise no_logit(place, *stuck)


def _asked(model: FusedModel, features: Features) -> Answers:
    return {name: value.float().numpy().copy() for name, value in model.call_module(features).items()}


def _require_alone(model: FusedModel, features: Features, together: Answers, row: int) -> None:
    """Compare a row's answer with its answer alone; in float64 too, where rounding alone does not tell them apart."""
    rows, own = len(features[0]), tuple(feature[row : row + 1] for feature in features)
    try:
        alone = _asked(model, own)
    except Exception as err:  # whatever the user's forward raises
        raise ExportError(
            f"{place_of(_inside(frames_of(err)), model)}: the model fails on a row alone, and answers {rows} together.",
            why=f"{type(err).__name__}: {' '.join(str(err).split())[:200]}; {ALONE}",
            fix=_with_mode(model, f"{KEEP_AXIS} {OWN_ROW} {NORMS}"),
        ) from err
    for name, error in _errors(together, alone, row, rows).items():
        if not _is_apart(error) or not _is_apart(_in_float64(model, features, row).get(name, error)):
            continue
        place = _first_difference(_recorded(model, features), _recorded(model, own), row, rows)
        raise ExportError(
            f"{place}: a row's answer depends on the other rows of its batch.",
            why=f"output '{name}' of row {row + 1} alone "
            + (f"is {error.max_abs:.3g} off from" if error else "has another shape than")
            + f" the same row among {rows}{f' (its scale is {error.scale:.3g})' if error else ''}; {ALONE}",
            fix=_with_mode(model, f"{OWN_ROW} {NORMS}"),
        )


def _errors(many: Answers, one: Answers, row: int, rows: int) -> dict[str, Difference | None]:
    return {name: apart(many[name], value, row, rows) for name, value in one.items()}


def _is_apart(error: Difference | None) -> bool:
    return error is None or not parity.within(error)


def _in_float64(model: FusedModel, features: Features, row: int) -> dict[str, Difference | None]:
    """The differences in float64; {} where the model's code does not run in it."""
    try:
        double, wide = copy.deepcopy(model).double(), tuple(x.double() if x.is_floating_point() else x for x in features)
        together, alone = _asked(double, wide), _asked(double, tuple(x[row : row + 1] for x in wide))
    except Exception:  # code that mixes float32 constants of its own in, or that cannot be copied
        return {}
    return _errors(together, alone, row, len(features[0]))


def _by_chance(model: FusedModel, features: Features, output: str) -> ExportError:
    before = {name: value.clone() for name, value in model.module.state_dict().items() if isinstance(value, Tensor)}
    tries = (
        _first_difference(_recorded(model, features), _recorded(model, features), 0, 1) for _ in range(TIMES)
    )  # may draw the same twice
    place = next((place for place in tries if place != Place.UNKNOWN), Place.UNKNOWN)
    after = model.module.state_dict()
    changed = next((name for name, value in before.items() if not torch.equal(value, after[name])), None)
    if changed is not None:
        fix = f"change '{changed}' in training only (`if self.training`); what has to last is an input with `state:` and an output."
        return ExportError(f"{place}: the model remembers its calls in '{changed}'.", why=_twice(output), fix=fix)
    return ExportError(f"{place}: the model answers by chance.", why=_twice(output), fix=_with_mode(model, NO_CHANCE))


def _with_mode(model: FusedModel, fix: str) -> str:
    """``fix``, or what a module needs that its own code put in training mode while the model was in eval mode."""
    training = next((name or "the model" for name, part in model.module.named_modules() if part.training), None)
    if training is None:
        return fix
    return f"leave '{training}' in the mode that the model is in: its own code puts it in training mode (.train(), .training = True)."


def _twice(output: str) -> str:
    return f"asked twice with the same rows, in eval mode, it gives output '{output}' two values."


@contextmanager
def _left_as_it_was(model: FusedModel) -> Iterator[None]:
    """Afterwards the generators of random numbers and the buffers are as they were."""
    state, numpys = random.getstate(), np.random.get_state()
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpys)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@dataclass(frozen=True)
class _Call:
    """One operator of a run: its name, where the code calls it, and what it returned."""

    operator: str
    place: Place
    values: list[np.ndarray]


class _Recorder(TorchDispatchMode):
    """Writes down every operator that runs."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self._model, self.calls = model, list[_Call]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name not in UNFILLED:
            frames = list(reversed(list(traceback.walk_stack(sys._getframe(1)))))
            tensors = [value for value in torch.utils._pytree.tree_leaves(returned) if isinstance(value, Tensor)]
            values = [value.detach().to(torch.float64).numpy() for value in tensors if not value.is_complex()]
            self.calls.append(_Call(name, place_of(_inside(frames), self._model), [np.array(value) for value in values]))
        return returned


def _inside(frames: Sequence[Any]) -> list[Any]:
    """The frames of the model's own code."""
    entrance = FusedModel.call_module.__code__
    starts = [number for number, (frame, _) in enumerate(frames) if frame.f_code is entrance]
    return list(frames[starts[-1] + 1 :]) if starts else list(frames)


def _recorded(model: FusedModel, features: Features) -> list[_Call]:
    with _Recorder(model) as recorder:
        model.call_module(features)
    return recorder.calls


def _first_difference(many: Sequence[_Call], one: Sequence[_Call], row: int, rows: int) -> Place | str:
    """Where two runs part: the first operator that returns something else, or is another."""
    for first, second in zip_longest(many, one):
        if first is None or second is None or first.operator != second.operator:
            return (first or second).place
        for all_, own in zip(first.values, second.values, strict=False):
            error = apart(all_, own, row, rows)
            if (error is not None and not parity.within(error)) or (error is None and rows == 1):
                return first.place
    return Place.UNKNOWN
