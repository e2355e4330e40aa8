"""Instead of TensorRT: the same graph in ONNX Runtime, every optimisation off. For accuracy where there is no GPU; never for speed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.target import Session, Target


class StandIn(Session):
    """A graph's meaning, computed on the processor.

    Args:
        precision: What the graph computes in, as TensorRT would: its types, not the kernels that emulate them here.
        optimise: Whether ONNX Runtime may fuse: yes where it serves in earnest, no where it shows what the graph means.
    """

    def __init__(self, path: Path, precision: str, *, optimise: bool = False) -> None:
        self._session = plugins.load(Target, "onnxruntime").open(path, optimize="all" if optimise else "none")
        self.inputs, self.outputs = self._session.inputs, self._session.outputs
        self._precision = precision

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._session.run(feed)

    def precision(self) -> str:
        return self._precision

    def close(self) -> None:
        self._session.close()
