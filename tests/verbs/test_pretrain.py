"""`pretrain`: branches learn from rows without labels, and `train` goes on from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgemm.cli import main
from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, CheckpointError, DataError, Mistakes, OutputError, TrainError
from edgemm.progress import Progress
from edgemm.verbs.pretrain import pretrain
from edgemm.verbs.train import train
from edgemm.workshop.models.checkpoint.loading import load_model

MODEL = """
import torch
from torch import nn

class Branch(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, width))

    def forward(self, x):
        return self.layers(x)

class Fused(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.eye, self.imu = Branch(36, width), Branch(24, width)
        self.join, self.steady, self.mood = nn.Linear(2 * width, 16), nn.BatchNorm1d(16), nn.Linear(16, 6)

    def forward(self, eye, imu):
        return self.mood(torch.relu(self.steady(self.join(torch.cat([self.eye(eye), self.imu(imu)], 1)))))

class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.look, self.feel = nn.Parameter(torch.randn(36, 8) / 6), nn.Parameter(torch.randn(24, 8) / 5)
        self.mood = nn.Linear(16, 6)

    def forward(self, eye, imu):
        return self.mood(torch.cat([eye.flatten(1) @ self.look, imu.flatten(1) @ self.feel], 1))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.line = nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 16)
        self.mood = nn.Linear(16, 2)

    def forward(self, said):
        return self.mood(torch.relu(self.line(self.words(said).mean(1))))

build, bare, words = Fused, Bare, Words
"""
CARD = """
factory: own_pretrained:{factory}
inputs:
  eye: {{modality: image, height: 6, width: 6, channels: 1, mean: [0.5], std: [0.25]}}
  imu: {{modality: sensor, shape: [8, 3], optional: true}}
outputs:
  mood: {{task: classification{labels}}}
"""
LABELS = ", labels: [a, b, c, d, e, f]"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: 1,500 rows without labels, and 18 with them; each input tells one of six moods beneath much noise."""
    place = tmp_path_factory.mktemp("own")
    (place / "own_pretrained.py").write_text(MODEL)
    (place / "model.yaml").write_text(CARD.format(factory="build", labels=LABELS))
    (place / "open.yaml").write_text(CARD.format(factory="build", labels=""))
    (place / "bare.yaml").write_text(CARD.format(factory="bare", labels=LABELS))
    rng = np.random.default_rng(0)
    seen, felt = rng.normal(size=(6, 6, 6)), rng.normal(size=(6, 8, 3))
    (place / "pictures").mkdir()

    def rows(split: str, count: int, first: int, noise: float = 2.2) -> list[dict]:
        made = []
        for number in range(first, first + count):
            mood = number % 6
            eye = np.clip(128 + 24 * (seen[mood] + noise * rng.normal(size=(6, 6))), 0, 255).astype(np.uint8)
            np.save(place / "pictures" / f"{number}.npy", eye)
            imu = (felt[mood] + noise * rng.normal(size=(8, 3))).round(3).tolist()
            made.append({"split": split, "eye": f"../pictures/{number}.npy", "imu": imu, "mood": "abcdef"[mood]})
        return made

    def write(name: str, listed: list[dict]) -> None:
        (place / name).mkdir()
        (place / name / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))

    plain = rows("train", 1500, 0) + rows("val", 240, 1500)
    for row in plain[::7]:
        row["imu"] = None
    write("plain", [{name: value for name, value in row.items() if name != "mood"} for row in plain])
    write("clear", rows("train", 600, 3000, 0.7) + rows("val", 120, 3600, 0.7))
    write("few", rows("train", 18, 2000) + rows("val", 18, 2100) + rows("test", 600, 2200))
    return place


def test_branches_that_saw_rows_without_labels_need_fewer_labels(own, tmp_path):
    pretrained = pretrain(own / "model.yaml", own / "plain", tmp_path / "pre", epochs=12, learning_rate=0.003)
    assert pretrained.loss < pretrained.first
    options = {"steps": 120, "batch_size": 18, "learning_rate": 0.01}
    alone = train(own / "model.yaml", own / "few", tmp_path / "alone", **options)
    after = train(pretrained.card, own / "few", tmp_path / "after", **options)
    accuracies = [done.metrics["test"]["mood"]["accuracy"] for done in (alone, after)]
    assert accuracies[1] > accuracies[0] + 0.08, accuracies
    assert cards.load(after.card).branch_weights == {}
    page = (tmp_path / "pre" / "report.html").read_text()
    assert "model, pretrained" in page
    assert "contrastive loss on val" in page


def test_the_branches_alone_are_written_and_a_card_that_names_them(own, tmp_path):
    done = pretrain(own / "model.yaml", own / "plain", tmp_path / "pre", epochs=1)
    card = cards.load(done.card)
    assert card.weights is None
    assert card.branch_weights == {"eye": "branches/eye.safetensors", "imu": "branches/imu.safetensors"}
    noted: list[str] = []
    fresh, again = load_model(cards.load(own / "model.yaml")).module, load_model(card, note=noted.append).module
    assert not noted
    for name, value in load_file(tmp_path / "pre" / "branches" / "imu.safetensors").items():
        assert torch.equal(again.imu.state_dict()[name], value)
    assert not torch.equal(again.imu.layers[1].weight, fresh.imu.layers[1].weight)
    assert torch.equal(again.join.weight, fresh.join.weight)  # drawn anew, from the same seed
    held = pretrain(own / "model.yaml", own / "plain", tmp_path / "pre", epochs=1)
    assert held.reused
    assert (held.loss, held.best_epoch) == (done.loss, done.best_epoch)


def test_of_a_trained_model_fusion_and_heads_stay_bit_for_bit(own, tmp_path):
    trained = train(own / "model.yaml", own / "few", tmp_path / "trained", epochs=2)
    more = pretrain(trained.card, own / "plain", tmp_path / "more", epochs=1)
    assert cards.load(more.card).weights == "weights.safetensors"
    before, after = (load_file(folder / "weights.safetensors") for folder in (trained.folder, more.folder))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in changed} == {"eye", "imu"}


@pytest.mark.parametrize("method", ["contrastive", "masked"])
def test_a_killed_pretraining_ends_in_the_same_bytes(own, tmp_path, method):
    class Killed(Progress):
        def update(self, text: str, fraction: float = 0.0) -> None:
            if text.startswith("epoch 3/4"):
                raise KeyboardInterrupt

    options = {"method": method, "epochs": 4}
    whole = pretrain(own / "model.yaml", own / "clear", tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pretrain(own / "model.yaml", own / "clear", tmp_path / "killed", **options, progress=Killed())
    told = Progress()
    notes: list[str] = []
    told.note = notes.append
    again = pretrain(own / "model.yaml", own / "clear", tmp_path / "killed", **options, progress=told)
    assert "resumed after epoch 2 of 4." in notes
    assert again.loss == whole.loss
    for name in ("eye", "imu"):
        file = f"branches/{name}.safetensors"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_what_is_hidden_is_told_better_than_by_its_mean_from_the_other_input(own, tmp_path):
    done = pretrain(own / "model.yaml", own / "clear", tmp_path / "pre", method="masked", epochs=15, learning_rate=0.003)
    assert done.loss < 0.8  # 1 is what each place's mean comes to; a third is noise that nobody can tell
    assert done.loss < done.first


def test_masked_pretraining_takes_one_input_and_words(own, tmp_path):
    card = own / "words.yaml"
    card.write_text("factory: own_pretrained:words\ninputs: {said: {modality: text, length: 6, vocab: 50}}\n"
                    "outputs: {mood: {task: classification, labels: [glad, sad]}}\n")  # fmt: skip
    (tmp_path / "said").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(400):
        about = 1 + 24 * (number % 2)  # each row speaks of one of two things, with words of its own
        ids = " ".join(f"w{word}" for word in rng.integers(about, about + 20, 6))
        lines.append(json.dumps({"split": "val" if number > 340 else "train", "said": ids}))
    (tmp_path / "said" / "manifest.jsonl").write_text("\n".join(lines))
    done = pretrain(card, tmp_path / "said", tmp_path / "pre", method="masked", epochs=20, learning_rate=0.01)
    assert done.loss < np.log(40) - 0.4  # which of the two things it is about is told: half of the words are left


def test_what_cannot_be_is_told_before_anything_is_trained(own, tmp_path):
    def refused(kind, words, card="model.yaml", data="plain", **options):
        with pytest.raises(kind, match=words):
            pretrain(own / card, own / data, tmp_path / "none", **options)
        assert not (tmp_path / "none" / "model.yaml").exists()

    one = own / "one.yaml"
    one.write_text("factory: own_pretrained:words\ninputs: {said: {modality: text, length: 6, vocab: 50}}\n"
                   "outputs: {mood: {task: classification, labels: [glad, sad]}}\n")  # fmt: skip
    refused(TrainError, r"this card has one: said\.(.|\n)*nothing to pair(.|\n)*--method masked", "one.yaml")
    refused(TrainError, r"there is no method 'mask'(.|\n)*contrastive or masked", method="mask")
    refused(CheckpointError, r"'look' of the branch 'eye' lies in no submodule(.|\n)*as a submodule of its own", "bare.yaml")
    refused(DataError, r"no row of split 'train' has a label for 'mood'(.|\n)*list outputs\.mood\.labels", "open.yaml")
    refused((TrainError, Mistakes), "epochs is 0", epochs=0)
    config = tmp_path / "train.yaml"
    config.write_text("augment: {ear: [noise]}\n")
    refused(CardError, "this card has no input 'ear'", config=config)
    (own / "no_train").mkdir()
    (own / "no_train" / "manifest.jsonl").write_text('{"split": "test", "eye": "../pictures/0.npy", "imu": null}\n')
    refused(DataError, "split 'train' has no rows", data="no_train")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt'"):
        pretrain(own / "model.yaml", own / "plain", tmp_path / "mine")


def test_options_about_labels_are_left_to_train_and_said(own, tmp_path, capsys):
    config = tmp_path / "train.yaml"
    config.write_text("class_weights: {mood: balanced}\nstages: [{epochs: 1}]\nbatch_size: 64\naugment: {eye: [erase]}\n")
    words = ["pretrain", str(own / "model.yaml"), "-d", str(own / "plain"), "-o", str(tmp_path / "pre"), "--config", str(config)]
    with pytest.raises(SystemExit) as end:
        main([*words, "--epochs", "1", "--json"])
    said = capsys.readouterr()
    assert end.value.code == 0
    assert json.loads(said.out)["method"] == "contrastive"
    assert "train.class_weights is of no use to pretrain" in said.err
    assert "train.stages is of no use to pretrain" in said.err
    assert "Augmented samples" in (tmp_path / "pre" / "report.html").read_text()
