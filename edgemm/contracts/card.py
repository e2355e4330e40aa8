"""The model card: what a model is. Read, checked and written without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import options, plugins
from edgemm.errors import CardError, Collector, EdgemmError, nearest

FILL_IN = "# FILL IN"
KEYS = ("factory", "kwargs", "weights", "model", "source", "inputs", "outputs", "columns", "applied")
INPUT_KEYS = ("modality", "optional", "steps")
SHIPPED = Path(__file__).parents[1] / "workshop" / "models" / "cards"


@dataclass(frozen=True)
class Input:
    """One input of the model: its modality and that modality's options as the card gives them.

    ``steps`` adds an axis of that length after the batch; ``optional`` allows an empty cell (modality missing).
    """

    name: str
    modality: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class Output:
    """One output (head): its task and that task's options as the card gives them; lists of names are tuples.

    Options that several tasks have can be asked for by name; they are None, or False, where the task or the card has none.
    """

    name: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of its classes."""
        return self.options.get("labels")

    @property
    def unit(self) -> str | None:
        """What a number counts."""
        return self.options.get("unit")

    @property
    def pair(self) -> str | None:
        """The output that it is matched with."""
        return self.options.get("pair")

    @property
    def per_step(self) -> bool:
        """Whether it answers once a time step."""
        return bool(self.options.get("per_step", False))

    def with_options(self, **options: Any) -> Output:
        """The same output with some options set anew."""
        return dataclasses.replace(self, options={**self.options, **options})


@dataclass(frozen=True)
class Card:
    """A whole card.

    Attributes:
        path: The file it was read from; relative paths in it start at its folder. None for a card made in Python.
        factory: ``module:callable`` or ``models:<shipped card>``; None where ``model`` names an ONNX file.
        source: Folder, relative to the card, in which the factory's module lies; None = beside the card, then the current
            directory, then the import path.
        applied: What compression changed in the structure, replayed on loading: ``({"prune": "prune.json"}, ...)``.
    """

    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    path: Path | None = None
    factory: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    model: str | None = None
    source: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    applied: tuple[Mapping[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path else Path.cwd()

    @property
    def weights_path(self) -> Path | None:
        return self.folder / self.weights if self.weights else None

    @property
    def model_path(self) -> Path | None:
        return self.folder / self.model if self.model else None

    def column(self, name: str) -> str:
        """The dataset column that holds input or output ``name``."""
        return next((column for column, ours in self.columns.items() if ours == name), name)

    def selectors(self) -> list[str]:
        """Every branch selector this card knows."""
        modalities = {spec.modality for spec in self.inputs.values()}
        return sorted({*self.inputs, *modalities, "fusion", "head", *(f"head:{name}" for name in self.outputs)})

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX file: no torch module, only graph steps."""
        return self.model is not None and not self.model.endswith(".pt2")

    def as_onnx(self, model: str) -> Card:
        """The card of the same model as an ONNX file: no factory, no weights."""
        return self.replace(factory=None, kwargs={}, weights=None, source=None, applied=(), model=model)

    def replace(self, **changes: Any) -> Card:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values, in the order a person writes it; defaults left out."""
        plain: dict[str, Any] = {}
        for key in ("factory", "source", "kwargs", "weights", "model"):
            if getattr(self, key):
                plain[key] = _plain(getattr(self, key))
        plain["inputs"] = {
            name: {"modality": spec.modality, **_plain(spec.options)}
            | ({"optional": True} if spec.optional else {})
            | ({"steps": spec.steps} if spec.steps else {})
            for name, spec in self.inputs.items()
        }
        plain["outputs"] = {
            name: {"task": spec.task, **{key: _plain(value) for key, value in spec.options.items() if value not in (None, False)}}
            for name, spec in self.outputs.items()
        }
        for key in ("columns", "applied"):
            if getattr(self, key):
                plain[key] = _plain(getattr(self, key))
        return plain

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)


def locate(name_or_path: str | Path) -> Path:
    """The file of a card: a path, a folder holding ``model.yaml``, or the name of a shipped card.

    Raises:
        CardError: There is no such file and no such shipped card.
    """
    path = Path(name_or_path)
    if path.is_dir() and (path / "model.yaml").is_file():
        return path / "model.yaml"
    if (path / "config.json").is_file():
        raise CardError(
            f"'{path}' is a Hugging Face folder without a card.",
            why="what the model takes and what its labels mean stands in a model card.",
            fix=f"draft one: edgemm init {path} -o model.yaml",
        )
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name_or_path}.yaml"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    raise CardError(
        f"no model card at '{name_or_path}'.",
        why="neither a file, nor a folder with a model.yaml in it, nor the name of a shipped card.",
        fix=nearest(str(name_or_path), [file.stem for file in SHIPPED.glob("*.yaml")]),
    )


def load(name_or_path: str | Path) -> Card:
    """Read and check a card.

    Raises:
        CardError: One mistake in it.
        Mistakes: Several.
    """
    path = locate(name_or_path)
    text = _read(path)
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise CardError(f"{path} is not YAML.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    if isinstance(plain, dict):
        _refuse_unfilled(path, text)
    return parse(plain, path=path)


def parse(plain: Any, *, path: Path | None = None) -> Card:
    """Make a Card of plain values, checking all of it.

    Raises:
        CardError, Mistakes: As ``load``.
    """
    where = str(path) if path else "the card"
    if not isinstance(plain, dict):
        raise CardError(f"{where} is not a mapping.", fix="a card has the keys factory or model, inputs and outputs.")
    mistakes = Collector()
    for key in plain:
        if key not in KEYS:
            mistakes.add(CardError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    for key in ("inputs", "outputs"):
        if not isinstance(plain.get(key), dict) or not plain[key]:
            mistakes.add(CardError(f"{where}: '{key}' is missing or empty.", fix=f"list at least one entry under {key}:."))
    if bool(plain.get("factory")) == bool(plain.get("model")):
        mistakes.add(
            CardError(
                f"{where}: it needs either 'factory' or 'model'.",
                why="both are given." if plain.get("factory") else "neither is given.",
                fix="factory: module:callable for a PyTorch model, model: file.onnx for an ONNX file.",
            )
        )
    for key, kind in (
        ("kwargs", dict),
        ("columns", dict),
        ("applied", list),
        ("factory", str),
        ("weights", str),
        ("model", str),
        ("source", str),
    ):
        if plain.get(key) is not None and not isinstance(plain[key], kind):
            mistakes.add(CardError(f"{where}: '{key}' must be a {kind.__name__}, not {plain[key]!r}."))
    mistakes.raise_if_any()
    inputs = {str(name): _input(str(name), value, where, mistakes) for name, value in plain["inputs"].items()}
    outputs = {str(name): _output(str(name), value, where, mistakes) for name, value in plain["outputs"].items()}
    _check_names(inputs, outputs, plain.get("columns") or {}, where, mistakes)
    mistakes.raise_if_any()
    return Card(
        inputs={name: spec for name, spec in inputs.items() if spec},
        outputs={name: spec for name, spec in outputs.items() if spec},
        path=path.resolve() if path else None,
        factory=plain.get("factory"),
        kwargs=plain.get("kwargs") or {},
        weights=plain.get("weights"),
        model=plain.get("model"),
        source=plain.get("source"),
        columns=plain.get("columns") or {},
        applied=tuple(plain.get("applied") or ()),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise CardError(f"cannot read the card {path}.", why=str(err), fix="check the path and its permissions.") from err


def _refuse_unfilled(path: Path, text: str) -> None:
    mistakes = Collector()
    for number, line in enumerate(text.splitlines(), 1):
        if line.rstrip().endswith(FILL_IN):
            name = line.split(":")[0].strip(" -{")
            mistakes.add(CardError(f"{path}, line {number}: '{name}' is not filled in.", fix=f"write its value and remove '{FILL_IN}'."))
    mistakes.raise_if_any()


def _input(name: str, plain: Any, where: str, mistakes: Collector) -> Input | None:
    here = f"{where}: inputs.{name}"
    if not isinstance(plain, dict) or "modality" not in plain:
        mistakes.add(CardError(f"{here}: 'modality' is missing.", fix=f"one of: {', '.join(plugins.names('modalities'))}."))
        return None
    modality = plain["modality"]
    if modality not in plugins.names("modalities"):
        mistakes.add(CardError(f"{here}: unknown modality '{modality}'.", fix=nearest(str(modality), plugins.names("modalities"))))
        return None
    declared = plugins.options("modalities", modality)
    errors = options.check(plain, declared, here, CardError, skip=INPUT_KEYS)
    for error in errors:
        mistakes.add(error)
    steps = plain.get("steps")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        mistakes.add(CardError(f"{here}.steps: {steps!r} is not a number of steps.", fix="write a whole number of at least 1."))
        return None
    modality_options = {key: value for key, value in plain.items() if key not in INPUT_KEYS}
    return None if errors else Input(name, modality, modality_options, bool(plain.get("optional", False)), steps)


def _output(name: str, plain: Any, where: str, mistakes: Collector) -> Output | None:
    here = f"{where}: outputs.{name}"
    if not isinstance(plain, dict) or "task" not in plain:
        mistakes.add(CardError(f"{here}: 'task' is missing.", fix=f"one of: {', '.join(plugins.names('tasks'))}."))
        return None
    task = plain["task"]
    if task not in plugins.names("tasks"):
        mistakes.add(CardError(f"{here}: unknown task '{task}'.", fix=nearest(str(task), plugins.names("tasks"))))
        return None
    declared = plugins.options("tasks", task)
    errors = options.check(plain, declared, here, CardError, skip=("task",))
    task_options = {key: value for key, value in plain.items() if key != "task"}
    for key, option in declared.items():
        if options.mentions(option.annotation, "Labels") and task_options.get(key) is not None:
            task_options[key] = _labels(task_options[key], f"{here}.{key}", errors)
    for error in errors:
        mistakes.add(error)
    return None if errors else Output(name, task, task_options)


def _labels(names: Any, where: str, errors: list[EdgemmError]) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        errors.append(CardError(f"{where}: {names!r} is not a list of names.", fix="labels: [first, second]"))
        return ()
    labels = tuple(_label(value) for value in names)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        errors.append(CardError(f"{where}: '{twice[0]}' stands there twice.", fix="give every class one name of its own."))
    return labels


def _label(value: Any) -> str:
    """YAML 1.1 reads yes/no as booleans; a label is always the word the person wrote."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _check_names(
    inputs: Mapping[str, Input | None], outputs: Mapping[str, Output | None], columns: Mapping[str, str], where: str, mistakes: Collector
) -> None:
    for name in sorted(set(inputs) & set(outputs)):
        mistakes.add(CardError(f"{where}: '{name}' is both an input and an output.", fix="give the two different names."))
    for name in inputs:
        if name in ("fusion", "head") or name.startswith("head:"):
            mistakes.add(CardError(f"{where}: an input cannot be called '{name}'.", why="recipes use that word for a part of the model."))
    names = [*inputs, *outputs]
    for column, ours in columns.items():
        if ours not in names:
            mistakes.add(
                CardError(f"{where}: columns.{column} names '{ours}', which is no input or output.", fix=nearest(str(ours), names))
            )
    for spec in outputs.values():
        if spec:
            _check_references(spec, inputs, outputs, where, mistakes)


def _check_references(spec: Output, inputs: Mapping[str, Any], outputs: Mapping[str, Any], where: str, mistakes: Collector) -> None:
    """An option that names an input or output of the card has to name one that is there."""
    for key, option in plugins.options("tasks", spec.task).items():
        for annotation, what, there in (("OutputName", "output", outputs), ("InputName", "input", inputs)):
            value = spec.options.get(key) if options.mentions(option.annotation, annotation) else None
            for name in [value] if isinstance(value, str) else value or ():
                if name not in there:
                    mistakes.add(CardError(f"{where}: outputs.{spec.name}.{key} names '{name}', no {what}.", fix=nearest(str(name), there)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
