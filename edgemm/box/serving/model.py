"""A bundle opened to answer: in parts where it holds them, so that a branch runs at its own rate and may be missing, else whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.parts import Parts, SplitFiles
from edgemm.box.serving.settings import InputSettings
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.contracts.target import Session, Target, fingerprint
from edgemm.errors import BundleError, EdgemmError, RunError, nearest

Arrays = Mapping[str, np.ndarray]
RUNTIMES = ("openvino", "tensorrt", "onnxruntime")
"""In this order where nobody chooses: the first that the bundle was made for and that can be imported here."""


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


def choose_target(bundle: Bundle, wanted: str | None) -> str:
    """The target to run on: the wanted one, else the first of ``RUNTIMES`` that the bundle holds and this box has.

    Raises:
        RunError: The bundle was not made for it, or none of its runtimes is installed; names the extra.
    """
    held = bundle.targets()
    if wanted is not None:
        if wanted not in held and wanted != "onnxruntime":
            raise RunError(f"this bundle was not made for '{wanted}'.", fix=f"{nearest(wanted, held)}; onnxruntime runs its float model.")
        return wanted
    errors = []
    for name in [name for name in RUNTIMES if name in held] + (["onnxruntime"] if "onnxruntime" not in held else []):
        try:
            plugins.find(Target, name)
            return name
        except EdgemmError as err:
            errors.append(err)
    raise errors[0]


def open_model(bundle: Bundle, target: str, inputs: Mapping[str, InputSettings] | None = None, *, whole: bool = False) -> Model:
    """Open a bundle on ``target``, in parts where it holds them.

    Args:
        inputs: Settings of inputs; ``precision`` and ``target`` there choose another graph or runtime for that branch alone.
        whole: As one graph even where it holds parts.

    Raises:
        RunError: A branch asks for what the bundle does not hold.
        TargetError: The runtime refuses a graph.
    """
    chosen = {name: given for name, given in (inputs or {}).items() if given.precision or given.target}
    standins, files = (None, None) if whole else _parts(bundle, target)
    if files is None or standins is None:
        if chosen:
            raise RunError(
                f"inputs.{next(iter(chosen))}: this bundle holds no branches that could run on their own.",
                why="it runs as a whole: so the settings say, or its model was too large to be stored in parts, or cannot be split.",
                fix="remove precision and target of the inputs.",
            )
        return Whole(bundle.card, _opener(bundle, target, whole=True)(_whole(bundle, target)), target)
    branches = {**files.branches, **{name: _other_branch(bundle, name, given, files, target) for name, given in chosen.items()}}
    runs_on = {branches[name]: given.target or target for name, given in chosen.items()}
    openers = {name: _opener(bundle, name) for name in {target, *runs_on.values()}}
    parts = Parts(replace(files, branches=branches), lambda path: openers[runs_on.get(path, target)](path))
    return InParts(bundle.card, parts, standins, target)


def _parts(bundle: Bundle, target: str) -> tuple[Arrays | None, SplitFiles | None]:
    """Stand-ins and parts for ``target`` (the float ones where the bundle was not made for it); None where it holds none."""
    own = target if target in bundle.targets() else None
    try:
        return bundle.standins(own), bundle.split(own)
    except BundleError:
        return None, None


def _other_branch(bundle: Bundle, name: str, given: InputSettings, files: SplitFiles, target: str) -> Path:
    """The graph of a branch that shall run in another precision or place than the rest."""
    place = given.target or target
    other = bundle.split(None if given.precision == "fp32" or place not in bundle.targets() else place)
    if name not in other.branches:
        raise RunError(f"inputs.{name}: the model has no branch of that name.", fix=nearest(name, other.branches))
    if set(other.cuts[name]) != set(files.cuts[name]):
        raise RunError(
            f"inputs.{name}: its branch for {place} ends elsewhere than the one for {target}.",
            why=f"in {', '.join(other.cuts[name])} instead of {', '.join(files.cuts[name])}.",
            fix="run all branches on one target.",
        )
    return other.branches[name]


def _whole(bundle: Bundle, target: str) -> Path:
    return bundle.target_model(target) if target in bundle.targets() else bundle.model


def _opener(bundle: Bundle, name: str, *, whole: bool = False) -> Any:
    """Opens a graph of the bundle on the target ``name``, with the options that hold on this machine: for the whole graph, or for parts."""
    if name in bundle.targets():
        target = bundle.load_target(name)
        options, _ = bundle.options_for(name, fingerprint(target))
        options = options if whole else target.without_unsafe(options)
    else:
        target, options = plugins.load(Target, name), {}
    return lambda path: target.open(path, **options)


def _constants(card: Card) -> dict[str, np.ndarray]:
    """Inputs that nobody sends: constants, and the first value of states."""
    own = modalities(card)
    found = {name: modality.initial() for name, modality in own.items()}
    return {name: _sample(card, name, value) for name, value in found.items() if value is not None}


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
