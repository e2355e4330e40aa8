"""What is wrong with a file that another tool quantized: boxes and scores under one scale, and what OpenVINO computes wrongly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgemm.graph import openvino
from edgemm.graph.float_tail import float_tail
from edgemm.graph.qdq_pairs import MOVING, PAIR, QUANTIZE, Wiring

SHARES = ("Sigmoid", "Softmax", "HardSigmoid")
"""Operators whose results lie between 0 and 1."""
COARSEST = 1 / 64
"""Largest step for them: a scale of their own has 1/255, one of pixels 0.6 to 2.5."""
COARSER = 16
"""So many of its own steps is the largest that a joined tensor may be rounded to: with more it loses half of its eight bits."""


def faults(model: onnx.ModelProto) -> list[str]:
    """What is to be said of a Q/DQ graph, with what mends it; nodes have names of their own."""
    wiring = Wiring(model)
    said = [
        f"{fault} Boxes and scores must not share a scale. compress and quantize compute what follows the last layers in float again; "
        "compile and benchmark take the file as it is: export the float model and quantize that."
        for fault in _shared_scales(model, wiring)
    ]
    if wrong := openvino.wrong_pairs(wiring):
        said.append(
            f"without AMX OpenVINO 2026.4 computes {len(wrong)} of its quantizers wrongly, silently: int8 that comes to a convolution past "
            f"a Concat, or is moved before, as '{wrong[0].node.name}'. compress, quantize and compile write the same numbers in uint8 for "
            "it; benchmark takes the file as it is."
        )
    return said


def _shared_scales(model: onnx.ModelProto, wiring: Wiring) -> Iterator[str]:
    """A sentence for each quantizer behind the last layers whose one scale spoils some of what was joined before it."""
    tail = float_tail(model)
    for node in model.graph.node:
        step = wiring.constant(node.input[1]) if node.op_type == QUANTIZE and node.name in tail else None
        concat = _concat(wiring, node.input[0]) if step is not None else None
        if step is None or concat is None:
            continue
        size = float(np.max(step))
        spoiled = [name for name in concat.input if size > min(_coarsest(wiring, name), default=np.inf)]
        if spoiled and len(spoiled) < len(concat.input):
            yield (
                f"quantizer '{node.name}' has one scale for all that '{concat.name}' joins, so that '{spoiled[0]}' comes out in steps of "
                f"{size:.3g}."
            )


def _concat(wiring: Wiring, name: str) -> onnx.NodeProto | None:
    """The Concat whose result a tensor is, moved or quantized at most."""
    node = wiring.maker.get(name)
    while node is not None and node.op_type in (*MOVING, *PAIR):
        node = wiring.maker.get(node.input[0])
    return node if node is not None and node.op_type == "Concat" else None


def _coarsest(wiring: Wiring, name: str) -> Iterator[float]:
    """Bounds on a joined tensor's step: by its own quantizer, and where it is made of shares."""
    node = wiring.maker.get(name)
    while node is not None and node.op_type in (*MOVING, *PAIR, "Concat"):
        if node.op_type == QUANTIZE and (step := wiring.constant(node.input[1])) is not None:
            yield COARSER * float(np.max(step))
        node = wiring.maker.get(node.input[0])
    if node is not None and node.op_type in SHARES:
        yield COARSEST
