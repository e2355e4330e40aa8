"""What an ONNX file says about itself (inputs, outputs, side files), read without the onnx package and without loading weights.

A box has numpy and one runtime; OpenVINO forgets the names of free axes, which the specs need. So the few protobuf fields wanted are
walked here, on a memory map, skipping everything else by its length.

Source: field numbers of onnx.proto (ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorShapeProto, TensorProto).
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgemm.contracts.specs import BATCH, TensorSpec
from edgemm.errors import TargetError

MODEL_GRAPH, MODEL_FUNCTIONS, GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 25, 1, 5, 11, 12
NODE_OUTPUT, NODE_NAME, NODE_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 2, 3, 4, 5, 7
TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL = 2, 8, 13
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
          12: "uint32", 13: "uint64"}  # fmt: skip
"""TensorProto.DataType -> numpy name."""
FOUR_BITS = (21, 22)
"""TensorProto.DataType of four bits, which numpy lacks."""
QUANTIZERS = frozenset(
    {"FakeQuantize", "QuantizeLinear", "DequantizeLinear", "com.microsoft:QuantizeLinear", "com.microsoft:DequantizeLinear"}
)
ROUNDING = frozenset({"FakeQuantize", "QuantizeLinear", "com.microsoft:QuantizeLinear"})
"""Those of them that round activations too."""
PACKED = frozenset({"com.microsoft:MatMulNBits", "com.microsoft:GatherBlockQuantized"})
"""Operators on weights in few bits, activations in float."""


@dataclass(frozen=True)
class OnnxFile:
    """The face of an ONNX file.

    Attributes:
        external: File names (relative to the model's folder) in which weights lie outside.
        operators: ``domain:type`` of each node of the main graph, without the domain for the standard one.
        has_functions: Whether it defines operators of its own, which not every runtime takes.
        types: numpy names of the types of its weights; ``object`` for those that numpy lacks, such as bfloat16.
        weight_bits: Bits of weights that stand in few bits beside activations in float.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: frozenset[str]
    operators: tuple[str, ...]
    types: frozenset[str] = frozenset()
    has_functions: bool = False
    weight_bits: frozenset[int] = frozenset()

    @property
    def precision_words(self) -> tuple[str, ...]:
        """What of it is in few bits, as reports call it: ``int8``, and ``w8`` and ``w4`` where that is weights alone."""
        rounds = self.is_quantized and not ROUNDING.isdisjoint(self.operators)
        bits = self.weight_bits or ({8} if self.is_quantized and not rounds else ())
        return (*(["int8"] if rounds else []), *(f"w{count}" for count in sorted(bits, reverse=True)))

    @property
    def is_quantized(self) -> bool:
        """Whether some of its operators round to few bits: activations, or weights through a DequantizeLinear."""
        return not QUANTIZERS.isdisjoint(self.operators)


def read(path: Path) -> OnnxFile:
    """Read the face of an ONNX file.

    Raises:
        TargetError: It is missing, empty, truncated, or not ONNX; a side file is missing, or lies outside its folder.
    """
    try:
        face = _model(_mapped(path))
    except (OSError, ValueError, IndexError, KeyError, UnicodeDecodeError) as err:
        raise TargetError(
            f"cannot read the model '{path.name}'.",
            why=_why(path, err),
            fix="give a complete ONNX file; export it again if its copy was cut short.",
        ) from err
    _check_side_files(path, face.external)
    return face


def copy(path: Path, folder: Path) -> Path:
    """Copy an ONNX file as ``folder/model.onnx``, its side files beside it under their own names.

    Raises:
        TargetError: As ``read``.
    """
    main = folder / "model.onnx"
    for name in sorted(read(path).external):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / name, folder / name)
    shutil.copyfile(path, main)
    return main


def node_making(path: Path, tensor: str) -> str | None:
    """Name of the node of the main graph whose output is ``tensor``; None where there is none, or it has no name."""
    for number, node in _fields(_inner(_mapped(path), MODEL_GRAPH)):
        if number == GRAPH_NODE and isinstance(node, memoryview):
            facts = [(field, _text(value)) for field, value in _fields(node) if field in (NODE_OUTPUT, NODE_NAME)]
            if (NODE_OUTPUT, tensor) in facts:
                return next((text for field, text in facts if field == NODE_NAME and text), None)
    return None


def _mapped(path: Path) -> memoryview:
    """The file's bytes; the mapping ends with the last view of it."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _check_side_files(path: Path, names: frozenset[str]) -> None:
    for name in sorted(names):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TargetError(
                f"'{path.name}' names the side file '{name}', outside its folder.",
                why="a model must not reach for other files of this machine.",
                fix="save it again with its weights beside it.",
            )
        if not (path.parent / name).is_file():
            raise TargetError(f"'{path.name}' needs the file '{name}' beside it.", why="it holds weights.", fix="copy both together.")


def _why(path: Path, err: Exception) -> str:
    if isinstance(err, FileNotFoundError):
        return "there is no such file."
    if isinstance(err, OSError):
        return f"{err.strerror or err}."
    if path.stat().st_size == 0:
        return "the file is empty."
    return "it is not an ONNX file, or it is truncated."


def _model(data: memoryview) -> OnnxFile:
    graph = next((value for number, value in _fields(data) if number == MODEL_GRAPH), None)
    if not isinstance(graph, memoryview):
        raise ValueError("no graph")
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    initializers: set[str] = set()
    external: set[str] = set()
    operators: list[str] = []
    types: set[str] = set()
    bits: set[int] = set()
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == GRAPH_INPUT:
            inputs.append(_spec(value))
        elif number == GRAPH_OUTPUT:
            outputs.append(_spec(value))
        elif number == GRAPH_NODE:
            operators.append(_operator(value))
            if operators[-1] in PACKED:
                bits.add(_bits(value))
        elif number == GRAPH_INITIALIZER:
            initializers.add(_tensor(value, external, types, bits))
    inputs = [spec for spec in inputs if spec.name not in initializers]  # old files list weights among the inputs
    has_functions = any(number == MODEL_FUNCTIONS for number, _ in _fields(data))
    return OnnxFile(
        tuple(inputs), tuple(outputs), frozenset(external), tuple(operators), frozenset(types), has_functions, frozenset(bits)
    )  # fmt: skip


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int for varints, a view for anything with a length; fixed-size fields as views."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(data):
            raise ValueError("truncated")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("varint")


def _text(value: int | memoryview) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _inner(data: memoryview, number: int) -> memoryview:
    """The message in field ``number``, empty when it is not set."""
    return next((value for field, value in _fields(data) if field == number and isinstance(value, memoryview)), memoryview(b""))


def _spec(data: memoryview) -> TensorSpec:
    name, kind = _text(_inner(data, 1)), _inner(_inner(data, 2), 1)
    element = next((value for number, value in _fields(kind) if number == 1 and isinstance(value, int)), 0)
    shape: list[int | str] = []
    for number, dimension in _fields(_inner(kind, 2)):
        if number == 1 and isinstance(dimension, memoryview):
            shape.append(_axis(dimension, len(shape)))
    if shape and isinstance(shape[0], str) and "*" not in shape[0]:  # 4*batch is another size: rows times steps
        first = shape[0]
        shape = [BATCH if axis == first else axis for axis in shape]
    return TensorSpec(name, DTYPES.get(element, "object"), tuple(shape))


def _axis(data: memoryview, position: int) -> int | str:
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int) and 0 < value < 1 << 62:
            return value
        if number == 2 and len(_text(value)):
            return _text(value)
    return BATCH if position == 0 else f"axis_{position}"


def _operator(data: memoryview) -> str:
    kind = domain = ""
    for number, value in _fields(data):
        if number == NODE_TYPE:
            kind = _text(value)
        elif number == NODE_DOMAIN:
            domain = _text(value)
    return f"{domain}:{kind}" if domain not in ("", "ai.onnx") else kind


def _bits(data: memoryview) -> int:
    """Attribute ``bits`` of a node on packed weights; 4 where it is left out."""
    for number, value in _fields(data):
        if number == NODE_ATTRIBUTE and isinstance(value, memoryview) and _text(_inner(value, 1)) == "bits":
            return next((whole for field, whole in _fields(value) if field == 3 and isinstance(whole, int)), 4)
    return 4


def _tensor(data: memoryview, external: set[str], types: set[str], bits: set[int]) -> str:
    name = ""
    for number, value in _fields(data):
        if number == TENSOR_NAME:
            name = _text(value)
        elif number == TENSOR_TYPE and isinstance(value, int):
            types.add(DTYPES.get(value, "object"))
            bits.update([4] if value in FOUR_BITS else [])
        elif number == TENSOR_EXTERNAL and isinstance(value, memoryview) and _text(_inner(value, 1)) == "location":
            external.add(_text(_inner(value, 2)))
    return name
