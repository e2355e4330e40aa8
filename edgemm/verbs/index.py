"""`edgemm index`: a gallery of known faces, voices or things for a bundle whose answers are vectors, and who others look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.serving import gallery as galleries
from edgemm.box.serving import model as serving
from edgemm.box.serving.enrolment import model_of
from edgemm.box.serving.gallery import Gallery
from edgemm.contracts.card import Card, Output
from edgemm.data import named_folders
from edgemm.data.dataset import TableDataset, open_dataset
from edgemm.data.verification import Verification, recall, verification
from edgemm.errors import DataError, RunError, nearest
from edgemm.report.terminal import Ending

SHOWN = 20  # rows that are printed; --json has all
FEW, MANY = 1, 10


@dataclass(frozen=True)
class Indexed:
    """What was read.

    Attributes:
        rows: How many.
        file: The gallery that was written; None where rows were held against one.
        recalls: Share of the rows whose name is among so many nearest, of those that have somebody of their name there.
        verified: Of all pairs of the rows.
        found: Row number, its name, the nearest name and the cosine, where rows were held against a gallery.
    """

    rows: int
    file: Path | None
    recalls: dict[int, float]
    verified: Verification | None
    found: tuple[tuple[int, str, str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"file": str(self.file) if self.file else None}

    def __str__(self) -> str:
        lines = [f"row {number} ({name}): looks like {like}, {cosine:.2f}" for number, name, like, cosine in self.found[:SHOWN]]
        lines += [f"and {len(self.found) - SHOWN} more; --json has all"] if len(self.found) > SHOWN else []
        lines += [f"recall@{most}: {share:.4f}" for most, share in self.recalls.items() if np.isfinite(share)]
        if self.verified:
            one = self.verified
            lines += [
                f"equal error rate {100 * one.equal_error_rate:.2f}% at a cosine of {one.threshold:.3f} "
                f"({one.same:,} pairs of one name, {one.different:,} of two)",
                f"where 1% of the same are rejected (cosine {one.strict:.3f}), {100 * one.accepted_wrongly:.2f}% of the others pass",
            ]
        return "\n".join(lines)


def index(
    bundle: str | Path,
    *,
    data: str | Path,
    output: str | Path = "gallery.npz",
    column: str = "name",
    vectors: str | None = None,
    against: str | Path | None = None,
    target: str | None = None,
) -> Indexed:
    """Send rows through a bundle and keep their vectors with their names; or hold rows against such a gallery.

    Args:
        bundle: A bundle folder or ``.edgemm`` file with an output of task embedding.
        data: Rows to send through, of all splits; inputs that have no column there stay missing. Or a folder with a folder for each name,
            of pictures or of sounds.
        output: The gallery to write; not with ``against``.
        column: Of the data: what each row is called.
        vectors: The output whose vectors are kept, where there are several.
        against: A gallery; nothing is written then, and for each row it is told what it looks like.
        target: Where it runs; without it the first of the bundle's targets, in its order, that this box has.

    Raises:
        RunError: The bundle has no such output, or an input of the data is missing that it cannot do without.
        DataError: The data have no such column or no row; ``against`` is no gallery, or one of other vectors.
    """
    opened = open_bundle(bundle)
    name = _output(opened.card, vectors)
    known = galleries.load(Path(against)) if against is not None else None
    rows, names = _vectors(opened, name, data, column, target)
    if known is None:
        verified = verification(rows, names)
        Gallery(rows, names, name, model_of(opened), verified.threshold if verified else None).save(Path(output))
        recalls = {most: recall(rows, names, rows, names, most, own=True) for most in (FEW, MANY)}
        return Indexed(len(rows), Path(output), recalls, verified)
    assert against is not None
    known.require(Path(against), name, rows.shape[1], model_of(opened))
    found = [(number, str(own), *known.nearest(row)[0]) for number, (own, row) in enumerate(zip(names, rows, strict=True))]
    recalls = {most: recall(rows, names, known.vectors, known.names, most) for most in (FEW, MANY)}
    return Indexed(len(rows), None, recalls, None, tuple(found))


def ending(done: Indexed, *, bundle: str | Path, **_: Any) -> Ending:
    """What was written, and how to ask it."""
    if done.file is None:
        return Ending(done)
    words = f"edgemm index {bundle} -d DATA --against {done.file}, or `gallery: {done.file}` in run.yaml"
    return Ending(done, written=(done.file,), next=words)


def _output(card: Card, wanted: str | None) -> str:
    names = [name for name, output in card.outputs.items() if output.task == "embedding"]
    if wanted is not None and wanted in names:
        return wanted
    if not names or wanted is not None:
        fix = nearest(wanted, names) if wanted and names else "edgemm init FOLDER drafts cards of models that answer with vectors."
        named = f"'{wanted}' " if wanted else ""
        raise RunError(f"the bundle has no output {named}of task embedding.", fix=fix)
    return names[0]


def _vectors(bundle: Bundle, output: str, data: str | Path, column: str, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(n, d), each of length 1, and (n,)."""
    card, folder = bundle.card, Path(data)
    if named_folders.are_in(folder):
        every = list(named_folders.rows(folder, card))
        with serving.open_model(bundle, serving.choose_target(bundle, target).target) as model:
            answers = [model.answer({name: model.embed(name, array)})[output] for _, name, array in every]
        return galleries.unit(np.concatenate(answers)), np.array([who for who, *_ in every])
    optional = {name: dataclasses.replace(spec, optional=True) for name, spec in card.inputs.items()}
    dataset = open_dataset(data, card.replace(inputs=optional, outputs={output: Output(output, "embedding")}))
    if column not in dataset.source.columns:
        raise DataError(
            f"{dataset.name}: there is no column '{column}'.",
            why="it says what each row is called.",
            fix=f"name another with --column; {nearest(column, dataset.source.columns)}",
        )
    rows, names = [], []
    with serving.open_model(bundle, serving.choose_target(bundle, target).target) as model:
        for arrays, cell in _rows(dataset, column):
            present = {name: model.embed(name, array) for name, array in arrays.items() if name in model.inputs}
            rows.append(model.answer(present)[output])
            names.append(str(cell).strip())
    if not rows:
        raise DataError(f"{dataset.name} holds no rows.", fix="give a folder with a manifest.")
    return galleries.unit(np.concatenate(rows)), np.array(names)


def _rows(dataset: TableDataset, column: str) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """Each row's inputs that are there, with a batch axis, and its cell of the column."""
    for split in dataset.splits():
        cells = (row.cells.get(column) for row in dataset.source.rows(split))
        for batch, cell in zip(dataset.batches(split, 1), cells, strict=True):
            yield {name: array for name, array in batch.inputs.items() if batch.present.get(name, np.ones(1, bool)).all()}, cell
