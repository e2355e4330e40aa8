"""A bundle opened to answer: in parts where it holds them, so that a branch runs at its own rate and may be missing, else whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from edgemm.box.bundle.deployment import ServedBundle, deploy
from edgemm.box.bundle.frames import Frames, trial
from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.parts import Parts, SplitFiles
from edgemm.box.serving.settings import InputSettings, Settings
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.contracts.stream import Sound
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
        frames: Input -> its branch with kept frames, where those are kept.
        anew: Input -> why its frames are not, where it has such.
    """

    inputs: list[str]
    target: str
    in_parts: bool
    frames: Mapping[str, Frames]
    anew: Mapping[str, str]

    def embed(self, name: str, array: np.ndarray, position: int | None = None) -> Arrays:
        """What one input's branch makes of a sample with its batch axis; kept by the caller until the next.

        Args:
            position: ``Sample.position``, where the sample is one of a stream.
        """
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


class WholeModel(_Closing):
    """One graph with all inputs. An input may be missing only if the card calls it optional: then the model was trained for that."""

    in_parts = False
    frames: Mapping[str, Frames] = {}
    anew: Mapping[str, str] = {}

    def __init__(self, card: Card, session: Session, target: str) -> None:
        self._card, self._session, self.target = card, session, target
        self._others = _constants(card)
        self._states = {name: str(state) for name, modality in modalities(card).items() if (state := getattr(modality, "state", None))}
        self.inputs = [name for name in card.inputs if name not in self._others]
        own = modalities(card)
        self._absent = {name: _sample(card, name, own[name].absent()) for name in self.inputs if card.inputs[name].optional}

    def embed(self, name: str, array: np.ndarray, position: int | None = None) -> Arrays:
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

    def __init__(
        self, card: Card, parts: Parts, standins: Arrays, target: str, frames: Mapping[str, Frames | str | None] | None = None
    ) -> None:
        """
        Args:
            frames: Input -> its branch with kept frames, or why they are not kept.
        """
        self._parts, self._standins, self.target = parts, standins, target
        self.frames: Mapping[str, Frames] = {name: kept for name, kept in (frames or {}).items() if isinstance(kept, Frames)}
        self.anew: Mapping[str, str] = {name: why for name, why in (frames or {}).items() if isinstance(why, str)}
        self._others = {name: array for name, array in _constants(card).items() if name not in parts.cuts}
        self._fixed = {name: array for name, array in _constants(card).items() if name in parts.cuts}
        self._embedded = {name: parts.embed(name, self._fixed) for name in self._fixed}
        self.inputs = [name for name in card.inputs if name in parts.cuts and name not in self._fixed]

    def embed(self, name: str, array: np.ndarray, position: int | None = None) -> Arrays:
        frames = self.frames.get(name)
        if frames is not None and position is not None and frames.is_worth(position):
            return frames.embed(array, position)
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
        for frames in self.frames.values():
            frames.close()
        self._parts.close()


def choose_target(bundle: Bundle, wanted: str | None) -> ChosenTarget:
    """The target to run on: the wanted one, else the first of the bundle's own that runs here, else the first with a fallback.

    Raises:
        BundleError: A slim bundle goes without the wanted one, or without the float model that would run.
        RunError: The bundle was not made for the wanted one; or none of its targets runs here, and none names a fallback.
    """
    own = bundle.targets()
    if wanted in own:
        return ChosenTarget(wanted)
    has_float = "model.onnx" in bundle.files
    if wanted is not None:
        bundle.there(f"targets/{wanted}/model.onnx")
        if wanted != FLOAT:
            floats = f"; {FLOAT} runs its float model" if has_float else ""
            raise RunError(f"this bundle was not made for '{wanted}'.", fix=f"{nearest(wanted, own)}{floats}.")
        bundle.there("model.onnx")
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
        fix=f"install what is missing, or compress for this box{f'; --target {FLOAT} runs the float model' if has_float else ''}.",
    )


def _here(bundle: Bundle, name: str) -> tuple[str, str]:
    """Why this machine cannot run one of the bundle's targets ("" where it can), and what runs its graph then ("": nothing)."""
    try:
        target = bundle.deployment(name).plugin()
    except EdgemmError as err:
        return " ".join(filter(None, (err.what, err.fix))), ""
    return target.cannot_run(), target.falls_back()


def open_model(bundle: Bundle, target: str, settings: Settings | None = None) -> Model:
    """Open a bundle on ``target``, in parts where it holds them.

    Args:
        settings: ``precision`` and ``target`` of an input choose another graph or runtime for that branch alone.

    Raises:
        RunError: A branch asks for what the bundle does not hold.
        TargetError: The runtime refuses a graph.
    """
    settings = settings or Settings()
    chosen = {name: own for name, own in settings.inputs.items() if own.precision or own.target}
    deployed = deploy(bundle, target)
    if settings.whole or deployed.split is None or deployed.standins is None:
        if chosen:
            raise RunError(
                f"inputs.{next(iter(chosen))}: this bundle holds no branches that could run on their own.",
                why="it runs as a whole: so the settings say, or its model was too large to be stored in parts, or cannot be split.",
                fix="remove precision and target of the inputs.",
            )
        return WholeModel(bundle.card, deployed.whole.open(), target)
    files = deployed.split
    others = {name: _other_files(bundle, name, own, files, target) for name, own in chosen.items()}
    files = replace(files, branches={**files.branches, **{name: other.branches[name] for name, other in others.items()}})
    places = {target: deployed} | {own.target: deploy(bundle, own.target) for own in chosen.values() if own.target}
    runs_on = {name: places[own.target or target] for name, own in chosen.items()}
    of_branch = {path: runs_on.get(name, deployed) for name, path in files.branches.items()}
    parts = Parts(files, lambda path: of_branch.get(path, deployed).open_part(path))
    frames = {name: _frames(bundle, name, others.get(name, files), runs_on.get(name, deployed), parts, settings) for name in files.branches}
    return InParts(bundle.card, parts, deployed.standins, target, frames)


def _frames(bundle: Bundle, name: str, files: SplitFiles, served: ServedBundle, parts: Parts, settings: Settings) -> Frames | str | None:
    """A branch whose frames are kept, if here too it gives the same, and faster (``reuse: on`` does not ask for that); else why not.

    None where it has no frames that could be kept.
    """
    golden, stream, own = bundle.golden(), modalities(bundle.card)[name].stream(), files.framewise.get(name)
    if own is None or golden is None or settings.reuse == "off":
        return "reuse is off" if own else files.never_kept.get(name)
    rows = np.concatenate([golden.sample(index)[name] for index in range(len(golden))])
    new = 1 if bundle.card.inputs[name].steps or not isinstance(stream, Sound) else stream.rate_hz / own.hop / settings.rate_hz(name)
    frames = Frames(own, served.open_part)
    tried = trial(frames, lambda window: parts.embed(name, {name: window}), rows, min(max(round(new), 1), own.frames))
    frames.forget()
    if tried.off <= tried.allowed and (settings.reuse == "on" or not tried.objection):
        return frames
    frames.close()
    return tried.objection


def _other_files(bundle: Bundle, name: str, settings: InputSettings, files: SplitFiles, target: str) -> SplitFiles:
    """The parts among which is the branch that shall run in another precision or place than the rest."""
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
    return other


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
