"""`edgemm cache`: what finished stages take on this machine, and removing them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.errors import EdgemmError
from edgemm.store import cache as store
from edgemm.store import tidying
from edgemm.store.artifact import show_size, unwritable
from edgemm.store.tidying import Removed


@dataclass(frozen=True)
class Share:
    """What one stage takes.

    Attributes:
        last_use: When one of its entries was used last, in local time: ``2026-11-22 14:03``.
    """

    entries: int
    size_bytes: int
    last_use: str


@dataclass(frozen=True)
class Contents:
    """What is in the cache.

    Attributes:
        stages: Name -> what it takes, the largest first; also what is no stage: unpacked bundles, engines.
        removed: What was taken away just now; None where that was not asked for.
    """

    folder: Path
    limit_bytes: int
    stages: Mapping[str, Share]
    removed: Removed | None = None

    @property
    def size_bytes(self) -> int:
        return sum(share.size_bytes for share in self.stages.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "size_bytes": self.size_bytes}

    def __str__(self) -> str:
        width = max([len("stage"), *map(len, self.stages)])
        rows = [
            f"{name:{width}}  {share.entries:7}  {show_size(share.size_bytes):>10}  {share.last_use}" for name, share in self.stages.items()
        ]
        table = [f"{'stage':{width}}  entries        size  last use", *rows, ""] if rows else []
        lines = [*table, f"{self.folder}: {show_size(self.size_bytes)} of at most {show_size(self.limit_bytes)} (${tidying.LIMIT})"]
        return "\n".join([*lines, *self._removed()])

    def _removed(self) -> list[str]:
        done = self.removed
        if done is None:
            return []
        lines = [f"removed: {done.entries} entries, {show_size(done.size_bytes)}"]
        lines += [f"removed: {done.leftovers} leftovers of killed runs"] if done.leftovers else []
        return lines + ([f"kept: {done.in_use} entries that running processes use"] if done.in_use else [])


def cache(*, tidy: bool = False, empty: bool = False) -> Contents:
    """Look at the cache of finished stages; remove what is over its limit, or everything.

    Nothing that a running process uses is removed, nor anything that edgemm did not put there. What is gone is made again when needed.

    Args:
        tidy: Remove what killed runs left, and what was used longest ago until the rest is within the limit.
        empty: Remove everything.

    Raises:
        EdgemmError: Both are asked for, or ``$EDGEMM_CACHE_LIMIT`` is no size.
        OutputError: The cache cannot be written to.
    """
    if tidy and empty:
        raise EdgemmError("--tidy and --empty were both given.", fix="give one of them.")
    root, limit = store.root(), tidying.limit()
    try:
        removed = tidying.empty(root) if empty else tidying.tidy(root, limit) if tidy else None
    except OSError as err:
        raise unwritable(root, err) from err
    return Contents(root, limit, _stages(root), removed)


def _stages(root: Path) -> dict[str, Share]:
    by_stage: dict[str, list[tidying.Entry]] = {}
    for entry in tidying.entries(root):
        by_stage.setdefault(entry.stage, []).append(entry)
    shares = {
        name: Share(len(entries), sum(entry.size_bytes for entry in entries), _words(max(entry.last_use for entry in entries)))
        for name, entries in by_stage.items()
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1].size_bytes))


def _words(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
