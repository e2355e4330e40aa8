"""What a user names on the command line, and the forms of it that are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.packing import Reference
from edgemm.box.measuring.schedule import Candidate
from edgemm.box.targets._openvino import ir
from edgemm.contracts import card as cards
from edgemm.contracts import onnx_file, plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.modality import input_specs
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import Target, fingerprint
from edgemm.errors import BundleError, EdgemmError, MeasureError, MissingExtra, nearest

COMMAND, COMPILED = "command:", "torch-compile:"
PLANS = (".plan", ".engine")
TUNABLE = (".onnx", ".xml")


@dataclass(frozen=True)
class Named:
    """One candidate as the user gave it.

    Attributes:
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
    reference: Reference | None = None
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

    def guarded(self) -> list[str]:
        """Outputs with a metric that can be lost."""
        return tasks.scored_outputs(self.card)


Prepare = Callable[[Path], tuple[Path, Card]]
"""Makes an ONNX file that cannot be fed as it is fit for that, and says by which card; needs the workshop's packages."""


def says_nothing(given: str | Path) -> bool:
    """Whether a candidate does not tell what it takes and answers: it needs the card of another one."""
    return str(given).startswith(COMMAND) or Path(given).suffix in PLANS


def resolve(given: str | Path, target: str | None = None, *, card: Card | None = None, prepare: Prepare | None = None) -> Named:
    """Find out what ``given`` is, and which forms of it can be measured here (on ``target`` only, when given).

    Args:
        given: A bundle, an ONNX file, a model card, an OpenVINO IR (.xml), a TensorRT plan (.plan, .engine), ``torch-compile:CARD``, or
            ``command:WORDS`` for a program that speaks the protocol of ``_command``. An ONNX or IR file may end in ``@`` and runtime
            options: ``model.xml@threads=1,precision=bf16``.
        card: Of the others, for a candidate that ``says_nothing`` of its own.
        prepare: Called with the card, or the ONNX file that has none, where the file cannot be fed as it is: it leaves sizes open, takes
            constants, or its card puts front-ends before it.

    Raises:
        EdgemmError: Nothing of the kind; no target of it can run here.
    """
    if target is not None:
        plugins.require_known("targets", target)
    if says_nothing(given):
        return _foreign(str(given), card)
    if str(given).startswith(COMPILED):
        return _torch(str(given), cards.load(str(given).removeprefix(COMPILED)), compiled=True)
    path, options = _apart(str(given))
    if path.suffix == ".xml":
        return _ir(str(given), path, options)
    if path.suffix == ".edgemm" or (path / "manifest.json").is_file():
        return _bundle(str(given), open_bundle(path), target)
    if path.suffix == ".onnx":
        return _onnx(str(given), path, _card_of(path), target, prepare, options)
    card = cards.load(given)
    if card.model_path:
        return _onnx(str(given), card.model_path, card, target, prepare, {})
    return _torch(str(given), card, compiled=False)


def _apart(given: str) -> tuple[Path, dict[str, Any]]:
    """A file and the runtime options written after it: ``model.xml@threads=1`` -> ``model.xml``, ``{"threads": 1}``.

    Raises:
        MeasureError: What follows the ``@`` is no list of options, or stands behind something that takes none.
    """
    path, _, words = given.rpartition("@")
    if not path or Path(given).exists() or "=" not in words:
        return Path(given), {}
    if Path(path).suffix not in TUNABLE:
        raise MeasureError(
            f"'{given}': runtime options may follow an ONNX file or an OpenVINO IR only.",
            why="a bundle brings the options that were measured to be fastest.",
            fix=f"leave out '@{words}', or name the file inside it.",
        )
    pairs = [word.partition("=") for word in words.split(",")]
    if wrong := next((word for (name, _, value), word in zip(pairs, words.split(","), strict=True) if not (name and value)), None):
        raise MeasureError(f"'{given}': '{wrong}' is no option.", fix="write NAME=VALUE, several with commas: @threads=1,precision=bf16.")
    return Path(path), {name: int(value) if value.isdigit() else value for name, _, value in pairs}


def _torch(given: str, card: Card, *, compiled: bool) -> Named:
    """A card's model in torch: as it is (the original), or through torch.compile."""
    assert card.path is not None
    subject, options, word = ("compiled", {"compile": "on"}, "torch compiled") if compiled else ("original", {}, "torch")
    return Named(given, card, (Candidate(f"{given}, {word}", subject, "torch", card.path, options, precision_asked="f32", source=given),))


def _foreign(given: str, card: Card | None) -> Named:
    """A command or a TensorRT plan, with the card of the candidates beside it."""
    if card is None:
        raise MeasureError(
            f"'{given}' does not say what it takes and what it answers.",
            why="neither a command nor a TensorRT plan tells the meaning of its inputs and outputs.",
            fix="name a bundle, card or ONNX file of the same model beside it: its inputs and labels are used.",
        )
    if given.startswith(COMMAND):
        words = given.removeprefix(COMMAND)
        return Named(given, card, (Candidate(given, "foreign", "command", Path(words), source=given),))
    if "tensorrt" not in plugins.names("targets"):
        raise MeasureError(f"'{given}' is a TensorRT plan.", why="this edgemm has no target that runs plans.", fix="leave it out here.")
    target = plugins.load(Target, "tensorrt")
    return Named(given, card, (Candidate(given, "foreign", "tensorrt", Path(given), target.default_options(), source=given),))


def _ir(given: str, path: Path, options: Mapping[str, Any]) -> Named:
    """An OpenVINO IR: float ones in both float forms, quantized ones as OpenVINO runs them by itself."""
    face = ir.read(path)
    inputs = {spec.name: Input(spec.name, "tensor", {"dtype": spec.dtype, "shape": list(spec.shape)}) for spec in face.inputs}
    card = Card(inputs, {spec.name: Output(spec.name, "tensor") for spec in face.outputs}, path=path.resolve(), model=path.name)
    return Named(given, card, tuple(_files(given, "openvino", plugins.load(Target, "openvino"), path, options, face.is_quantized)))


def _files(given: str, name: str, target: Target, path: Path, options: Mapping[str, Any], quantized: bool) -> list[Candidate]:
    """A file from elsewhere on a target: both float forms, or the one it asks for if it is quantized or options were given."""
    if not options and not quantized:
        return forms(given, name, target, path)
    wanted = {**target.default_options(), **options}
    precision = "int8+" * quantized + str(wanted.get("precision", "f32"))
    return [Candidate(f"{given}, {name}", "bundle", name, path, wanted, precision_asked=precision, source=given)]


def forms(name: str, target_name: str, target: Target, model: Path, *, target_options: Mapping[str, Any] | None = None) -> list[Candidate]:
    """A float graph on a target: forced to f32, and as the runtime runs it by itself where that may differ."""
    both = {"float": target.float_options()}
    if target.default_options() != target.float_options():
        both["default"] = target.default_options()
    unforced = {key: value for key, value in (target_options or {}).items() if key not in ("precision", "threads")}
    return [
        Candidate(
            f"{name}, {target_name} {subject}", subject, target_name, model, options,
            precision_asked="f32" if subject == "float" else "default", target_options=unforced, source=name,
        )
        for subject, options in both.items()
    ]  # fmt: skip


def asked(model: Path, options: Mapping[str, Any]) -> str:
    """The precision a graph asks for: its Q/DQ nodes, and the float option beside them."""
    floats = str(options.get("precision", "f32"))
    return f"int8+{floats}" if onnx_file.read(model).is_quantized else floats


def _bundle(given: str, bundle: Bundle, only: str | None) -> Named:
    if only is not None and only not in bundle.targets():
        raise MeasureError(f"'{given}' holds nothing for the target '{only}'.", fix=nearest(only, bundle.targets()))
    candidates: list[Candidate] = []
    notes: list[str] = []
    parts: dict[str, Path] = {}
    for name in [only] if only else bundle.targets():
        try:
            target = bundle.load_target(name)
        except MissingExtra as err:
            notes.append(f"{given}: not measured on {name}: {err.what} {err.fix}.")
            continue
        if why := target.cannot_run():
            notes.append(f"{given}: not measured on {name}: {why}")
            continue
        options, reason = bundle.options_for(name, fingerprint(target))
        if reason:
            notes.append(f"{given}: safe options on {name}: {reason}")
        brought = bundle.target_options(name).target
        floats = forms(given, name, target, bundle.model, target_options=brought)
        compressed = _compressed(given, name, bundle.target_model(name), options, brought)
        candidates += [*floats, compressed]
        parts |= _parts(bundle, None, floats) | _parts(bundle, name, [compressed])
    _require_some(given, candidates, notes)
    golden = bundle.golden()
    first = golden.sample(0) if golden else None
    return Named(given, bundle.card, tuple(candidates), first, bundle.reference(), _budgets(bundle), tuple(notes), parts)


def _parts(bundle: Bundle, target: str | None, rows: Sequence[Candidate]) -> dict[str, Path]:
    """The split graphs that a bundle holds for these forms."""
    try:
        place = bundle.split(target).rest.parent / splits.RECORD
    except BundleError:
        return {}
    return {row.name: place for row in rows}


def _onnx(given: str, path: Path, card: Card, only: str | None, prepare: Prepare | None, options: Mapping[str, Any]) -> Named:
    candidates: list[Candidate] = []
    notes: list[str] = []
    if prepare and not _is_ready(path, card):
        path, card = prepare(_apart(given)[0])
        sizes = ", ".join(f"'{spec.name}' {spec}" for spec in input_specs(card))
        notes.append(f"{given}: measured as edgemm prepares it, with constants built in and the inputs {sizes}.")
    quantized = onnx_file.read(path).is_quantized
    for name in [only] if only else [name for name in plugins.names("targets") if name != "torch"]:
        try:
            target = plugins.load(Target, name)
        except MissingExtra as err:
            notes.append(f"{given}: not measured on {name}: {err.what} {err.fix}.")
            continue
        if why := target.cannot_run():
            notes.append(f"{given}: not measured on {name}: {why}")
            continue
        candidates += _files(given, name, target, path, options, quantized)
    _require_some(given, candidates, notes)
    return Named(given, card, tuple(candidates), notes=tuple(notes))


def _is_ready(path: Path, card: Card) -> bool:
    """Whether the file takes just what its card says, with nothing open but the batch and no constants."""
    wanted = {spec.name: spec for spec in input_specs(card)}
    return wanted == {spec.name: spec for spec in onnx_file.read(path).inputs} and all(
        spec.shape and all(size == BATCH for size in spec.shape if isinstance(size, str)) for spec in wanted.values()
    )


def _compressed(given: str, name: str, model: Path, options: dict[str, Any], brought: Mapping[str, Any]) -> Candidate:
    wanted = asked(model, {**brought, **options})
    return Candidate(f"{given}, {name}", "bundle", name, model, options, precision_asked=wanted, target_options=brought, source=given)


def _require_some(given: str, candidates: list[Candidate], notes: list[str]) -> None:
    if not candidates:
        raise MeasureError(f"no target of '{given}' can run here.", why=" ".join(notes), fix="install a runtime, or measure it on its box.")


def _card_of(path: Path) -> Card:
    """The card beside an ONNX file when it is about that file, else one drafted from the file itself."""
    beside = path.parent / "model.yaml"
    if beside.is_file():
        card = cards.load(beside)
        if card.model_path and card.model_path.resolve() == path.resolve():
            return card
    face = onnx_file.read(path)
    inputs = {spec.name: Input(spec.name, "tensor", {"dtype": spec.dtype, "shape": list(spec.shape)}) for spec in face.inputs}
    return Card(inputs, {spec.name: Output(spec.name, "tensor") for spec in face.outputs}, path=path.resolve(), model=path.name)


def _budgets(bundle: Bundle) -> dict[str, Any]:
    """The limits that the bundle's own report was held against."""
    try:
        verdicts = bundle.report().budgets
    except EdgemmError:
        return {}
    found: dict[str, Any] = {}
    for verdict in verdicts:
        if verdict.output is None:
            found[verdict.name] = verdict.limit
        else:
            found.setdefault(verdict.name, {})[verdict.output] = verdict.limit
    bare = {verdict.name: verdict.limit for verdict in verdicts if verdict.verdict == "unknown" and verdict.unit == "points"}
    return found | bare
