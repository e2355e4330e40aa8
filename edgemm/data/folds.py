"""Folds of a dataset: each row of train and val is held out once; rows of a group, such as a speaker's, never on both sides."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.data import labels
from edgemm.data.dataset import TableDataset
from edgemm.data.manifest import ManifestRow, RowSource
from edgemm.errors import DataError, nearest
from edgemm.store.artifact import sha256_of

GROUP = "group"
"""The column that names a row's group where nobody names another; data without it have none."""
LEARNED_FROM = ("train", "val")
INNER = 10  # one part of so many is val while a fold is held out: a tenth, as where a manifest has no val

Key = tuple[str, int]
"""Split and number of a row."""


@dataclass(frozen=True)
class Folds:
    """Which fold each row is in.

    Attributes:
        count: How many folds.
        group: The column by which rows stay together; None = each for itself.
        place: Row -> its fold, from 0, and the part of ten by which val is chosen, in the order of the data.
        labels: Labels of the output by which folds are alike; 0 = there is none.
    """

    count: int
    group: str | None
    place: Mapping[Key, tuple[int, int]]
    labels: int = 0

    def rows(self, fold: int) -> list[Key]:
        """Rows that are held out in a fold."""
        return [key for key, (own, _) in self.place.items() if own == fold]

    def split_of(self, key: Key, fold: int) -> str:
        """What a row is while a fold is held out: test, val or train."""
        own, part = self.place[key]
        return "test" if own == fold else "val" if part == self._val_part(fold) else "train"

    def _val_part(self, fold: int) -> int:
        """The part of the other rows that is val: of few groups not every part has some."""
        there = {part for own, part in self.place.values() if own != fold}
        return next(part for part in itertools.chain(range(fold % INNER, INNER), range(INNER)) if part in there)


def folds_of(dataset: TableDataset, count: int, *, seed: int, group: str | None = None) -> Folds:
    """Deal the rows of train and val into folds, alike in the labels of the first output that has one label a row.

    Args:
        group: Column of the groups; None = ``group``, where there is such a column.

    Raises:
        DataError: Fewer rows in a fold than there are labels, fewer groups than folds, or no such column.
    """
    if count < 2:
        raise DataError(f"there is to be {count} fold.", why="each is held out from training on the others.", fix="write at least 2.")
    if group is not None and group not in dataset.source.columns:
        fix = nearest(group, dataset.source.columns)
        raise DataError(f"{dataset.name}: there is no column '{group}' to group by.", fix=fix)
    column = group or (GROUP if GROUP in dataset.source.columns else None)
    output = next((name for name, task in tasks.tasks(dataset.card).items() if task.is_one_label), None)
    keys, strata, groups = list[Key](), list[str](), list[str]()
    for split in LEARNED_FROM:
        for row in dataset.source.rows(split) if dataset.source.has(split) else ():
            cell = row.cells.get(column) if column else None
            keys.append((split, row.number))
            strata.append(str(row.cells.get(dataset.card.column(output))) if output else "")
            groups.append(f"= {cell}" if not labels.is_empty(cell) else f"row {split} {row.number}")
    kinds = len(set(strata)) if output else 0
    _require_enough(dataset.name, len(keys), len(set(groups)), kinds, count, column)
    outer, inner = (_dealt(strata, groups, parts, np.random.default_rng([seed, parts])) for parts in (count, INNER))
    return Folds(count, column, dict(zip(keys, zip(outer, inner, strict=True), strict=True)), kinds)


def held_out(dataset: TableDataset, folds: Folds, fold: int) -> TableDataset:
    """The dataset while a fold is held out: it is test, a tenth of the other rows of train and val are val, the rest is train."""
    return dataset.with_source(_Folded(dataset.source, folds, fold))


class _Folded(RowSource):
    """The rows of a source, dealt anew."""

    def __init__(self, source: RowSource, folds: Folds, fold: int) -> None:
        self._source, self._folds, self._fold = source, folds, fold
        self.name, self.folder, self.columns = source.name, source.folder, source.columns
        self.absent: dict[str, str] = {}
        self._counts = Counter(folds.split_of(key, fold) for key in folds.place)

    @property
    def is_val_held_out(self) -> bool:
        return False

    def has(self, split: str) -> bool:
        return self.count(split) > 0

    def count(self, split: str) -> int:
        return self._counts[split]

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[ManifestRow]:
        streams = {origin: self._source.rows(origin, rng=rng) for origin in LEARNED_FROM if self._source.has(origin)}
        left = {origin: self._source.count(origin) for origin in streams}
        while any(left.values()):
            origin = next(origin for origin, count in left.items() if count) if rng is None else _drawn(left, rng)
            left[origin] -= 1
            row = next(streams[origin])
            if self._folds.split_of((origin, row.number), self._fold) == split:
                yield row

    def digest(self) -> str:
        dealt = sorted((*key, *place) for key, place in self._folds.place.items())
        return sha256_of({"source": self._source.digest(), "folds": dealt, "fold": self._fold})

    def naming(self, split: str) -> Iterator[ManifestRow]:
        return self._source.naming(split)

    def some(self, split: str, most: int) -> Iterator[ManifestRow]:
        return self._source.some(split, most)

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        return self._source.may_name(column, ends)


def _drawn(left: Mapping[str, int], rng: np.random.Generator) -> str:
    """A split, each as likely as rows of it are left: its rows come as if all had been shuffled together."""
    place = rng.integers(sum(left.values()))
    return next(split for split, end in zip(left, itertools.accumulate(left.values()), strict=True) if place < end)


def _require_enough(name: str, rows: int, groups: int, kinds: int, count: int, column: str | None) -> None:
    if column and groups < count:
        why = f"'{column}' has {groups} different values, and a group is never parted."
        raise DataError(f"{name}: {count} folds need as many groups.", why=why, fix=f"take at most {groups} folds, or add groups.")
    if rows // count < max(kinds, 1):
        most = rows // max(kinds, 1)
        why = f"{rows} rows of train and val in {count} folds are {rows // count} each, and there are {kinds} labels."
        fix = f"take at most {most} folds, or add rows." if most >= 2 else "add rows: train without folds until there are more."
        raise DataError(f"{name}: a fold would have fewer rows than there are labels.", why=why, fix=fix)


def _dealt(strata: Sequence[str], groups: Sequence[str], parts: int, rng: np.random.Generator) -> list[int]:
    """The part of each row: groups as wholes, large ones first, each to the part that is then the most like the whole."""
    kinds = {stratum: place for place, stratum in enumerate(sorted(set(strata)))}
    members: dict[str, Any] = {}
    for stratum, group in zip(strata, groups, strict=True):
        members.setdefault(group, np.zeros(len(kinds)))[kinds[stratum]] += 1
    names = sorted(members)
    names = [names[place] for place in rng.permutation(len(names))]
    names.sort(key=lambda name: (-members[name].sum(), members[name].argmax()))  # stable: the shuffled order stays among equals
    totals, filled = sum(members.values()), np.zeros((parts, len(kinds)))
    part_of = {}
    for name in names:
        own = members[name]
        cost = ((filled + own) / totals)[:, own > 0].sum(axis=1), filled.sum(axis=1)
        part_of[name] = int(np.lexsort((cost[1], cost[0]))[0])
        filled[part_of[name]] += own
    return [part_of[group] for group in groups]
