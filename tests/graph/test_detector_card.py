"""A detector is known by the shapes of its outputs, and its card says what can be known."""

import pytest
from onnx import helper, save

from edgemm.errors import CheckpointError
from edgemm.graph import detector_card, ending_nms, onnx_card
from edgemm.graph.detector_outputs import parts_of
from tests.onnx_models import model, suppressing_detector
from tests.places import PACKS

FACES = PACKS / "real_models"
YUNET = {
    f"{kind}_{stride}": (1, (320 // stride) ** 2, width)
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
    for stride in (8, 16, 32)
}


@pytest.mark.parametrize(
    ("shapes", "size", "parts"),
    [
        ({"out": (1, 84, 8400)}, (640, 640), {"joined": ["out"]}),
        ({"out": (1, 25200, 85)}, (640, 640), {"joined": ["out"]}),
        ({"boxes": (1, 4420, 4), "scores": (1, 4420, 2)}, (240, 320), {"boxes": ["boxes"], "scores": ["scores"]}),
        ({"logits": (1, 300, 91), "pred": (1, 300, 4)}, (640, 640), {"boxes": ["pred"], "scores": ["logits"]}),
        (
            YUNET,
            (320, 320),
            {
                kind: [f"{word}_{stride}" for stride in (8, 16, 32)]
                for kind, word in (("boxes", "bbox"), ("scores", "cls"), ("objectness", "obj"))
            },
        ),
        (
            {"a": (1, 64, 80, 80), "b": (1, 80, 80, 80), "c": (1, 64, 40, 40), "d": (1, 80, 40, 40)},
            (640, 640),
            {"boxes": ["a", "c"], "scores": ["b", "d"]},
        ),
        ({"classes": (1, 1000)}, (224, 224), None),
        ({"tokens": (1, 197, 768)}, (224, 224), None),
        ({"mask": (1, 21, 80, 80)}, (320, 320), None),
    ],
)
def test_shapes_tell_what_holds_boxes_and_scores(shapes, size, parts):
    assert parts_of(shapes, size) == parts


def drafted(path):
    card = onnx_card.draft(path)
    return detector_card.draft(onnx_card.read(path), card)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "face_rfb_320",
            [
                "# 1 label, in the order of the scores",
                "from: {boxes: boxes, scores: scores}",
                "boxes: {form: xyxy, unit: ratio}",
                "nothing: first",
            ],
        ),
        (
            "face_yunet_n_320",
            [
                "from: {boxes: [bbox_8, bbox_16, bbox_32], scores: [cls_8, cls_16, cls_32], objectness: [obj_8, obj_16, obj_32]}",
                "boxes: {form: grid, strides: [8, 16, 32]}  # FILL IN",
                "objectness: product",
            ],
        ),
    ],
)
def test_real_face_finders_are_drafted(name, lines):
    if not FACES.is_dir():
        pytest.skip(f"the real models are not in {PACKS} (set EDGEMM_DATA)")
    found = drafted(FACES / f"{name}.onnx")
    assert found.lines[:2] == ["task: detection", "frame: input"]
    assert "layout: levels" in found.lines
    for line in lines:
        assert any(own.startswith(line) for own in found.lines), line


def test_thresholds_of_a_suppression_are_read_into_the_card(tmp_path):
    save(suppressing_detector(score=0.25, most=50), tmp_path / "detector.onnx")
    found = drafted(tmp_path / "detector.onnx")
    assert "from: {boxes: inner/boxes, scores: chances}" in found.lines
    assert "boxes: {form: cxcywh, unit: pixels}  # NonMaxSuppression says so" in found.lines
    assert "nms: {iou: 0.45, score: 0.25, most: 50}  # as the file's own NonMaxSuppression, which is cut off" in found.lines
    assert any(line.startswith("# 3 labels") for line in found.lines)


def test_a_suppression_of_chosen_or_moved_boxes_is_refused_with_the_way_out(tmp_path):
    moved = [
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=1, name="best"),
        helper.make_node("Cast", ["label"], ["number"], to=1, name="number"),
        helper.make_node("Transpose", ["number"], ["column"], perm=[0, 2, 1], name="column"),
        helper.make_node("Add", ["inner/boxes", "column"], ["apart"], name="apart"),
    ]
    save(suppressing_detector(*moved, boxes="apart"), tmp_path / "detector.onnx")
    with pytest.raises(CheckpointError, match="NonMaxSuppression that cannot be cut off") as caught:
        drafted(tmp_path / "detector.onnx")
    assert "were moved apart by their labels before (ArgMax 'best')" in caught.value.why
    assert "nms=False" in caught.value.fix


def test_a_graph_without_suppression_has_no_ending():
    graph = model([helper.make_node("Relu", ["x"], ["y"], name="relu")], {"x": [1, 3]}, {"y": [1, 3]})
    assert ending_nms.find(graph, "relu.onnx") is None
