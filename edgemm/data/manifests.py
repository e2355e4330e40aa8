"""Which reader reads a manifest, by the suffix of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgemm.contracts import plugins
from edgemm.data.lines import CsvManifest, JsonManifest
from edgemm.data.manifest import Manifest
from edgemm.data.shards import TarManifest, shards_in
from edgemm.errors import DataError


def in_folder(folder: Path) -> Path | None:
    """The manifest of a folder; None where it has none.

    Raises:
        DataError: It has several.
    """
    manifests = [folder / f"manifest{suffix}" for suffix in READERS if (folder / f"manifest{suffix}").is_file()]
    if len(manifests) > 1:
        names = " and ".join(file.name for file in manifests)
        raise DataError(f"'{folder}' has {names}.", why="a dataset has one manifest.", fix="remove one, or name the file itself.")
    return manifests[0] if manifests else None


def of_many(folder: Path, bad: dict[int, str] | None) -> Manifest | None:
    """The rows of a folder with many files of them: parts in parquet (``manifest-*``, or named after splits, there or in ``data``), or tar
    shards as webdataset writes them. None where it has neither.
    """
    if any(folder.glob("*.parquet")) or any((folder / "data").glob("*.parquet")):
        try:
            from edgemm.data.parquet import ParquetManifest, parts_in
        except ModuleNotFoundError as err:
            raise plugins.missing_extra(err, "reading parquet") from err
        if parts := parts_in(folder):
            return ParquetManifest(folder, bad, parts=parts)
    shards = shards_in(folder)
    return TarManifest(folder, bad, shards=shards) if shards else None


def _parquet(path: Path, bad: dict[int, str] | None, *, is_table: bool = False) -> Manifest:
    try:
        from edgemm.data.parquet import ParquetManifest
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "reading parquet") from err
    return ParquetManifest(path, bad, is_table=is_table)


READERS: dict[str, Callable[..., Manifest]] = {
    ".csv": CsvManifest,
    ".tsv": CsvManifest,
    ".jsonl": JsonManifest,
    ".json": JsonManifest,
    ".parquet": _parquet,
}
"""Suffix -> what opens such a file: ``(path, bad, *, is_table=False)``, as ``Manifest``."""
