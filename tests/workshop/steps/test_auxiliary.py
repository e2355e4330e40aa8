"""Models that answer more in training than in use, and whose weights are computed, go through every torch step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts.step import Context
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError, ExportError
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.steps.distill import distill
from edgemm.workshop.steps.prune import prune
from edgemm.workshop.steps.qat import qat
from edgemm.workshop.training.loop import seeded_model, train_model
from edgemm.workshop.training.options import TrainOptions
from edgemm.workshop.training.task_losses import TaskLosses, Tensors

SOURCE = """
import warnings
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

class Eye(nn.Module):
    '''Answers twice in training, as GoogLeNet does.'''
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.one = nn.utils.weight_norm(nn.Conv2d(3, 16, 3, 2))
        self.two, self.norm, self.early = spectral_norm(nn.Conv2d(16, 16, 3)), nn.GroupNorm(4, 16), nn.Linear(16, 3)
    def forward(self, x):
        x = self.one(x).relu()
        y = self.norm(self.two(x)).relu().mean((2, 3))
        return (y, self.early(x.mean((2, 3)))) if self.training else y

class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form, self.eye, self.feel, self.head = form, Eye(), nn.Linear(4, 16), nn.Linear(32, 3)
    def forward(self, image, motion):
        seen = self.eye(image)
        seen, early = seen if self.training else (seen, None)
        kind = self.head(torch.cat([seen, self.feel(motion).relu()], 1))
        if self.form == "dict":
            return {"kind": kind, "map": seen} | ({"early": early} if self.training else {})
        return (kind, early) if self.training else kind

def build(form="tuple"):
    return Net(form)
"""
CARD = {
    "factory": "early_net:build",
    "inputs": {"image": {"modality": "image", "height": 12, "width": 12}, "motion": {"modality": "sensor", "shape": [4]}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, rows in {"train": 48, "val": 16}.items():
        kind = rng.integers(3, size=rows)
        image = rng.integers(0, 60, (rows, 12, 12, 3)).astype(np.uint8)
        image[np.arange(rows), :, :, kind] += 120
        np.savez(folder / f"{split}.npz", image=image, motion=rng.normal(size=(rows, 4)).astype(np.float32), kind=kind)
    return folder


@pytest.fixture
def model_of(tmp_path):
    def make(auxiliary=None, **kwargs):
        (tmp_path / "early_net.py").write_text(SOURCE)
        kind = {"task": "classification", "labels": ["a", "b", "c"]} | ({"auxiliary": auxiliary} if auxiliary else {})
        (tmp_path / "model.yaml").write_text(cards.parse(CARD | {"kwargs": kwargs, "outputs": {"kind": kind}}).to_yaml())
        return seeded_model(cards.load(tmp_path / "model.yaml"), seed=0)

    return make


@pytest.mark.parametrize(
    ("form", "auxiliary", "parts"),
    [
        ("tuple", None, []),
        ("tuple", {1: 0.4}, ["kind", "kind (auxiliary 1)"]),
        ("dict", {"early": 0.4}, ["kind", "kind (auxiliary early)"]),
    ],
)
def test_an_auxiliary_answer_is_learned_where_the_card_weighs_it(form, auxiliary, parts, model_of, data):
    model = model_of(auxiliary, form=form)
    before = model.module.eye.early.weight.detach().clone()
    done = train_model(model, open_dataset(data, model.card), options=TrainOptions(epochs=1, weight_decay=0.0))
    assert [name for name in done.curves if name.startswith("parts")] == [f"parts of the loss/{part}" for part in parts]
    assert torch.equal(model.module.eye.early.weight, before) == (auxiliary is None)


def test_an_auxiliary_answer_that_is_not_there_is_named(model_of, data):
    model = model_of({2: 0.4})
    with pytest.raises(CardError, match=r"outputs.kind.auxiliary: the model returned no tensor at 2 in training mode(.|\n)*tuple of 2"):
        train_model(model, open_dataset(data, model.card), options=TrainOptions(epochs=1))


def test_prune_distill_and_qat_follow_each_other(model_of, data, tmp_path):
    card = save_model(model_of({1: 0.4}), tmp_path / "trained")
    dataset, notes = open_dataset(data, card), []

    def context(model):
        return Context(model.card, dataset, tmp_path / "scratch", note=notes.append)

    model = load_model(card)
    pruned = prune(model, context(model), ratio=0.5, recovery_epochs=1, samples=16)
    assert pruned.module.eye.one.weight.shape[0] == 8
    assert (pruned.module.eye.norm.num_groups, pruned.module.eye.norm.num_channels) == (2, 8)
    assert "auxiliary heads" in notes[0] + notes[-1] + notes[1]
    again = load_model(save_model(pruned, tmp_path / "pruned"))
    feed = sample_inputs(card, batch=3)
    assert torch.equal(again(feed)["kind"], pruned(feed)["kind"])
    taught = distill(again, context(again), epochs=1, teacher=str(card.path))
    rounded = qat(taught, context(taught), epochs=1, calibration_samples=16)
    assert rounded(feed)["kind"].shape == (3, 3)


def test_no_step_begins_on_a_model_whose_rows_depend_on_each_other(model_of, data, tmp_path):
    model = model_of()
    model.module.head = torch.nn.Sequential(model.module.head, torch.nn.BatchNorm1d(3, affine=False, track_running_stats=False))
    context = Context(model.card, open_dataset(data, model.card), tmp_path, teacher=model)
    for step in (
        lambda: prune(model, context, ratio=0.5),
        lambda: distill(model, context, epochs=1),
        lambda: qat(model, context, epochs=1),
    ):
        with pytest.raises(ExportError, match=r"module 'head.1' \(BatchNorm1d\)"):
            step()


def test_proposals_of_a_set_are_learned_beside_it(tmp_path):
    card = cards.load("asked-shape")
    torch.manual_seed(0)
    model = seeded_model(card, seed=0)
    feed = sample_inputs(card, batch=2)
    model.train()
    answers = model(feed)
    scores, boxes = (answers[f"{name} (auxiliary proposals)"] for name in ("logits", "boxes"))
    assert scores.shape[1] == boxes.shape[1] > 8
    assert answers["logits"].shape[1] == 8
    truth = torch.tensor([[[2.0, 10, 20, 40, 60, 0]], [[-1.0, 0, 0, 0, 0, 0]]])
    batch = Tensors(feed, {"objects": truth}, {}, torch.arange(2))
    losses = TaskLosses(card)
    parts = losses(answers, batch)
    assert list(parts) == ["objects", "objects (auxiliary proposals)"]
    parts["objects (auxiliary proposals)"].backward()
    head = model.module.heads["objects"]
    assert head.boxes.weight.grad.abs().sum() > 0
    assert head.mend_boxes.weight.grad is None
    assert not any("auxiliary" in name for name in model.eval()(feed))


def test_an_auxiliary_set_that_lacks_a_tensor_is_named():
    card = cards.load("asked-shape")
    renamed = replace(card, outputs={"objects": replace(card.outputs["objects"], auxiliary={"early": 1.0})})
    model = seeded_model(renamed, seed=0).train()
    with pytest.raises(CardError, match=r"no tensor at 'early'(.|\n)*the tensors that the output reads"):
        model(sample_inputs(renamed, batch=2))
