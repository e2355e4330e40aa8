"""A detector of one's own, picture and sound: trained here in seconds, compressed for two runtimes, measured by mAP on each of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgemm import compress, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import card_file
from edgemm.contracts import task as tasks
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError
from tests.places import PACKS

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

import onnx  # noqa: E402  (all of them may be absent)
from safetensors.torch import save_file  # noqa: E402

from edgemm.workshop.models.checkpoint.loading import load_model  # noqa: E402
from edgemm.workshop.models.onnx_export import trace  # noqa: E402

pytestmark = pytest.mark.shared_data

MAKER = PACKS.parent / "tools" / "make_spoken_box.py"
MODEL = '''
import torch
from torch import nn

STRIDE, PLACES, WIDEST = 8, 12, 40.0


class Spotter(nn.Module):
    """Finds digits in the picture, and may listen: boxes in pixels and a chance a label, (N, 4 + labels, places)."""

    def __init__(self, labels):
        super().__init__()
        def layer(a, b, stride):
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.ReLU())
        self.eye = nn.Sequential(layer(1, 12, 2), layer(12, 24, 2), layer(24, 32, 2), layer(32, 32, 1))
        self.ear = nn.Sequential(nn.Conv1d(1, 24, 64, 32), nn.ReLU(), nn.Conv1d(24, 24, 5, 2, 2), nn.ReLU())
        self.heard = nn.Linear(24, 32)
        self.box, self.score = nn.Conv2d(32, 4, 1), nn.Conv2d(32, labels, 1)
        y, x = torch.meshgrid(torch.arange(PLACES), torch.arange(PLACES), indexing="ij")
        self.register_buffer("middle", (torch.stack([x, y]).reshape(2, -1) + 0.5) * STRIDE)

    def raw(self, image, audio):
        seen = self.eye(image)
        mixed = torch.relu(seen * (1 + self.heard(self.ear(audio[:, None]).mean(2))[:, :, None, None]))
        return self.box(mixed).flatten(2), self.score(mixed).flatten(2)

    def forward(self, image, audio):
        box, score = self.raw(image, audio)
        centre, size = self.middle + STRIDE * torch.tanh(box[:, :2]), WIDEST * torch.sigmoid(box[:, 2:])
        return self.answer(centre, size, score)

    def answer(self, centre, size, score):
        return torch.cat([centre, size, score.sigmoid()], 1)


class Apart(Spotter):
    """The same, boxes and scores each a tensor of its own."""

    def answer(self, centre, size, score):
        return {"boxes": torch.cat([centre, size], 1), "scores": score, "unused": size.mean()}


def build(labels, apart=False):
    torch.manual_seed(7)
    return (Apart if apart else Spotter)(labels)
'''
CARD = """
factory: spotter:build
kwargs: {labels: 10%s}
weights: weights.safetensors
inputs:
  image: {modality: image, height: 96, width: 96, channels: 1, mean: [0.2], std: [0.3]}
  audio: {modality: audio, rate_hz: 8000, seconds: 1.0}
outputs:
  objects: {task: detection, labels: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'], frame: image, %s}
columns: {digits: objects}
"""
JOINED = "layout: yolo, boxes: {form: cxcywh, unit: pixels}, scores: probability, nms: {iou: 0.5, score: 0.01, most: 20}"
APART = "layout: levels, from: {boxes: boxes, scores: scores}, scores: sigmoid, nms: {iou: 0.5, score: 0.01, most: 20}"
RECIPE = """
steps:
  - quantize: {method: ptq, calibration_samples: 24}
targets: {openvino: {}, onnxruntime: {}}
for: size
tune: false
budgets: {accuracy_drop_points: 10}
"""


@pytest.fixture(scope="session")
def spoken(shared) -> Path:
    """A small spoken_box folder."""
    if not MAKER.is_file() or not (PACKS / "avdigits").is_dir():
        pytest.skip(f"the packed dataset 'avdigits' is not in {PACKS} (set EDGEMM_DATA)")

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, MAKER, folder, "--rows", "200", "60", "60"], check=True, capture_output=True)

    return shared("spoken-box", make)


@pytest.fixture(scope="session")
def spotter(shared, spoken) -> Path:
    """A folder with spotter.py, weights that were trained for a minute at most, and the cards joined.yaml and apart.yaml."""

    def make(folder: Path) -> None:
        (folder / "spotter.py").write_text(MODEL)
        (folder / "joined.yaml").write_text(CARD % ("", JOINED))
        (folder / "apart.yaml").write_text(CARD % (", apart: true", APART))
        train(folder, spoken)

    return shared("spotter", make)


def train(folder: Path, spoken: Path) -> None:
    card = card_file.load(folder / "joined.yaml")
    (batch,) = open_dataset(str(spoken), card).batches("train", 200)
    model = load_model(card, weights=False)
    module = model.module
    with torch.no_grad():
        image, audio = model.features({name: torch.from_numpy(array) for name, array in batch.inputs.items()})
    truth = torch.from_numpy(batch.truth["objects"])
    optimizer = torch.optim.Adam(module.parameters(), 4e-3)
    for step in range(300):
        rows = torch.randint(0, len(truth), (32,), generator=torch.Generator().manual_seed(step))
        box, score = module.raw(image[rows], audio[rows])
        loss = objective(module, box, score, truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(module.state_dict(), folder / "weights.safetensors")


def objective(module, box, score, truth):
    """Cross entropy everywhere, and the distance of the boxes at the place that holds a box's middle."""
    wanted, distance = torch.zeros_like(score), torch.zeros(())
    row, slot = torch.nonzero(truth[:, :, 0] >= 0, as_tuple=True)
    boxes = truth[row, slot]
    middle, size = (boxes[:, 1:3] + boxes[:, 3:5]) / 2, boxes[:, 3:5] - boxes[:, 1:3]
    place = (middle[:, 1] // 8).long() * 12 + (middle[:, 0] // 8).long()
    wanted[row, boxes[:, 0].long(), place] = 1.0
    told = box[row, :, place]
    centre = module.middle[:, place].T + 8 * torch.tanh(told[:, :2])
    distance = (centre - middle).abs().mean() + (40 * torch.sigmoid(told[:, 2:]) - size).abs().mean()
    weight = 1 + 20 * wanted
    return (torch.nn.functional.binary_cross_entropy_with_logits(score, wanted, weight, reduction="sum") / len(truth)) + 0.3 * distance


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "int8.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def built(spotter, spoken, recipe, tmp_path_factory):
    return compress(spotter / "joined.yaml", recipe=recipe, data=spoken, output=tmp_path_factory.mktemp("built") / "bundle")


def one(built, name, **about):
    """The measurement with every input there."""
    (found,) = (m for m in built.report.find(name, output="objects", **about) if m.modalities is None)
    return found


def test_the_bundle_verifies_and_its_map_is_measured_on_every_target(built):
    assert verify(built.bundle).ok
    original = one(built, "map", subject="original")
    assert original.value > 0.05
    assert original.n == 60
    for target in ("openvino", "onnxruntime"):
        after = one(built, "map", subject="bundle", target=target)
        lost = one(built, "accuracy_drop_points", subject="bundle", target=target)
        assert lost.value == pytest.approx(100 * (original.value - after.value), abs=1e-6)
        assert lost.low <= lost.value <= lost.high


def test_the_ladder_compares_boxes_and_scores_and_not_tensors_alone(built):
    for rung in built.report.details.parity[1:]:
        assert {"objects boxes", "objects scores"} <= set(rung.outputs)
    assert all(rung.ok for rung in built.report.details.parity)


def test_the_ledger_says_what_each_input_adds_to_the_boxes(built):
    ledger = built.report.details.ledger
    assert {(row.input, row.output) for row in ledger.contributions} == {(name, "objects") for name in ("image", "audio")}
    picture = next(row for row in ledger.contributions if row.input == "image")
    assert picture.before.value > 0


def test_boxes_are_confused_with_nothing_too(built):
    confusion = built.report.details.confusion["objects"]
    assert list(confusion.labels)[-1] == "nothing"
    assert np.array(confusion.after).shape == (11, 11)
    assert np.array(confusion.after)[-1, -1] == 0


def test_the_report_s_figures_of_each_label_make_the_metric(built):
    found = built.report.details.detected["objects"]
    for form, subject in ((found.before, "original"), (found.after, "bundle")):
        measured = built.report.find("map", subject=subject, output="objects")[0].value
        assert np.nanmean([label.ap for label in form.labels]) == pytest.approx(measured)
        assert form.mistakes["right"] == round(sum(label.recall * label.there for label in form.labels if label.there))
    assert "Boxes found" in (Path(built.bundle) / "report.html").read_text(encoding="utf-8")


def test_thresholds_are_fitted_for_each_target_and_kept_in_the_bundle(built):
    bundle, card = open_bundle(built.bundle), open_bundle(built.bundle).card
    for target in ("openvino", "onnxruntime"):
        assert list(bundle.thresholds(target)["objects"]) == list(card.outputs["objects"].labels)
        assert any(note.startswith(f"{target}: 'objects' counts from these scores on") for note in built.report.details.notes)


def test_a_set_too_small_is_told_with_what_would_do(built):
    assert any("'objects': 60 pictures" in note and "too few to tell" in note for note in built.report.details.notes)


def test_the_page_tells_of_map(built):
    assert "mAP50-95" in (built.bundle / "report.html").read_text(encoding="utf-8")


def test_an_onnx_file_whose_answer_is_in_two_tensors_is_compressed_the_same_way(spotter, spoken, tmp_path):
    card = card_file.load(spotter / "apart.yaml")
    onnx.save(trace(load_model(card)).model, tmp_path / "detector.onnx")
    plain = (spotter / "apart.yaml").read_text().splitlines()
    kept = [line for line in plain if not line.startswith(("factory", "kwargs", "weights"))]
    (tmp_path / "model.yaml").write_text("\n".join(["model: detector.onnx", *kept]))
    (tmp_path / "int8.yaml").write_text(RECIPE.replace(", onnxruntime: {}", ""))
    done = compress(tmp_path / "model.yaml", recipe=tmp_path / "int8.yaml", data=spoken, output=tmp_path / "bundle")
    assert one(done, "map", subject="original").value > 0.05
    assert {"boxes", "scores", "objects boxes", "objects scores"} == set(done.report.details.parity[-1].outputs)
    bundle = open_bundle(done.bundle)
    shapes = {name: tensor["shape"] for name, tensor in bundle.manifest["outputs"]["objects"]["tensors"].items()}
    assert shapes == {"boxes": ["batch", 4, 144], "scores": ["batch", 10, 144]}
    assert list(bundle.golden().outputs["openvino"]) == list(tasks.tensors(bundle.card)) == ["boxes", "scores"]
    assert verify(done.bundle).ok


def test_a_card_of_other_labels_is_told_what_nearly_fits(spotter, spoken, recipe, tmp_path):
    (tmp_path / "model.yaml").write_text((spotter / "joined.yaml").read_text().replace("'9']", "'9', ten]"))
    for name in ("spotter.py", "weights.safetensors"):
        (tmp_path / name).write_bytes((spotter / name).read_bytes())
    with pytest.raises(CardError, match=r"'objects' is \(batch, 14, 144\)(.|\n)*10 labels \(11 are listed\)"):
        compress(tmp_path / "model.yaml", recipe=recipe, data=spoken, output=tmp_path / "bundle")
