"""What one layer of a graph has to do: what the graph's side counts and the box's side turns into time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerWork:
    """What one layer has to do for one sample.

    Attributes:
        branch: Whose it is; ``frontend:<input>`` of a front-end.
        macs: Multiply-accumulates.
        weights: Trained values it reads.
        values: Other values it reads and writes.
        launches: How often it is started: 1, or the steps of a recurrent layer.
        quantizable: Whether INT8 runs it; what it does not stays in fp16.
    """

    branch: str
    macs: int
    weights: int
    values: int
    launches: int = 1
    quantizable: bool = False
