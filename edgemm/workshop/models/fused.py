"""The fused model: front-ends, then the user's module, fed and read as the card says."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Output
from edgemm.errors import CardError, SpecMismatch, nearest
from edgemm.workshop.models.frontend import Frontend


class FusedModel(nn.Module):
    """A module with its front-ends in front: raw inputs in, outputs by name out.

    Attributes:
        card: Says the order of the inputs and the names of the outputs.
        module: The user's module, or one of ours.
        frontend: Turns raw inputs into what ``module`` receives; has no parameters.
        silenced: Submodules ("" = the module itself) that are in eval mode in training too, the layers inside them not: what they compute
            in training alone fits the rest no longer, such as auxiliary heads on channels that were cut.
    """

    silenced: tuple[str, ...] = ()

    def __init__(self, card: Card, module: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.frontend = Frontend(card)
        self.module = module
        for part in module.modules():
            if isinstance(part, nn.TransformerEncoder):  # nested, it puts zeros behind a text's end in eval alone, and cut heads cannot be
                part.use_nested_tensor = False

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Answer a batch.

        Args:
            inputs: By card name, what the exported graph takes: uint8 (N, H, W, C), float32 PCM (N, samples), int64 ids
                (N, length), float32 sensor (N, *shape); with ``steps: T`` an axis T after N.

        Returns:
            One tensor per output, or several of one that joins them, keyed and ordered as ``tasks.tensors`` of the card.

        Raises:
            SpecMismatch: An input is missing.
            CardError: The module does not take these inputs, or does not return these outputs.
        """
        return self.call_module(self.features(inputs))

    def features(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What ``module`` receives, in card order; a text with ``mask: true`` makes two.

        Raises:
            SpecMismatch: An input is missing.
        """
        for name in self.card.inputs:
            if name not in inputs:
                raise SpecMismatch(f"input '{name}' is missing.", why=f"the call has {sorted(inputs) or 'nothing'}.", fix=f"add '{name}'.")
        return self.frontend(dict(inputs))

    def train(self, mode: bool = True) -> FusedModel:
        """As for every module; what is ``silenced`` stays as it answers in eval mode."""
        super().train(mode)
        for name in self.silenced:
            self.module.get_submodule(name).training = False
        return self

    def call_module(self, features: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """Call the module on features and name what it returns; in training mode what the card calls auxiliary is there too.

        Raises:
            CardError: As ``forward``.
        """
        positional, named = bind(self.module, self.card, features)
        returned = self.module(*positional, **named)
        named_outputs = name_outputs(returned, self.card, training=self.module.training)
        specs = self.card.outputs
        outputs = {name: _two_logits(value, specs[name]) if name in specs else value for name, value in named_outputs.items()}
        for name in outputs.keys() & specs.keys():
            _check_width(name, outputs[name], self.card)
        for task in tasks.tasks(self.card).values():
            task.check({read: tuple(outputs[read].shape) for read in task.reads})
        return outputs | (_auxiliary(returned, self.card) if self.module.training else {})


def feature_names(card: Card) -> list[str]:
    """Names of what ``forward`` receives: the inputs in card order, ``<text>_mask`` right after a text with ``mask: true``."""
    names = []
    for spec in card.inputs.values():
        names.append(spec.name)
        if spec.options.get("mask"):
            names.append(f"{spec.name}_mask")
    return names


def bind(module: nn.Module, card: Card, features: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
    """How to call the module: keyword-only parameters by name, Hugging Face's by theirs, the rest by position in card order.

    Raises:
        CardError: ``forward`` does not take them; names its parameters and what the card feeds.
    """
    signature = inspect.signature(module.forward)
    named_features = dict(zip(feature_names(card), features, strict=True))
    theirs = _hugging_face_names(card)
    if theirs and set(theirs.values()) <= set(signature.parameters):
        return [], {theirs[name]: value for name, value in named_features.items()}
    keyword_only = {name for name, parameter in signature.parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    positional = [value for name, value in named_features.items() if name not in keyword_only]
    named = {name: value for name, value in named_features.items() if name in keyword_only}
    try:
        signature.bind(*positional, **named)
    except TypeError as err:
        raise CardError(
            f"{type(module).__name__}.forward{signature} does not take what the card feeds it: {', '.join(named_features)}.",
            why=f"{err}.",
            fix="list the inputs in the order of forward's parameters; keyword-only parameters are found by their names. A text with "
            "`mask: true` (edgemm init: --input text=tokens:16+mask) brings its mask right after its ids.",
        ) from err
    return positional, named


def name_outputs(returned: Any, card: Card, *, training: bool = False) -> dict[str, torch.Tensor]:
    """Key what a module returned by the names of the card's tensors, in card order.

    Takes a dict, a tuple or list in card order, one tensor, a named tuple, or a dataclass (of Hugging Face's ModelOutput the ``logits``
    are a single output whatever that is called). Other names are left out.

    Args:
        training: A tuple may be longer, as auxiliary heads make it: the outputs come first.

    Raises:
        CardError: Wrong count, a missing name, or something else than tensors.
    """
    names = list(tasks.tensors(card))
    outputs = _by_name(returned, names, training)
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor):
            raise CardError(
                f"the model returned {type(value).__name__} for output '{name}', not a tensor.",
                fix=f"return the tensors that the card names: {', '.join(names)}.",
            )
    return cast("dict[str, torch.Tensor]", outputs)


def _by_name(returned: Any, names: list[str], training: bool) -> dict[str, Any]:
    if isinstance(returned, torch.Tensor):
        return _in_order((returned,), names, training)
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        fields = (
            dict(returned) if isinstance(returned, Mapping) else {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
        )
        if len(names) == 1 and names[0] not in fields and fields.get("logits") is not None:
            return {names[0]: fields["logits"]}
        return _named({name: value for name, value in fields.items() if value is not None}, names, list(fields))
    if isinstance(returned, Mapping):
        return _named(dict(returned), names, list(returned))
    if isinstance(returned, (tuple, list)):
        is_named = set(names) <= set(getattr(returned, "_fields", ()))
        return {name: getattr(returned, name) for name in names} if is_named else _in_order(returned, names, training)
    raise CardError(
        f"the model returned {type(returned).__name__}.",
        why=f"the card names the outputs {', '.join(names)}.",
        fix="return a dict keyed by output name, a tuple in card order, or a single tensor.",
    )


def _in_order(values: tuple[Any, ...] | list[Any], names: list[str], training: bool) -> dict[str, Any]:
    while len(values) > len(names) and (training or values[-1] is None):  # what an auxiliary head says in training, and not in use
        values = values[:-1]
    if len(values) != len(names):
        raise CardError(
            f"the model returned {len(values)} value{'s' * (len(values) != 1)}; the card names {len(names)}: {', '.join(names)}.",
            why="a tuple is read in card order, so the counts must be equal.",
            fix="list under outputs: exactly what forward returns, or return a dict keyed by output name.",
        )
    return dict(zip(names, values, strict=True))


def _named(outputs: dict[str, Any], names: list[str], returned: list[str]) -> dict[str, Any]:
    for name in names:
        if name not in outputs:
            raise CardError(
                f"the model returned no output '{name}'.",
                why=f"it returned {', '.join(map(str, returned)) or 'nothing'}; the card names {', '.join(names)}.",
                fix=nearest(name, map(str, returned)),
            )
    return {name: outputs[name] for name in names}


def _auxiliary(returned: Any, card: Card) -> dict[str, torch.Tensor]:
    """What the card weighs beside the outputs.

    Raises:
        CardError: The module did not return it.
    """
    answers: dict[str, torch.Tensor] = {}
    for output in card.outputs.values():
        reads = tasks.of(output).reads
        for key in output.auxiliary:
            value = _part(returned, key)
            parts = {output.name: value} if reads == (output.name,) else {read: _part(value, read) for read in reads}
            for tensor, part in parts.items():
                if not isinstance(part, torch.Tensor):
                    raise _no_auxiliary(output, key, tensor, returned)
                answers[output.auxiliary_name(key, tensor)] = _two_logits(part, output)
    return answers


def _no_auxiliary(output: Output, key: int | str, tensor: str, returned: Any) -> CardError:
    names = f" with {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
    count = f" of {len(returned)}" if isinstance(returned, (tuple, list)) else ""
    inside = f", a mapping with the tensors that the output reads ('{tensor}' is not in it)" if tensor != output.name else ""
    return CardError(
        f"outputs.{output.name}.auxiliary: the model returned no tensor at {key!r} in training mode.",
        why=f"it returned {type(returned).__name__}{names}{count}.",
        fix=f"name the place in the tuple, counted from 0, or the key under which forward returns it `if self.training`{inside}.",
    )


def _part(returned: Any, key: int | str) -> Any:
    if isinstance(key, int):
        return returned[key] if isinstance(returned, (tuple, list)) and key < len(returned) else None
    return returned.get(key) if isinstance(returned, Mapping) else getattr(returned, key, None)


def _hugging_face_names(card: Card) -> dict[str, str]:
    """Feature name -> Hugging Face parameter; {} unless every input has a name there and no two share one."""
    names: dict[str, str] = {}
    for spec in card.inputs.values():
        theirs = plugins.constant("modalities", spec.modality, "HUGGING_FACE") or {}
        featured = spec.options.get("features") not in (None, "none")
        names[spec.name] = theirs.get("features" if featured else "", "")
        if spec.options.get("mask"):
            names[f"{spec.name}_mask"] = theirs.get("mask", "")
    return names if "" not in names.values() and len({*names.values()}) == len(names) else {}


def _two_logits(value: torch.Tensor, spec: Output) -> torch.Tensor:
    """One logit for two labels, (N,) or (N, 1), as one a label: softmax of (0, z) is sigmoid of z, the chance of the second.

    With ``per_step``, (N, T) or (N, T, 1).
    """
    task = tasks.of(spec)
    if not task.takes_one_logit or task.answer_width != 2:
        return value
    axes = 2 if spec.per_step else 1
    if value.dim() == axes:
        value = value.unsqueeze(-1)
    return torch.cat([torch.zeros_like(value), value], -1) if value.dim() == axes + 1 and value.shape[-1] == 1 else value


def _check_width(name: str, value: torch.Tensor, card: Card) -> None:
    spec = card.outputs[name]
    width = tasks.of(spec).answer_width
    if width is None:
        return
    axes = 3 if spec.per_step else 2
    if value.dim() != axes or value.shape[-1] != width:
        wants = f"({'N, T' if spec.per_step else 'N'}, {width})"
        raise CardError(
            f"output '{name}' has shape {tuple(value.shape)}; the card's {len(spec.labels or ())} labels want {wants} logits.",
            why="a classification answers with one logit a label" + (" and step." if spec.per_step else "."),
            fix="give the card as many labels as the model has classes, or set the factory's kwargs to match; one logit, "
            f"{'(N, T) or (N, T, 1)' if spec.per_step else '(N,) or (N, 1)'}, may answer for two labels, of which it means the second.",
        )
