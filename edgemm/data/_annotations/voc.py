"""Pascal VOC: an XML file a picture, boxes counted from 1 with both ends in them, and lists of names for the splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from edgemm.contracts.marks import Mark
from edgemm.data._annotations import places
from edgemm.data._annotations.pictures import SUFFIXES, Annotations, Findings, Mistake, Picture, label_of, number, text_of
from edgemm.data.manifest import OTHER_WORDS, SPLITS
from edgemm.errors import DataError

XML, SETS = "Annotations", "ImageSets/Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FROM_0 = ",from=0"
"""What a user adds where boxes are counted from 0, as some tools write them."""


def read(text: str, data: str, hints: Sequence[str], findings: Findings) -> Annotations:
    """The pictures of a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.

    Args:
        text: What stands after ``voc:``.
        data: The whole, for messages.
        hints: Names that a folder of pictures may have.

    Raises:
        DataError: There is no such folder.
    """
    folder = Path(text.removesuffix(FROM_0))
    if not (folder / XML).is_dir():
        raise DataError(f"'{data}' is no dataset.", why=f"there is no folder '{folder / XML}'.", fix=f"give the folder that holds {XML}.")
    reader = _Reader(folder, [*hints, "JPEGImages", "images", "image", XML], 0 if text.endswith(FROM_0) else 1)
    names, absent = _names(folder)
    return Annotations(folder, [reader.picture(name, split) for split in names for name in names[split]], absent)


def _names(folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Split -> names of its pictures; all are train where no list is there."""
    names = {}
    for split in SPLITS:
        for word in (split, *OTHER_WORDS[split]):
            listing = folder / SETS / f"{word}.txt"
            if listing.is_file() and split not in names:  # a second word on a line says whether a class is there: the picture counts
                names[split] = [line.split()[0] for line in text_of(listing).splitlines() if line.split()]
    if any(names.values()):
        return names, {split: f"there is no list '{folder / SETS / split}.txt'." for split in SPLITS if split not in names}
    files = sorted(path.stem for path in (folder / XML).glob("*.xml"))
    if not files:
        raise DataError(f"'{folder}' has no pictures.", why=f"'{folder / XML}' holds no .xml.", fix="mend the path.")
    return {"train": files}, dict.fromkeys(SPLITS, f"all is train: '{folder / SETS}' has no train.txt, val.txt, test.txt.")


class _Reader:
    def __init__(self, folder: Path, below: Sequence[str], first: int) -> None:
        self.folder, self.below, self.first = folder, below, first
        self.root: Path | None = None

    def picture(self, name: str, split: str) -> Picture:
        """One picture, its marks, and what is wrong with them."""
        file = self.folder / XML / f"{name}.xml"
        try:
            tree = ElementTree.fromstring(file.read_bytes())
        except OSError as err:
            mistake = Mistake("names in lists without an .xml", f"{split}.txt: '{file}': {err.strerror}")
        except (ElementTree.ParseError, ValueError, LookupError) as err:
            mistake = Mistake("files that are not XML", f"'{file}': {err}")
        else:
            return self._read(tree, name, split, file)
        return Picture(self._file(name, None), split, f"'{name}'", mistakes=[mistake])

    def _read(self, tree: ElementTree.Element, name: str, split: str, file: Path) -> Picture:
        said = [number(tree.findtext(f"size/{side}")) for side in ("width", "height")]
        size = (int(said[0]), int(said[1])) if said[0] and said[1] else None
        marks: list[Mark] = []
        mistakes: list[Mistake] = []
        for place, thing in enumerate(tree.findall("object"), 1):
            found = self._mark(thing, place, file)
            marks.append(found) if isinstance(found, Mark) else mistakes.append(found)
        return Picture(self._file(name, tree.findtext("filename")), split, f"'{name}'", marks, mistakes, size=size)

    def _mark(self, thing: ElementTree.Element, place: int, file: Path) -> Mark | Mistake:
        label = label_of(thing.findtext("name"))
        x0, y0, x1, y1 = (number(thing.findtext(f"bndbox/{corner}")) for corner in CORNERS)
        if not label or x0 is None or y0 is None or x1 is None or y1 is None:
            return Mistake("objects without a name or a box", f"'{file}': object {place}")
        if min(x0, y0) < self.first:
            fix = f"VOC counts from 1. Where this set counts from 0, say so: -d voc:{self.folder}{FROM_0}; else mend the boxes."
            return Mistake("boxes that begin before 1", f"'{file}': object {place} at {x0:g} {y0:g}", fix)
        is_hard = (thing.findtext("difficult") or "0").strip() not in ("0", "")
        return Mark(label, (x0 - self.first, y0 - self.first, x1, y1), is_hard)

    def _file(self, name: str, written: str | None) -> Path:
        """The picture: called as its XML, or else as that says."""
        named = [f"{name}{suffix}" for suffix in self._suffixes(written)] + ([Path(written).name] if written else [])
        if self.root is not None and (file := next((self.root / each for each in named if os.path.isfile(self.root / each)), None)):
            return file
        for each in named:
            root = places.root_of([self.folder, self.folder.parent], self.below, each)
            if root is not None:
                self.root = root
                return root / each
        return self.folder / "JPEGImages" / named[0]

    @staticmethod
    def _suffixes(written: str | None) -> Iterator[str]:
        said = Path(written).suffix if written else ""
        usual = [said, ".jpg", ".png", ".jpeg", *SUFFIXES]
        yield from dict.fromkeys(suffix for suffix in (*usual, *(each.upper() for each in SUFFIXES)) if suffix)
