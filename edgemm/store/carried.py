"""Artifacts of a cache on their way to another: by their names, which say what they were made of, with the bytes of their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from edgemm.store.artifact import RECORD, folder_in_one_step
from edgemm.store.cache import lookup, use

Carried = Mapping[str, Mapping[str, bytes]]
"""Name in the cache (``export/3fa9...``) -> name in its folder -> content."""


def names(root: Path) -> frozenset[str]:
    """All artifacts of a cache."""
    return frozenset(record.parent.relative_to(root).as_posix() for record in root.glob(f"[!.]*/[!.]*/{RECORD}"))


def carried(root: Path, wanted: Iterable[str]) -> Carried:
    """Those of the wanted artifacts that are there."""
    parcel: dict[str, dict[str, bytes]] = {}
    for name in sorted(wanted):
        if (root / name / RECORD).is_file():
            files = [path for path in (root / name).rglob("*") if path.is_file()]
            parcel[name] = {path.relative_to(root / name).as_posix(): path.read_bytes() for path in files}
    return parcel


def put(root: Path, parcel: Carried) -> None:
    """Put artifacts into a cache, where they stay while this process runs; what is there already is not written again.

    Raises:
        OutputError: It cannot be written to.
    """
    for name, files in parcel.items():
        place = root / name
        use(place)
        if lookup(place) is not None:
            continue
        with folder_in_one_step(place, keep=partial(_is_there, place)) as scratch:
            for inside, content in files.items():
                path = scratch / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def _is_there(place: Path) -> bool:
    return lookup(place) is not None
