"""What the formats agree on: pictures with their marks, and the mistakes found on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgemm.contracts.marks import Mark
from edgemm.errors import Collector, DataError

SHOWN = 8  # places named of one kind of mistake
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""Files of a folder that are pictures."""


class Mistake(NamedTuple):
    """What is wrong with one picture's marks: the kind, the place and value, and what to do."""

    what: str
    place: str
    fix: str = "mend the file."


@dataclass(frozen=True)
class Picture:
    """One picture and all that is marked in it.

    Attributes:
        where: What messages call it.
        size: Width and height as the format says them; None where it does not.
        is_ratio: The marks' numbers are of 1, not pixels.
        keys: What else the format holds of it, by name.
    """

    file: Path
    split: str
    where: str
    marks: Sequence[Mark] = ()
    mistakes: Sequence[Mistake] = ()
    size: tuple[int, int] | None = None
    is_ratio: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)
    root: Path = Path()
    """Folder that paths among ``keys`` start at."""


@dataclass(frozen=True)
class Annotations:
    """A whole dataset.

    Attributes:
        folder: Where it lies.
        absent: Split -> why it has no pictures, where more is known than that it has none.
    """

    folder: Path
    pictures: Sequence[Picture]
    absent: Mapping[str, str] = field(default_factory=dict)


class Findings:
    """Mistakes of a dataset, gathered by kind so that thousands of one kind are one message.

    Args:
        name: What messages call the dataset.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._places: dict[tuple[str, str], list[str]] = {}
        self._of_row: dict[int, tuple[str, str]] = {}
        self._of_rows: set[str] = set()  # kinds

    def add(self, what: str, place: str, *, fix: str, row: int | None = None) -> None:
        """
        Args:
            what: The kind, such as "boxes of no area".
            place: Where, and the value.
            row: The row it is a mistake of, which may be left out instead; None = of the dataset as a whole.
        """
        self._places.setdefault((what, fix), []).append(place)
        if row is not None:
            self._of_row.setdefault(row, (what, place))
            self._of_rows.add(what)

    def rows(self) -> dict[int, str]:
        """Row -> its first mistake, in words."""
        return {row: f"{self.name}, row {row}: {what}: {place}." for row, (what, place) in self._of_row.items()}

    def raise_if_any(self, *, but_rows: bool = False) -> None:
        """Raises DataError, or Mistakes: one for each kind.

        Args:
            but_rows: Of rows none; they are left out.
        """
        collector = Collector()
        for (what, fix), places in self._places.items():
            if but_rows and what in self._of_rows:
                continue
            more = [f"and {len(places) - SHOWN} more"] if len(places) > SHOWN else []
            why = f"{'; '.join([*places[:SHOWN], *more])}."
            collector.add(DataError(f"{self.name}: {what}: {len(places)}.", why=why, fix=fix))
        collector.raise_if_any()


def number(value: Any) -> float | None:
    """A finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def numbers(values: Any) -> tuple[float, ...] | None:
    """All of some values as finite numbers; None where one is none, or there is no list."""
    if not isinstance(values, (list, tuple)):
        return None
    read = [number(value) for value in values]
    return None if None in read else tuple(value for value in read if value is not None)


def label_of(value: Any) -> str:
    """A class's name with single blanks, as it stands in a cell; "" where there is none."""
    return "" if value is None else " ".join(str(value).split())


def extent(polygons: Iterable[Sequence[float]]) -> tuple[float, float, float, float]:
    """The smallest box around corners x, y, x, y, ... of some polygons."""
    parts = list(polygons)
    across, down = [value for part in parts for value in part[::2]], [value for part in parts for value in part[1::2]]
    return min(across), min(down), max(across), max(down)


def pictures_in(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, by name."""
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def text_of(path: Path) -> str:
    """
    Raises:
        DataError: It is missing, or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise DataError(f"'{path}' cannot be read.", why=f"{err.strerror}.", fix="check the path and its permissions.") from err
    except UnicodeDecodeError as err:
        raise DataError(f"'{path}' cannot be read.", why=f"it is not UTF-8 at byte {err.start}.", fix="save it as UTF-8.") from err
