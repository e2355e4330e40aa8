"""Other columns beside pictures: keys of a picture's record, rows of a manifest, or files of a folder, by the picture's name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts.modality import Modality
from edgemm.data import labels, manifests
from edgemm.data._annotations.pictures import Findings, Picture
from edgemm.data.manifest import ManifestRow
from edgemm.errors import DataError

PICTURE_COLUMNS = ("image", "picture", "file_name", "file")
"""What a manifest beside the pictures may call them, where it does not as the card does."""


class Beside:
    """Looks for what a card reads beside the pictures."""

    def __init__(self, folder: Path, picture: str, columns: Mapping[str, Modality | None], findings: Findings) -> None:
        """
        Args:
            folder: The dataset's: a manifest and the folders lie in it, or beside it.
            picture: The column of the pictures.
            columns: The others; None where it is an output's.
        """
        self.folder, self.columns, self.findings = folder, columns, findings
        around = [folder, folder.parent] if folder.resolve() != folder.resolve().parent else [folder]
        self._table = _Table.among(around, picture, columns)
        self._folders = {name: _by_stem(around, name) for name, part in columns.items() if part is not None}

    def cells(self, picture: Picture, number: int) -> dict[str, Any]:
        """What there is for a picture, by column; paths start at the dataset's folder."""
        found = {}
        row = self._table.row(picture, number, self.findings) if self._table else None
        for name, part in self.columns.items():
            if not labels.is_empty(picture.keys.get(name)):
                found[name] = self._moved(picture.keys[name], part, picture.root)
            elif self._table and row and not labels.is_empty(row.get(name)):
                found[name] = self._moved(row[name], part, self._table.folder)
            elif file := _nearest(self._folders.get(name, {}).get(picture.file.stem, []), picture):
                found[name] = Path(os.path.relpath(file, self.folder)).as_posix()
        return found

    def _moved(self, cell: Any, part: Modality | None, start: Path) -> Any:
        """A cell whose paths began at ``start``."""
        if part is None or not isinstance(cell, str):
            return cell
        steps = [
            Path(os.path.relpath(start / step.strip(), self.folder)).as_posix() if part.file(step) else step for step in cell.split("|")
        ]
        return "|".join(steps)


class _Table:
    """A manifest beside the pictures, looked up by the stem of their names."""

    @classmethod
    def among(cls, folders: Sequence[Path], picture: str, columns: Mapping[str, Any]) -> _Table | None:
        """The first manifest that holds any of the columns."""
        for folder in folders:
            path = manifests.in_folder(folder)
            table = cls(path, picture) if path else None
            if table and not columns.keys().isdisjoint(table.columns):
                table.require_picture(picture)
                return table
        return None

    def __init__(self, path: Path, picture: str) -> None:
        self.path, self.folder = path, path.parent
        manifest = manifests.READERS[path.suffix](path, None, is_table=True)
        rows = list(manifest.table())
        self.columns = manifest.columns
        self.key = next((column for column in (picture, *PICTURE_COLUMNS) if column in self.columns), "")
        self.rows: dict[str, list[tuple[str, ManifestRow]]] = {}
        for split, row in rows:
            name = row.cells.get(self.key)
            if isinstance(name, str) and not row.trouble:
                self.rows.setdefault(Path(name.strip()).stem, []).append((split, row))

    def require_picture(self, picture: str) -> None:
        if not self.key:
            raise DataError(
                f"{self.path}: no column names the pictures.",
                why=f"it is looked up by their names, and its columns are {', '.join(self.columns)}.",
                fix=f"call the column '{picture}'.",
            )

    def row(self, picture: Picture, number: int, findings: Findings) -> Mapping[str, Any] | None:
        """The picture's row: of several with its stem that with its whole name, or of its split."""
        rows = self.rows.get(picture.file.stem, [])
        if len(rows) > 1:
            rows = [entry for entry in rows if picture.file.as_posix().endswith(f"/{self._name(entry[1])}")] or rows
        if len(rows) > 1:
            rows = [entry for entry in rows if entry[0] == picture.split] or rows
        if len(rows) > 1:
            numbers = ", ".join(str(row.number) for _, row in rows)
            findings.add(
                "pictures with several rows beside them", f"{picture.where}: rows {numbers} of {self.path}", fix=ONE_ROW, row=number
            )
        return rows[0][1].cells if rows else None

    def _name(self, row: ManifestRow) -> str:
        return Path(row.cells[self.key].strip()).as_posix()


ONE_ROW = "keep one row a picture, or write the picture's path from its folder and its split."


def _by_stem(folders: Sequence[Path], name: str) -> dict[str, list[Path]]:
    """The files of a folder called as a column, by the stems of their names."""
    found: dict[str, list[Path]] = {}
    for file in _files([folder / name for folder in folders]):
        found.setdefault(file.stem, []).append(file)
    return found


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return (file for file in sorted(folder.rglob("*")) if file.is_file()) if folder else iter(())


def _nearest(files: Sequence[Path], picture: Picture) -> Path | None:
    """Of files of one stem that whose folder is called as the picture's, or as its split."""
    for name in (picture.file.parent.name, picture.split):
        same = [file for file in files if file.parent.name == name]
        if len(files) > 1 and same:
            return same[0]
    return files[0] if files else None
