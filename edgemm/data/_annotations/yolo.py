"""YOLO: data.yaml names folders of pictures, and beside each picture's folder lies one of texts: a class and its numbers a line, of 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import written
from edgemm.contracts.marks import Mark
from edgemm.data._annotations.pictures import Annotations, Findings, Mistake, Picture, extent, label_of, number, pictures_in, text_of
from edgemm.data._annotations.places import looked_in
from edgemm.data.manifest import SPLITS, split_named
from edgemm.errors import DataError

BOX, CORNERS = 4, 6  # numbers of a line after its class: a box; at least so many are the corners of an outline
IMAGES, LABELS = "images", "labels"
SLACK = 0.01  # of 1: so far outlines of common tools reach out; boxes are held to less, once their picture's pixels are known


def read(text: str, data: str, hints: Sequence[str], findings: Findings) -> Annotations:
    """The pictures of a ``data.yaml``, or of the folder that it lies in.

    Args:
        text: What stands after ``yolo:``.
        data: The whole, for messages.

    Raises:
        DataError: It is no such file, or names folders that are not there.
    """
    path = Path(text)
    path = path / "data.yaml" if path.is_dir() else path
    try:
        plain = written.load(text_of(path), lambda plain, place: place[:1] == ("names",))
    except yaml.YAMLError as err:
        raise DataError(f"'{path}' is not YAML.", why=f"{' '.join(str(err).split())}.", fix="mend the file.") from err
    if not isinstance(plain, dict) or not isinstance(plain.get("names"), (list, dict)):
        raise DataError(f"'{path}' is no data.yaml.", why="it has no 'names'.", fix="write names: {0: person, 1: car} and the splits.")
    lines = _Lines(_names(plain["names"], path), _shape_of_points(plain.get("kpt_shape"), path))
    splits = {split: value for key, value in plain.items() if (split := split_named(key)) in SPLITS and value not in (None, "", [])}
    if not splits:
        raise DataError(f"'{path}' names no split.", fix="write train: images/train and val: images/val.")
    pictures = [picture for split, value in splits.items() for picture in _split(split, value, _bases(plain, path), path, lines)]
    return Annotations(path.parent, pictures, {split: f"'{path}' names none." for split in SPLITS if split not in splits})


def _names(names: list[Any] | dict[Any, Any], path: Path) -> dict[int, str]:
    entries = names.items() if isinstance(names, dict) else enumerate(names)
    read = {int(index): label_of(name) for index, name in entries if str(index).isdecimal() and label_of(name)}
    if len(read) < len(names) or not read:
        raise DataError(f"'{path}': names is no list of classes.", why=f"it is {names!r:.80}.", fix="write names: [person, car].")
    return read


def _shape_of_points(shape: Any, path: Path) -> tuple[int, int] | None:
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], int) and shape[1] in (2, 3)):
        raise DataError(f"'{path}': kpt_shape is {shape!r:.60}.", fix="write kpt_shape: [points, 3], or 2 without visibility.")
    return shape[0], shape[1]


def _bases(plain: Mapping[str, Any], path: Path) -> list[Path]:
    """Folders that paths of the file may start at: what ``path`` says, where that is there, and the file's own."""
    said = Path(str(plain.get("path") or ""))
    there = [folder for folder in (path.parent / said, said) if folder.is_dir()]
    return list(dict.fromkeys([*there[:1], path.parent]))


def _split(split: str, value: Any, bases: Sequence[Path], path: Path, lines: _Lines) -> Iterator[Picture]:
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str):
            raise DataError(f"'{path}': {split} is {value!r:.60}.", fix="write a folder, or several: [images/a, images/b].")
        place = _place(entry, bases, split, path)
        files = list(_listed(place, bases)) if place.is_file() else list(pictures_in(place))
        if not files:
            raise DataError(f"'{path}': split '{split}' has no pictures.", why=f"'{place}' holds none.", fix="mend the path.")
        texts = [_text_beside(file) for file in files]
        if not any(text.is_file() for text in texts):
            raise DataError(
                f"'{path}': no picture of split '{split}' has labels.",
                why=f"there is no '{texts[0]}' for '{files[0]}', nor one for another.",
                fix=f"lay a folder '{LABELS}' beside '{IMAGES}', with a .txt of each picture's name.",
            )
        for file, text in zip(files, texts, strict=True):
            marks, mistakes = lines.marks(text) if text.is_file() else ([], [])
            yield Picture(file, split, f"'{file}'", marks, mistakes, is_ratio=True)


def _place(entry: str, bases: Sequence[Path], split: str, path: Path) -> Path:
    """The folder or list that an entry names; of ``../train/images`` also what lies beside the file, as such files are often moved."""
    tried = [base / name for base in bases for name in dict.fromkeys([entry, entry.removeprefix("../")])]
    place = next((place for place in tried if place.exists()), None)
    if place is None:
        raise DataError(
            f"'{path}': {split} is '{entry}', which is not there.", why=looked_in(bases, [entry]), fix="mend path or the entry."
        )
    return place


def _listed(listing: Path, bases: Sequence[Path]) -> Iterator[Path]:
    """The pictures that a text lists, a line each; ``./`` is the text's own folder."""
    for line in filter(None, (line.strip() for line in text_of(listing).splitlines())):
        tried = [listing.parent / line] if line.startswith("./") else [*(base / line for base in bases), listing.parent / line]
        yield next((file for file in tried if file.is_file()), tried[0])


def _text_beside(file: Path) -> Path:
    """The labels of a picture: in ``labels`` where the picture is in ``images``, else beside it."""
    parts = list(file.parts)
    if IMAGES in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index(IMAGES)] = LABELS
    return Path(*parts).with_suffix(".txt")


class _Lines:
    """Reads the texts of labels."""

    def __init__(self, names: Mapping[int, str], points: tuple[int, int] | None) -> None:
        self.names, self.points = names, points

    def marks(self, text: Path) -> tuple[list[Mark], list[Mistake]]:
        """What the lines of a text mark; a line that is empty says nothing."""
        marks: list[Mark] = []
        mistakes: list[Mistake] = []
        for at, line in enumerate(text_of(text).splitlines(), 1):
            if words := line.split():
                found = self._read(words, f"{text}, line {at}: '{line.strip()[:60]}'")
                marks.append(found) if isinstance(found, Mark) else mistakes.append(found)
        return marks, mistakes

    def _read(self, words: list[str], place: str) -> Mark | Mistake:
        index, values = words[0].removesuffix(".0"), [number(word) for word in words[1:]]
        plain = [value for value in values if value is not None]
        if not index.isdecimal() or int(index) not in self.names:
            return Mistake("classes that data.yaml does not name", place, f"known: 0 to {max(self.names)}.")
        if len(plain) < len(values) or not self._fits(len(plain)):
            return Mistake("lines that are no box", place, "write class cx cy w h, or class x y x y x y ...")
        if any(not -SLACK <= value <= 1 + SLACK for value in self._ratios(plain)):
            return Mistake("numbers that are no ratios", place, "divide x and w by the picture's width, y and h by its height.")
        return self._marked(self.names[int(index)], plain)

    def _fits(self, count: int) -> bool:
        if self.points:
            return count == BOX + self.points[0] * self.points[1]
        return count == BOX or (count >= CORNERS and count % 2 == 0)

    def _ratios(self, values: list[float]) -> list[float]:
        if not self.points or self.points[1] == 2:
            return values
        return values[:BOX] + [value for place, value in enumerate(values[BOX:]) if place % 3 < 2]

    def _marked(self, label: str, values: list[float]) -> Mark:
        if len(values) > BOX and not self.points:
            return Mark(label, extent([values]), polygons=(tuple(values),))
        cx, cy, width, height = values[:BOX]
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        points = tuple(values[BOX:])
        if self.points and self.points[1] == 2:  # without visibility a point at 0 0 is none
            points = tuple(v for x, y in zip(points[::2], points[1::2], strict=True) for v in (x, y, 2.0 if x or y else 0.0))
        return Mark(label, box, points=points)
