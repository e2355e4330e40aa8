"""What ONNX Runtime says of a graph that it does not take, with the operator, the node and the branch."""

from __future__ import annotations

import re

import onnx

from edgemm.errors import EdgemmError, ExportError
from edgemm.graph.branches import find_branches

UNKNOWN = re.compile(r"(?P<op>\w+)\(-?\d+\) is not a registered function/op")
UNBUILT = re.compile(r"Could not find an implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'")
INSIDE = re.compile(r"[Nn]ode ?(?:\(|with name '|:)(?P<node>[^)'\s]+)")
MOST = 300  # characters of its own words


def untaken(model: onnx.ModelProto, said: str) -> ExportError:
    """The error of a graph that is the reference for everything after it, and cannot be run."""
    named = next((found.groupdict() for pattern in (UNKNOWN, UNBUILT, INSIDE) if (found := pattern.search(said))), {})
    node = next((node for node in model.graph.node if _is(node, named)), None)
    place = "" if node is None else f" at node '{node.name}' ({node.op_type}){_branch(model, node.name)}"
    words = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ ", "", " ".join(said.split()))
    return ExportError(
        f"ONNX Runtime does not take the graph{place}.",
        why=words[:MOST],
        fix="every command runs the graph there first, to know what it means: write that layer with ONNX's own operators (opset 18).",
    )


def _is(node: onnx.NodeProto, named: dict[str, str]) -> bool:
    return node.name == named["node"] if "node" in named else node.op_type == named.get("op")


def _branch(model: onnx.ModelProto, name: str) -> str:
    try:
        branch = find_branches(model).of_node.get(name)
    except EdgemmError:  # a graph that has none
        return ""
    return f" of branch '{branch}'" if branch else ""
