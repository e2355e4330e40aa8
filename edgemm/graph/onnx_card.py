"""A card for an ONNX file that comes without one, drafted from what the graph says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.specs import BATCH
from edgemm.errors import CheckpointError, EdgemmError
from edgemm.graph import files
from edgemm.graph.parity import run_reference

BATCH_WORDS = ("batch", "batch_size", "n", "b", "bs")  # what exporters call the axis of samples
RATE_NAMES = ("sr", "sample_rate", "sampling_rate", "rate_hz")
RATE_HZ = 16000  # what speech models run at, unless the file's name says 8k
STATE_PREFIXES, STATE_SUFFIXES = ("new_", "next_", "out_", "present_"), ("n", "N", "_n", "_out", "_new", "_next", "_output")
SPEECH_SIZES = (576, 512, 480, 320, 160)  # tried first where a rate is asked for; 576: 32 ms at 16 kHz after 4 ms of context
FREE_SIZES = sorted({m << k for m in (1, 3, 5) for k in range(15) if 8 <= m << k <= 16000} | {16000})
"""Sizes tried for an axis the graph leaves open: powers of two and their kin."""


def draft(path: Path) -> Card:
    """A card: every input a ``tensor``, every output a ``tensor``; states and constants guessed by name and shape.

    A state is an input that an output of the same shape continues (``state`` and ``stateN``, ``h`` and ``hn``); a scalar whole number
    called like a sampling rate is a constant. An axis the graph leaves open gets the smallest size that runs.

    Raises:
        CheckpointError: The file is missing or no ONNX.
        EdgemmError: No size was found for the open axes.
    """
    model = read(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    options: dict[str, dict[str, Any]] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = [BATCH if axis in _batch_axes(value) else size or f"axis_{axis}" for axis, size in enumerate(_shape(value))]
        options[value.name] = {"dtype": _dtype(value), "shape": shape}
        follower = _follower(value.name, shape, outputs, set(options))
        if follower:
            options[value.name]["state"] = follower
        elif not shape and value.name.lower() in RATE_NAMES:
            options[value.name]["value"] = 8000 if "8k" in path.stem and "16k" not in path.stem else RATE_HZ
    inputs = {name: Input(name, "tensor", option) for name, option in _fixed(model, options, path).items()}
    card = Card(inputs, {name: Output(name, "tensor") for name in outputs}, path=path.resolve().parent / "model.yaml", model=path.name)
    return card


def read(path: Path) -> onnx.ModelProto:
    """Load an ONNX file.

    Raises:
        CheckpointError: It is missing, truncated, or no ONNX.
    """
    try:
        model = files.load(path)
        onnx.checker.check_model(model) if files.weight_bytes(model) < files.LIMIT_BYTES else onnx.checker.check_model(str(path))
    except FileNotFoundError as err:
        raise CheckpointError(f"there is no file '{path}'.", fix="check the path.") from err
    except Exception as err:  # protobuf's and the checker's errors have no common base
        raise CheckpointError(
            f"'{path}' is no complete ONNX file.", why=str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__,
            fix="export it again, or copy it again.",
        ) from err  # fmt: skip
    return model


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; a name, or "" for an unnamed open axis."""
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _dtype(value: onnx.ValueInfoProto) -> str:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name


def _batch_axes(value: onnx.ValueInfoProto) -> list[int]:
    """The axis that counts samples: called so, else an open first axis; [] where the graph takes one sample a call."""
    shape = _shape(value)
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str) and size.lower() in BATCH_WORDS]
    return named[:1] or ([0] if shape and isinstance(shape[0], str) else [])


def _follower(name: str, shape: list[int | str], outputs: dict[str, list[int | str]], inputs: set[str]) -> str | None:
    """The output that continues input ``name`` as a state."""
    stem = name.removesuffix("_in").removesuffix("0").removesuffix("_")
    candidates = {f"{stem}{suffix}" for suffix in STATE_SUFFIXES} | {f"{prefix}{stem}" for prefix in STATE_PREFIXES} - inputs
    for output, sizes in outputs.items():
        fits = len(sizes) == len(shape) and all(
            not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(sizes, shape, strict=True)
        )
        if output in candidates and fits and shape:
            return output
    return None


def _fixed(model: onnx.ModelProto, options: dict[str, dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    """The options with a size for every open axis other than the batch: the smallest that the graph runs with."""
    free = sorted({size for option in options.values() for size in option["shape"] if isinstance(size, str) and size != BATCH})
    if not free:
        return options
    speech = any("value" in option for option in options.values())
    for size in [*SPEECH_SIZES, *FREE_SIZES] if speech else FREE_SIZES:
        tried = {
            name: {**option, "shape": [size if axis in free else axis for axis in option["shape"]]} for name, option in options.items()
        }
        if _runs(model, tried):
            return tried
    raise EdgemmError(
        f"'{path.name}' leaves the size of {', '.join(free)} open, and none of the usual sizes runs.",
        why=f"tried {FREE_SIZES[0]} to {FREE_SIZES[-1]} for each.",
        fix="write a model.yaml beside it: `model: " + path.name + "` and its inputs with their shapes.",
    )


def _runs(model: onnx.ModelProto, options: dict[str, dict[str, Any]]) -> bool:
    feed = {
        name: np.full([1 if size == BATCH else size for size in option["shape"]], option.get("value", 0), option["dtype"])
        for name, option in options.items()
    }
    try:
        run_reference(model, [feed])
    except Exception:  # any refusal means: not this size
        return False
    return True


def states(card: Card) -> Iterator[tuple[str, str]]:
    """(input, output) of every state of a card."""
    return ((name, str(spec.options["state"])) for name, spec in card.inputs.items() if spec.options.get("state"))
