"""COCO: a JSON file a split, of images, annotations (boxes x y w h, counted from 0) and categories, whose ids have holes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts.marks import Mark
from edgemm.data._annotations import places, runs
from edgemm.data._annotations.pictures import Annotations, Findings, Mistake, Picture, extent, label_of, numbers
from edgemm.data.manifest import SPLIT, SPLITS, split_named
from edgemm.errors import DataError
from edgemm.store import json_text

GLOBS = ("instances_*.json", "annotations/instances_*.json", "*/_annotations.coco.json", "_annotations.coco.json")
"""Files of a folder: COCO's own, and those of one folder a split."""
PREFIXES = ("instances_", "person_keypoints_")
CORNERS = 6  # numbers that make an outline, at least
LOOKED_FOR = 64  # pictures of which one at least has to be there
OWN_KEYS = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured", SPLIT}


def read(text: str, data: str, hints: Sequence[str], findings: Findings) -> Annotations:
    """The pictures of ``train.json,val.json,test.json``, of one such file, or of a folder that holds them.

    Args:
        text: What stands after ``coco:``.
        data: The whole, for messages.
        hints: Names that a folder of pictures may have.

    Raises:
        DataError: A file is missing or none of COCO's.
    """
    files = places.named(text, data)
    if len(files) == 1 and files[0][1].is_dir():
        files = _in_folder(files[0][1], data)
    unsaid = [str(path) for split, path in files if not split]
    if unsaid and len(files) > 1:
        why = f"{', '.join(unsaid)}: the name says neither train, val nor test."
        raise DataError(f"'{data}': which split is what?", why=why, fix="write coco:train=a.json,val=b.json,test=c.json.")
    pictures = [picture for split, path in files for picture in _File(path, findings).pictures(split, hints)]
    absent = {}
    if unsaid and {picture.split for picture in pictures} == {"train"}:
        why = f"all of {unsaid[0]} is train: neither its name nor a key 'split' of its images says more."
        absent = dict.fromkeys(SPLITS, f"{why} coco:train=a.json,test=b.json names the file of each split.")
    return Annotations(files[0][1].parent, pictures, absent)


def _in_folder(folder: Path, data: str) -> list[tuple[str, Path]]:
    found = [(places.split_of(path), path) for pattern in GLOBS for path in sorted(folder.glob(pattern))]
    if not found:
        raise DataError(
            f"'{data}' is no dataset.",
            why=f"'{folder}' has none of {', '.join(GLOBS)}.",
            fix="name the files: coco:train=a.json,val=b.json.",
        )
    splits = [split for split, _ in found if split]
    twice = sorted({split for split in splits if splits.count(split) > 1})
    if twice:
        why = f"{', '.join(str(path) for split, path in found if split == twice[0])} are all of it."
        raise DataError(f"'{data}' has several files of split '{twice[0]}'.", why=why, fix="name those that count: coco:train=a.json,...")
    return found


class _File:
    """One annotation file."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path, self.findings = path, findings
        try:
            plain = json_text.loads(path.read_bytes())
        except (OSError, ValueError) as err:
            raise DataError(f"'{path}' cannot be read as COCO's JSON.", why=f"{err}".rstrip(".") + ".", fix="write it anew.") from err
        for key in ("images", "annotations", "categories"):
            records = plain.get(key) if isinstance(plain, dict) else None
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                kind = "it is a list, as results are." if isinstance(plain, list) else f"it holds no list '{key}' of objects."
                raise DataError(f"'{path}' is no annotation file of COCO's.", why=kind, fix="give {images, annotations, categories}.")
        self.images, self.annotations, self.categories = plain["images"], plain["annotations"], plain["categories"]

    def pictures(self, split: str, hints: Sequence[str]) -> Iterator[Picture]:
        (marks, mistakes), root = self._marks(), self._root(split, hints)
        for image in self.images:
            name = image.get("file_name")
            if not isinstance(name, str) or not name.strip():
                self._add("images without file_name", f"image {image.get('id')}")
                continue
            said = numbers([image.get("width"), image.get("height")])
            own = split or split_named(image.get(SPLIT) or "train")
            if own not in SPLITS:
                self._add("splits that are none", f"image '{name}' names '{image[SPLIT]}'")
                continue
            yield Picture(
                root / name.strip(), own, f"image {image.get('id')} '{name}'",
                marks.get(repr(image.get("id")), ()), mistakes.get(repr(image.get("id")), ()),
                size=(int(said[0]), int(said[1])) if said else None,
                keys={key: value for key, value in image.items() if key not in OWN_KEYS}, root=root,
            )  # fmt: skip

    def _root(self, split: str, hints: Sequence[str]) -> Path:
        """The folder that file names start at: that of the first picture that is anywhere."""
        stem = self.path.stem
        for prefix in PREFIXES:
            stem = stem.removeprefix(prefix)
        below = ["images", *hints, stem, f"images/{stem}", *([split, f"images/{split}"] if split else [])]
        bases = [self.path.parent, self.path.parent.parent]
        first = [name for image in self.images[:LOOKED_FOR] if isinstance(name := image.get("file_name"), str)]
        for name in first:
            root = places.root_of(bases, below, name.strip())
            if root is not None:
                return root
        if first:
            raise DataError(
                f"the pictures of '{self.path}' are not found.",
                why=f"there is no '{first[0]}': {places.looked_in(bases, below)}",
                fix="lay the file beside the folder of pictures that its file_name start at.",
            )
        return self.path.parent

    def _marks(self) -> tuple[dict[str, list[Mark]], dict[str, list[Mistake]]]:
        """Image id -> what is marked in it, and what is wrong with that."""
        names = {repr(entry.get("id")): label_of(entry.get("name")) for entry in self.categories}
        known, seen = {repr(image.get("id")) for image in self.images}, set[str]()
        if len(known) < len(self.images):
            self._add("images that share an id", f"{len(self.images)} images have {len(known)} ids")
        marks: dict[str, list[Mark]] = {}
        mistakes: dict[str, list[Mistake]] = {}
        for annotation in self.annotations:
            image, own = repr(annotation.get("image_id")), repr(annotation.get("id"))
            found = self._mark(annotation, names.get(repr(annotation.get("category_id")), ""), own in seen)
            if image not in known:
                self._add("annotations of images that are not there", f"annotation {own} has image_id {image}")
            elif isinstance(found, Mark):
                marks.setdefault(image, []).append(found)
            else:
                mistakes.setdefault(image, []).append(found)
            seen |= {own} - {repr(None)}
        return marks, mistakes

    def _mark(self, annotation: dict[str, Any], label: str, is_second: bool) -> Mark | Mistake:
        place = f"{self.path.name}: annotation {annotation.get('id')!r}"
        if is_second:
            return Mistake("annotations that share an id", place)
        if not label:
            return Mistake("categories that are not there", f"{place} has category_id {annotation.get('category_id')!r}")
        outline = annotation.get("segmentation")
        parts = [numbers(part) for part in outline] if isinstance(outline, list) else []
        polygons = tuple(part for part in parts if part and len(part) >= CORNERS and len(part) % 2 == 0)
        covered = runs.read(outline)
        box = numbers(annotation.get("bbox"))
        around = runs.extent(*covered) if covered and annotation.get("bbox") is None else None
        if around is not None:
            edges = around
        elif annotation.get("bbox") is None and polygons:
            edges = extent(polygons)
        elif box is not None and len(box) == 4:
            edges = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        else:
            return Mistake("boxes that are no four numbers", f"{place} has {annotation.get('bbox')!r:.60}")
        points = numbers(annotation.get("keypoints") or []) or ()
        ignored = bool(annotation.get("iscrowd") or annotation.get("ignore"))
        return Mark(label, edges, ignored, points, polygons, *(covered or ()))

    def _add(self, what: str, place: str) -> None:
        self.findings.add(what, f"{self.path.name}: {place}", fix="mend the file.")
