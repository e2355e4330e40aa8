"""What `edgemm fuse` takes as a member beside cards and ONNX files: bundles, detectors, Hugging Face folders."""

import numpy as np
import onnx
import pytest
from onnx import helper

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.target import Target
from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError, EdgemmError
from edgemm.progress import Progress
from edgemm.verbs.fuse import fuse
from tests.box.serving.conftest import LABELS
from tests.onnx_models import model

IMAGE = "inputs:\n  image: {modality: image, height: 32, width: 32}\n"
RAW = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))\n"
COLOURS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 rows of val and 20 of test: a dark picture is quiet; two in five have each colour in their upper row."""
    folder, rng, lines = tmp_path_factory.mktemp("rows"), np.random.default_rng(0), ["split,image,event,several,late"]
    for row in range(60):
        kind, has = int(rng.integers(2)), rng.random(3) < 0.4
        picture = rng.normal(40 if kind == 0 else 200, 25, (32, 32, 3)).clip(0, 255)
        for colour in np.flatnonzero(has):
            picture[:8, 8 * colour : 8 * colour + 8] = 255 * np.eye(3)[colour]
        np.save(folder / f"{row}.npy", picture.astype(np.uint8))
        several = "|".join(name for name, there in zip(COLOURS, has, strict=True) if there)
        late = f"{row}.npy" if row >= 40 else ""
        lines.append(f"{'val' if row < 40 else 'test'},{row}.npy,{LABELS[kind]},{several},{late}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def seeing(folder, optional=False):
    """An ONNX file that says by the picture's brightness how much each label is worth."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("Reshape", ["mean", "row"], ["bright"], "row"),
        helper.make_node("Gemm", ["bright", "weight", "bias"], ["class"], "gemm"),
    ]
    constants = {"axes": np.array([1, 2, 3]), "row": np.array([-1, 1]), "weight": np.float32([[-3, 4, 0]]), "bias": np.float32([2, -2, -9])}
    folder.mkdir()
    onnx.save(model(nodes, {"image": ["batch", 3, 32, 32]}, {"class": ["batch", 3]}, constants), folder / "eye.onnx")
    image = IMAGE.replace("}", ", optional: true}\n") if optional else IMAGE
    outputs = f"outputs:\n  class: {{task: classification, labels: [{', '.join(LABELS)}]}}\n"
    (folder / "model.yaml").write_text(f"model: eye.onnx\n{image}{outputs}" + ("columns: {late: image}\n" if optional else ""))
    return folder / "eye.onnx"


def untrained(folder):
    """A card whose factory draws its weights."""
    folder.mkdir()
    (folder / "raw.py").write_text(RAW)
    labels = f"outputs:\n  class: {{task: classification, labels: [{', '.join(LABELS)}]}}\n"
    (folder / "model.yaml").write_text(f"factory: raw:build\n{IMAGE}{labels}")
    return folder / "model.yaml"


def spotting(folder):
    """A detector of 16 places, each 8 x 8 pixels, that finds pure colours: three scores of the mean colour above that of the others."""
    middles = np.stack(np.meshgrid(np.arange(4) * 8 + 4, np.arange(4) * 8 + 4)).reshape(2, 16)
    boxes = np.concatenate([middles, np.full((2, 16), 8)])[None].astype(np.float32)
    others = (np.eye(3) * 1.5 - 0.5).astype(np.float32)  # a colour less the mean of the two others
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pool"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["pool", "flat"], ["colours"], "flatten"),
        helper.make_node("MatMul", ["others", "colours"], ["purity"], "compare"),
        helper.make_node("Sub", ["purity", "half"], ["above"], "above"),
        helper.make_node("Mul", ["above", "steep"], ["logits"], "steepen"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "score"),
        helper.make_node("ReduceMean", ["scores", "axes"], ["one"], "one", keepdims=1),
        helper.make_node("Mul", ["one", "nothing"], ["zero"], "zero"),
        helper.make_node("Add", ["zero", "boxes"], ["places"], "places"),
        helper.make_node("Concat", ["places", "scores"], ["objects"], "join", axis=1),
    ]
    constants = {"flat": np.array([-1, 3, 16]), "others": others, "half": np.float32(0.5), "steep": np.float32(9), "axes": np.array([1, 2]),
                 "nothing": np.float32(0), "boxes": boxes}  # fmt: skip
    folder.mkdir()
    onnx.save(model(nodes, {"image": ["batch", 3, 32, 32]}, {"objects": ["batch", 7, 16]}, constants), folder / "yard.onnx")
    objects = f"{{task: detection, frame: image, labels: [{', '.join(COLOURS)}]}}"
    (folder / "model.yaml").write_text(f"model: yard.onnx\n{IMAGE}outputs:\n  objects: {objects}\n")
    return folder / "yard.onnx"


def answered(card, data, name):
    """What a fused ONNX file answers to test, and what is true."""
    with plugins.load(Target, "onnxruntime").open(card.model_path) as session:
        rows = list(open_dataset(data, card).batches("test", 1))
        return np.concatenate([session.run(row.inputs)[name] for row in rows]), np.concatenate([row.truth[name] for row in rows])


def test_of_a_detector_the_best_score_of_each_label_is_heard(data, tmp_path):
    yard = spotting(tmp_path / "yard")
    fused = fuse([f"yard={yard}", f"again={yard}"], heads=["several: yard.objects, again"], data=data, output=tmp_path / "fused")
    card = cards.load(fused.card)
    assert card.outputs["several"].task == "multilabel"
    assert card.joint.heads["several"].chances == ("yard", "again")
    assert {m.candidate: m.value for m in fused.report.measurements}["yard"] > 0.95
    said, truth = answered(card, data, "several")
    assert ((said > 0) == (truth > 0.5)).mean() > 0.95


def test_a_member_that_no_row_of_val_has_is_named(data, tmp_path):
    eye, late = seeing(tmp_path / "eye"), seeing(tmp_path / "late", optional=True)
    with pytest.raises(DataError, match=r"member 'late' answers no row of val"):
        fuse([f"eye={eye}", f"late={late}"], heads=["event: eye, late"], data=data, output=tmp_path / "fused")


def unfit(data, folder, members):
    """What is said of members and data that cannot be fused, and the stages that ran before."""
    progress = Progress()
    with pytest.raises(EdgemmError) as raised:
        fuse([f"{name}={place}" for name, place in members.items()], heads=[f"event: {', '.join(members)}"], data=data,
             output=folder / "fused", progress=progress)  # fmt: skip
    return str(raised.value), [stage.name for stage in progress.finished if stage.name == "export"]


def test_data_that_cannot_be_joined_on_are_told_before_a_member_is_exported(data, tmp_path):
    eye, late = seeing(tmp_path / "eye"), seeing(tmp_path / "late", optional=True)
    words, exported = unfit(data, tmp_path, {"eye": eye, "late": late})
    assert "'late' answers no row of val" in words
    assert "'late' is empty in every row" in words
    assert not exported
    lines = (data / "manifest.csv").read_text().splitlines()
    for name, kept in (("nine", [*lines[:10], *lines[41:]]), ("unseen", [line for line in lines if not line.startswith("val")])):
        few = tmp_path / name
        few.mkdir()
        (few / "manifest.csv").write_text("\n".join(kept) + "\n")
        for picture in data.glob("*.npy"):
            (few / picture.name).symlink_to(picture)
        words, exported = unfit(few, tmp_path, {"eye": eye, "again": eye})
        assert ("too few rows of val to join head 'event' on: 9 in all" if name == "nine" else "there are only test rows") in words
        assert not exported


def test_a_member_that_nobody_trained_is_told_before_another_is_exported_and_no_option_that_fuse_lacks(data, tmp_path):
    words, exported = unfit(data, tmp_path, {"eye": seeing(tmp_path / "eye"), "raw": untrained(tmp_path / "raw")})
    assert "untrained" in words
    assert "--untrained" not in words
    assert not exported


@pytest.mark.slow
def test_a_bundle_and_a_hugging_face_folder_are_members(data, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: number for number, label in config.id2label.items()}
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    read = '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}'
    (tmp_path / "vit" / "preprocessor_config.json").write_text(read)
    (tmp_path / "recipe.yaml").write_text("targets: {onnxruntime: {}}\nfor: size\n")
    edgemm.compress(seeing(tmp_path / "eye"), recipe=tmp_path / "recipe.yaml", output=tmp_path / "bundle")
    members = [f"vit={tmp_path / 'vit'}", f"eye={tmp_path / 'bundle'}"]
    fused = fuse(members, heads=["event: vit, eye"], data=data, output=tmp_path / "fused")
    card = cards.load(fused.card)
    assert set(card.inputs) == {"image", "eye_image"}
    assert any("'eye' reads 'image' otherwise" in note for note in fused.notes)
    accuracy = {m.candidate: m.value for m in fused.report.measurements}
    assert accuracy["vit+eye"] >= accuracy["eye"] - 0.1
    said, truth = answered(card, data, "event")
    assert (said.argmax(1) == truth).mean() == pytest.approx(accuracy["vit+eye"])
