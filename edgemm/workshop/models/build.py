"""Reference models: `factory: models:<shipped card>` -> encoders x fusion x heads, put together as the card says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from edgemm.contracts import modality as modalities
from edgemm.contracts import plugins
from edgemm.contracts.card import Card, Input
from edgemm.errors import CardError, Collector, EdgemmError
from edgemm.workshop.models.composed import Composed
from edgemm.workshop.models.part_choices import Choice, choices
from edgemm.workshop.models.protocols import Encoder, Features, Fusion, Head

Module = TypeVar("Module", bound=nn.Module)


def build(card: Card) -> Composed:
    """The model that ``card`` describes, with fresh weights.

    The shipped card's kwargs are the start; the card's own go over them, option by option where both name the same plugin. An
    encoder is found by the input's name, else by its modality; a head by the output's name, else by its task.

    Returns:
        A module whose ``forward`` takes the front-ends' tensors in card order and returns a dict by output name.

    Raises:
        CardError: An unknown reference model, encoder, fusion, head or option (with the nearest known one), or parts that do not fit.
        Mistakes: Several of these.
    """
    encoders, fusion, heads = choices(card)
    _check_names_and_steps(card)
    errors = Collector()
    parts: dict[str, Encoder] = {}
    masked: list[str] = []
    for name, (kind, options) in encoders.items():
        with errors.catch():
            features, tensors = features_of(card.inputs[name], card.folder)
            parts[name] = _made(f"inputs.{name}: encoder '{kind}'", partial(plugins.find(Encoder, kind), features, **options))
            masked += [name] if tensors > 1 else []
    errors.raise_if_any()
    widths = {name: encoder.width for name, encoder in parts.items()}
    kind, options = fusion
    maps = {name: encoder.maps for name, encoder in parts.items() if encoder.maps is not None}
    given = (widths, tuple(card.outputs), maps) if plugins.find(Fusion, kind).takes_maps else (widths, tuple(card.outputs))
    joined = _made(f"fusion '{kind}'", partial(plugins.find(Fusion, kind), *given, **options))
    ends = _heads(card, heads, joined)
    steps = {name: spec.steps for name, spec in card.inputs.items() if spec.steps}
    per_step = [name for name, output in card.outputs.items() if output.per_step]
    return Composed(parts, joined, ends, masked=masked, steps=steps, per_step=per_step)


def features_of(spec: Input, folder: Path) -> tuple[Features, int]:
    """What the encoder of this input receives, and as how many tensors (a text with a mask comes as two).

    Found by sending one made-up sample through the numpy front-end, so that no shape rule is written twice.

    Raises:
        CardError: There is no telling how many token ids a text has.
    """
    modality = modalities.of(spec, folder=folder)
    sample: Any = modality.synthetic(np.random.default_rng(0))[None]
    for op in modality.frontend():
        sample = op(sample)
    tensors = sample if isinstance(sample, tuple) else (sample,)
    shape = tuple(int(size) for size in tensors[0].shape[1:])
    try:
        words = modality.vocabulary()
    except CardError as err:
        raise CardError(f"inputs.{spec.name}: {err.what}", why=err.why, fix=err.fix) from err
    size, pad = (words.size, words.pad) if words else (None, 0)
    return Features(spec.name, spec.modality, shape, folder, size, pad, modality.axes()), len(tensors)


def _heads(card: Card, chosen: dict[str, Choice], fusion: Fusion) -> dict[str, Head]:
    errors = Collector()
    stepped = any(spec.steps for spec in card.inputs.values())
    ends: dict[str, Head] = {}
    for name, (kind, options) in chosen.items():
        with errors.catch():
            head = plugins.find(Head, kind)
            if not stepped and (head.takes_sequence or card.outputs[name].per_step):
                asks = f"head '{kind}'" if head.takes_sequence else "'per_step: true'"
                raise CardError(
                    f"outputs.{name}: {asks} needs an input with steps.",
                    why="no input of this card has 'steps', so there is one moment only.",
                    fix="add steps: 8 to the inputs that come as a sequence.",
                )
            if head.takes_maps:
                _require_maps(name, kind, fusion, stepped)
            options = {key: str(card.folder / value) if key in head.paths else value for key, value in options.items()}
            given = (fusion.width_for(name), card.outputs[name], *((fusion.maps,) if head.takes_maps else ()))
            ends[name] = _made(f"outputs.{name}: head '{kind}'", partial(head, *given, **options))
    errors.raise_if_any()
    return ends


def _require_maps(output: str, head: str, fusion: Fusion, stepped: bool) -> None:
    """Raises CardError where a head that says where things are is not told it."""
    if fusion.maps is None:
        keeping = [name for name in plugins.names("fusions") if plugins.find(Fusion, name).takes_maps]
        raise CardError(
            f"outputs.{output}: head '{head}' needs a fusion that keeps space, and '{plugins.name_of(type(fusion))}' gives a vector.",
            why="it answers with places in a picture.",
            fix=f"write under kwargs a fusion of {', '.join(keeping)}, and an encoder that gives maps, such as c2f, for the picture.",
        )
    if stepped:
        raise CardError(
            f"outputs.{output}: head '{head}' answers about one picture, and an input has steps.",
            fix="take steps out of the inputs; a model without steps is asked picture by picture.",
        )


def _made(part: str, make: Callable[[], Module]) -> Module:
    """What ``make`` gives.

    Raises:
        CardError: It refuses options whose types are right, such as a width beyond all memory, or has a layer without weights.
    """
    try:
        module = make()
    except (EdgemmError, MemoryError):
        raise
    except Exception as err:  # torch's refusals have no common base
        why = f"{type(err).__name__}: {err}".rstrip(".") + "."
        raise CardError(f"{part} cannot be built with its options.", why=why, fix="mend them under kwargs.") from err
    if empty := next((name for name, weights in module.named_parameters() if not weights.numel()), None):
        why = f"'{empty}' holds no weights: a width, or a number of channels, is 0."
        raise CardError(f"{part} cannot be built with its options.", why=why, fix="mend them under kwargs.")
    return module


def _check_names_and_steps(card: Card) -> None:
    """Names become submodule names, which torch keeps free of dots and of its own words; steps have to agree."""
    errors = Collector()
    for name in (*card.inputs, *card.outputs):
        if "." in name or not name or hasattr(nn.ModuleDict(), name):
            fix = "choose another name, such as 'scene'."
            errors.add(CardError(f"a reference model cannot have an input or output called '{name}'.", fix=fix))
    steps = {name: spec.steps for name, spec in card.inputs.items() if spec.steps}
    if len(set(steps.values())) > 1:
        listing = ", ".join(f"'{name}' {count}" for name, count in steps.items())
        errors.add(
            CardError(
                f"inputs disagree about the steps: {listing}.",
                why="they are fused step by step.",
                fix="give all of them the same number; an input without steps counts for every step.",
            )
        )
    errors.raise_if_any()
