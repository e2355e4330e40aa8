"""The model card: what a model is. ``card_file`` reads it; neither needs torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm.contracts import written
from edgemm.contracts.joint import Joint
from edgemm.contracts.slugs import slugs
from edgemm.errors import CardError

FILL_IN = "# FILL IN"


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

    Attributes:
        auxiliary: What ``forward`` returns in training mode alone and is learned from this output's truth too: place in the tuple, or
            name -> weight of its loss.
        inputs: Those of its card, for a task that is about one of them (boxes are in the pixels of a picture); the card sets it.
    """

    name: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: Mapping[int | str, float] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict, compare=False, repr=False)

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
    def frame(self) -> str | None:
        """The input in whose picture its boxes are."""
        return self.options.get("frame")

    @property
    def per_step(self) -> bool:
        """Whether it answers once a time step."""
        return bool(self.options.get("per_step", False))

    def auxiliary_name(self, key: int | str, tensor: str | None = None) -> str:
        """What an auxiliary answer is called beside the outputs; of several ``tensor``s each is called after its own."""
        return f"{tensor or self.name} (auxiliary {key})"

    def with_options(self, **options: Any) -> Output:
        """The same output with some options set anew."""
        return dataclasses.replace(self, options={**self.options, **options})


@dataclass(frozen=True)
class Card:
    """A whole card.

    Attributes:
        path: The file it was read from; relative paths in it start at its folder. None for a card made in Python.
        factory: ``module:callable`` or ``models:<shipped card>``; None where ``model`` names an ONNX file.
        columns: Column of the dataset -> the input or output that it feeds, or several.
        source: Folder, relative to the card, in which the factory's module lies; None = beside the card, then the current
            directory, then the import path.
        branch_weights: Input, or submodule -> file or Hugging Face folder with the weights of that branch alone.
        weights_key: Which of several state dicts in the file ``weights``: its key or prefix there.
        applied: What compression changed in the structure, replayed on loading: ``({"prune": "prune.json"}, ...)``.
        joint: Which whole models it is made of, and how their answers are joined; None of one that was trained as a whole.
        train: How ``train`` is to train it (``training.Section``), checked; no part of what the model is, and so not in ``to_dict``.
    """

    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    path: Path | None = None
    factory: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    branch_weights: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    source: str | None = None
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    applied: tuple[Mapping[str, str], ...] = ()
    joint: Joint | None = None
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        outputs = {name: dataclasses.replace(spec, inputs=self.inputs) for name, spec in self.outputs.items()}
        object.__setattr__(self, "outputs", outputs)

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
        return next((column for column, ours in self.columns.items() if name in fed_by(ours)), name)

    def selectors(self) -> list[str]:
        """Every branch selector this card knows."""
        modalities = {spec.modality for spec in self.inputs.values()}
        return sorted({*self.inputs, *modalities, "fusion", "head", *(f"head:{name}" for name in self.outputs)})

    def tokenizers(self) -> dict[str, Path]:
        """Input -> the tokenizer file it names."""
        return {name: self.folder / str(spec.options["tokenizer"]) for name, spec in self.inputs.items() if spec.options.get("tokenizer")}

    def with_tokenizers(self) -> tuple[Card, dict[str, bytes]]:
        """The card as it stands in another folder, and the files to lay beside it: ``tokenizer.json``, of several <input>.tokenizer.json.

        Raises:
            CardError: One of them cannot be read.
        """
        inputs, files, named = dict(self.inputs), dict[str, bytes](), self.tokenizers()
        for name, path in named.items():
            inside = "tokenizer.json" if len(named) == 1 else f"{slugs(self.inputs)[name]}.tokenizer.json"
            try:
                files[inside] = path.read_bytes()
            except OSError as err:
                shown = self.inputs[name].options["tokenizer"]
                raise CardError(f"inputs.{name}: cannot read the tokenizer '{shown}'.", why=str(err)) from err
            inputs[name] = dataclasses.replace(inputs[name], options={**inputs[name].options, "tokenizer": inside})
        return self.replace(inputs=inputs), files

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX file: no torch module, only graph steps."""
        return self.model is not None and not self.model.endswith(".pt2")

    def as_onnx(self, model: str) -> Card:
        """The card of the same model as an ONNX file: no factory, no weights."""
        return self.replace(
            factory=None, kwargs={}, weights=None, weights_key=None, branch_weights={}, source=None, applied=(), model=model
        )

    def replace(self, **changes: Any) -> Card:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values, in the order a person writes it; defaults left out."""
        plain: dict[str, Any] = {}
        for key in ("factory", "source", "kwargs", "weights", "model"):
            if getattr(self, key):
                plain[key] = _plain(getattr(self, key))
        if self.branch_weights:
            plain["weights"] = dict(self.branch_weights)
        if self.weights and self.weights_key:
            plain["weights"] = {"file": self.weights, "key": self.weights_key}
        plain["inputs"] = {
            name: {"modality": spec.modality, **_plain(spec.options)}
            | ({"optional": True} if spec.optional else {})
            | ({"steps": spec.steps} if spec.steps else {})
            for name, spec in self.inputs.items()
        }
        plain["outputs"] = {
            name: {"task": spec.task, **{key: _plain(value) for key, value in spec.options.items() if value not in (None, False)}}
            | ({"auxiliary": dict(spec.auxiliary)} if spec.auxiliary else {})
            for name, spec in self.outputs.items()
        }
        for key in ("columns", "applied"):
            if getattr(self, key):
                plain[key] = _plain(getattr(self, key))
        if self.joint:
            plain["joint"] = _plain(self.joint.to_dict())
        return plain

    def to_yaml(self) -> str:
        return written.dump(self.to_dict(), default_flow_style=None, width=140)


def fed_by(ours: str | Sequence[str]) -> Sequence[str]:
    """The inputs or outputs that a column feeds: an entry of ``columns`` is one, or several that read it each in its own way."""
    return [ours] if isinstance(ours, str) else ours


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
