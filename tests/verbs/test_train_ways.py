"""`train` with a section, a file, folds and records: what is written, compared and refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgemm.cli import main
from edgemm.errors import CardError, DataError, EdgemmError, MissingExtra, OutputError
from edgemm.verbs.train import train

MODEL = """
import torch
from torch import nn

class Fused(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.eye, self.imu, self.mood = nn.Linear(36, width), nn.Linear(6, width), nn.Linear(width, 2)

    def forward(self, eye, imu):
        return self.mood(torch.relu(self.eye(eye.flatten(1)) + self.imu(imu.flatten(1))))

build = Fused
"""
CARD = """
factory: own_fused:build
inputs:
  eye: {modality: image, height: 6, width: 6, channels: 1}
  imu: {modality: sensor, shape: [3, 2]}
outputs:
  mood: {task: classification, labels: [glad, sad]}
train: {epochs: 2, batch_size: 16, learning_rate: 0.02}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two cards, a module, a dataset with six speakers."""
    place = tmp_path_factory.mktemp("own")
    (place / "own_fused.py").write_text(MODEL)
    (place / "model.yaml").write_text(CARD)
    (place / "wide.yaml").write_text(CARD + "kwargs: {width: 32}\n")
    (place / "data").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(90):
        glad = number % 2 == 0
        eye = rng.integers(0, 200, (6, 6)).astype(np.uint8) + (55 if glad else 0)
        np.save(place / "data" / f"{number}.npy", eye)
        split = "test" if number >= 72 else "val" if number >= 60 else "train"
        imu = (rng.normal(size=(3, 2)) + (1 if glad else -1)).round(3).tolist()
        rows.append({"split": split, "eye": f"{number}.npy", "imu": imu, "mood": "glad" if glad else "sad", "speaker": f"s{number % 6}"})
    (place / "data" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_the_cards_section_is_overridden_by_a_file_and_that_by_what_is_given(own, tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("batch_size: 8\naverage: ema\nrepeats: 2\naugment: {image: [erase], imu: {jitter: {sigma: 0.2}}}\n")
    done = train(own / "model.yaml", own / "data", tmp_path / "run", config=config, batch_size=4)
    assert done.ended == "after all 2 epochs"
    kept = (done.folder / "train.yaml").read_text()
    assert "epochs: 2" in kept
    assert "average: ema" in kept
    assert "train:" not in (done.folder / "model.yaml").read_text()
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert metrics["test_repeated"]["mood"]["n"] == 18
    assert set(metrics["test"]["mood"]["labels"]["glad"]) >= {"n", "precision", "recall", "auroc", "sensitivity"}
    report = json.loads((done.folder / "report.json").read_text())["details"]
    assert [one["input"] for one in report["augmented"]] == ["eye", "imu"]
    page = (done.folder / "report.html").read_text()
    for words in ("Augmented samples", "data:image/png;base64,", "Precision over recall", "Reliability", "answered 2 times"):
        assert words in page
    again = train(done.folder, own / "data", tmp_path / "again", config=done.folder / "train.yaml", epochs=1)
    assert not again.reused


def test_folds_measure_every_row_once_and_compare_two_cards_in_pairs(own, tmp_path):
    plain = train(own / "model.yaml", own / "data", tmp_path / "plain", folds=3, group="speaker")
    wide = train(own / "wide.yaml", own / "data", tmp_path / "wide", folds=3, group="speaker", against=plain.folder)
    told = plain.outputs["mood"]
    assert told["n"] == 72
    assert len(told["folds"]) == 3
    assert told["mean"] == pytest.approx(np.mean(told["folds"]))
    assert told["deviation"] == pytest.approx(np.std(told["folds"], ddof=1))
    assert plain.group == "speaker"
    compared = wide.against["mood"]
    assert compared["low"] <= compared["value"] <= compared["high"]
    assert compared["value"] == pytest.approx(100 * (wide.outputs["mood"]["value"] - told["value"]))
    assert f"mood against {plain.folder}: " in str(wide)
    assert json.loads((wide.folder / "folds.json").read_text())["rows"] == [24, 24, 24]
    page = (wide.folder / "report.html").read_text()
    assert "was answered by a model that had not seen it, in 3 folds" in page
    same = train(own / "wide.yaml", own / "data", tmp_path / "same", folds=3, group="speaker", against=plain.folder)
    assert same.outputs == wide.outputs
    (tmp_path / "less").mkdir()
    lines = (own / "data" / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "less" / "manifest.jsonl").write_text("".join(lines[:50]).replace('"eye": "', f'"eye": "{own}/data/'))
    with pytest.raises(DataError, match=r"was answered on other rows(.|\n)*cross-validate both on the same data"):
        train(own / "wide.yaml", tmp_path / "less", tmp_path / "other", folds=2, against=plain.folder)


def test_what_cannot_be_is_told_before_anything_is_trained(own, tmp_path):
    def refused(kind, words, **options):
        with pytest.raises(kind, match=words):
            train(own / "model.yaml", own / "data", tmp_path / "none", **options)
        assert not (tmp_path / "none").exists() or not any((tmp_path / "none").iterdir())

    config = tmp_path / "train.yaml"
    config.write_text("augment: {ear: [noise]}\n")
    refused(CardError, r"this card has no input 'ear'(.|\n)*eye \(image\), imu \(sensor\)", config=config)
    refused(DataError, "a fold would have fewer rows than there are labels", folds=50)
    refused(EdgemmError, r"group is given without folds(.|\n)*add --folds 5", group="speaker")
    refused(OutputError, "holds no cross-validation", folds=2, against=tmp_path)
    refused(EdgemmError, r"there is no tracker 'mlflw'(.|\n)*did you mean 'mlflow'", track=["mlflw:x"])
    refused(EdgemmError, "--track tensorboard names no place", track=["tensorboard"])


@pytest.mark.parametrize(("track", "package"), [("mlflow:x", "mlflow"), ("wandb:x", "wandb"), ("tensorboard:x", "tensorboardX")])
def test_a_tracker_whose_package_is_missing_says_how_to_install_it(own, tmp_path, track, package):
    try:
        __import__(package)
    except ModuleNotFoundError:
        with pytest.raises(MissingExtra, match=rf"needs the package '{package}'(.|\n)*pip install {package}"):
            train(own / "model.yaml", own / "data", tmp_path / "run", track=[track])
    else:
        pytest.skip(f"{package} is here")


def test_tensorboard_gets_every_curve(own, tmp_path):
    train(own / "model.yaml", own / "data", tmp_path / "run", track=[f"tensorboard:{tmp_path / 'board'}"])
    (events,) = (tmp_path / "board" / "run").glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in (b"loss/train", b"mood accuracy/val", b"final/test/mood/accuracy"):
        assert name.replace(b" ", b"_") in content or name in content  # tensorboardX writes no blanks


def test_the_command_line_takes_all_of_it(own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(own / "model.yaml"), "-d", str(own / "data"), "-o", "runs/folds", "--folds", "2", "--schedule", "one-cycle"])
    assert ended.value.code == 0
    assert "accuracy of mood: " in capsys.readouterr().out
