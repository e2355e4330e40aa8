"""A card for an ONNX file that comes without one, drafted from what the graph says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.specs import BATCH
from edgemm.errors import CheckpointError, EdgemmError
from edgemm.graph import files, single_precision, unfit
from edgemm.graph.parity import run_reference

ML, ML_VERSION = "ai.onnx.ml", 3
NMS = "NonMaxSuppression"
UNKNOWN = r"No (?:opset import for domain|Op registered for) '?([\w.]+)"
"""What the checker says of an operator whose domain the file does not import, or has not."""
BATCH_WORDS = ("batch", "batch_size", "n", "b", "bs")  # what exporters call the axis of samples
RATE_NAMES = ("sr", "sample_rate", "sampling_rate", "rate_hz")
RATE_HZ = 16000  # what speech models run at, unless the file's name says 8k
EARLIER_PREFIXES, EARLIER_SUFFIXES = ("prev_", "previous_", "past_", "old_"), ("_in", "_prev", "_previous", "_past", "_old", "_0", "0", "_")
STATE_PREFIXES = ("new_", "next_", "out_", "present_", "updated_")
STATE_SUFFIXES = ("n", "N", "_n", "_out", "_new", "_next", "_output", "_present", "_updated")
STATE_WORDS = frozenset(
    {"state", "states", "h", "c", "hidden", "cell", "hx", "cx", "hc", "memory", "mem", "cache", "context", "ctx", "rnn", "gru", "lstm"}
)
"""What a state is called, where as many inputs could be one as there are."""
SPEECH_SIZES = (576, 512, 480, 320, 160)  # tried first where a rate is asked for; 576: 32 ms at 16 kHz after 4 ms of context
FREE_SIZES = sorted({m << k for m in (1, 3, 5) for k in range(15) if 8 <= m << k <= 16000} | {16000})
"""Sizes tried for an axis the graph leaves open: powers of two and their kin."""


def draft(path: Path, note: Callable[[str], None] = lambda text: None) -> Card:
    """A card: every input a ``tensor``, every output a ``tensor``; states and constants guessed by name and shape.

    A state is an input that an output of the same shape continues (``state`` and ``stateN``, ``h`` and ``hn``), beside an input that none
    does; a scalar whole number called like a sampling rate is a constant, and so is what says whether dropout drops: not. An axis the graph
    leaves open gets the smallest size that runs.

    Args:
        note: Called with each constant, and with states that could as well be inputs.

    Raises:
        CheckpointError: The file is missing or no ONNX, or takes or answers something else than numbers.
        EdgemmError: No size was found for the open axes.
    """
    model = read(path)
    unfit.require_tensors(model, path.name, [value.name for value in model.graph.output])
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    switches = unfit.training_flags(model)
    if any(node.op_type == NMS for node in model.graph.node):
        note(f"the graph ends in {NMS}: edgemm init {path.name} drafts the card of a detector that is cut before it.")
    options: dict[str, dict[str, Any]] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = [BATCH if axis in batch_axes(value) else size or f"axis_{axis}" for axis, size in enumerate(_shape(value))]
        options[value.name] = {"dtype": _dtype(value), "shape": shape}
        follower = _follower(value.name, shape, outputs, set(options))
        if follower:
            options[value.name]["state"] = follower
        elif not shape and value.name.lower() in RATE_NAMES:
            options[value.name]["value"] = 8000 if "8k" in path.stem and "16k" not in path.stem else RATE_HZ
            note(f"input '{value.name}' is taken for the sampling rate, and built in as {options[value.name]['value']}.")
        elif value.name in switches:
            options[value.name]["value"] = switches[value.name][1]
            note(f"input '{value.name}' says whether dropout drops values, and is built in as {str(switches[value.name][1]).lower()}.")
    _leave_one_outside(options, note)
    single_precision.to_single(model)  # no CPU runs all of bfloat16
    inputs = {name: Input(name, "tensor", option) for name, option in _fixed(model, options, path).items()}
    card = Card(inputs, {name: Output(name, "tensor") for name in outputs}, path=path.resolve().parent / "model.yaml", model=path.name)
    return card


def read(path: Path) -> onnx.ModelProto:
    """Load an ONNX file, the bodies of its own functions in place of their calls.

    Raises:
        CheckpointError: It is missing, truncated, or no ONNX; or has an operator that is nobody's.
    """
    model = onnx.ModelProto()
    try:
        model = files.load(path)
        if {node.domain for node in model.graph.node} - {entry.domain for entry in model.opset_import} >= {ML}:
            model.opset_import.append(onnx.helper.make_opsetid(ML, ML_VERSION))  # ONNX Runtime takes it for granted
        onnx.checker.check_model(model) if files.weight_bytes(model) < files.LIMIT_BYTES else onnx.checker.check_model(str(path))
        for tensor in files.tensors(model):
            if len(tensor.raw_data) not in (0, files.tensor_bytes(tensor)):  # the checker lets too many bytes pass
                numpy_helper.to_array(tensor)
        return inline_local_functions(model) if model.functions else model
    except FileNotFoundError as err:
        raise CheckpointError(f"there is no file '{path}'.", fix="check the path.") from err
    except Exception as err:  # protobuf's and the checker's errors have no common base
        if unknown := re.search(UNKNOWN, str(err)):
            node = next((n for n in model.graph.node if unknown[1] in (n.domain, n.op_type)), None)
            name = f"node '{node.name or node.output[0]}' ({node.op_type})" if node else f"'{unknown[1]}'"
            raise CheckpointError(
                f"{name} of '{path}' is no operator that the file knows.",
                why=f"{str(err).strip().splitlines()[0]}.",
                fix="write it with ONNX's own operators, which every runtime has; or let the node name its domain (ai.onnx.ml has "
                "LabelEncoder and the like) and the file import that.",
            ) from err
        raise CheckpointError(
            f"'{path}' is no complete ONNX file.", why=str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__,
            fix="export it again, or copy it again.",
        ) from err  # fmt: skip


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; a name, or "" for an unnamed open axis."""
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _dtype(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    if kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE):
        return "float32"  # numpy has no bfloat16, and OpenVINO takes no float64
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name


def batch_axes(value: onnx.ValueInfoProto) -> list[int]:
    """The axis that counts samples: called so, else an open first axis; [] where the graph takes one sample a call."""
    shape = _shape(value)
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str) and size.lower() in BATCH_WORDS]
    return named[:1] or ([0] if shape and isinstance(shape[0], str) else [])


def _follower(name: str, shape: list[int | str], outputs: dict[str, list[int | str]], inputs: set[str]) -> str | None:
    """The output that continues input ``name`` as a state."""
    stem = next((name.removeprefix(prefix) for prefix in EARLIER_PREFIXES if name.startswith(prefix)), name)
    stem = next((stem.removesuffix(suffix) for suffix in EARLIER_SUFFIXES if stem.endswith(suffix)), stem)
    candidates = {f"{stem}{suffix}" for suffix in STATE_SUFFIXES} | {f"{prefix}{stem}" for prefix in STATE_PREFIXES} - inputs
    for output, sizes in outputs.items():
        fits = len(sizes) == len(shape) and all(
            not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(sizes, shape, strict=True)
        )
        if output in candidates and fits and shape:
            return output
    return None


def _leave_one_outside(options: dict[str, dict[str, Any]], note: Callable[[str], None]) -> None:
    """Where every input could be a state, only those that are called one are; where all or none of them are, none is."""
    if not all("state" in option or "value" in option for option in options.values()):
        return
    candidates = [name for name, option in options.items() if "state" in option]
    called = [name for name in candidates if not STATE_WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower()))]
    for name in candidates:
        if name not in called or called == candidates:
            del options[name]["state"]
    if len(candidates) > 1 and called in ([], candidates):
        names = ", ".join(f"'{name}'" for name in candidates)
        note(f"inputs {names} could each be a state that an output continues: none is taken for one; `state: OUTPUT` in a card says so.")


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


def _single(dtype: str) -> str:
    return "float32" if np.dtype(dtype).kind == "f" else dtype


def _runs(model: onnx.ModelProto, options: dict[str, dict[str, Any]]) -> bool:
    feed = {
        name: np.full([1 if size == BATCH else size for size in option["shape"]], option.get("value", 0), _single(option["dtype"]))
        for name, option in options.items()
    }
    try:
        run_reference(model, [feed])
    except Exception:  # any refusal means: not this size
        return False
    return True
