"""`train`: from a card and data to a checkpoint, its metrics and curves."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.box.devices import threads
from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError, CheckpointError, DataError, Mistakes, OutputError, TrainError
from edgemm.progress import Progress
from edgemm.verbs.train import completed, train
from edgemm.workshop.models.checkpoint.loading import load_model

MODEL = """
import torch
from torch import nn

class Fused(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.words, self.imu = nn.EmbeddingBag(vocabulary, 16), nn.Linear(6, 16)
        self.mood, self.level = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, imu, text):
        x = torch.relu(self.words(text) + self.imu(imu.flatten(1)))
        return self.mood(x), self.level(x)

build = Fused
"""
CARD = """
factory: own_fused:build
kwargs: {vocabulary: 12}
inputs:
  imu: {modality: sensor, shape: [2, 3], rate_hz: 50}
  text: {modality: text, vocab: 12, length: 4}
outputs:
  mood: {task: classification}
  level: {task: regression, unit: dB}
columns: {sentence: text}
"""
WORDS = ("all", "is", "well", "here", "not", "so", "good", "now")


class Notes(Progress):
    """Remembers what was noted."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def note(self, text):
        self.lines.append(text)


def rows(count: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        imu, words = 5 + 2 * rng.normal(size=(2, 3)), rng.choice(WORDS, 3)
        glad = (imu.mean() > 5) == ("not" not in words)
        found.append(
            {"imu": imu.round(3).tolist(), "sentence": " ".join(words), "mood": "yes" if glad else "no", "level": round(imu.sum(), 2)}
        )
    return found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: model.yaml, own_fused.py, data/."""
    place = tmp_path / "own"
    (place / "data").mkdir(parents=True)
    (place / "own_fused.py").write_text(MODEL)
    (place / "model.yaml").write_text(CARD)
    with (place / "data" / "manifest.jsonl").open("w") as file:
        for seed, (split, count) in enumerate({"train": 90, "val": 40, "test": 50}.items()):
            file.writelines(json.dumps({"split": split, **row}) + "\n" for row in rows(count, seed))
    return place


def run(own: Path, **options):
    return train(own / "model.yaml", own / "data", own.parent / "run", **{"epochs": 3, **options})


def test_it_writes_a_checkpoint_metrics_curves_and_a_report(own):
    done = run(own)
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "curves.json", "metrics.json", "model.yaml", "report.html", "report.json", "tokenizer.json", "weights.safetensors",
    ]  # fmt: skip
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert set(metrics["test"]["mood"]) == {
        "accuracy", "low", "high", "n", "precision", "recall", "f1", "auroc", "average_precision", "sensitivity_at_specificity_0.95", "ece",
        "labels",
    }  # fmt: skip
    assert set(metrics["val"]["level"]) >= {"mae", "pearson"}
    curves = json.loads((done.folder / "curves.json").read_text())
    assert [epoch for epoch, _ in curves["loss/train"]] == [1, 2, 3]
    assert str(done).splitlines()[0].startswith(f"test accuracy of mood: {metrics['test']['mood']['accuracy']:.4f} [")
    assert str(done).splitlines()[1].startswith("test mae of level: ")
    page = (done.folder / "report.html").read_text()
    assert "<svg" in page
    assert "loss" in page


def test_what_the_card_leaves_open_is_filled_in_from_the_train_split(own):
    card = cards.load(run(own).folder)
    assert card.outputs["mood"].labels == ("no", "yes")
    mean, std = card.inputs["imu"].options["mean"], card.inputs["imu"].options["std"]
    assert mean == pytest.approx([5, 5, 5], abs=0.5)
    assert std == pytest.approx([2, 2, 2], abs=0.5)
    vocabulary = json.loads((card.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert set(vocabulary) == {"<pad>", "<unk>", *WORDS}


def test_the_checkpoint_answers_as_measured_from_any_directory(own, monkeypatch):
    done = run(own)
    monkeypatch.chdir("/")
    card = cards.load(done.folder)
    model = load_model(card)
    batch = next(open_dataset(own / "data", card).batches("test", 50))
    with torch.no_grad():
        answers = model({name: torch.from_numpy(array) for name, array in batch.inputs.items()})
    right = (answers["mood"].argmax(1).numpy() == batch.truth["mood"]).mean()
    assert right == pytest.approx(done.metrics["test"]["mood"]["accuracy"])


def test_a_regression_far_from_zero_is_learnt_by_a_reference_model(own):
    (own / "model.yaml").write_text(
        "factory: models:sensor-audio-graph\nkwargs: {encoders: {imu: {mlp: {}}}, fusion: {concat: {}}, heads: {level: {regression: {}}}}\n"
        "inputs:\n  imu: {modality: sensor, shape: [2, 3]}\noutputs:\n  level: {task: regression, unit: dB}\n"
    )
    started = run(own, epochs=1, learning_rate=1e-6, fresh=True).metrics["test"]["level"]
    assert started["mae"] < 10  # it starts at the truth's mean
    assert run(own, epochs=60, learning_rate=0.01, fresh=True).metrics["test"]["level"]["pearson"] > 0.9


ALONE = """
{first}
from edgemm import train
train({card!r}, {data!r}, {output!r}, epochs=1)
"""


@pytest.mark.parametrize(
    ("first", "variables", "words"),
    [
        ("", {}, "OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000 KMP_BLOCKTIME=0"),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY=ACTIVE"),
        ("import torch", {}, "threads wait as OpenMP does by default: torch was imported first"),
    ],
    ids=["unsaid", "the user's own", "too late"],
)
def test_threads_sleep_while_they_wait_and_the_report_says_how_they_waited(own, first, variables, words):
    output = own.parent / "run"
    code = ALONE.format(first=first, card=str(own / "model.yaml"), data=str(own / "data"), output=str(output))
    unsaid = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    subprocess.run([sys.executable, "-c", code], env=unsaid | variables, check=True)
    assert json.loads((output / "report.json").read_text())["environment"]["thread_waiting"].startswith(words)


def test_metrics_and_report_say_when_the_training_ended_and_why(own):
    done = run(own, epochs=300, learning_rate=0.05, patience=2)
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 300
    assert metrics["ended"] == done.ended == f"after epoch {metrics['epochs']} of 300: 2 without a better one on val"
    (note,) = json.loads((done.folder / "report.json").read_text())["details"]["notes"]
    assert note == f"The weights are those of epoch {done.best_epoch}, the best on val. Training ended {done.ended}."
    assert run(own, epochs=300, learning_rate=0.05, patience=2).ended == done.ended


KILLED = """
import sys
from edgemm.verbs.train import train
train({card!r}, {data!r}, {output!r}, epochs=40)
"""


def test_killed_and_started_again_it_ends_with_the_same_bytes(own):
    whole = train(own / "model.yaml", own / "data", own.parent / "whole", epochs=40).folder
    code = KILLED.format(card=str(own / "model.yaml"), data=str(own / "data"), output=str(own.parent / "run"))
    state = own.parent / "run" / ".training" / "state.pt"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"EDGEMM_CACHE": str(own.parent / "cache")})
    while not state.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list((own.parent / "run").iterdir()) == [state.parent], "nothing but the state is there before the end"
    notes = Notes()
    again = run(own, epochs=40, progress=notes).folder
    assert any(line.startswith("resumed after epoch") for line in notes.lines)
    for name in ("weights.safetensors", "model.yaml", "metrics.json", "curves.json", "tokenizer.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert not state.exists()


def test_the_same_command_again_does_nothing_unless_fresh_is_asked_for(own):
    first = run(own)
    before = (first.folder / "weights.safetensors").stat().st_mtime_ns
    notes = Notes()
    again = run(own, progress=notes)
    assert again.reused
    assert again.metrics == first.metrics
    assert (first.folder / "weights.safetensors").stat().st_mtime_ns == before
    assert "already holds the result of this command" in notes.lines[0]
    assert not run(own, fresh=True).reused
    assert (first.folder / "weights.safetensors").stat().st_mtime_ns != before


def test_changed_source_data_or_options_train_anew(own):
    run(own)
    assert not run(own, seed=1).reused
    (own / "own_fused.py").write_text(MODEL + "\n# changed\n")
    assert not run(own, seed=1).reused


def test_a_card_with_weights_is_trained_on_from_them(own):
    first = run(own, epochs=20).folder
    on = train(first, own / "data", own.parent / "on", epochs=1, learning_rate=1e-6)
    kept, moved = (load_model(cards.load(folder)).module.state_dict() for folder in (first, on.folder))
    assert all(torch.allclose(kept[name], moved[name], atol=1e-3) for name in kept)
    assert (on.folder / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


def test_a_checkpoint_can_be_trained_on_in_its_own_folder(own):
    first = run(own)
    again = train(first.folder, own / "data", first.folder, epochs=1)
    assert not again.reused
    assert load_model(cards.load(again.card))


def test_a_folder_with_something_else_in_it_is_never_replaced(own):
    with pytest.raises(OutputError, match=r"holds 'data', which no training wrote(.|\n)*choose an empty or new folder"):
        train(own / "model.yaml", own / "data", own)
    assert (own / "own_fused.py").exists()


def test_an_output_that_is_a_file_is_an_error(own):
    (own.parent / "run").write_text("in the way")
    with pytest.raises(OutputError, match="is not a folder"):
        run(own)


def test_a_broken_row_is_an_error_and_nothing_is_written(own):
    manifest = own / "data" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"imu": [[', '"imu": [["x", ', 1))
    with pytest.raises(DataError, match="imu"):
        run(own)
    assert not (own.parent / "run").exists()


def test_broken_rows_can_be_skipped_and_are_counted(own):
    manifest = own / "data" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"imu": [[', '"imu": [["x", ', 1))
    notes = Notes()
    done = run(own, skip_bad_rows=True, progress=notes)
    assert any(line.startswith("1 row could not be read and was left out: ") for line in notes.lines)
    assert "1 row could not be read" in (done.folder / "report.html").read_text()


def test_weights_the_card_names_but_that_are_not_there_are_an_error(own):
    (own / "model.yaml").write_text(CARD + "weights: absent.safetensors\n")
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        run(own)
    assert not (own.parent / "run").exists()


def test_a_divergence_after_a_good_epoch_keeps_the_last_good_weights(own):
    source = MODEL.replace("        x = torch", "        self.calls = getattr(self, 'calls', 0) + self.training\n        x = torch")
    source = source.replace("return self.mood(x)", "return self.mood(x) * (float('nan') if self.calls == 5 else 1)")
    (own / "own_fused.py").write_text(source)
    with pytest.raises(TrainError, match=r"the loss is nan at step 1 of epoch 3, learning rate(.|\n)*are kept"):
        run(own, epochs=4)
    folder = own.parent / "run" / "last_good"
    assert load_model(cards.load(folder))
    assert not (own.parent / "run" / "model.yaml").exists()


def test_a_bad_option_is_an_error_before_anything_happens(own):
    with pytest.raises(TrainError, match="epochs is 0"):
        run(own, epochs=0)
    with pytest.raises(CardError, match="a loss weight names 'moods', no output"):
        run(own, loss_weights={"moods": 2.0})


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCHED = """
from accelerate.state import PartialState
from edgemm.verbs.train import train
train({card!r}, {data!r}, {output!r}, epochs=6, learning_rate=0.01)
print(f"process {{PartialState().process_index}} of {{PartialState().num_processes}}")
"""


def test_two_processes_train_one_model_together(own):
    script = own / "launched.py"
    script.write_text(LAUNCHED.format(card=str(own / "model.yaml"), data=str(own / "data"), output=str(own.parent / "run")))
    done = subprocess.run(
        [*TORCHRUN, str(script)], capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "true"}
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["process 0 of 2", "process 1 of 2"]
    alone = train(own / "model.yaml", own / "data", own.parent / "alone", epochs=6, learning_rate=0.01)
    together = json.loads((own.parent / "run" / "metrics.json").read_text())
    assert together["test"]["level"]["mae"] == pytest.approx(alone.metrics["test"]["level"]["mae"], rel=0.1)


def test_the_command_starts_its_processes_itself_and_one_writes(own):
    folder, said = own.parent / "run", Progress()
    notes = []
    said.note = notes.append
    together = train(own / "model.yaml", own / "data", folder, epochs=6, learning_rate=0.01, processes=2, progress=said)
    alone = train(own / "model.yaml", own / "data", own.parent / "alone", epochs=6, learning_rate=0.01)
    assert together.metrics["test"]["level"]["mae"] == pytest.approx(alone.metrics["test"]["level"]["mae"], rel=0.1)
    assert together.metrics["test"] != alone.metrics["test"]  # two shares of each batch are other sums
    assert [stage.name for stage in said.finished] == ["train in 2 processes"]
    assert train(own / "model.yaml", own / "data", folder, epochs=6, learning_rate=0.01).reused


def test_several_batches_make_one_step(own, monkeypatch):
    steps, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args, **options: steps.append(1) or step(self, *args, **options))
    counts = []
    for accumulate in (1, 3):
        steps.clear()
        train(own / "model.yaml", own / "data", own.parent / f"of-{accumulate}", epochs=1, batch_size=16, accumulate=accumulate)
        counts.append(len(steps))
    assert counts[1] == math.ceil(counts[0] / 3)
    with pytest.raises(TrainError, match=r"accumulate is 0\.\n  fix: write at least 1"):
        run(own, accumulate=0)


def test_what_a_process_raises_is_raised_here_and_too_many_are_refused(own):
    source = MODEL.replace("return self.mood(x)", "return self.mood(x) * float('nan')")
    (own / "own_fused.py").write_text(source)
    with pytest.raises(TrainError, match=r"the loss is nan at step 1 of epoch 1"):
        run(own, epochs=2, processes=2)
    with pytest.raises(TrainError, match=r"processes is 4096\.\n  why: \d+ cores may be used here"):
        run(own, epochs=2, processes=4096)


def test_the_reference_cards_train_on_the_real_sets(unpacked, tmp_path):
    digits = train("digits", unpacked("avdigits", "--spoiled", limit=150), tmp_path / "digits", epochs=1)
    assert digits.metrics["test"]["digit"]["n"] == 150
    easyvqa = train("easyvqa", unpacked("easyvqa", limit=150), tmp_path / "easyvqa", epochs=1)
    assert easyvqa.metrics["test"]["answer"]["n"] == 150
    assert cards.load(easyvqa.folder).inputs["text"].options["tokenizer"] == "tokenizer.json"


def test_a_vocabulary_is_built_from_a_column_of_the_inputs_own_name(tmp_path):
    rows = "".join(f"{split},the glass broke,a\n" for split in ("train", "train", "val"))
    (tmp_path / "manifest.csv").write_text(f"split,said,event\n{rows}")
    card = cards.parse(
        {
            "factory": "a:b",
            "inputs": {"said": {"modality": "text", "vocab": 9, "length": 3}},
            "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
            "columns": {"transcript": "said"},
        }
    )
    made = completed(card, open_dataset(tmp_path, card), tmp_path, Progress())
    words = json.loads(Path(made.inputs["said"].options["tokenizer"]).read_text())["model"]["vocab"]
    assert {"the", "glass", "broke"} < set(words)
    assert made.columns == {"transcript": "said"}


@pytest.mark.parametrize(("level", "words"), [("{},5", "2 values"), ("1 {}", "2 values"), ("{} 1 2", "3 values"), ("{}dB", "no number")])
def test_numbers_of_another_width_than_the_answer_are_told_before_training(tmp_path, level, words):
    (tmp_path / "own_fused.py").write_text(MODEL)
    (tmp_path / "model.yaml").write_text(CARD)
    rows = [
        f'{split},"1 2 3 4 5 6",all is well,{("good", "bad")[number % 2]},"{level.format(number)}"'
        for number in range(8)
        for split in ("train", "val")
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(["split,imu,sentence,mood,level", *rows]))
    with pytest.raises((DataError, Mistakes), match=r"manifest\.csv, row 2, column 'level'") as caught:
        train(tmp_path / "model.yaml", tmp_path, tmp_path / "out", epochs=1)
    assert words in str(caught.value)
    assert "1 value" in str(caught.value) or words == "no number"
    assert not (tmp_path / "out").exists()


def test_an_npz_of_another_width_than_the_answer_is_told_before_training(tmp_path):
    (tmp_path / "own_fused.py").write_text(MODEL)
    (tmp_path / "model.yaml").write_text(CARD)
    rows = {"imu": np.zeros((6, 2, 3)), "text": np.array(["all"] * 6), "mood": np.array(["good", "bad"] * 3), "level": np.ones((6, 3))}
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", **rows)
    with pytest.raises(DataError, match="column 'level': it holds 3 values"):
        train(tmp_path / "model.yaml", tmp_path, tmp_path / "out", epochs=1)
