"""Rows of an annotated dataset (``coco:``, ``yolo:``, ``voc:``): read and checked whole, then streamed as a manifest's are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.stream import Pictures
from edgemm.data._annotations import coco, voc, yolo
from edgemm.data._annotations.joining import Beside
from edgemm.data._annotations.pictures import Annotations, Findings, Picture
from edgemm.data.lines import JsonManifest, scratch_copy
from edgemm.data.manifest import SPLIT
from edgemm.errors import DataError

Reader = Callable[[str, str, Sequence[str], Findings], Annotations]
FORMATS: dict[str, Reader] = {"coco": coco.read, "yolo": yolo.read, "voc": voc.read}
"""The word before the colon -> what reads the rest of it."""
OPTIONAL = "or set inputs.{}.optional: true where it may be missing."


class AnnotatedRows(JsonManifest):
    """A row a picture. Its columns are called as the card reads them, so that the card of a manifest serves such a set too."""

    def __init__(self, data: str, card: Card, bad: dict[int, str] | None) -> None:
        """
        Args:
            data: ``coco:FILE``, ``yolo:FILE`` or ``voc:FOLDER``.
            bad: As of a manifest: pictures with mistakes are left out and noted there; None = they are an error.

        Raises:
            DataError: A mistake, or Mistakes: one for each kind.
        """
        word, _, rest = data.partition(":")
        findings = Findings(data)
        layout = _Columns(card)
        annotations = FORMATS[word](rest, data, layout.hints, findings)
        rows = list(_rows(annotations, layout, findings))
        findings.raise_if_any(but_rows=bad is not None)
        left_out = findings.rows()
        (bad if bad is not None else {}).update(left_out)
        if len(left_out) == len(rows):
            raise DataError(f"{data} has no rows.", why=next(iter(left_out.values()), "it names no pictures."), fix="mend the dataset.")
        # a blank line stands for a row that is left out: the others keep their numbers
        lines = ("" if number in left_out else json.dumps(row, ensure_ascii=False) for number, row in enumerate(rows, 1))
        super().__init__(scratch_copy(self, "".join(f"{line}\n" for line in lines), ".jsonl"), bad)
        self.name, self.folder, self.columns = data, annotations.folder, tuple(dict.fromkeys(key for row in rows for key in row))
        self.absent = dict(annotations.absent)


class _Columns:
    """Which columns a card reads, and what of an annotated picture goes into each."""

    def __init__(self, card: Card) -> None:
        self.parts = modalities(card)
        outputs = tasks.tasks(card)
        framed = {str(card.outputs[name].options.get("frame") or "") for name, task in outputs.items() if task.is_annotated} - {""}
        pictures = sorted(framed) or [name for name, part in self.parts.items() if isinstance(part.stream(), Pictures)]
        if len(pictures) != 1:
            raise DataError(
                f"the card has {len(pictures)} inputs that are pictures{': ' * bool(pictures)}{', '.join(pictures)}.",
                why="such a dataset is about one.",
                fix="say frame: INPUT in the output that boxes are learned by.",
            )
        self.picture, self.part = card.column(pictures[0]), self.parts[pictures[0]]
        self.hints = list(dict.fromkeys([self.picture, pictures[0]]))
        self.marked = {card.column(name): task for name, task in outputs.items() if task.is_annotated}
        self.inputs = {card.column(name): (name, part) for name, part in self.parts.items() if name != pictures[0]}
        self.others: dict[str, Modality | None] = {column: part for column, (_, part) in self.inputs.items()}
        self.others |= {card.column(name): None for name, task in outputs.items() if not task.has_boxes}
        self.needed = [
            column
            for column, (name, part) in self.inputs.items()
            if not card.inputs[name].optional and part.initial() is None and not part.reads_empty("")
        ]


def _rows(annotations: Annotations, layout: _Columns, findings: Findings) -> Iterator[dict[str, Any]]:
    beside = Beside(annotations.folder, layout.picture, layout.others, findings)
    seen = set[tuple[str, Path]]()
    for number, picture in enumerate(annotations.pictures, 1):
        name = Path(os.path.relpath(picture.file, annotations.folder)).as_posix()
        others = beside.cells(picture, number)
        marked = _marked(picture, name, annotations.folder, number, layout, findings, [*others])
        for column in layout.needed:
            if column not in others:
                fix = f"{HOW.format(column)}, {OPTIONAL.format(layout.inputs[column][0])}"
                findings.add(f"pictures without '{column}'", picture.where, fix=fix, row=number)
        if (picture.split, picture.file) in seen:
            findings.add("pictures that stand there twice", f"{picture.where} of {picture.split}", fix="keep one of the two.", row=number)
        seen.add((picture.split, picture.file))
        yield {SPLIT: picture.split, layout.picture: name, **marked, **others}


HOW = "give images a key '{0}' (COCO), or lay a manifest.csv with columns of the picture and '{0}' beside, or a folder '{0}' of such names"


def _marked(
    picture: Picture, name: str, folder: Path, number: int, layout: _Columns, findings: Findings, told: Sequence[str]
) -> dict[str, Any]:
    """What is marked in a picture, by column, but for those that are told beside it; mistakes are noted."""
    for mistake in picture.mistakes:
        findings.add(mistake.what, mistake.place, fix=mistake.fix, row=number)
    try:
        height, width = layout.part.extent(name, folder)
    except DataError as err:
        findings.add("pictures that cannot be read", f"{picture.where}: {err.what} {err.why}".rstrip("."), fix=err.fix, row=number)
        return {}
    if picture.size not in (None, (width, height)):
        said = f"{picture.size[0]} x {picture.size[1]} is written, the file has {width} x {height}" if picture.size else ""
        turned = ", turned upright as its EXIF says" if picture.size == (height, width) else ""
        findings.add(
            "pictures of another size than is written", f"{picture.where}: {said}{turned}",
            fix="boxes would lie elsewhere: write the sizes and boxes of the upright file.", row=number,
        )  # fmt: skip
        return {}
    marks = [mark.scaled(width, height) for mark in picture.marks] if picture.is_ratio else list(picture.marks)
    try:
        return {column: task.annotated(marks, width, height) for column, task in layout.marked.items() if column not in told}
    except DataError as err:
        findings.add("marks that cannot be", f"{picture.where}: {err.what}".rstrip("."), fix=err.fix, row=number)
        return {}
