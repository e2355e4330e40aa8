"""Names in a graph, for telling which branch something with a name belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgemm.graph.branches import Branches


def name_owners(model: onnx.ModelProto, branches: Branches) -> dict[str, str]:
    """Node name, and name of each tensor that a node makes -> branch. Runtimes call a layer by either."""
    return dict(_named(model, branches))


def _named(model: onnx.ModelProto, branches: Branches) -> Iterator[tuple[str, str]]:
    for node in model.graph.node:
        branch = branches.of_node[node.name]
        for name in (node.name, *node.output):
            if name:
                yield name, branch
