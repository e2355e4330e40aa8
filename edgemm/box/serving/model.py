"""A bundle opened to answer: in parts where it holds them, so that a branch runs at its own rate and may be missing, else whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from edgemm.box.bundle.deployment import deploy
from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.parts import Parts, SplitFiles
from edgemm.box.serving.settings import InputSettings
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.contracts.target import Session
from edgemm.errors import EdgemmError, RunError, nearest

Arrays = Mapping[str, np.ndarray]
FLOAT = "onnxruntime"
"""What runs a float model that somebody asks for: the reference every other target is held against."""


@dataclass(frozen=True)
class ChosenTarget:
    """Where a bundle runs.

    Attributes:
        note: What the user has to know of it, in a sentence: that another target runs than the bundle's first; "" where it is that.
    """

    target: str
    note: str = ""


class Model(Protocol):
    """An opened bundle. A context manager; not for use by two threads at once.

    Attributes:
        inputs: What it takes and may be missing, in the card's order.
        target: Where it runs.
        in_parts: Whether branches run one by one.
    """

    inputs: list[str]
    target: str
    in_parts: bool

    def embed(self, name: str, array: np.ndarray) -> Arrays:
        """What one input's branch makes of a sample with its batch axis; kept by the caller until the next."""
        ...

    def answer(self, present: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
        """Every output of the inputs that are there, stand-ins in place of the others.

        Raises:
            RunError: Too little is there; see ``lacking``.
        """
        ...

    def lacking(self, present: Iterable[str]) -> list[str]:
        """Inputs without which it cannot answer; [] where it can."""
        ...

    def precision(self) -> str: ...

    def close(self) -> None: ...

    def __enter__(self) -> Model: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class _Closing:
    """The context manager's half of every model."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Whole(_Closing):
    """One graph with all inputs. An input may be missing only if the card calls it optional: then the model was trained for that."""

    in_parts = False

    def __init__(self, card: Card, session: Session, target: str) -> None:
        self._card, self._session, self.target = card, session, target
        self._others = _constants(card)
        self._states = {name: str(state) for name, modality in modalities(card).items() if (state := getattr(modality, "state", None))}
        self.inputs = [name for name in card.inputs if name not in self._others]
        own = modalities(card)
        self._absent = {name: _sample(card, name, own[name].absent()) for name in self.inputs if card.inputs[name].optional}

    def embed(self, name: str, array: np.ndarray) -> Arrays:
        return {name: array}

    def answer(self, present: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
        if missing := self.lacking(present):
            raise _needs(missing)
        feed = {**self._others, **self._absent, **{key: array for arrays in present.values() for key, array in arrays.items()}}
        outputs = self._session.run(feed)
        self._others |= {name: outputs[output] for name, output in self._states.items()}
        return outputs

    def lacking(self, present: Iterable[str]) -> list[str]:
        there = set(present)
        return [name for name in self.inputs if name not in there and name not in self._absent] or ([] if there else self.inputs)

    def precision(self) -> str:
        return self._session.precision()

    def close(self) -> None:
        self._session.close()


class InParts(_Closing):
    """Branches and rest, each a graph; what is missing is replaced by its stand-in of the training data."""

    in_parts = True

    def __init__(self, card: Card, parts: Parts, standins: Arrays, target: str) -> None:
        self._parts, self._standins, self.target = parts, standins, target
        self._others = {name: array for name, array in _constants(card).items() if name not in parts.cuts}
        self._fixed = {name: array for name, array in _constants(card).items() if name in parts.cuts}
        self._embedded = {name: parts.embed(name, self._fixed) for name in self._fixed}
        self.inputs = [name for name in card.inputs if name in parts.cuts and name not in self._fixed]

    def embed(self, name: str, array: np.ndarray) -> Arrays:
        return self._parts.embed(name, {name: array})

    def answer(self, present: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
        if missing := self.lacking(present):
            raise _needs(missing)
        return self._parts.answer({**self._embedded, **present}, self._standins, self._others)

    def lacking(self, present: Iterable[str]) -> list[str]:
        there = set(present)
        without = [name for name in self.inputs if name not in there and not set(self._parts.cuts[name]) <= self._standins.keys()]
        return without or ([] if there else self.inputs)

    def precision(self) -> str:
        return self._parts.precision()

    def close(self) -> None:
        self._parts.close()


def choose_target(bundle: Bundle, wanted: str | None) -> ChosenTarget:
    """The target to run on: the wanted one, else the first of the bundle's own that runs here, else the first with a fallback.

    Raises:
        RunError: The bundle was not made for the wanted one; or none of its targets runs here, and none names a fallback.
    """
    own = bundle.targets()
    if wanted in own:
        return ChosenTarget(wanted)
    if wanted is not None:
        if wanted != FLOAT:
            raise RunError(f"this bundle was not made for '{wanted}'.", fix=f"{nearest(wanted, own)}; {FLOAT} runs its float model.")
        return ChosenTarget(FLOAT, f"{FLOAT} runs the float model: the bundle was not made for it.")
    if not own:
        return ChosenTarget(FLOAT, f"{FLOAT} runs the float model: the bundle was made for no target.")
    reasons: list[str] = []
    fallbacks: list[tuple[str, str]] = []
    for name in own:
        reason, fallback = _here(bundle, name)
        if not reason:
            return ChosenTarget(name, f"{name} runs, since {'; '.join(reasons)}" if reasons else "")
        reasons.append(f"{name}: {reason}")
        fallbacks += [(name, fallback)] if fallback else []
    if fallbacks:
        name, fallback = fallbacks[0]
        return ChosenTarget(name, f"{fallback} runs what was made for {name}, since {'; '.join(reasons)}")
    raise RunError(
        "none of this bundle's targets runs here.",
        why="; ".join(reasons),
        fix=f"install what is missing, or compress for this box; --target {FLOAT} runs the float model.",
    )


def _here(bundle: Bundle, name: str) -> tuple[str, str]:
    """Why this machine cannot run one of the bundle's targets ("" where it can), and what runs its graph then ("": nothing)."""
    try:
        target = bundle.load_target(name)
    except EdgemmError as err:
        return " ".join(filter(None, (err.what, err.fix))), ""
    return target.cannot_run(), target.falls_back()


def open_model(bundle: Bundle, target: str, inputs: Mapping[str, InputSettings] | None = None, *, whole: bool = False) -> Model:
    """Open a bundle on ``target``, in parts where it holds them.

    Args:
        inputs: Settings of inputs; ``precision`` and ``target`` there choose another graph or runtime for that branch alone.
        whole: As one graph even where it holds parts.

    Raises:
        RunError: A branch asks for what the bundle does not hold.
        TargetError: The runtime refuses a graph.
    """
    chosen = {name: settings for name, settings in (inputs or {}).items() if settings.precision or settings.target}
    deployed = deploy(bundle, target)
    if whole or deployed.split is None or deployed.standins is None:
        if chosen:
            raise RunError(
                f"inputs.{next(iter(chosen))}: this bundle holds no branches that could run on their own.",
                why="it runs as a whole: so the settings say, or its model was too large to be stored in parts, or cannot be split.",
                fix="remove precision and target of the inputs.",
            )
        return Whole(bundle.card, deployed.open(), target)
    files = deployed.split
    branches = {**files.branches, **{name: _other_branch(bundle, name, settings, files, target) for name, settings in chosen.items()}}
    places = {target: deployed} | {settings.target: deploy(bundle, settings.target) for settings in chosen.values() if settings.target}
    runs_on = {branches[name]: places[settings.target or target] for name, settings in chosen.items()}
    parts = Parts(replace(files, branches=branches), lambda path: runs_on.get(path, deployed).open_part(path))
    return InParts(bundle.card, parts, deployed.standins, target)


def _other_branch(bundle: Bundle, name: str, settings: InputSettings, files: SplitFiles, target: str) -> Path:
    """The graph of a branch that shall run in another precision or place than the rest."""
    branch_target = settings.target or target
    other = bundle.split(None if settings.precision == "fp32" or branch_target not in bundle.targets() else branch_target)
    if name not in other.branches:
        raise RunError(f"inputs.{name}: the model has no branch of that name.", fix=nearest(name, other.branches))
    if set(other.cuts[name]) != set(files.cuts[name]):
        raise RunError(
            f"inputs.{name}: its branch for {branch_target} ends elsewhere than the one for {target}.",
            why=f"in {', '.join(other.cuts[name])} instead of {', '.join(files.cuts[name])}.",
            fix="run all branches on one target.",
        )
    return other.branches[name]


def _constants(card: Card) -> dict[str, np.ndarray]:
    """Inputs that nobody sends: constants, and the first value of states."""
    own = modalities(card)
    values = {name: modality.initial() for name, modality in own.items()}
    return {name: _sample(card, name, value) for name, value in values.items() if value is not None}


def _sample(card: Card, name: str, value: np.ndarray) -> np.ndarray:
    """One sample in the shape of a call: with its steps and its batch axis, where it has one."""
    modality = modalities(card)[name]
    if steps := card.inputs[name].steps:
        value = np.stack([value] * steps)
    axis = modality.batch_axis()
    return value if axis is None else np.expand_dims(value, axis)


def _needs(missing: list[str]) -> RunError:
    return RunError(
        f"no answer without {', '.join(missing)}.",
        why="this bundle says nothing that could stand in, and zeros would be a guess.",
        fix="bring the source back, or compress the model again so that its bundle holds stand-ins.",
    )
