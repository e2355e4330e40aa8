"""`edgemm init` of a detector that came as ONNX, and what becomes of its card."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgemm import init
from edgemm.contracts import card_file as cards
from edgemm.contracts.modality import modalities
from edgemm.contracts.task import tasks
from edgemm.errors import CardError, EdgemmError
from edgemm.graph import user_onnx
from tests.onnx_models import suppressing_detector
from tests.places import PACKS

FACES = PACKS / "real_models"


@pytest.fixture
def suppressing(tmp_path):
    onnx.save(suppressing_detector(), tmp_path / "detector.onnx")
    return tmp_path / "detector.onnx"


def filled_in(path, **values):
    """The drafted card with some of its marked lines written."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        key = line.split(":")[0].strip()
        if line.endswith("# FILL IN") and key in values:
            lines[number] = f"{line[: len(line) - len(line.lstrip())]}{key}: {values[key]}"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_nobody_can_know_is_to_be_filled_in(suppressing, tmp_path):
    path = init(str(suppressing), output=tmp_path / "model.yaml")
    with pytest.raises(EdgemmError) as caught:
        cards.load(path)
    for name in ("mean", "std", "order", "labels"):
        assert f"'{name}' is not filled in" in caught.value.block()


def test_a_graph_cut_before_its_suppression_finds_the_same_boxes(suppressing, tmp_path):
    path = filled_in(init(str(suppressing), output=tmp_path / "model.yaml"), mean=0, std=1, order="rgb", labels="[a, b, c]")
    card = cards.load(path)
    prepared = onnx.load(user_onnx.prepare(card, tmp_path / "prepared.onnx"))
    assert "NonMaxSuppression" not in {node.op_type for node in prepared.graph.node}
    assert {value.name for value in prepared.graph.output} == {"inner/boxes", "chances"}
    picture = np.random.default_rng(1).integers(0, 256, (320, 320, 3), np.uint8)
    session = onnxruntime.InferenceSession(prepared.SerializeToString())
    answers = dict(zip([value.name for value in session.get_outputs()], session.run(None, {"image": picture[None]}), strict=True))
    told = card.outputs["objects"].options["nms"]["score"]
    ours = [row for row in tasks(card)["objects"].detections(answers)[0] if row[1] > told]
    fed = (picture.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    (chosen,) = onnxruntime.InferenceSession(suppressing).run(None, {"image": fed})
    theirs = {(int(label), round(float(answers["chances"][0, label, place]), 4)) for _, label, place in chosen}
    assert {(int(row[0]), round(float(row[1]), 4)) for row in ours} == theirs
    assert len(theirs) > 1


def test_a_tensor_that_the_graph_has_not_is_named(suppressing, tmp_path):
    path = filled_in(init(str(suppressing), output=tmp_path / "model.yaml"), mean=0, std=1, order="rgb", labels="[a, b, c]")
    path.write_text(path.read_text().replace("inner/boxes", "inner/boxen"))
    with pytest.raises(CardError, match="has no tensor 'inner/boxen'"):
        user_onnx.prepare(cards.load(path), tmp_path / "prepared.onnx")


@pytest.mark.parametrize(
    ("name", "values", "changes"),
    [
        ("face_yunet_n_320", {"order": "bgr", "boxes": "{form: grid, strides: [8, 16, 32]}"}, {"std: 1": "std: 1\n    scale: 1.0"}),
        ("face_rfb_320", {"mean": 127 / 255, "std": 128 / 255}, {}),
    ],
)
def test_drafted_face_finders_find_the_face(name, values, changes, tmp_path):
    if not FACES.is_dir():
        pytest.skip(f"the real models are not in {PACKS} (set EDGEMM_DATA)")
    path = init(str(FACES / f"{name}.onnx"), output=tmp_path / "model.yaml")
    filled_in(path, **({"mean": 0, "std": 1, "order": "rgb", "labels": "[face]"} | values))
    for old, new in {**changes, "letterbox": "stretch"}.items():
        path.write_text(path.read_text().replace(old, new))
    card = cards.load(path)
    session = onnxruntime.InferenceSession(user_onnx.prepare(card, tmp_path / "prepared.onnx"))
    picture = modalities(card)["input"].decode("photo_person_astronaut.png", PACKS / "media_samples")
    answers = dict(zip([value.name for value in session.get_outputs()], session.run(None, {"input": picture[None]}), strict=True))
    best = tasks(card)["objects"].detections(answers)[0][0]
    assert best[1] > 0.7
    height, width, _ = picture.shape
    np.testing.assert_allclose(best[2:] / [width, height, width, height], [0.35, 0.12, 0.53, 0.35], atol=0.06)
