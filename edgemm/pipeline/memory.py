"""How much memory `compress` takes at its worst moment, told beforehand from a model's size."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.box.devices import memory

GIB = 2**30
BASE_GIB = 0.8
"""torch, ONNX, a quantizer and a runtime, before any weight."""
FLOAT_COPIES: Mapping[str, float] = {"int8": 7.0, "weights": 4.0}
"""How often float weights are there at the worst moment: where NNCF calibrates (4.7 GiB of 0.57 GiB of weights, benchmarks/two_tower.py);
of weights alone where the graph is exported: in torch, in the graph, in its file, and what a runtime makes of them."""
WORTH_TELLING_GIB = 2.0


def peaks_gib(float_bytes: int) -> dict[str, float]:
    """Way of quantizing (``int8``, ``weights``) -> GiB of one process at its worst moment.

    Args:
        float_bytes: Of all weights in float32.
    """
    return {way: round(BASE_GIB + copies * float_bytes / GIB, 1) for way, copies in FLOAT_COPIES.items()}


def told(float_bytes: int) -> str:
    """That in a sentence, with what this machine has to spare; "" where it is little."""
    peaks = peaks_gib(float_bytes)
    if peaks["weights"] < WORTH_TELLING_GIB:
        return ""
    now = memory.look()
    spare = f" This machine has {now.available / 1024:.1f} GiB to spare." if now else ""
    return f"compress takes up to about {peaks['int8']:g} GiB of memory in INT8, {peaks['weights']:g} GiB with method: weights.{spare}"
