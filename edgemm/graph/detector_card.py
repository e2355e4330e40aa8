"""Whether an ONNX file's outputs are a detector's, by their shapes; and the lines of its card, with what nobody can know left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from edgemm.contracts.card import FILL_IN, Card
from edgemm.contracts.modality import flow
from edgemm.data.boxes.layout import BOXES, JOINED, OBJECTNESS, SCORED
from edgemm.graph import ending_nms, parity
from edgemm.graph.detector_outputs import BOX, Shape, parts_of, strides_of, table
from edgemm.graph.ending_nms import Ending

SET = 1000  # predictions that a set has at most: DETR and its heirs ask for 100 to 900
NOISE_SEED, PICTURES = 0, 2
FEW_MOST = 300
CORNERS_SEEN = 0.999  # of the boxes on noise whose third number is not below the first
OF_WHOLE = 4.0  # boxes whose numbers stay below are parts of the picture
OTHER_FORMS = "xyxy, cxcywh; of a grid's places ltrb, dfl (16 bins a side), grid (offset and logarithm of the size)"


@dataclass(frozen=True)
class Drafted:
    """What a card is to say of a detector.

    Attributes:
        picture: The input that the boxes are in: name, channels, height, width.
        name: Of the output.
        lines: Of the output, below its name.
    """

    picture: tuple[str, int, int, int]
    name: str
    lines: list[str] = field(default_factory=list)


def draft(model: onnx.ModelProto, card: Card) -> Drafted | None:
    """The card of a detector; None where the outputs have no detector's shapes, or no input is one picture.

    Args:
        card: As ``onnx_card.draft`` makes it of the same model: shapes without open axes.

    Raises:
        CheckpointError: A suppression at the end cannot be cut off.
        ExportError: ONNX Runtime does not take the graph.
    """
    picture = _picture(card)
    ending = ending_nms.find(model, str(card.model))
    if picture is None:
        return None
    feed = _noise(card)
    names = [ending.boxes, ending.scores] if ending else [value.name for value in model.graph.output]
    answers = _answers(model, names, feed)
    shapes = {name: array.shape for name, array in answers.items()}
    found = {BOXES: [ending.boxes], SCORED: [ending.scores]} if ending else parts_of(shapes, picture[2:])
    if found is None:
        return None
    taken = {name for names_ in found.values() for name in names_}
    output = "objects" if "objects" not in taken | {value.name for value in model.graph.input} else "found"
    return Drafted(picture, output, _lines(found, answers, picture, ending))


def _picture(card: Card) -> tuple[str, int, int, int] | None:
    pictures = []
    for name, spec in card.inputs.items():
        shape = spec.options["shape"]
        if len(shape) == 4 and shape[1] in (1, 3) and all(isinstance(side, int) and side > 8 for side in shape[2:]):
            pictures.append((name, *shape[1:]))
    return pictures[0] if len(pictures) == 1 else None


def _noise(card: Card) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(NOISE_SEED)
    shapes = {name: [size if isinstance(size, int) else 1 for size in spec.options["shape"]] for name, spec in card.inputs.items()}
    return [
        {
            name: np.full(shape, card.inputs[name].options["value"])
            if "value" in card.inputs[name].options
            else (rng.random(shape) * (1 if len(shape) == 4 else 0)).astype(card.inputs[name].options["dtype"])
            for name, shape in shapes.items()
        }
        for _ in range(PICTURES)
    ]


def _answers(model: onnx.ModelProto, names: Sequence[str], feed: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What a model answers to noise, rows first."""
    session = parity.reference_session(model, beside=names)
    order = [value.name for value in session.get_outputs()]
    rows = [dict(zip(order, parity.asked(session, model, sample), strict=True)) for sample in feed]
    kept = [name for name in names if all(row[name].ndim > 1 and row[name].shape == rows[0][name].shape for row in rows)]
    return {name: np.concatenate([row[name] for row in rows]) for name in kept}


def _lines(
    found: Mapping[str, list[str]], answers: Mapping[str, np.ndarray], picture: tuple[str, int, int, int], ending: Ending | None
) -> list[str]:
    size = picture[2:]
    counts = {name: table(answers[name].shape, size) or _flat(answers[name].shape) for names in found.values() for name in names}
    places = sum(counts[name][0] for name in next(iter(found.values())))
    strides = strides_of(size, [counts[name][0] for name in next(iter(found.values()))])
    lines = ["task: detection", f"frame: {flow(picture[0])}"]
    if JOINED in found:
        return [*lines, *_joined(found[JOINED], answers, counts, strides, size)]
    boxes = _rows([answers[name] for name in found[BOXES]], [counts[name] for name in found[BOXES]])
    scores = _rows([answers[name] for name in found[SCORED]], [counts[name] for name in found[SCORED]])
    is_set = ending is None and len(found[BOXES]) == 1 and places <= SET and not strides
    lines += [*_labels(scores), f"layout: {'set' if is_set else 'levels'}"]
    lines += [f"from: {flow({part: names[0] if len(names) == 1 else names for part, names in found.items()})}"]
    lines += [*_boxes(boxes, strides, size, ending), *_scores(scores)]
    lines += ["objectness: product  # or root: its square root, as YuNet"] if OBJECTNESS in found else []
    return [*lines, *_rules(ending, is_set)]


def _joined(
    names: list[str],
    answers: Mapping[str, np.ndarray],
    counts: Mapping[str, tuple[int, int]],
    strides: list[int],
    size: tuple[int, int],
) -> list[str]:
    """One tensor, or one a level, of boxes and scores: the axis of places tells YOLOv8's from those with an objectness."""
    tables = _rows([answers[name] for name in names], [counts[name] for name in names])
    first, width = answers[names[0]].shape, tables.shape[-1]
    has_objectness = len(first) == 3 and first[2] == width
    kind = "levels" if len(names) > 1 else "objectness" if has_objectness else "yolo"
    labels = width - BOX - has_objectness
    lines = [f"# {labels} labels, in the order of the scores; with{'out' if has_objectness else ''} an objectness before them one "]
    lines[0] += f"{'more' if has_objectness else 'less'} (layout: {'yolo' if has_objectness else 'objectness'})"
    lines += [f"labels: []  {FILL_IN}", f"layout: {kind}", f"from: {flow({JOINED: names[0] if len(names) == 1 else names})}"]
    return [*lines, *_boxes(tables[..., :BOX], strides, size, None), *_scores(tables[..., BOX:]), *_rules(None, False)]


def _flat(shape: Shape) -> tuple[int, int]:
    return max(shape[1:]), min(shape[1:])


def _rows(tensors: Sequence[np.ndarray], counts: Sequence[tuple[int, int]]) -> np.ndarray:
    """Tensors of levels as one (N, places, numbers)."""
    parts = []
    for tensor, (places, width) in zip(tensors, counts, strict=True):
        last = tensor.shape[-1] == width and (tensor.ndim == 4 or tensor.shape[1] == places)
        flat = tensor.reshape(len(tensor), places, width) if last else tensor.reshape(len(tensor), width, places).swapaxes(1, 2)
        parts.append(flat)
    joined: np.ndarray = np.concatenate(parts, axis=1)
    return joined


def _labels(scores: np.ndarray) -> list[str]:
    """The labels, and the score for no thing where the scores of a place make 1: on noise that is the largest."""
    width = scores.shape[-1]
    nothing = _nothing(scores)
    count = width - (nothing is not None)
    return [f"# {count} label{'s' * (count != 1)}, in the order of the scores", f"labels: []  {FILL_IN}"]


def _nothing(scores: np.ndarray) -> str | None:
    if scores.shape[-1] < 2 or not _is_share(scores):
        return None
    return "first" if int(scores.mean(axis=(0, 1)).argmax()) == 0 else "last"


def _is_share(scores: np.ndarray) -> bool:
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1, atol=1e-3))


def _scores(scores: np.ndarray) -> list[str]:
    if nothing := _nothing(scores):
        return ["scores: probability", f"nothing: {nothing}  # of each place the scores make 1, so one of them stands for no thing"]
    if ((scores >= 0) & (scores <= 1)).all():
        return ["scores: probability  # they stay within 0 and 1"]
    return [f"scores: sigmoid  # or softmax, softmax_with_nothing (DETR)  {FILL_IN}"]


def _boxes(boxes: np.ndarray, strides: list[int], size: tuple[int, int], ending: Ending | None) -> list[str]:
    """Form and unit as the values on noise tell them; what they cannot tell is left open."""
    form, why = _form(boxes, bool(strides), size, ending)
    if form in ("xyxy", "cxcywh", "yxyx"):
        is_ratio = float(np.quantile(np.abs(boxes), 0.99)) < OF_WHOLE
        unit = "ratio" if is_ratio else "pixels"
        return [f"boxes: {flow({'form': form, 'unit': unit})}  # {why}"]
    plain = {"form": form, "strides": strides} if strides else {"form": form}
    return [f"# {OTHER_FORMS}; unit: stride, pixels or ratio", f"boxes: {flow(plain)}  {FILL_IN}"]


def _form(boxes: np.ndarray, has_grid: bool, size: tuple[int, int], ending: Ending | None) -> tuple[str, str]:
    if boxes.shape[-1] != BOX:
        return "dfl", ""
    if ending is not None and ending.is_centre:
        return "cxcywh", "NonMaxSuppression says so"
    high, wide = (boxes[..., 2 + axis] >= boxes[..., axis] for axis in (0, 1))
    if min(high.mean(), wide.mean()) >= CORNERS_SEEN:
        return "xyxy", "guessed: on noise the last two numbers are never below the first two; yxyx where a TensorFlow model writes y first"
    extent = np.ptp(boxes[..., :2], axis=(0, 1))
    if (boxes[..., 2:] >= 0).all() and (extent > 0.5 * (1 if np.abs(boxes).max() < OF_WHOLE else min(size))).all():
        return "cxcywh", "guessed: on noise the first two numbers cover the picture, and the last two are no corners"
    return ("grid" if (boxes[..., 2:] < 0).any() else "ltrb") if has_grid else "cxcywh", ""


def _rules(ending: Ending | None, is_set: bool) -> list[str]:
    if is_set:
        return ["most: 100"]
    if ending is None:
        return ["nms: {iou: 0.6, score: 0.05, most: 100}"]
    said = {"iou": ending.iou, "score": ending.score, "most": None if ending.most is None else min(ending.most, FEW_MOST)}
    known = {key: value for key, value in said.items() if value is not None}
    return [f"nms: {flow(known)}  # as the file's own NonMaxSuppression, which is cut off"] if known else []
