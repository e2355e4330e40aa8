"""`edgemm init`: draft a model card by running your factory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts.card import FILL_IN, Card, Input, Output
from edgemm.errors import CardError, OutputError, nearest
from edgemm.report.terminal import Ending
from edgemm.store.artifact import write_bytes
from edgemm.workshop.models.checkpoint import huggingface_card

FORMS = (
    "image=3x64x64, image=64x64x3, audio=16000@16000hz, audio=16000@16000hz:log_mel=40, imu=50x6@50hz, text=tokens:16, text=tokens:16+mask"
)
MODALITIES = ("image", "audio", "tokens", "sensor")
SIZE = re.compile(r"(?P<sizes>\d+(?:x\d+)*)(?:@(?P<rate>\d+(?:\.\d+)?)hz)?(?P<mask>\+mask)?(?::(?P<features>log_mel|mfcc)=(?P<bands>\d+))?")
BANDS = {"log_mel": "mels", "mfcc": "coefs"}
FEATURES = (("log_mel", 40), ("log_mel", 64), ("log_mel", 80), ("log_mel", 128), ("log_mel", 32), ("mfcc", 13), ("mfcc", 20), ("mfcc", 40))
"""What a model that takes no samples may take; the commonest first."""
UNKNOWN_VOCABULARY = 3  # ids 0 to 2 exist in every vocabulary
FEW = 64  # a wider output may as well be an embedding: its task is left to be filled in


def init(
    factory: str, *, inputs: Sequence[str] = (), output: str | Path = "model.yaml", kwargs: Mapping[str, Any] | Sequence[str] = ()
) -> Path:
    """Run the factory, call its model once on made-up inputs, and draft the card of what came out.

    Args:
        factory: ``module:function``, ``folder/module.py:function``, or a Hugging Face folder of a classifier, which needs no ``inputs``.
        inputs: One for each, in the order of forward: image=3x64x64, image=64x64x3, audio=16000@16000hz, audio=16000@16000hz:log_mel=40,
            imu=50x6@50hz, text=tokens:16, text=tokens:16+mask.
        output: The card to write; never replaces one. The factory is looked up beside it, in the current directory, on the import path.
        kwargs: For the factory: a mapping, or ``key=value`` strings with YAML values; may be repeated.

    Returns:
        The card. What could not be known (labels, mean and deviation, tokenizer) is marked ``# FILL IN`` and rejected until it is.

    Raises:
        CardError: An input cannot be understood, or the factory or its model cannot be called so.
        CheckpointError: The factory's or the model's code failed; names file and line.
        OutputError: ``output`` is there already, or cannot be written.
    """
    path = Path(output)
    path = path / "model.yaml" if path.is_dir() else path
    if path.exists():
        raise OutputError(
            f"{path} is already there.", why="a draft never replaces a card.", fix="choose another place with -o, or remove it."
        )
    if huggingface_card.is_folder(Path(factory)):
        weights = Path(os.path.relpath(factory, path.resolve().parent)).as_posix()
        write_bytes(path, _draft(huggingface_card.read(Path(factory), weights), {}).encode())
        return path
    module, source = _module(factory, path)
    card = Card(
        inputs={spec.name: spec for spec in map(_input, inputs)},
        outputs={"output": Output("output", "tensor")},
        path=path.resolve(),
        factory=module,
        source=source,
        kwargs=dict(kwargs) if isinstance(kwargs, Mapping) else dict(map(_kwarg, kwargs)),
    )
    if not card.inputs:
        raise CardError("no input is given.", fix=f"name them in the order of forward: --input {FORMS.split(', ')[0]}")
    card, shapes = _tried(card)
    write_bytes(path, _draft(card, shapes).encode())
    return path


def ending(card: Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    command = f"fill in the lines that end in '{FILL_IN}', then: edgemm train {card} -d DATA -o runs/mine"
    return Ending(written=(card,), next=command)


def _tried(card: Card) -> tuple[Card, dict[str, tuple[int, ...]]]:
    """The card and what its model returns; where the model does not take a sound's samples, the first features that it takes.

    Raises:
        CheckpointError: It takes none; the error is that of the inputs as they were given.
    """
    from edgemm.workshop.models.checkpoint.drafting import Refused, returned_shapes  # torch

    try:
        return card, returned_shapes(card)
    except Refused as err:
        open_ = [name for name, spec in card.inputs.items() if spec.modality == "audio" and "features" not in spec.options]
        for kind, bands in FEATURES if open_ else ():
            inputs = dict(card.inputs)
            for name in open_:
                options = {**inputs[name].options, "features": {kind: {BANDS[kind]: bands}}, "guessed": True}
                inputs[name] = dataclasses.replace(inputs[name], options=options)
            plain = {name: dataclasses.replace(spec, options=_declared(spec)) for name, spec in inputs.items()}
            with contextlib.suppress(Refused):
                return card.replace(inputs=inputs), returned_shapes(card.replace(inputs=plain))
        raise err


def _module(given: str, output: Path) -> tuple[str, str | None]:
    """``module:function``, and the folder to look in as seen from the card; a path ``folder/module.py:function`` is taken apart."""
    file, _, function = given.rpartition(":")
    if file.endswith(".py"):
        folder = os.path.relpath(Path(file).parent, output.parent)
        return f"{Path(file).stem}:{function}", Path(folder).as_posix() if folder != "." else None
    from edgemm.contracts import user_code

    probe = Card({}, {}, path=output.resolve(), factory=given)
    root = user_code.locate(probe).root if user_code.kind(probe) == "own" else None
    if root is None or root == output.resolve().parent:
        return given, None
    return given, Path(os.path.relpath(root, output.resolve().parent)).as_posix()


def _kwarg(given: str) -> tuple[str, Any]:
    key, equals, value = given.partition("=")
    if not equals or not key.isidentifier():
        raise CardError(f"'{given}' is not of the form key=value.", fix="write e.g. --kwargs classes=7")
    return key, yaml.safe_load(value)


def _input(given: str) -> Input:
    """An input from ``name=form``."""
    name, equals, form = given.partition("=")
    kind, colon, rest = form.partition(":")
    if colon and kind.isalpha():
        if kind not in MODALITIES:
            raise CardError(f"input '{given}': unknown kind '{kind}'.", fix=nearest(kind, MODALITIES))
        form = rest
    else:
        kind = ""
    match = SIZE.fullmatch(form)
    if not equals or not name or match is None:
        raise CardError(f"input '{given}' cannot be understood.", fix=f"write name=form, such as {FORMS}.")
    sizes = [int(size) for size in match["sizes"].split("x")]
    rate = float(match["rate"]) if match["rate"] else None
    kind = kind or _kind(sizes, rate)
    if kind == "tokens":
        return Input(name, "text", {"length": sizes[0], "vocab": UNKNOWN_VOCABULARY} | ({"mask": True} if match["mask"] else {}))
    if kind == "image":
        return Input(name, "image", _picture(given, sizes))
    if kind == "audio":
        return Input(name, "audio", _sound(given, sizes, rate, match["features"], match["bands"]))
    return Input(name, "sensor", {"shape": sizes} | ({"rate_hz": _whole(rate)} if rate else {}))


def _kind(sizes: list[int], rate: float | None) -> str:
    if rate and len(sizes) == 1 and rate >= 1000:
        return "audio"
    return "image" if len(sizes) == 3 and {sizes[0], sizes[-1]} & {1, 3, 4} and not rate else "sensor"


def _picture(given: str, sizes: list[int]) -> dict[str, Any]:
    if len(sizes) != 3 or not {sizes[0], sizes[-1]} & {1, 3, 4}:
        raise CardError(f"input '{given}': a picture has three sizes, one of them 1, 3 or 4 channels.", fix="write image=3x64x64.")
    channels, height, width = sizes if sizes[0] in (1, 3, 4) else (sizes[2], sizes[0], sizes[1])
    return {"height": height, "width": width, "channels": channels}


def _sound(given: str, sizes: list[int], rate: float | None, features: str | None, bands: str | None) -> dict[str, Any]:
    if len(sizes) != 1 or not rate or rate != int(rate):
        raise CardError(f"input '{given}': a sound is a number of samples at a rate.", fix="write audio=16000@16000hz.")
    options = {"rate_hz": int(rate), "seconds": _whole(sizes[0] / rate)}
    return options | ({"features": {features: {BANDS[features]: int(str(bands))}}} if features else {})


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _draft(card: Card, shapes: Mapping[str, tuple[int, ...]]) -> str:
    lines = [f"# Drafted by edgemm init. Lines that end in '{FILL_IN}' are rejected until their value is written and the mark removed."]
    lines += [f"factory: {card.factory}"]
    lines += [f"source: {card.source}"] if card.source else []
    lines += [f"kwargs: {_flow(dict(card.kwargs))}"] if card.kwargs else []
    trained = "# weights: weights.safetensors    # the trained weights (.safetensors or .pt); without them `edgemm train` starts anew"
    lines += [f"weights: {card.weights}" if card.weights else trained]
    lines += ["inputs:  # in the order of forward"]
    for spec in card.inputs.values():
        lines += [f"  {spec.name}:", f"    modality: {spec.modality}", *(f"    {line}" for line in _input_lines(spec))]
    lines += ["outputs:"]
    for name, shape in shapes.items():
        lines += [f"  {name}:", *(f"    {line}" for line in _output_lines(shape))]
    if not shapes:
        lines += [f"  {name}: {_flow(entry)}" for name, entry in card.to_dict()["outputs"].items()]
    return "\n".join(lines) + "\n"


def _input_lines(spec: Input) -> list[str]:
    match spec.modality:
        case "image":
            ones = [1] * int(spec.options["channels"])
            lines = [f"{key}: {value}" for key, value in spec.options.items()]
            if "mean" in spec.options and "std" in spec.options:
                return lines
            return [*lines, "# forward gets (pixel / 255 - mean) / std", f"mean: {[0 for _ in ones]}  {FILL_IN}", f"std: {ones}  {FILL_IN}"]
        case "text":
            lines = [f"{key}: {_flow(value)}" for key, value in spec.options.items() if key != "vocab"]
            if "tokenizer" in spec.options:
                return lines
            return [
                *lines,
                "# a Hugging Face tokenizers JSON; or `vocab: <size>` instead, then train builds it",
                f"tokenizer: tokenizer.json  {FILL_IN}",
            ]
    lines = [f"{key}: {_flow(value)}" for key, value in _declared(spec).items()]
    if spec.options.get("guessed"):
        lines = [
            *lines[:-1],
            "# the model takes no samples, but these features: write the settings it was trained with",
            f"{lines[-1]}  {FILL_IN}",
        ]
    return lines


def _declared(spec: Input) -> dict[str, Any]:
    return {key: value for key, value in spec.options.items() if key != "guessed"}


def _output_lines(shape: tuple[int, ...]) -> list[str]:
    """A guess at the task: one number = regression, a few = classification; anything else is left to be filled in."""
    if len(shape) == 1 or shape[1:] == (1,):
        return ["task: regression", "# unit: what it counts, such as dB"]
    if len(shape) == 2 and shape[1] <= FEW:
        return [
            "task: classification    # or multilabel, or regression of several numbers (then without labels)",
            f"# {shape[1]} labels, in the order of the model's logits",
            f"labels: []  {FILL_IN}",
        ]
    sizes = " x ".join(map(str, shape[1:]))
    return [
        f"# {sizes} numbers: classification, multilabel, regression, embedding or tensor; per_step: true for one answer a step",
        f"task: tensor  {FILL_IN}",
    ]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
