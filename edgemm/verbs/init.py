"""`edgemm init`: draft a model card by running your factory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import card_file, plugins, written
from edgemm.contracts.card import FILL_IN, Card, Input, Output
from edgemm.contracts.modality import Form, Modality, flow
from edgemm.contracts.word_file import read_words
from edgemm.errors import CardError, OutputError, nearest
from edgemm.report.terminal import Ending
from edgemm.store.artifact import write_bytes
from edgemm.workshop.models.checkpoint import huggingface_card

SIZE = re.compile(r"(?P<sizes>\d+(?:x\d+)*)(?:@(?P<rate>\d+(?:\.\d+)?)hz)?(?P<words>(?:\+\w+)*)(?P<settings>(?::\w+=\d+)*)")
FEW = 64  # a wider output may as well be an embedding: its task is left to be filled in


def init(
    factory: str,
    *,
    inputs: Sequence[str] = (),
    output: str | Path = "model.yaml",
    kwargs: Mapping[str, Any] | Sequence[str] = (),
    words: str | Path | None = None,
    with_text: bool = False,
) -> Path:
    """Run the factory, call its model once on made-up inputs, and draft the card of what came out.

    Args:
        factory: ``module:function``, ``folder/module.py:function``, or what needs no ``inputs``: a Hugging Face folder (CLIP, SigLIP, CLAP,
            Whisper, sentence encoders, ViT, DINOv2, wav2vec 2.0, ..., or any classifier), an ``.onnx`` file.
        inputs: One for each, in the order of forward: image=3x64x64, image=64x64x3, audio=16000@16000hz, audio=16000@16000hz:log_mel=40,
            imu=50x6@50hz, text=tokens:16, text=tokens:16+mask.
        output: The card to write; never replaces one. The factory is looked up beside it, in the current directory, on the import path.
        kwargs: For the factory: a mapping, or ``key=value`` strings with YAML values; may be repeated.
        words: Of a Hugging Face folder with a text tower: a file of words, ``parcel: [a parcel on a doorstep, a cardboard box]``. The model
            then answers which of them a picture or sound is, and only the words' vectors go along.
        with_text: With words: the text tower goes along too, so that ``run`` takes new words without a new bundle.

    Returns:
        The card. What could not be known (labels, mean and deviation, tokenizer) is marked ``# FILL IN`` and rejected until it is.

    Raises:
        CardError: An input cannot be understood, the factory is a file of weights or a TorchScript program, or it or its model cannot be
            called so.
        CheckpointError: The factory's or the model's code failed; names file and line. An ONNX file is none, or cannot be worked on.
        OutputError: ``output`` is there already, or cannot be written.
    """
    if with_text and words is None:
        raise CardError(
            "--with-text goes with --words.",
            why="words to begin with are what the model is measured by.",
            fix="add --words words.yaml; without words `edgemm init` makes a card of both towers.",
        )
    path = Path(output)
    path = path / "model.yaml" if path.is_dir() else path
    if path.exists():
        raise OutputError(
            f"{path} is already there.", why="a draft never replaces a card.", fix="choose another place with -o, or remove it."
        )
    if factory.endswith(".onnx"):
        write_bytes(path, _onnx_draft(Path(factory), Path(os.path.relpath(factory, path.resolve().parent)).as_posix()).encode())
        return path
    if huggingface_card.is_folder(Path(factory)):
        write_bytes(path, _draft(_of_folder(Path(factory), path, words, with_text=with_text), {}).encode())
        return path
    if words is not None:
        raise CardError("--words goes with a Hugging Face folder.", why=f"'{factory}' is none.", fix="leave it out, or name the folder.")
    card_file.refuse_weights(Path(factory))
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
        raise CardError("no input is given.", fix=f"name them in the order of forward: --input {_forms()[0]}")
    tried, shapes = _tried(card)
    guessed = {name for name, spec in tried.inputs.items() if spec != card.inputs[name]}
    write_bytes(path, _draft(tried, shapes, guessed).encode())
    return path


def _of_folder(folder: Path, path: Path, words: str | Path | None, *, with_text: bool) -> Card:
    """The card of a Hugging Face folder; of towers its model is made once, so that what the folder lacks is told now."""
    from edgemm.workshop.models.checkpoint.drafting import returned_shapes  # torch

    here = path.resolve().parent
    labelled = (Path(os.path.relpath(words, here)).as_posix(), tuple(read_words(Path(words)))) if words else None
    named = Path(os.path.relpath(folder, here)).as_posix()
    card = huggingface_card.read(folder, named, labelled, with_text=with_text).replace(path=path.resolve())
    if card.factory == huggingface_card.TOWERS:
        returned_shapes(card)
    return card


def ending(card: Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    text = card.read_text(encoding="utf-8")
    first, then = f"fill in the lines that end in '{FILL_IN}'", f"edgemm train {card} -d DATA -o runs/mine"
    if f"\nfactory: {huggingface_card.TOWERS}" in text:
        recipe = "openvino-int8" if "task: words" in text else "two-tower"
        return Ending(written=(card,), next=f"edgemm compress {card} -r {recipe} -d DATA -o out")
    if "\nmodel: " in text:
        then = f"edgemm compress {card} -r openvino-int8 -d DATA -o out"
        first = (
            f"{first}, look over what was guessed"
            if any(line.endswith(FILL_IN) for line in text.splitlines())
            else "look over what was guessed"
        )
    command = f"{first}, then: {then}"
    return Ending(written=(card,), next=command)


def _onnx_draft(file: Path, named: str) -> str:
    """The card of an ONNX file; what was guessed is marked, and of a detector what nobody can know is left to be filled in."""
    from edgemm.graph import detector_card, onnx_card

    notes: list[str] = []
    card = onnx_card.draft(file, notes.append)
    plain, detector = card.to_dict(), detector_card.draft(onnx_card.read(file), card)
    guesses = {
        "state": "guessed from name and shape: this output is fed back. Remove the line if the input is one of its own.",
        "value": "guessed from the name: this number is built in. Remove the line if the data bring it.",
    }
    lines = ["# Drafted by edgemm init from the graph.", *(f"# {note}" for note in notes), f"model: {flow(named)}", "inputs:"]
    for name, entry in plain["inputs"].items():
        lines += [f"  {flow(name)}:"]
        if detector and name == detector.picture[0]:
            lines += [f"    {line}" for line in _picture_lines(*detector.picture[1:])]
            continue
        lines += [f"    {key}: {flow(value)}{f'  # {guesses[key]}' if key in guesses else ''}" for key, value in entry.items()]
    if detector:
        return "\n".join([*lines, "outputs:", f"  {detector.name}:", *(f"    {line}" for line in detector.lines)]) + "\n"
    lines += ["outputs:  # with a task of their own (classification and its labels, regression, ...) their accuracy is measured"]
    lines += [f"  {flow(name)}: {flow(entry)}" for name, entry in plain["outputs"].items()]
    return "\n".join(lines) + "\n"


def _picture_lines(channels: int, height: int, width: int) -> list[str]:
    """The picture that a detector's file takes as numbers: how they are made of pixels the file does not say."""
    drafted = _kind("image").draft_lines({"height": height, "width": width, "channels": channels}, guessed=False)
    order = [f"order: rgb  # or bgr, as OpenCV reads pictures  {FILL_IN}"] if channels > 1 else []
    return ["modality: image", *drafted, *order, "fit: letterbox  # or stretch, as it was trained"]


def _tried(card: Card) -> tuple[Card, dict[str, tuple[int, ...]]]:
    """The card and what its model returns; where the model does not take an input as given, the first alternative that it takes.

    Raises:
        CheckpointError: It takes none; the error is that of the inputs as they were given.
    """
    from edgemm.workshop.models.checkpoint.drafting import Refused, returned_shapes  # torch

    try:
        return card, returned_shapes(card)
    except CardError:
        masked = _with_masks(card)
        if masked == card:
            raise
        with contextlib.suppress(CardError, Refused):
            return masked, returned_shapes(masked)
        raise
    except Refused:
        open_ = {
            name: alternatives for name, spec in card.inputs.items() if (alternatives := _kind(spec.modality).alternatives(spec.options))
        }
        for options in zip(*open_.values(), strict=False):
            guess = card.replace(
                inputs={
                    **card.inputs,
                    **{name: replace(card.inputs[name], options=choice) for name, choice in zip(open_, options, strict=True)},
                }
            )
            with contextlib.suppress(Refused):
                return guess, returned_shapes(guess)
        raise


def _with_masks(card: Card) -> Card:
    """The card whose texts bring their masks, for a ``forward`` that takes more than was named."""
    masks = {
        name: replace(spec, options={**spec.options, "mask": True})
        for name, spec in card.inputs.items()
        if "mask" in plugins.options("modalities", spec.modality)
    }
    return card.replace(inputs={**card.inputs, **masks})


def _module(factory: str, output: Path) -> tuple[str, str | None]:
    """``module:function``, and the folder to look in as seen from the card; a path ``folder/module.py:function`` is taken apart."""
    file, _, function = factory.rpartition(":")
    if file.endswith(".py"):
        folder = os.path.relpath(Path(file).parent, output.parent)
        return f"{Path(file).stem}:{function}", Path(folder).as_posix() if folder != "." else None
    from edgemm.contracts import user_code

    probe = Card({}, {}, path=output.resolve(), factory=factory)
    root = user_code.locate(probe).root if user_code.kind(probe) == "own" else None
    if root is None or root == output.resolve().parent:
        return factory, None
    return factory, Path(os.path.relpath(root, output.resolve().parent)).as_posix()


def _kwarg(argument: str) -> tuple[str, Any]:
    key, equals, value = argument.partition("=")
    if not equals or not key.isidentifier():
        raise CardError(f"'{argument}' is not of the form key=value.", fix="write e.g. --kwarg classes=7")
    try:
        return key, written.load(value)
    except yaml.YAMLError as err:
        why = " ".join(str(err).split())
        raise CardError(f"'{argument}': its value is not YAML.", why=why, fix=f"put it in quotes: --kwarg '{key}=\"...\"'") from err


def _input(text: str) -> Input:
    """An input from ``name=form``."""
    name, equals, form = text.partition("=")
    word, colon, rest = form.partition(":")
    words = {plugins.constant("modalities", modality, "FORM") or modality: modality for modality in plugins.names("modalities")}
    if colon and word.isalpha():
        if word not in words:
            raise CardError(f"input '{text}': unknown kind '{word}'.", fix=nearest(word, words))
        form = rest
    match = SIZE.fullmatch(form)
    if not equals or not name or match is None:
        raise _not_understood(text)
    parsed = Form(
        tuple(int(size) for size in match["sizes"].split("x")),
        float(match["rate"]) if match["rate"] else None,
        tuple(match["words"].split("+")[1:]),
        {key: int(value) for key, value in (entry.split("=") for entry in match["settings"].split(":")[1:])},
    )
    modality = words.get(word) if colon and word.isalpha() else None
    modality = modality or max(plugins.names("modalities"), key=lambda kind: _kind(kind).likeness(parsed))
    try:
        options = _kind(modality).drafted(parsed)
    except CardError as err:
        raise CardError(f"input '{text}': {err.what}", why=err.why, fix=err.fix) from err
    if options is None:
        raise _not_understood(text)
    return Input(name, modality, options)


def _kind(modality: str) -> type[Modality]:
    return plugins.find(Modality, modality)


def _forms() -> list[str]:
    """Examples of every kind's form."""
    return [form for kind in plugins.names("modalities") for form in plugins.constant("modalities", kind, "FORMS") or ()]


def _not_understood(text: str) -> CardError:
    return CardError(f"input '{text}' cannot be understood.", fix=f"write name=form, such as {', '.join(_forms())}.")


def _draft(card: Card, shapes: Mapping[str, tuple[int, ...]], guessed: Set[str] = frozenset()) -> str:
    lines = [f"# Drafted by edgemm init. Lines that end in '{FILL_IN}' are rejected until their value is written and the mark removed."]
    lines += [f"factory: {card.factory}"]
    lines += [f"source: {card.source}"] if card.source else []
    lines += [f"kwargs: {flow(dict(card.kwargs))}"] if card.kwargs else []
    trained = "# weights: weights.safetensors    # the trained weights (.safetensors or .pt); without them `edgemm train` starts anew"
    brings = card.factory == huggingface_card.TOWERS
    lines += [f"weights: {card.weights}"] if card.weights else [] if brings else [trained]
    lines += ["inputs:  # in the order of forward"]
    for spec in card.inputs.values():
        lines += [f"  {spec.name}:", f"    modality: {spec.modality}"]
        lines += [f"    {line}" for line in _kind(spec.modality).draft_lines(spec.options, guessed=spec.name in guessed)]
    lines += ["outputs:"]
    for name, shape in shapes.items():
        lines += [f"  {name}:", *(f"    {line}" for line in _output_lines(shape))]
    if not shapes:
        lines += [f"  {name}: {flow(entry)}" for name, entry in card.to_dict()["outputs"].items()]
    return "\n".join(lines) + "\n"


def _output_lines(shape: tuple[int, ...]) -> list[str]:
    """A guess at the task: one number = regression, a few = classification; anything else is left to be filled in."""
    if len(shape) == 1 or shape[1:] == (1,):
        return [
            "task: regression    # or classification of two labels, of which the one logit means the second: labels: [no, yes]",
            "# unit: what it counts, such as dB",
        ]
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
