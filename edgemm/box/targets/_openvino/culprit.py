"""Which node OpenVINO cannot compile, where its error names none: found by halving the graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import openvino as ov

SOURCES = ("Parameter", "Constant", "Result", "ReadValue", "Assign")
LIMIT_S = 5.0  # an error must not take longer to explain than to happen


def find_culprit(core: ov.Core, model: ov.Model, device: str, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """(type, name) of the node at which the shortest refused beginning of ``model`` ends; None when not found in time.

    Approximate: cutting a graph changes which nodes are fused, so the node may stand beside the guilty one.
    """
    end = time.monotonic() + LIMIT_S
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() not in SOURCES]
    accepted, refused = 0, len(nodes)
    if not nodes or not _refuses(core, model, nodes, device, settings):
        return None
    while refused - accepted > 1:
        if time.monotonic() > end:
            return None
        middle = (accepted + refused) // 2
        if _refuses(core, model, nodes[:middle], device, settings):
            refused = middle
        else:
            accepted = middle
    culprit = nodes[refused - 1]
    return culprit.get_type_name(), culprit.get_friendly_name()


def _refuses(core: ov.Core, model: ov.Model, nodes: list[Any], device: str, settings: Mapping[str, Any]) -> bool:
    inside = {node.get_friendly_name() for node in nodes}
    ends = [
        port
        for node in nodes
        for port in node.outputs()
        if not any(consumer.get_node().get_friendly_name() in inside for consumer in port.get_target_inputs())
    ]
    try:
        core.compile_model(ov.Model(ends, model.get_parameters(), "beginning").clone(), device, dict(settings))
    except Exception:  # OpenVINO's errors have no common base; which one it is does not matter here
        return True
    return False
