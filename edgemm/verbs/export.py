"""`edgemm export`: write the float ONNX graph, front-end included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemm.pipeline import stages
from edgemm.pipeline.job import start
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import Artifact, require_writable


def export(
    card: str | Path,
    *,
    output: str | Path,
    data: str | Path | None = None,
    opset: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Write ``model.onnx``, a card for it (``model.yaml``) and the parity found (``parity.json``) into folder ``output``.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name, or an ``.onnx`` file (one without a card gets one drafted).
        output: Folder for the graph; what stood there is replaced.
        data: Real samples for the parity check; without it, seeded synthetic ones.
        opset: ONNX opset; without it, one that all targets take.

    Raises:
        ExportError: The exporter refuses the model; names module and line.
        ParityError: The graph computes something else; names output, error and branch.
    """
    output = Path(output)
    require_writable(output)
    job = start(card, data, progress=progress)
    exported = stages.export(job, opset=opset or stages.OPSET)
    stages.lay_out(output, {path.name: path for path in stages.files_of(exported)}, card=job.card.as_onnx("model.onnx"))
    return Artifact(output / "model.onnx", exported.provenance)


def ending(exported: Artifact, *, output: str | Path, data: str | Path = "DATA", **_: Any) -> Ending:
    """What the command line says at the end."""
    return Ending(written=(exported.main,), next=f"edgemm quantize {exported.main} -r openvino-int8 -d {data} -o {output}")
