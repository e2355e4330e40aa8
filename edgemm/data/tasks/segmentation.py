"""A label for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edgemm.contracts.decision import Mask, Observation
from edgemm.contracts.marks import Mark
from edgemm.contracts.modality import existing, needing
from edgemm.contracts.number_cells import is_npy, numbers
from edgemm.contracts.stream import Pictures
from edgemm.contracts.task import Arrays, Cells, Entity, InputName, Labels, Task
from edgemm.data import labels as cells
from edgemm.data.boxes.geometry import Placement
from edgemm.data.tasks._segmentation import fitting, outlines, overlaps, pixels
from edgemm.data.tasks._segmentation.overlaps import IGNORED, Overlaps
from edgemm.errors import CardError, DataError

PACKAGES = ("pillow",)
METRIC = {"miou": "Mean IoU"}


@dataclass(frozen=True)
class Segmentation(Task):
    """Scores (n, labels, H, W), or numbers of labels (n, H, W); truth uint8 (n, h, w), 255 where nothing counts. Guarded: mean IoU.

    An answer of another size than the truth's is resized to it, never the truth to the answer's.

    Attributes:
        labels: Names of the classes, in the order of a mask's values: 0 is the first.
        frame: The input whose pixels a mask is in: it goes the way of its ``fit``. Without one masks are taken in their own size.
        ground: Whether the first label is in the mean; its pixels count against the others all the same.
        ignore: Value of a mask's pixels that do not count.
    """

    is_annotated: ClassVar[bool] = True
    follows: ClassVar[tuple[str, ...]] = ("flip",)
    unfollowed: ClassVar[str] = "masks follow a flip; what a turn, a crop or a shift brings in from outside, nobody has labelled."

    labels: Labels
    frame: InputName | None = None
    ground: Literal["count", "ignore"] = "count"
    ignore: int = 255

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= IGNORED:
            why = "pixels are told apart by it; what is none of the others is a label too, such as 'ground'."
            raise CardError(f"labels has {len(self.labels)}.", why=why, fix=f"write 2 to {IGNORED} of them.")
        if not 0 <= self.ignore <= 255 or self.ignore < len(self.labels):
            which = f"that is '{self.labels[self.ignore]}'" if 0 <= self.ignore < len(self.labels) else "a mask holds 0 to 255"
            raise CardError(f"ignore is {self.ignore}.", why=f"{which}.", fix=f"write a value from {len(self.labels)} to 255.")
        if self.frame is not None and self.parts and not isinstance(self.parts[self.frame].stream(), Pictures):
            raise CardError(f"frame is '{self.frame}', which is no picture.", fix="name an input of modality image.")

    def file(self, cell: Any) -> str | None:
        return cell if isinstance(cell, str) else None

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """A path (a PNG of one channel, or .npy), a file's bytes, or an array (height, width), of the size of the picture beside it."""
        if cells.is_empty(cell):
            raise cells.empty()
        mask = self._values(cell, row)
        known = (mask >= 0) & (mask < len(self.labels))
        wrong = ~known & (mask != self.ignore)
        if wrong.any():
            raise self._unknown(mask, wrong)
        numbers = np.where(known, mask, IGNORED).astype(np.uint8)
        if self.frame is None:
            return numbers
        self._require_size(numbers, row)
        return fitting.to_model(numbers, self._placement(numbers.shape), IGNORED)

    def annotated(self, marks: Sequence[Mark], width: int, height: int) -> dict[str, Any]:
        """Outlines and runs; what is marked nowhere is the first label."""
        return outlines.written(marks, width, height)

    def _values(self, cell: Any, row: Cells) -> np.ndarray:
        if isinstance(cell, dict) and outlines.MARKS in cell:
            return outlines.read(cell, lambda label: cells.index_of(label, self.labels, self.name), self.ignore)
        return _values(cell, row)

    def mirrored(self, truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
        turned = truth.copy()
        turned[rows] = truth[rows][..., ::-1]
        return turned

    def _placement(self, size: tuple[int, ...]) -> Placement:
        """Where a picture of this height and width lies in the model's."""
        spec = self.parts[str(self.frame)].stream()
        assert isinstance(spec, Pictures)
        return Placement.of(spec, size[1], size[0])

    def _require_size(self, mask: np.ndarray, row: Cells) -> None:
        """Raises DataError where the picture beside the mask has another size."""
        picture = row.inputs.get(str(self.frame))
        if cells.is_empty(picture):
            return
        high, wide = self.parts[str(self.frame)].extent(picture, row.folder)
        if mask.shape != (high, wide):
            raise DataError(
                f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its picture {wide} x {high}.",
                why=f"a mask's pixels lie on those of '{self.frame}', upright.",
                fix="resize the mask by the nearest neighbour, or turn it as the picture is turned.",
            )

    def _unknown(self, mask: np.ndarray, wrong: np.ndarray) -> DataError:
        unique, many = np.unique(mask[wrong], return_counts=True)
        row, column = (int(place) for place in np.argwhere(mask == unique[many.argmax()])[0])
        values, counts = unique.tolist(), many.tolist()
        listing = ", ".join(f"{value} ({count} pixel{'s' * (count != 1)})" for value, count in list(zip(values, counts, strict=True))[:5])
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        shown = f"0 to {len(self.labels) - 1} ({', '.join(self.labels[:10])}{', ...' * (len(self.labels) > 10)})"
        is_spread = set(values) <= {255} and self.ignore != 255 and len(self.labels) == 2
        return DataError(
            f"the mask holds {listing}{more}, which the card knows no label of; one is at x {column}, y {row}.",
            why=f"outputs.{self.name} has {shown}, and {self.ignore} for what does not count.",
            fix="write 1 for 255 in the mask." if is_spread else "mend the mask, add the labels, or set ignore to the value to leave out.",
        )

    def check(self, answers: Mapping[str, tuple[int, ...]]) -> None:
        shape = answers[self.name]
        if self._is_mask(shape):
            return
        labels = len(self.labels)
        is_turned = len(shape) == 4 and shape[-1] == labels
        raise CardError(
            f"output '{self.name}' has shape {tuple(shape)}, and the card names {labels} labels.",
            why=f"a mask is answered as scores (N, {labels}, height, width), or as numbers of labels (N, height, width)."
            + (" Here the scores seem to stand on the last axis." if is_turned else ""),
            fix="bring that axis to the second place: scores.permute(0, 3, 1, 2)."
            if is_turned
            else "list as many labels as there are scores.",
        )

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        return truth is not None and len(truth) == 3 and self._is_mask(answers[self.name])

    def _is_mask(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, len(self.labels)))

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Overlaps:
        assert truth is not None
        return overlaps.overlaps(answers[self.name], truth, len(self.labels), counts_first=self.ground == "count")

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """The share of pixels that are right, and each label's IoU over all pictures."""
        pieces = self.statistics(answers, truth)
        ious = pieces.by_label(np.ones((1, pieces.count())))[0]
        shares = {"pixel_accuracy": float(pieces.right.sum() / max(pieces.there.sum(), 1))}
        return shares | {f"iou of {label}": float(iou) for label, iou in zip(self.labels, ious, strict=True)}

    def notes(self, truth: np.ndarray) -> Sequence[str]:
        """Labels that no row has."""
        counts = np.bincount(truth[truth != IGNORED], minlength=len(self.labels)).tolist()
        absent = [repr(label) for label, count in zip(self.labels, counts, strict=True) if not count]
        return [f"no pixel of {', '.join(absent)} is in these rows: mean IoU leaves such labels out."] if absent else []

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        """Pixels that count."""
        if truth is None:
            return None
        matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)
        for one in overlaps.counts(answers[self.name], truth, len(self.labels)):
            matrix += one
        return matrix

    def qualities(self, answers: Arrays, truth: np.ndarray) -> np.ndarray | None:
        """The mean IoU over the labels that the picture's truth holds; 0 where that holds none that counts."""
        return None if self.frame is None else np.nan_to_num(self.statistics(answers, truth).values(np.eye(len(truth))))

    def there(self, truth: np.ndarray) -> Observation:
        return self._told(truth)

    def read(self, answers: Arrays) -> Observation:
        """Each label's share of the picture, and the mask."""
        answer = np.asarray(answers[self.name])[:1]
        mask = pixels.label_numbers(answer, len(self.labels), answer.shape[-2:])[0]
        return self._told(mask.astype(np.uint8))

    def _told(self, mask: np.ndarray) -> Observation:
        counts = np.bincount(mask[mask != IGNORED], minlength=len(self.labels))
        return Observation(cells.named(counts / max(counts.sum(), 1), self.labels), mask=Mask(self.labels, mask))

    def placed(self, seen: Observation, sizes: Mapping[str, tuple[int, int]]) -> Observation:
        """The mask over the whole of the camera's picture, about as fine as it was; what the model did not see counts for no label."""
        if seen.mask is None or self.frame is None or self.frame not in sizes:
            return seen
        return self._told(fitting.to_picture(seen.mask.numbers, self._placement(sizes[self.frame]), IGNORED))

    def entities(self) -> Sequence[Entity]:
        """A switch a label, on where its share is above the threshold, and the label with most of the picture."""
        return [*(Entity(label, "on_off") for label in self.labels), Entity("scene", "word", self.labels)]


def _values(cell: Any, row: Cells) -> np.ndarray:
    """The values in a cell, whole numbers (height, width)."""
    if isinstance(cell, dict):  # as Hugging Face datasets store pictures in parquet
        cell = cell.get("bytes") or cell.get("path") or cell
    if isinstance(cell, (str, bytes)) and not is_npy(cell):
        with needing("reading masks"):
            from edgemm.data.tasks._segmentation import mask_files
        return mask_files.read(existing(cell, row.folder) if isinstance(cell, str) else cell)
    mask = numbers(cell, row.folder)
    if mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    whole = mask.astype(np.int64)
    if mask.ndim != 2 or not mask.size or not np.array_equal(whole, mask):
        raise DataError(
            f"a mask has dtype {mask.dtype} and shape {mask.shape}.",
            why="a mask is (height, width), and its values are numbers of labels.",
            fix="store the number of each pixel's label: scores.argmax(0).astype('uint8') of scores (labels, height, width).",
        )
    return whole
