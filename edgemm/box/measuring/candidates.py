"""What a user names on the command line, and the forms of it that are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.measuring.candidate import COMMAND, Candidate
from edgemm.box.measuring.forms import baselines, compressed
from edgemm.contracts import card_file as cards
from edgemm.contracts import onnx_file, plugins
from edgemm.contracts import target as targets
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.modality import input_specs
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import TOLD, UNTOLD
from edgemm.errors import BundleError, EdgemmError, MeasureError, MissingExtra

PROGRAM, COMPILED = f"{COMMAND}:", "torch-compile:"


@dataclass(frozen=True)
class Contender:
    """One candidate as the user gave it, with the forms of it that are measured.

    Attributes:
        given: The user's words.
        candidates: Its forms to measure.
        golden: One sample that it brings along.
        reference: The original's answers that it brings along.
        budgets: Its recipe's budgets, as ``report.judge`` takes them.
        notes: What was left out, in words.
        parts: Name of a form -> ``split.json`` of its graph in parts, where there is one.
    """

    given: str
    card: Card
    candidates: tuple[Candidate, ...]
    golden: Mapping[str, np.ndarray] | None = None
    reference: Answers | None = None
    budgets: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Path] = field(default_factory=dict)

    def input_facts(self) -> dict[str, str]:
        """Input name -> dtype and shape in words."""
        return {spec.name: str(spec) for spec in input_specs(self.card)}

    def output_facts(self) -> dict[str, str] | None:
        """Output name -> task and labels in words; None where a drafted card cannot know."""
        if all(task.is_opaque for task in tasks.tasks(self.card).values()):
            return None
        return {name: f"{o.task} of {', '.join(o.labels)}" if o.labels else o.task for name, o in self.card.outputs.items()}


OTHER_FLOATS = frozenset({"float16", "float64", "object"})  # bfloat16 is an object to numpy

Prepare = Callable[[Path], tuple[Path, Card, list[str]]]
"""Makes an ONNX file that cannot be fed as it is fit for that, and says by which card and with what guesses; needs the workshop."""


def resolve_all(given: Sequence[str | Path], target: str | None = None, *, prepare: Prepare | None = None) -> list[Contender]:
    """All candidates; those that do not say what they take get the card of the first one that does. As ``resolve``.

    Raises:
        EdgemmError: As ``resolve``; nothing was given.
    """
    if not given:
        raise MeasureError("no candidate was given.", fix="name bundles, ONNX files or model cards.")
    contenders = {index: resolve(words, target, prepare=prepare) for index, words in enumerate(given) if not needs_card(words)}
    card = next((contender.card for contender in contenders.values()), None)
    return [contenders.get(index) or resolve(words, target, card=card) for index, words in enumerate(given)]


def needs_card(given: str | Path) -> bool:
    """Whether a candidate does not tell what it takes and answers: it needs the card of another one."""
    return str(given).startswith(PROGRAM) or set(targets.opening(Path(given)).values()) == {UNTOLD}


def resolve(given: str | Path, target: str | None = None, *, card: Card | None = None, prepare: Prepare | None = None) -> Contender:
    """Find out what ``given`` is, and which forms of it can be measured here (on ``target`` only, when given).

    Args:
        given: A bundle, an ONNX file, a model card, a file that a target opens (``targets.FORMS``: an OpenVINO IR, a TensorRT plan),
            ``torch-compile:CARD``, or ``command:WORDS`` for a program that speaks the protocol of ``any_program``. A file that tells what
            it takes may end in ``@`` and runtime options: ``model.xml@threads=1,precision=bf16``.
        card: Of the others, for a candidate that ``needs_card``.
        prepare: Called with the card, or the ONNX file that has none, where the file cannot be fed as it is: it leaves sizes open, takes
            constants, or its card puts front-ends before it.

    Raises:
        EdgemmError: Nothing of the kind; no target of it can run here.
    """
    if target is not None:
        plugins.require_known("targets", target)
    words = str(given)
    if needs_card(words):
        return _untold(words, card, target)
    if words.startswith(COMPILED):
        return _torch(words, cards.load(words.removeprefix(COMPILED)), compiled=True)
    path, options = _apart(words)
    if path.suffix == ".edgemm" or (path / "manifest.json").is_file():
        return _bundle(words, open_bundle(path), target)
    if TOLD in targets.opening(path).values():
        return _file(words, path, _card_of(path), target, prepare, options)
    card = cards.load(given)
    if card.model_path:
        return _file(words, card.model_path, card, target, prepare, {})
    return _torch(words, card, compiled=False)


def _apart(source: str) -> tuple[Path, dict[str, Any]]:
    """A file and the runtime options written after it: ``model.xml@threads=1`` -> ``model.xml``, ``{"threads": 1}``.

    Raises:
        MeasureError: What follows the ``@`` is no list of options, or stands behind something that takes none.
    """
    path, _, words = source.rpartition("@")
    if not path or Path(source).exists() or "=" not in words:
        return Path(source), {}
    if TOLD not in targets.opening(Path(path)).values():
        raise MeasureError(
            f"'{source}': runtime options may follow a model's file only.",
            why="a bundle brings the options that were measured to be fastest.",
            fix=f"leave out '@{words}', or name the file inside it.",
        )
    pairs = [word.partition("=") for word in words.split(",")]
    if wrong := next((word for (name, _, value), word in zip(pairs, words.split(","), strict=True) if not (name and value)), None):
        raise MeasureError(f"'{source}': '{wrong}' is no option.", fix="write NAME=VALUE, several with commas: @threads=1,precision=bf16.")
    return Path(path), {name: int(value) if value.isdigit() else value for name, _, value in pairs}


def _torch(source: str, card: Card, *, compiled: bool) -> Contender:
    """A card's model in torch: as it is (the original), or through torch.compile."""
    assert card.path is not None
    subject, options, words = ("compiled", {"compile": "on"}, "torch compiled") if compiled else ("original", {}, "torch")
    deployment = Deployment("torch", card.path, runtime_options=options)
    unnamed = f"UNTRAINED, unless its factory loads weights itself: the card '{source}' names none; its accuracy says nothing then."
    candidate = Candidate(f"{source}, {words}", subject, deployment, "f32", source)
    return Contender(source, card, (candidate,), notes=() if card.weights or card.model else (unnamed,))


def _untold(source: str, card: Card | None, only: str | None) -> Contender:
    """A program, or a file that does not say what it takes, with the card of the candidates beside it."""
    if card is None:
        raise MeasureError(
            f"'{source}' does not say what it takes and what it answers.",
            why="neither a command nor a compiled plan tells the meaning of its inputs and outputs.",
            fix="name a bundle, card or ONNX file of the same model beside it: its inputs and labels are used.",
        )
    if source.startswith(PROGRAM):
        program = Deployment(COMMAND, Path(source.removeprefix(PROGRAM)))
        return Contender(source, card, (Candidate(source, "foreign", program, source=source),))
    names, notes = _runnable(source, [Deployment(name, Path(source)) for name in _openers(source, Path(source), only)])
    forms = [
        Candidate(
            source if len(names) == 1 else f"{source}, {whole.target}",
            "foreign",
            whole.running(whole.plugin().default_options()),
            source=source,
        )
        for whole in names
    ]
    _require_some(source, forms, notes)
    return Contender(source, card, tuple(forms), notes=tuple(notes))


def _file(source: str, path: Path, card: Card, only: str | None, prepare: Prepare | None, options: Mapping[str, Any]) -> Contender:
    """A model's file from elsewhere, on every target that opens its form."""
    notes: list[str] = []
    if prepare and path.suffix == ".onnx" and not _is_ready(path, card):
        path, card, notes = prepare(_apart(source)[0])
        sizes = ", ".join(f"'{spec.name}' {spec}" for spec in input_specs(card))
        notes = [*notes, f"{source}: measured as edgemm prepares it, with constants built in and the inputs {sizes}."]
    deployments, reasons = _runnable(source, [Deployment(name, path) for name in _openers(source, path, only)])
    forms = [form for deployment in deployments for form in _forms_of_file(source, deployment, options)]
    _require_some(source, forms, [*notes, *reasons])
    return Contender(source, card, tuple(forms), notes=(*notes, *reasons))


def _forms_of_file(source: str, deployment: Deployment, options: Mapping[str, Any]) -> list[Candidate]:
    """Both float forms, or the one it asks for if it is quantized or options were given."""
    plugin = deployment.plugin()
    if not options and not plugin.describe(deployment.model).precision_words:
        return baselines(deployment, source=source)
    return [compressed(deployment.running({**plugin.default_options(), **options}), deployment.target, source=source)]


def _openers(source: str, path: Path, only: str | None) -> list[str]:
    """Targets that open a file of this form; ``only``, where one was asked for.

    Raises:
        MeasureError: The one asked for does not.
    """
    names = list(targets.opening(path))
    if only is not None and only not in names:
        raise MeasureError(f"target '{only}' opens no '{path.suffix}' file, such as '{source}'.", fix=f"these do: {', '.join(names)}.")
    return [only] if only else names


def _runnable(source: str, deployments: Sequence[Deployment]) -> tuple[list[Deployment], list[str]]:
    """Those that can run here, and a note for each that cannot."""
    able: list[Deployment] = []
    notes: list[str] = []
    for deployment in deployments:
        try:
            reason = deployment.plugin().cannot_run()
        except MissingExtra as err:
            reason = f"{err.what} {err.fix}."
        if reason:
            notes.append(f"{source}: not measured on {deployment.target}: {reason}")
        else:
            able.append(deployment)
    return able, notes


def _bundle(source: str, bundle: Bundle, only: str | None) -> Contender:
    if only is not None:
        bundle.require(only)
    names = [only] if only else bundle.targets()
    deployments, notes = _runnable(source, [bundle.deployment(name) for name in names])
    forms: list[Candidate] = []
    parts: dict[str, Path] = {}
    for deployment in deployments:
        tuned, reason = bundle.deployment_here(deployment.target)
        if reason:
            notes.append(f"{source}: safe options on {deployment.target}: {reason}")
        floats = [] if "model.onnx" in bundle.left_out else baselines(deployment.holding(bundle.model), source=source)
        own = compressed(tuned, deployment.target, source=source)
        forms += [*floats, own]
        parts |= _parts(bundle, None, floats) | _parts(bundle, deployment.target, [own])
    _require_some(source, forms, notes)
    if absent := sorted({"model.onnx", "report.json", "reference.npz"} & bundle.left_out):
        notes.append(f"{source} is a slim bundle: nothing is held against what it goes without ({', '.join(absent)}).")
    golden = bundle.golden()
    first = golden.sample(0) if golden else None
    return Contender(source, bundle.card, tuple(forms), first, bundle.reference(), _budgets(bundle), tuple(notes), parts)


def _parts(bundle: Bundle, target: str | None, forms: Sequence[Candidate]) -> dict[str, Path]:
    """The split graphs that a bundle holds for these forms."""
    try:
        record = bundle.split(target).rest.parent / splits.RECORD
    except BundleError:
        return {}
    return {form.name: record for form in forms}


def _is_ready(path: Path, card: Card) -> bool:
    """Whether the file takes just what its card says, with nothing open but the batch and no constants, and computes in float32.

    One with operators of its own is not: their bodies have to stand in place of their calls.
    """
    card_specs, face = {spec.name: spec for spec in input_specs(card)}, onnx_file.read(path)
    if face.has_functions or not OTHER_FLOATS.isdisjoint(face.types):
        return False
    return card_specs == {spec.name: spec for spec in face.inputs} and all(
        spec.shape and all(size == BATCH for size in spec.shape if isinstance(size, str)) for spec in card_specs.values()
    )


def _require_some(source: str, forms: Sequence[Candidate], notes: Sequence[str]) -> None:
    if not forms:
        raise MeasureError(
            f"no target of '{source}' can run here.", why=" ".join(notes), fix="install a runtime, or measure it on its box."
        )


def _card_of(path: Path) -> Card:
    """The card beside a model's file when it is about that file, else one drafted from the file itself."""
    if card := cards.beside(path):
        return card
    face = targets.describe(path)
    assert face is not None  # a form that tells of itself
    inputs = {spec.name: Input(spec.name, "tensor", {"dtype": spec.dtype, "shape": list(spec.shape)}) for spec in face.inputs}
    return Card(inputs, {spec.name: Output(spec.name, "tensor") for spec in face.outputs}, path=path.resolve(), model=path.name)


def _budgets(bundle: Bundle) -> dict[str, Any]:
    """The limits that the bundle's own report was held against."""
    try:
        verdicts = bundle.report().budgets
    except EdgemmError:
        return {}
    limits: dict[str, Any] = {}
    for verdict in verdicts:
        if verdict.output is None:
            limits[verdict.name] = verdict.limit
        else:
            limits.setdefault(verdict.name, {})[verdict.output] = verdict.limit
    bare = {verdict.name: verdict.limit for verdict in verdicts if verdict.verdict == "unknown" and verdict.unit == "points"}
    return limits | bare
