"""A transformer's float graph with its channels balanced by what real samples give: for ranges that few large channels spoil."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx

from edgemm.graph import parity, smoothing

SAMPLES = 64  # a channel that is large is so on nearly every sample


def balanced(model: onnx.ModelProto, samples: Sequence[dict[str, np.ndarray]], untouched: Collection[str]) -> onnx.ModelProto:
    """A copy that computes the same, the linear layers behind layer norms balanced; ``untouched`` ones stay as they are."""
    names = smoothing.norms(model, untouched)
    session = parity.reference_session(model, beside=names)
    greatest: dict[str, np.ndarray] = {}
    for sample in samples[:SAMPLES]:
        for name, value in zip(names, session.run(names, sample), strict=True):
            found = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            greatest[name] = np.maximum(greatest.get(name, found), found)
    return smoothing.smoothed(model, greatest, untouched)
