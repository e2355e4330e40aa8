"""`edgemm export`: the float ONNX graph with its front-end, proved equal to the original."""

from __future__ import annotations

from pathlib import Path

from edgemm.pipeline import stages
from edgemm.progress import Progress
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
        data: Real samples for the parity check; without it, seeded synthetic ones.
        opset: ONNX opset; None = the one all targets take.

    Raises:
        ExportError: The exporter refuses the model; names module and line.
        ParityError: The graph computes something else; names output, error and branch.
    """
    output = Path(output)
    require_writable(output)
    job = stages.start(card, data, progress=progress)
    exported = stages.export(job, opset=opset or stages.OPSET)
    stages.lay_out(output, {path.name: path for path in stages.files_of(exported)}, card=job.card.as_onnx("model.onnx"))
    return Artifact(output / "model.onnx", exported.provenance)
