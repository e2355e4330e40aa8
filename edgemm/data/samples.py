"""Rows of a dataset that are arrays: ``<split>.npz`` files, one npz file, a Python function, or synthetic samples."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import sys
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from edgemm.data.manifest import HELD_BELOW, OTHER_WORDS, POOL_ROWS, SPLIT, SPLITS, ManifestRow, split_named
from edgemm.errors import DataError, nearest
from edgemm.store.artifact import sha256_file, sha256_of

ROWS_HASHED = 64  # of each split of a function, for its fingerprint
POOL_BYTES = 64 << 20  # what a shuffling pool of arrays may hold


class NpzArrays:
    """The arrays of one .npz, read row by row from the file: none of them is ever whole in memory."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: Not an npz, objects in it, or arrays of unequal length.
        """
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.arrays = {name.removesuffix(".npy"): _Array(archive, name) for name in archive.namelist() if name.endswith(".npy")}
        except Exception as err:  # zipfile's, zlib's and numpy's errors have no common base
            raise DataError(
                f"'{path}' is no readable .npz file.", why=f"{err}".rstrip(".") + ".", fix="write it with numpy.savez, without objects."
            ) from err
        lengths = {name: array.shape[0] for name, array in self.arrays.items() if array.shape}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
            raise DataError(
                f"'{path}': its arrays differ in length: {listing}.", why="the first axis counts the samples.", fix="give all as many rows."
            )
        self.rows = next(iter(lengths.values()), 1 if self.arrays else 0)

    def row(self, number: int) -> dict[str, Any]:
        return {name: array.row(number) for name, array in self.arrays.items()}


class _Array:
    """One member of an npz. A stored member is read where it lies; a deflated one is first unpacked to a temporary file."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        with archive.open(name) as member:
            version = np.lib.format.read_magic(member)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = read_header(member)
            if self.dtype.hasobject:
                raise ValueError(f"'{name}' holds Python objects, which are never unpickled")
            self.whole: np.ndarray | None = None
            if fortran or not self.shape:
                flat = np.frombuffer(member.read(), self.dtype)
                self.whole = flat.reshape(self.shape, order="F" if fortran else "C")
                return
            self.file, self.begin = self._unpacked(archive, name, member)
            weakref.finalize(self, self.file.close)
        self.row_shape = self.shape[1:]
        self.row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def row(self, number: int) -> Any:
        if self.whole is not None:
            return self.whole[number] if self.shape else self.whole
        data = os.pread(self.file.fileno(), self.row_bytes, self.begin + number * self.row_bytes)
        row = np.frombuffer(data, self.dtype).reshape(self.row_shape)
        return row if self.row_shape else row[()]

    @staticmethod
    def _unpacked(archive: zipfile.ZipFile, name: str, member: IO[bytes]) -> tuple[IO[bytes], int]:
        info, header = archive.getinfo(name), member.tell()
        if info.compress_type == zipfile.ZIP_STORED:
            file: IO[bytes] = open(str(archive.filename), "rb")  # noqa: SIM115  # lives as long as the array
            file.seek(info.header_offset + 26)  # lengths of name and extra field in the local header (APPNOTE 4.3.7)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2")
            return file, info.header_offset + 30 + int(name_length) + int(extra_length) + header
        file = tempfile.TemporaryFile()  # noqa: SIM115
        while piece := member.read(1 << 20):
            file.write(piece)
        file.flush()
        return file, 0


class Npz:
    """``<split>.npz`` files in a folder, or one file whose array ``split`` names each row's split.

    Without ``split`` a single file serves every split: that is for models without labels, whose samples teach nothing.
    """

    def __init__(self, path: Path, *, labelled: bool) -> None:
        self.name = str(path)
        self.folder = path if path.is_dir() else path.parent
        named = [(split_named(file.stem), file) for file in sorted(path.glob("*.npz"), key=lambda file: file.stem in SPLITS)]
        files = named if path.is_dir() else [("", path)]
        self.files = {split: NpzArrays(file) for split, file in files if split in ("", *SPLITS)}
        self.columns = tuple(dict.fromkeys(name for arrays in self.files.values() for name in arrays.arrays))
        self.absent: dict[str, str] = {}
        self._held = "val" not in self.files
        if "" in self.files:
            self._of_row = self._read_splits(self.files[""], labelled)

    @property
    def is_val_held_out(self) -> bool:
        return self._held if "" not in self.files else self._of_row is not None and "val" not in self._of_row

    def has(self, split: str) -> bool:
        return self.count(split) > 0

    def count(self, split: str) -> int:
        return len(self._numbers(split))

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[ManifestRow]:
        arrays, numbers = self.files.get("") or self.files["train" if split == "val" and self._held else split], self._numbers(split)
        for number in numbers if rng is None else rng.permutation(numbers):
            yield ManifestRow(int(number), arrays.row(int(number)))

    def digest(self) -> str:
        return sha256_of({split: sha256_file(arrays.path) for split, arrays in self.files.items()})

    def naming(self, split: str) -> Iterator[ManifestRow]:
        return iter(())  # the arrays themselves are in the digest

    def some(self, split: str, most: int) -> Iterator[ManifestRow]:
        return iter(())

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        return False

    def _numbers(self, split: str) -> np.ndarray:
        if "" in self.files:
            return np.arange(self.files[""].rows) if self._of_row is None else _of_split(self._of_row, split)
        if split in ("train", "val") and self._held:
            return _of_split(np.full(self.files["train"].rows, "train"), split) if "train" in self.files else np.arange(0)
        return np.arange(self.files[split].rows if split in self.files else 0)

    def _read_splits(self, arrays: NpzArrays, labelled: bool) -> np.ndarray | None:
        if SPLIT not in arrays.arrays:
            if labelled:
                raise DataError(
                    f"{self.name} does not say which rows are train, val and test.",
                    why=f"it has no array '{SPLIT}', and the model's outputs have labels.",
                    fix="add an array split of strings, or give a folder with train.npz, val.npz and test.npz.",
                )
            return None
        splits = np.array([split_named(arrays.arrays[SPLIT].row(number)) for number in range(arrays.rows)])
        for number in np.flatnonzero(~np.isin(splits, SPLITS))[:1]:
            raise DataError(
                f"{self.name}, row {number}, column '{SPLIT}': '{splits[number]}' is no split.", fix=nearest(splits[number], SPLITS)
            )
        return splits


def _of_split(of_row: np.ndarray, split: str) -> np.ndarray:
    """Row numbers of a split; where no row is val, a tenth of train is."""
    if split not in ("train", "val") or (of_row == "val").any():
        return np.flatnonzero(of_row == split)
    train = np.flatnonzero(of_row == "train")
    held = np.array([_is_held(index) for index in range(len(train))], bool)
    rows: np.ndarray = train[held == (split == "val")]
    return rows


def _is_held(index: int) -> bool:
    """Whether the train row of this index is val, where a dataset has none: a tenth of them, and of two the second."""
    return index == 1 or zlib.crc32(str(index).encode()) < HELD_BELOW


class Function:
    """``f(split) -> Iterable[dict]``, called anew for every pass. Rows are counted from 0.

    For a split it does not have, ``f`` yields nothing or raises KeyError, ValueError, IndexError or OSError before its first row; where it
    raises, it is asked by the split's other names too (``validation``).
    """

    def __init__(
        self, function: Callable[[str], Iterable[Mapping[str, Any]] | None], name: str, folder: Path, digest: str, row_bytes: int
    ) -> None:
        self.function, self.name, self.folder, self._digest = function, name, folder, digest
        self.absent: dict[str, str] = {}
        self._pool_rows = int(np.clip(POOL_BYTES // max(row_bytes, 1), 16, POOL_ROWS))
        first = next((row for split in SPLITS for row in self._call(split)), None)
        if first is None:
            why = "; ".join(f"{split}: {reason}" for split, reason in self.absent.items())
            raise DataError(f"{name} yields no rows for any of {', '.join(SPLITS)}.", why=why, fix="yield a dict a row for f('train').")
        self.columns = (SPLIT, *first)
        self._counts: dict[str, int] = {}

    @property
    def is_val_held_out(self) -> bool:
        return next(self._call("val"), None) is None

    def has(self, split: str) -> bool:
        return next(self._of_split(split), None) is not None

    def count(self, split: str) -> int:
        if split not in self._counts:
            self._counts[split] = sum(1 for _ in self._of_split(split))
        return self._counts[split]

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[ManifestRow]:
        rows = self._of_split(split)
        if rng is None:
            yield from rows
            return
        pool: list[ManifestRow] = []  # a reservoir: each new row takes the place of a random one, which is handed out
        for row in rows:
            if len(pool) < self._pool_rows:
                pool.append(row)
                continue
            slot = int(rng.integers(len(pool)))
            yield pool[slot]
            pool[slot] = row
        yield from (pool[slot] for slot in rng.permutation(len(pool)))

    def digest(self) -> str:
        """Hash of the function's source and of the first rows of each split: to read them all may take as long as an epoch."""
        rows = hashlib.sha256(self._digest.encode())
        for split in SPLITS:
            for row in self.naming(split):
                rows.update(f"{split} {row.number}".encode())
                for column, cell in row.cells.items():
                    rows.update(column.encode() + (cell.tobytes() if isinstance(cell, np.ndarray) else repr(cell).encode()))
        return rows.hexdigest()

    def naming(self, split: str) -> Iterator[ManifestRow]:
        return itertools.islice(self._of_split(split), ROWS_HASHED)

    def some(self, split: str, most: int) -> Iterator[ManifestRow]:
        return itertools.islice(self.naming(split), most)

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        return ends is None or bool(ends)

    def _of_split(self, split: str) -> Iterator[ManifestRow]:
        derived = split in ("train", "val") and next(self._call("val"), None) is None
        for number, cells in enumerate(self._call("train" if derived else split)):
            if not derived or _is_held(number) == (split == "val"):
                yield ManifestRow(number, cells)

    def _call(self, split: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a split; where the function refuses its name, those of another name for it."""
        for word in (split, *OTHER_WORDS[split]):
            rows = self._named(word, split)
            if (first := next(rows, None)) is not None:
                yield first
                yield from rows
            if first is not None or split not in self.absent:
                return

    def _named(self, word: str, split: str) -> Iterator[Mapping[str, Any]]:
        number = 0
        try:
            for row in self.function(word) or ():
                if not isinstance(row, Mapping):
                    kind = type(row).__name__
                    raise DataError(
                        f"{self.name}('{word}'), row {number}: a {kind}, not a dict.", fix="yield {column: value} for each row."
                    )
                yield row
                number += 1
        except DataError:
            raise
        except Exception as err:  # whatever the user's function raises
            why = f"{type(err).__name__}: {err}".rstrip(".") + "."
            if number or not (word != split or isinstance(err, (LookupError, ValueError, OSError))):
                fix = "mend the function; call it by itself to see where."
                raise DataError(f"{self.name}('{word}') failed at row {number}.", why=why, fix=fix) from err
            self.absent.setdefault(split, why)


def load_function(spec: str, folders: Sequence[Path]) -> Callable[[str], Any]:
    """``module:callable``, its module looked for in ``folders``, then on the import path.

    Raises:
        DataError: There is no such module, it cannot be imported, or there is no such function in it.
    """
    module_name, _, attribute = spec.partition(":")
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        if err.name is None or not f"{module_name}.".startswith(f"{err.name}."):
            raise DataError(
                f"'{module_name}' needs the module '{err.name}'.", why="it is not installed here.", fix=f"pip install {err.name}"
            ) from err
        why = f"looked in {', '.join(str(folder) for folder in folders)} and on the import path."
        raise DataError(f"there is no module '{module_name}' for the data '{spec}'.", why=why, fix="mend the name.") from err
    except Exception as err:  # whatever the user's module raises
        raise DataError(
            f"'{module_name}' cannot be imported.", why=f"{type(err).__name__}: {err}".rstrip(".") + ".", fix="mend it there."
        ) from err
    finally:
        sys.path[:] = before
    function = getattr(module, attribute, None)
    if not callable(function):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise DataError(f"module '{module_name}' has no function '{attribute}'.", fix=nearest(attribute, public))
    return cast("Callable[[str], Any]", function)
