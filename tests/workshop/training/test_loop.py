"""The loop: losses, metrics, best weights, resuming, divergence."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.data.in_memory import open_split
from edgemm.errors import CardError, TrainError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.answers import evaluate
from edgemm.workshop.training.loop import Diverged, train_model
from edgemm.workshop.training.options import TrainOptions
from edgemm.workshop.training.task_losses import TaskLosses, Tensors

PLAIN = {
    "factory": "own:build",
    "inputs": {"left": {"modality": "sensor", "shape": [4]}, "right": {"modality": "sensor", "shape": [3]}},
    "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}},
}


class Net(nn.Module):
    """A small fused net with as many answers as asked for."""

    def __init__(self, **widths):
        super().__init__()
        self.left, self.right = nn.Linear(4, 16), nn.Linear(3, 16)
        self.norm, self.dropout = nn.BatchNorm1d(16), nn.Dropout(0.1)
        self.heads = nn.ModuleDict({name: nn.Linear(16, width) for name, width in widths.items()})

    def forward(self, left, right):
        x = self.dropout(F.relu(self.norm(self.left(left) + self.right(right))))
        return {name: head(x) for name, head in self.heads.items()}


def arrays(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(rows, 4)).astype(np.float32), rng.normal(size=(rows, 3)).astype(np.float32)
    return {"left": left, "right": right, "kind": (left[:, :3] + right).argmax(axis=1)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """130 train, 60 val and 60 test rows whose label needs both inputs; 130 = two batches of 64 and one of 2."""
    (tmp_path / "data").mkdir()
    for seed, (split, rows) in enumerate({"train": 130, "val": 60, "test": 60}.items()):
        np.savez(tmp_path / "data" / f"{split}.npz", **arrays(rows, seed))
    return tmp_path / "data"


def model_of(plain=PLAIN, seed=0, **widths) -> FusedModel:
    torch.manual_seed(seed)
    return FusedModel(cards.parse(plain), Net(**(widths or {"kind": 3})))


def weights(model: FusedModel) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.module.state_dict().values()])


def run(data: Path, model: FusedModel | None = None, *, epochs=4, rate=0.02, seed=0, patience=None, **options):
    model = model or model_of()
    how = TrainOptions(epochs=epochs, learning_rate=rate, seed=seed, patience=patience)
    return model, train_model(model, open_dataset(data, model.card), options=how, **options)


def test_it_learns_what_needs_both_inputs(data):
    model, done = run(data, epochs=40, rate=0.05)
    assert done.metrics["kind"]["accuracy"] > 0.8
    assert not model.training
    test = evaluate(model, open_split(open_dataset(data, model.card), "test")).measured()
    assert test["kind"]["accuracy"] > 0.8
    assert test["kind"]["n"] == 60


def test_curves_show_every_epoch_and_the_best_epochs_weights_are_kept(data):
    _, done = run(data, epochs=6, rate=0.2)
    assert set(done.curves) == {"loss/train", "loss/val", "kind accuracy/val", "learning rate/learning rate"}
    accuracies = [value for _, value in done.curves["kind accuracy/val"]]
    assert [epoch for epoch, _ in done.curves["loss/train"]] == [1, 2, 3, 4, 5, 6]
    assert done.metrics["kind"]["accuracy"] == max(accuracies) == accuracies[done.best_epoch - 1]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data):
    first, second, other = (weights(run(data, seed=seed)[0]) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class Stopped(Exception):
    """Stands for the kill."""


@pytest.mark.parametrize("when", [0.3, 0.55, 0.8])
def test_a_killed_run_goes_on_to_the_very_same_result(data, tmp_path, when):
    whole, expected = run(data)

    def kill(text, fraction):
        if "epoch" in text and fraction > when:
            raise Stopped

    state = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        run(data, state=state, key="k", progress=kill)
    notes: list[str] = []
    resumed, found = run(data, state=state, key="k", note=notes.append)
    assert notes == [f"resumed after epoch {int(when * 4)} of 4."]
    assert torch.equal(weights(resumed), weights(whole))
    assert found == expected


def test_a_state_of_another_run_is_not_used(data, tmp_path):
    state, notes = tmp_path / "state.pt", []
    run(data, epochs=2, state=state, key="one")
    model, _ = run(data, state=state, key="other", note=notes.append)
    assert "belongs to a run with other options" in notes[0]
    assert torch.equal(weights(model), weights(run(data)[0]))


def test_a_damaged_state_is_not_used(data, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK torn")
    notes: list[str] = []
    run(data, epochs=1, state=tmp_path / "state.pt", note=notes.append)
    assert "is damaged; the training starts anew" in notes[0]


def test_early_stopping_ends_after_so_many_epochs_without_a_better_one(data):
    _, done = run(data, epochs=60, patience=3)
    assert done.epochs == done.best_epoch + 3 < done.planned == 60
    assert done.ended == f"after epoch {done.epochs} of 60: 3 without a better one on val"


def test_a_training_stops_early_by_itself_and_not_where_that_is_forbidden(data):
    """Labels drawn at random: val has a best epoch early, and nothing to learn after it."""
    for split, rows in (("train", 130), ("val", 60)):
        np.savez(data / f"{split}.npz", **arrays(rows, 5) | {"kind": np.random.default_rng(rows).integers(0, 3, rows)})
    _, done = run(data, epochs=60)
    assert done.epochs == done.best_epoch + 15 < 60
    _, whole = run(data, epochs=60, patience=0)
    assert whole.epochs == 60
    assert whole.ended == "after all 60 epochs"
    assert whole.curves["loss/train"][: done.epochs] == done.curves["loss/train"], "the learning rate falls over all planned epochs"


def test_a_run_that_was_killed_stops_at_the_same_epoch(data, tmp_path):
    whole, expected = run(data, epochs=60, patience=3)

    def kill(text, fraction):
        if text.startswith(f"epoch {expected.epochs}/"):
            raise Stopped

    with pytest.raises(Stopped):
        run(data, epochs=60, patience=3, state=tmp_path / "state.pt", key="k", progress=kill)
    resumed, found = run(data, epochs=60, patience=3, state=tmp_path / "state.pt", key="k")
    assert found == expected
    assert torch.equal(weights(resumed), weights(whole))


def test_steps_say_how_many_epochs_there_are(data):
    model = model_of()
    done = train_model(model, open_dataset(data, model.card), options=TrainOptions(steps=10))
    assert done.epochs == 4, "130 rows are three batches"


def test_without_val_the_last_epochs_weights_are_kept(data, monkeypatch):
    from edgemm.data.dataset import TableDataset

    monkeypatch.setattr(TableDataset, "count", lambda self, split, real=TableDataset.count: 0 if split == "val" else real(self, split))
    notes: list[str] = []
    _, done = run(data, epochs=2, note=notes.append)
    assert (done.best_epoch, done.metrics) == (2, {})
    assert "there is no val split" in notes[0]


def test_a_loss_that_is_no_number_names_step_epoch_and_rate(data):
    with pytest.raises(Diverged, match=r"the (loss is|gradient is not) .* at step \d of epoch 1, learning rate") as caught:
        run(data, rate=1e30)
    assert "no epoch had ended yet" in caught.value.why
    assert caught.value.best_epoch == 0


def test_after_a_divergence_the_model_holds_the_best_weights_so_far(data):
    calls = []

    def explodes(outputs, batch):
        calls.append(1)
        part = F.cross_entropy(outputs["kind"], batch.truth["kind"])
        return {"kind": part * (math.nan if len(calls) == 10 else 1)}

    good = run(data, epochs=2, loss=lambda outputs, batch: {"kind": F.cross_entropy(outputs["kind"], batch.truth["kind"])})[1]
    model = model_of()
    with pytest.raises(Diverged, match="the loss is nan at step") as caught:
        run(data, model, epochs=4, loss=explodes)
    assert caught.value.best_epoch >= 1
    assert torch.isfinite(weights(model)).all()
    assert not model.training
    assert good.best_epoch >= 1


def test_a_loss_hook_replaces_the_heads_losses(data):
    seen = []

    def towards_zero(outputs, batch):
        seen.append((sorted(batch.inputs), len(batch.rows)))
        return {"small": outputs["kind"].square().mean()}

    model, done = run(data, epochs=8, loss=towards_zero)
    assert seen[0] == (["left", "right"], 64)
    with torch.no_grad():
        answers = model({name: torch.from_numpy(value) for name, value in arrays(9, 0).items() if name != "kind"})
    assert answers["kind"].abs().mean() < 0.5
    assert done.curves["loss/train"][-1][1] < done.curves["loss/train"][0][1]


ALL = {
    "factory": "own:build",
    "inputs": PLAIN["inputs"],
    "outputs": {
        "kind": {"task": "classification", "labels": ["a", "b", "c"]},
        "tags": {"task": "multilabel", "labels": ["x", "y"]},
        "level": {"task": "regression", "unit": "dB"},
        "here": {"task": "embedding", "pair": "there"},
        "there": {"task": "embedding"},
    },
}


@pytest.fixture
def all_tasks(tmp_path: Path) -> Path:
    (tmp_path / "all").mkdir()
    for seed, (split, rows) in enumerate({"train": 256, "val": 64}.items()):
        found = arrays(rows, seed)
        found["tags"] = (found["left"][:, :2] + found["right"][:, :2] > 0).astype(np.float32)
        found["level"] = 60 + 5 * (found["left"][:, 0] + found["right"][:, 0])
        np.savez(tmp_path / "all" / f"{split}.npz", **found)
    return tmp_path / "all"


class Towers(Net):
    def forward(self, left, right):
        return super().forward(left, right) | {"here": self.left(left[:, [0, 1, 2, 0]]), "there": self.right(left[:, :3])}


def test_every_task_is_trained_and_measured_at_once(all_tasks):
    torch.manual_seed(0)
    model = FusedModel(cards.parse(ALL), Towers(kind=3, tags=2, level=1))
    options = TrainOptions(epochs=30, learning_rate=0.05)
    done = train_model(model, open_dataset(all_tasks, model.card), options=options, from_scratch=True)
    assert set(done.metrics["kind"]) == {
        "accuracy", "low", "high", "n", "precision", "recall", "f1", "auroc", "average_precision", "sensitivity_at_specificity_0.95", "ece",
        "labels",
    }  # fmt: skip
    assert set(done.metrics["level"]) == {"mae", "low", "high", "n", "pearson"}
    assert set(done.metrics["here"]) == {"recall_at_1", "low", "high", "n", "recall_at_5", "recall_at_10"}
    assert done.metrics["kind"]["accuracy"] > 0.8
    assert done.metrics["tags"]["f1"] > 0.8
    assert done.metrics["level"]["pearson"] > 0.9
    assert done.metrics["here"]["recall_at_5"] > 0.5
    assert "there" not in done.metrics


def test_answers_per_step_are_trained(tmp_path):
    rng = np.random.default_rng(0)
    for split, rows in {"train": 128, "val": 32}.items():
        x = rng.normal(size=(rows, 5, 4)).astype(np.float32)
        np.savez(tmp_path / f"{split}.npz", x=x, busy=(x.sum(-1) > 0).astype(np.int64), level=x.sum(-1))
    plain = {
        "factory": "own:build",
        "inputs": {"x": {"modality": "sensor", "shape": [4], "steps": 5}},
        "outputs": {
            "busy": {"task": "classification", "labels": ["no", "yes"], "per_step": True},
            "level": {"task": "regression", "per_step": True},
        },
    }

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.busy, self.level = nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, x):
            return self.busy(x), self.level(x).squeeze(-1)

    torch.manual_seed(0)
    model = FusedModel(cards.parse(plain), Steps())
    done = train_model(model, open_dataset(tmp_path, model.card), options=TrainOptions(epochs=40, learning_rate=0.1))
    assert done.metrics["busy"]["accuracy"] > 0.95
    assert done.metrics["level"]["mae"] < 0.3


def test_loss_weights_scale_a_heads_part():
    card = cards.parse(ALL)
    batch = Tensors({}, {"kind": torch.tensor([0, 1]), "tags": torch.zeros(2, 2), "level": torch.tensor([1.0, 2.0])}, {}, torch.arange(2))
    outputs = {
        "kind": torch.randn(2, 3),
        "tags": torch.randn(2, 2),
        "level": torch.randn(2, 1),
        "here": torch.eye(2),
        "there": torch.eye(2),
    }
    plain, weighted = TaskLosses(card)(outputs, batch), TaskLosses(card, weights={"tags": 2.5})(outputs, batch)
    assert weighted["tags"] == pytest.approx(2.5 * plain["tags"])
    assert weighted["kind"] == plain["kind"]
    assert list(plain) == ["kind", "tags", "level", "here"]


def test_a_loss_weight_for_no_output_is_an_error(data):
    with pytest.raises(CardError, match=r"a loss weight names 'kinds', no output(.|\n)*did you mean 'kind'"):
        train_model(model_of(), open_dataset(data, model_of().card), options=TrainOptions(epochs=1, loss_weights={"kinds": 2.0}))


def test_a_card_with_nothing_to_train_is_an_error(data):
    plain = PLAIN | {"outputs": {"kind": {"task": "tensor"}}}
    with pytest.raises(CardError, match="no output of this card can be trained"):
        run(data, model_of(plain))


def test_a_model_without_trainable_parameters_is_an_error(data):
    model = model_of()
    model.requires_grad_(False)
    with pytest.raises(TrainError, match="has no trainable parameters"):
        run(data, model)


def test_a_model_that_fails_on_a_batch_is_named_with_its_line(data):
    class Failing(Net):
        def forward(self, left, right):
            return left @ right

    model = FusedModel(cards.parse(PLAIN), Failing(kind=3))
    with pytest.raises(TrainError, match=r"the model failed on a batch of 1 row, at .*test_loop.py:\d+(.|\n)*RuntimeError"):
        run(data, model)


def test_one_train_row_is_too_few(tmp_path):
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", **arrays(1, 0))
    with pytest.raises(TrainError, match="the train split has 1 row"):
        run(tmp_path)


def test_a_device_that_is_not_here_is_an_error(data):
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    with pytest.raises(TrainError, match="device 'cuda' is not here"):
        train_model(model_of(), open_dataset(data, model_of().card), options=TrainOptions(epochs=1, device="cuda"))


def test_bf16_trains_too_and_leaves_a_float32_model(data):
    model = model_of()
    done = train_model(model, open_dataset(data, model.card), options=TrainOptions(epochs=40, learning_rate=0.05, mixed_precision="bf16"))
    assert done.metrics["kind"]["accuracy"] > 0.7
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert (
            model({name: torch.from_numpy(value) for name, value in arrays(2, 0).items() if name != "kind"})["kind"].dtype == torch.float32
        )


class Learned(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale, self.modes = nn.Linear(3, 3), []

    def forward(self, outputs, batch):
        self.modes.append(self.training)
        return {"kind": F.cross_entropy(self.scale(outputs["kind"]), batch.truth["kind"]), "size": 0.01 * outputs["kind"].square().mean()}


def test_a_loss_that_is_a_module_is_trained_along_and_its_weights_are_not_the_models(data):
    torch.manual_seed(3)
    loss = Learned()
    before = loss.scale.weight.detach().clone()
    model, done = run(data, loss=loss)
    assert not torch.equal(loss.scale.weight, before)
    assert set(model.module.state_dict()) == set(model_of().module.state_dict())
    assert loss.modes == [True, True, True, False] * 4
    assert {"parts of the loss/kind", "parts of the loss/size"} <= set(done.curves)
    first = [done.curves[name][0][1] for name in ("parts of the loss/kind", "parts of the loss/size", "loss/train")]
    assert first[0] + first[1] == pytest.approx(first[2])


def test_a_killed_run_goes_on_with_the_weights_of_its_loss(data, tmp_path):
    def kill(text, fraction):
        if "epoch" in text and fraction > 0.55:
            raise Stopped

    losses = []
    for _ in range(3):
        torch.manual_seed(3)
        losses.append(Learned())
    whole, _ = run(data, loss=losses[0])
    with pytest.raises(Stopped):
        run(data, loss=losses[1], state=tmp_path / "state.pt", key="k", progress=kill)
    resumed, _ = run(data, loss=losses[2], state=tmp_path / "state.pt", key="k")
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(losses[2].scale.weight, losses[0].scale.weight)


def test_the_weights_it_starts_from_are_judged_as_epoch_0_and_kept_when_no_epoch_is_better(data):
    good, _ = run(data, epochs=40, rate=0.05)
    start = weights(good)
    model, done = run(data, good, epochs=2, rate=5.0, judge_start=True)
    assert done.best_epoch == 0
    assert torch.equal(weights(model), start)
    assert [epoch for epoch, _ in done.curves["kind accuracy/val"]] == [0, 1, 2]
    assert done.metrics["kind"]["accuracy"] == done.curves["kind accuracy/val"][0][1]


def test_a_divergence_in_the_first_epoch_leaves_the_weights_it_started_from(data):
    model = model_of()
    start = weights(model)
    with pytest.raises(Diverged, match="of epoch 1, learning rate") as caught:
        run(data, model, rate=1e30, judge_start=True)
    assert "the weights it started from are kept" in caught.value.why
    assert torch.equal(weights(caught.value.kept), start)


def test_the_learning_rate_is_drawn_at_its_own_epoch(data):
    _, done = run(data, epochs=3)
    assert [epoch for epoch, _ in done.curves["learning rate/learning rate"]] == [1, 2, 3]
