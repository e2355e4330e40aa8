"""What reading a large manifest from end to end found out, kept in the cache: opened again, it is not read before rows are wanted."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.errors import OutputError
from edgemm.store import cache
from edgemm.store.artifact import sha256_file, sha256_of, write_bytes
from edgemm.store.stored_zip import npz_bytes

FOLDER = "manifests"
LEAST_BYTES = 1 << 20  # a smaller manifest is read sooner than its index is found
SETTLED_NS = 2 * 10**9  # a file written to within the clock tick of its time would look unchanged
READERS = ("manifest.py", "lines.py", "plain_lines.py", "parquet.py", "shards.py")
"""Whose code an index depends on."""


def place(files: Sequence[Path], kind: str) -> Path | None:
    """Where the index of a manifest lies; None for one that is small, or so new that it may still be written to."""
    try:
        stats = [path.stat() for path in files]
    except OSError:
        return None
    newest_ns = max(status.st_mtime_ns for status in stats)
    if sum(status.st_size for status in stats) < LEAST_BYTES or time.time_ns() - newest_ns < SETTLED_NS:
        return None
    code = [sha256_file(Path(__file__).with_name(name)) for name in READERS]
    facts = [[str(path.resolve()), s.st_size, s.st_mtime_ns, s.st_ino] for path, s in zip(files, stats, strict=True)]
    return cache.root() / FOLDER / sha256_of([kind, facts, code])[:32]


def read(place: Path) -> tuple[dict[str, Any], array[int], dict[str, array[int]]] | None:
    """Facts, the blocks' places and the splits' counts, as ``write`` kept them; None where there is none, or a damaged one."""
    cache.use(place)
    with suppress(OSError, ValueError, KeyError, TypeError), np.load(place, allow_pickle=False) as file:
        facts: dict[str, Any] = json.loads(file["facts"].tobytes().decode())
        counts = {name: _array("I", file[f"count {name}"]) for name in facts.pop("splits")}
        return facts, _array("q", file["begins"]), counts
    return None


def write(place: Path, facts: Mapping[str, Any], begins: array[int], counts: Mapping[str, array[int]]) -> None:
    """Keep an index; a cache that cannot be written to keeps none."""
    text = json.dumps({**facts, "splits": list(counts)}).encode()
    arrays: dict[str, np.ndarray] = {"facts": np.frombuffer(text, np.uint8), "begins": np.frombuffer(begins, np.int64)}
    arrays |= {f"count {name}": np.frombuffer(counted, np.uint32) for name, counted in counts.items()}
    with suppress(OutputError):
        write_bytes(place, npz_bytes(arrays))


def digest(files: Sequence[Path]) -> str:
    """Hash of a manifest's content; read anew only where the size, time or number of a file changed."""
    return remembered(files, "digest", lambda: _digest(files))


def remembered(files: Sequence[Path], what: str, compute: Callable[[], str]) -> str:
    """What ``compute`` says of a manifest's content, in a word; kept where the manifest is large."""
    known = place(files, what)
    return compute() if known is None else cache.remembered(["manifest", known.name], compute)


def _digest(files: Sequence[Path]) -> str:
    return sha256_file(files[0]) if len(files) == 1 else sha256_of([[path.name, sha256_file(path)] for path in files])


def _array(kind: str, values: np.ndarray) -> array[int]:
    found = array(kind)
    found.frombytes(np.ascontiguousarray(values).tobytes())
    return found
