"""What an OpenVINO IR file (.xml) says about itself, read without OpenVINO.

Source: the layout of IR version 11: layers with ports and their tensors' names, and edges between them.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgemm.contracts.onnx_file import OnnxFile
from edgemm.contracts.specs import BATCH, TensorSpec
from edgemm.errors import TargetError

DTYPES = {
    "FP32": "float32", "FP16": "float16", "FP64": "float64", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "BOOL": "bool",
}  # fmt: skip
LARGEST = 256 << 20  # bytes; an IR describes a graph in some megabytes, the weights lie beside it


def read(path: Path) -> OnnxFile:
    """The face of an IR file; its operators are OpenVINO's types.

    Raises:
        TargetError: It is missing or no IR; its weights (.bin) are missing.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is larger than a graph's description can be.")
        root = ElementTree.parse(path).getroot()
        layers = {layer.attrib["id"]: layer for layer in root.iter("layer")}
        inputs = [_spec(layer, layer.find("output/port")) for layer in layers.values() if layer.attrib["type"] == "Parameter"]
        makers = {edge.attrib["to-layer"]: edge.attrib for edge in root.iter("edge")}
        outputs = [_output(layer, layers, makers) for layer in layers.values() if layer.attrib["type"] == "Result"]
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as err:
        raise TargetError(f"cannot read the model '{path.name}'.", why=str(err), fix="give a complete OpenVINO IR: .xml and .bin.") from err
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise TargetError(f"'{path.name}' needs the file '{weights.name}' beside it.", why="it holds weights.", fix="copy both together.")
    return OnnxFile(tuple(inputs), tuple(outputs), frozenset({weights.name}), tuple(layer.attrib["type"] for layer in layers.values()))


def _output(layer: ElementTree.Element, layers: dict[str, ElementTree.Element], makers: dict[str, dict[str, str]]) -> TensorSpec:
    """What a Result gives: named by itself (since 2024), or by the tensor that goes into it."""
    edge = makers[layer.attrib["id"]]
    ports = {port.attrib["id"]: port for port in layers[edge["from-layer"]].iterfind("output/port")}
    port = ports[edge["from-port"]]
    return _spec(layer, port, layer.attrib.get("output_names") or port.attrib.get("names", ""))


def _spec(layer: ElementTree.Element, port: ElementTree.Element | None, names: str | None = None) -> TensorSpec:
    if port is None:
        raise ValueError(f"layer '{layer.attrib['name']}' has no port.")
    name = (port.attrib.get("names", "") if names is None else names).split(",")[0] or layer.attrib["name"]
    sizes = [int(dim.text or -1) for dim in port.iterfind("dim")]
    shape = [size if size >= 0 else BATCH if axis == 0 else f"free_{axis}" for axis, size in enumerate(sizes)]
    return TensorSpec(name, DTYPES[port.attrib["precision"]], tuple(shape))
