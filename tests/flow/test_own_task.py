"""A task that edgemm does not know: three files in a folder of one's own, and a model with it is trained, exported, scored and served."""

import sys
from pathlib import Path

import numpy as np
import pytest

from edgemm import benchmark, export, train
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.sinks._mqtt import homeassistant
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.sink import About
from edgemm.contracts.target import Target
from edgemm.contracts.task import of, scored_outputs
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError
from edgemm.report.formatting import name_of

TASK = '''"""One of several labels that have an order, such as calm, busy, crowded."""

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Entity, InputName, Labels, Task
from edgemm.data import labels as cells
from edgemm.data.scoring import Metric, RowScores

METRIC = {"rank_error": "Mean rank error"}


@dataclass(frozen=True)
class Ordinal(Task):
    """A logit for "above" after each label but the last, truth int64 (n,): the rank.

    Attributes:
        labels: The labels, the lowest first.
        seen_by: The input that people would look at.
    """

    labels: Labels
    seen_by: InputName | None = None

    @property
    def answer_width(self):
        return len(self.labels) - 1

    def truth(self, cell, row):
        return np.asarray(cells.index_of(cell, self.labels, self.name), np.int64)

    def agrees(self, answers, truth):
        return answers[self.name][:-1] == truth

    def statistics(self, answers, truth):
        rank = (answers[self.name] > 0).sum(axis=-1)
        metric = Metric("rank_error", "lower", "ranks", in_points=False)
        return RowScores(metric=metric, rows=np.abs(rank - truth).astype(np.float64), spread=float(np.std(truth)))

    def read(self, answers):
        above = 1 / (1 + np.exp(-np.asarray(answers[self.name][0], np.float64)))
        at_least = np.minimum.accumulate(np.concatenate([[1.0], above]))
        return Observation(cells.named(at_least - np.append(at_least[1:], 0.0), self.labels))

    def entities(self):
        return [Entity("level", "word", self.labels)]
'''
LOSS = '''"""Binary cross entropy of "above" for every step of the scale."""

import torch
import torch.nn.functional as F

from edgemm.workshop.training.loss import Loss


class Ordinal(Loss):
    def supervised(self, answers, truth):
        logits = answers[self.name]
        return F.binary_cross_entropy_with_logits(logits, (truth[:, None] > torch.arange(logits.shape[1], device=logits.device)).float())
'''
HEAD = '''"""One number, and how far each label's end is from it."""

import torch
from torch import nn

from edgemm.workshop.models.protocols import Head


class Ordinal(Head):
    def __init__(self, width, output, *, spread: float = 1.0):
        super().__init__(width, output)
        self.rank = nn.Linear(width, 1)
        self.ends = nn.Parameter(spread * torch.linspace(1, -1, len(output.labels) - 1))

    def forward(self, x):
        return self.rank(x) + self.ends
'''
CARD = """factory: models:sensor-audio-graph
kwargs: {encoders: {people: {mlp: {}}, noise: {mlp: {}}}, fusion: {concat: {}}}
inputs:
  people: {modality: sensor, shape: [2]}
  noise: {modality: sensor, shape: [3]}
outputs:
  crowd: {task: ordinal, labels: [calm, busy, crowded, full], seen_by: people}
"""
LABELS = ["calm", "busy", "crowded", "full"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the task's three files, told to edgemm; and data in which the rank can be seen."""
    folder = tmp_path_factory.mktemp("own")
    for kind, text in (("tasks", TASK), ("losses", LOSS), ("heads", HEAD)):
        (folder / "plugins" / kind).mkdir(parents=True)
        (folder / "plugins" / kind / "ordinal.py").write_text(text)
    (folder / "model.yaml").write_text(CARD)
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for split, rows in (("train", 400), ("val", 60), ("test", 100)):
        rank = rng.integers(0, 4, rows)
        people = rank[:, None] + 0.3 * rng.normal(size=(rows, 2))
        noise = rank[:, None] + rng.normal(size=(rows, 3))
        words = np.array(LABELS)[rank]
        np.savez(folder / "data" / f"{split}.npz", people=people.astype(np.float32), noise=noise.astype(np.float32), crowd=words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.OWN, str(folder / "plugins"))
        yield folder
    for name in [name for name in sys.modules if name.startswith("edgemm_plugins.")]:
        del sys.modules[name]
    plugins.options.cache_clear()
    plugins.constant.cache_clear()


@pytest.fixture(scope="module")
def trained(own):
    return train(own / "model.yaml", own / "data", own / "trained", epochs=12, learning_rate=0.02, device="cpu")


@pytest.fixture(scope="module")
def exported(trained, own):
    return export(trained.card, output=own / "float")


def test_its_options_are_checked_from_its_source_and_names_of_inputs_are_looked_up(own):
    with pytest.raises(CardError, match=r"outputs\.crowd: 'labels' is missing\.(.|\n)*a list of names"):
        cards.parse({"factory": "a:b", "inputs": {"x": {"modality": "sensor", "shape": [2]}}, "outputs": {"crowd": {"task": "ordinal"}}})
    plain = cards.load(own / "model.yaml").to_dict()
    plain["outputs"]["crowd"]["seen_by"] = "peopel"
    with pytest.raises(CardError, match=r"outputs\.crowd\.seen_by names 'peopel', no input\.(.|\n)*did you mean 'people'"):
        cards.parse(plain)


def test_it_is_trained_judged_and_reported_by_its_own_metric(trained):
    found = trained.metrics["test"]["crowd"]
    assert next(iter(found)) == "rank_error"
    assert found["rank_error"] < 0.35
    assert found["low"] <= found["rank_error"] <= found["high"]
    assert "Mean rank error, crowd" in (trained.folder / "report.html").read_text()


def test_its_exported_graph_is_benchmarked_with_its_score(exported, own):
    report = benchmark([exported.main], target="onnxruntime", data=own / "data", rounds=2, calls=2, launches=0)
    (score,) = report.find("rank_error", output="crowd")
    assert (score.unit, score.better, score.n) == ("ranks", "lower", 100)
    assert score.value < 0.35


def test_its_losses_are_paired_in_its_own_unit(exported, own):
    card = cards.load(own / "model.yaml")
    batch = next(open_dataset(own / "data", card).batches("test", 100))
    with plugins.load(Target, "onnxruntime").open(exported.main) as session:
        answers = session.run(batch.inputs)
    task = of(card.outputs["crowd"])
    lost = task.measure(answers, batch.truth["crowd"]).drop(task.measure({"crowd": answers["crowd"] + 1.0}, batch.truth["crowd"]))
    assert lost.unit == "ranks"
    assert 0 < lost.low < lost.value < lost.high
    assert lost.per_point == pytest.approx(batch.truth["crowd"].std() / 100)


def test_it_is_read_on_the_box_and_told_to_home_assistant(exported, own):
    card = cards.load(own / "model.yaml")
    with plugins.load(Target, "onnxruntime").open(exported.main) as session:
        feed = {"people": np.full((1, 2), 3.2, np.float32), "noise": np.full((1, 3), 3.2, np.float32)}
        readings, _ = Decider(card, {}).update(session.run(feed), 0.0)
    assert readings["crowd"].label == "full"
    assert sum(readings["crowd"].scores.values()) == pytest.approx(1.0)
    about = About("box", "model", "1", ("people", "noise"), card.outputs, {}, 0.5, lambda what, value: True)
    shown = homeassistant.components(about, "edgemm/box", pictures=False)
    assert shown["crowd_level"]["options"] == LABELS
    assert homeassistant.states(homeassistant.shown(about)["crowd"], "edgemm/box", readings["crowd"]) == {
        shown["crowd_level"]["state_topic"]: "full"
    }
    assert scored_outputs(card) == ["crowd"]
    assert name_of("rank_error") == "Mean rank error"


def test_its_folder_holds_all_there_is_of_it(own):
    files = sorted(path.relative_to(own / "plugins").as_posix() for path in (own / "plugins").rglob("*.py"))
    assert files == ["heads/ordinal.py", "losses/ordinal.py", "tasks/ordinal.py"]
    assert not [path for path in Path(plugins.ROOT).rglob("*.py") if "ordinal" in path.read_text(encoding="utf-8")]
