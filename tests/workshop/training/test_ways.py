"""Ways to train: stages, optimizers, schedules, averages, weights of labels, balanced rows, changed rows."""

import numpy as np
import pytest
import torch

from edgemm.contracts.training import Stage
from edgemm.data.augmenting import Augmenter
from edgemm.data.balanced import balanced, label_counts
from edgemm.data.dataset import open_dataset
from edgemm.data.in_memory import open_split
from edgemm.errors import CardError, TrainError
from edgemm.workshop.training import checking
from edgemm.workshop.training.answers import evaluate
from edgemm.workshop.training.class_weights import class_weights
from edgemm.workshop.training.loop import train_model
from edgemm.workshop.training.options import TrainOptions
from tests.workshop.training.test_loop import ALL, Stopped, arrays, model_of, weights

STAGES = (Stage(["left"], epochs=2, learning_rate=0.05), Stage(["right", "head"], epochs=2), Stage(epochs=3))


EXTRA = ("state", "key", "note", "progress", "augmenter", "watch")


@pytest.fixture
def data(tmp_path):
    """As ``test_loop`` has it."""
    (tmp_path / "data").mkdir()
    for seed, (split, rows) in enumerate({"train": 130, "val": 60, "test": 60}.items()):
        np.savez(tmp_path / "data" / f"{split}.npz", **arrays(rows, seed))
    return tmp_path / "data"


def run(data, model=None, **options):
    model, extra = model or model_of(), {key: options.pop(key) for key in EXTRA if key in options}
    how = TrainOptions.of({"learning_rate": 0.02, **options})
    return model, train_model(model, open_dataset(data, model.card), options=how, **extra)


def test_what_a_stage_freezes_stands_still_in_it(data):
    start = model_of()
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    seen = []
    model = model_of()

    def watch(epoch, values):
        seen.append((values["learning rate/learning rate"], {name: value.clone() for name, value in model.module.state_dict().items()}))

    _, done = run(data, model, stages=[vars(stage) for stage in STAGES], watch=watch, patience=0, schedule={"cosine": {"last": 0.5}})
    assert (done.epochs, done.planned, done.ended) == (7, 7, "after all 7 epochs")
    after = [state for _, state in seen]
    assert torch.equal(after[1]["left.weight"], before["left.weight"])
    assert not torch.equal(after[1]["right.weight"], before["right.weight"])
    assert not torch.equal(after[3]["left.weight"], after[1]["left.weight"])
    assert [rate for rate, _ in seen][1] == pytest.approx(0.025, rel=0.2), "its own rate, halved by its own end"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_batch_norm_keeps_its_statistics(data):
    model = model_of()
    before = model.module.norm.running_mean.clone()
    run(data, model, stages=[{"freeze": ["left", "right", "fusion"], "epochs": 2}])
    assert torch.equal(model.module.norm.running_mean, before)


@pytest.mark.parametrize("when", [0.2, 0.45, 0.8])
def test_a_run_in_stages_that_was_killed_goes_on_to_the_very_same_result(data, tmp_path, when):
    how = {"stages": [vars(stage) for stage in STAGES], "average": "ema", "optimizer": "sgd"}
    whole, expected = run(data, **how)

    def kill(text, fraction):
        if "epoch" in text and fraction > when:
            raise Stopped

    state = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        run(data, state=state, key="k", progress=kill, **how)
    resumed, found = run(data, state=state, key="k", **how)
    assert torch.equal(weights(resumed), weights(whole))
    assert found == expected


def test_a_stage_that_gets_no_better_ends_early_and_the_next_begins_with_the_best(data):
    for split, rows in (("train", 130), ("val", 60)):
        np.savez(data / f"{split}.npz", **arrays(rows, 5) | {"kind": np.random.default_rng(rows).integers(0, 3, rows)})
    _, done = run(data, stages=[{"epochs": 60}, {"epochs": 2}], patience=3)
    assert done.epochs < 62
    assert 1 in done.early
    assert done.ended.startswith(f"after epoch {done.epochs} of 62: no better one came on val in stage")


def test_a_stage_that_freezes_all_that_can_be_trained_is_an_error(data):
    model = model_of()
    model.module.norm.requires_grad_(False)
    model.module.left.requires_grad_(False)
    with pytest.raises(TrainError, match=r"stages.1 freezes everything: right, head(.|\n)*fix: freeze less"):
        run(data, model, stages=[{"freeze": ["right", "head"], "epochs": 1}])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", {"sgd": {"momentum": 0.5}}, "adagrad", "rmsprop"])
def test_every_optimizer_learns(data, optimizer):
    _, done = run(data, optimizer=optimizer, learning_rate=0.1 if isinstance(optimizer, dict) else 0.02, epochs=20)
    assert done.metrics["kind"]["accuracy"] > 0.6


def test_a_plateau_lowers_the_rate_where_val_gets_no_better(data):
    _, done = run(data, epochs=20, schedule={"plateau": {"factor": 0.1, "patience": 2}}, learning_rate=0.3)
    rates = [rate for _, rate in done.curves["learning rate/learning rate"]]
    assert rates[1] == pytest.approx(0.3)
    assert min(rates) < 0.04
    assert sorted(rates[1:], reverse=True) == rates[1:]


def test_a_plateau_without_val_is_an_error(data, monkeypatch):
    from edgemm.data.dataset import TableDataset

    monkeypatch.setattr(TableDataset, "count", lambda self, split, real=TableDataset.count: 0 if split == "val" else real(self, split))
    with pytest.raises(TrainError, match=r"schedule is plateau(.|\n)*there is no val split"):
        run(data, epochs=1, schedule="plateau")


@pytest.mark.parametrize("average", ["ema", {"swa": {"start": 0.0}}])
def test_averaged_weights_are_judged_and_kept(data, average):
    plain, _ = run(data, epochs=8, learning_rate=0.2, patience=0)
    model, done = run(data, epochs=8, learning_rate=0.2, patience=0, average=average)
    assert not torch.equal(weights(model), weights(plain))
    accuracies = [value for _, value in done.curves["kind accuracy/val"]]
    assert done.metrics["kind"]["accuracy"] == accuracies[done.best_epoch - 1] == max(accuracies)


def test_labels_weigh_as_they_are_told_or_as_rare_as_they_are(data):
    card = model_of().card
    truth = np.array([0] * 100 + [1] * 20 + [2] * 10)
    np.savez(data / "train.npz", **arrays(130, 0) | {"kind": truth})
    split = open_split(open_dataset(data, card), "train")
    assert label_counts(split, "kind", 3)[0].tolist() == [100, 20, 10]
    assert class_weights(card, split, {"kind": "balanced"})["kind"].tolist() == pytest.approx([130 / 300, 130 / 60, 130 / 30])
    assert class_weights(card, split, {"kind": {"b": 3}})["kind"].tolist() == [1, 3, 1]
    drawn = np.concatenate([batch.truth["kind"] for batch in balanced(split, "kind").batches(64, shuffle=1)])
    assert len(drawn) == 130
    assert np.bincount(drawn).min() > 25
    with pytest.raises(CardError, match=r"class_weights.kind names 'd', no label"):
        class_weights(card, split, {"kind": {"d": 3}})


def test_weights_and_smoothing_reach_the_loss(data):
    _, plain = run(data, epochs=2)
    for how in ({"class_weights": {"kind": {"a": 5.0}}}, {"label_smoothing": 0.3}, {"balance": "kind"}):
        _, done = run(data, epochs=2, **how)
        assert done.curves["loss/train"][0] != plain.curves["loss/train"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_weights": {"level": "balanced"}}, r"train.class_weights.level: its task is not learned by labels(.|\n)*kind, tags"),
        ({"balance": "tags"}, "train.balance names 'tags', whose rows do not have one label each"),
        ({"repeats": 3}, "train.repeats is 3, and no row is changed"),
    ],
)
def test_what_outputs_cannot_be_trained_by_is_an_error(options, words):
    with pytest.raises(CardError, match=words):
        checking.check(model_of(ALL, kind=3, tags=2, level=1).card, TrainOptions(**options), changes=False)


def test_changed_and_mixed_rows_are_learned_from_and_the_same_again(data):
    def trained():
        model = model_of()
        changes = Augmenter(model.card, augment={"left": [["jitter", {"sigma": 0.3}]]}, dropout={"right": 0.1}, mixup=0.3)
        return run(data, model, epochs=15, augmenter=changes)

    (first, done), (second, _) = trained(), trained()
    assert torch.equal(weights(first), weights(second))
    assert done.metrics["kind"]["accuracy"] > 0.5
    assert not torch.equal(weights(first), weights(run(data, epochs=15)[0]))


def test_test_rows_answered_several_times_are_averaged(data):
    model, _ = run(data, epochs=5)
    changes = Augmenter(model.card, augment={"left": [["jitter", {"sigma": 2.0}]]})
    split = open_split(open_dataset(data, model.card), "test")
    once, often = evaluate(model, split), evaluate(model, split, change=changes.augmented, repeats=4)
    assert np.array_equal(once.truth["kind"], often.truth["kind"])
    assert not np.allclose(once.answers["kind"], often.answers["kind"])
