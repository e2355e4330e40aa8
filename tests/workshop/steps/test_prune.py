"""The step: a smaller model that is proved, its record, and what cannot be asked for."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts.report import Measurement
from edgemm.contracts.step import Context
from edgemm.data import dataset as datasets
from edgemm.errors import CheckpointError, EdgemmError, ExportError, PruneError
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import export_onnx
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.pruning.analysis import analyse
from edgemm.workshop.pruning.harm import Harm
from edgemm.workshop.steps.prune import prune, restore
from edgemm.workshop.training.loop import Diverged, seeded_model, train_model

CARD = {
    "factory": "models:digits",
    "kwargs": {
        "encoders": {
            "image": {"residual_cnn": {"channels": [16, 24], "width": 32}},
            "motion": {"conv_gru": {"channels": [16], "hidden": 24, "width": 32}},
        },
        "fusion": {"gated": {"gate": "scalar", "width": 32}},
    },
    "inputs": {
        "image": {"modality": "image", "height": 16, "width": 16, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "motion": {"modality": "sensor", "shape": [20, 4], "rate_hz": 20},
    },
    "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression", "unit": "dB"}},
}  # fmt: skip
OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2))
        self.map = nn.Linear(24, 16)
        self.feel = nn.GRU(4, 16, batch_first=True)
        self.look = nn.MultiheadAttention(16, 4, batch_first=True)
        self.gate = nn.Linear(32, 16)
        self.kind, self.level = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, image, motion):
        seen = self.map(self.see(image).relu().mean((2, 3)))
        steps = self.feel(motion)[0]
        felt = self.look(steps, steps, steps)[0].mean(1)
        gate = self.gate(torch.cat([seen, felt], 1)).sigmoid()
        fused = seen * gate + felt * (1 - gate)
        return {"kind": self.kind(fused), "level": self.level(fused).squeeze(1)}

def build():
    return Own()
"""


def arrays(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=rows)
    image = rng.integers(0, 60, (rows, 16, 16, 3)).astype(np.uint8)
    image[np.arange(rows), 4:9, 4:9, kind] += 120
    motion = rng.normal(size=(rows, 20, 4)).astype(np.float32)
    motion[np.arange(rows), :, kind] += 1
    return {"image": image, "motion": motion, "kind": kind, "level": motion[:, :, 3].mean(1) * 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    for seed, (split, rows) in enumerate({"train": 192, "val": 64}.items()):
        np.savez(folder / f"{split}.npz", **arrays(rows, seed))
    return folder


@pytest.fixture(scope="module")
def model(data) -> FusedModel:
    made = seeded_model(cards.parse(CARD), seed=0)
    from edgemm.workshop.training.options import TrainOptions

    train_model(made, datasets.open_dataset(data, made.card), options=TrainOptions(epochs=4, learning_rate=0.005), from_scratch=True)
    return made


@pytest.fixture
def context(data, tmp_path):
    """``context(model, **fields)``; ``with_data=False`` leaves the dataset out."""

    def made(model, *, with_data=True, **fields) -> Context:
        dataset = datasets.open_dataset(data, model.card) if with_data else None
        return Context(model.card, dataset, tmp_path / "scratch", **fields)

    return made


def answer(model, seed=7):
    with torch.no_grad():
        return model(sample_inputs(model.card, batch=3, seed=seed))


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def widths(ctx) -> dict[str, list[int]]:
    return {entry["layer"]: entry["channels"] for entry in ctx.facts["layers"]}


def test_half_of_every_layer_goes_and_the_original_is_left_alone(model, context):
    before, weights = answer(model), count(model)
    ctx = context(model)
    pruned = prune(model, ctx, ratio=0.5)
    assert widths(ctx)["encoders.image.layers.1.0"] == [16, 8]
    assert widths(ctx)["encoders.motion.gru"] == [24, 16]  # of 24 the nearest multiple of 8 to 12; halves round to even
    assert count(pruned) < 0.5 * weights
    assert count(model) == weights
    assert all(torch.equal(before[name], value) for name, value in answer(model).items())
    assert not pruned.training
    assert {name: value.shape for name, value in answer(pruned).items()} == {name: value.shape for name, value in before.items()}


def test_facts_tell_what_went_what_stayed_and_how_exact_the_proof_was(model, context):
    notes = []
    ctx = context(model, note=notes.append)
    prune(model, ctx, ratio=0.5)
    assert list(ctx.facts["branches"]) == ["image", "motion", "fusion", "head:kind", "head:level"]
    assert all(after <= before for found in ctx.facts["branches"].values() for before, after in found.values())
    reasons = {whole["layer"]: whole["reason"] for whole in ctx.facts["left_whole"]}
    assert reasons["fusion.gate"] == "'softmax' mixes these channels (in 'fusion')"
    assert reasons["heads.kind.layers.1"] == "it is an output of the model"
    assert ctx.facts["proof"]["error"] < 1e-5
    assert ctx.facts["proof"]["cases"] == 12  # 3 random, 1 real, and of two of these: 2 subsets and 2 with noise
    assert json.loads(json.dumps(ctx.facts)) == ctx.facts
    assert "of the multiply-accumulates" in notes[0]


def test_a_share_of_the_multiply_accumulates_goes(model, context):
    ctx = context(model)
    prune(model, ctx, macs_ratio=0.5)
    before, after = (sum(found["macs"][place] for found in ctx.facts["branches"].values()) for place in (0, 1))
    assert 0.4 * before < after <= 0.5 * before
    assert all(new >= 0.25 * old for old, new in widths(ctx).values())
    assert all(new % 8 == 0 for old, new in widths(ctx).values() if old >= 16)


def test_branches_override_and_zero_protects(model, context):
    ctx = context(model)
    prune(model, ctx, ratio=0.5, branches={"image": 0.0, "fusion": 0.25})
    assert widths(ctx)["encoders.image.layers.1.0"] == [16, 16]
    assert widths(ctx)["encoders.motion.layers.2"] == [16, 8]
    assert widths(ctx)["fusion.mapped.layers.image"] == [32, 24]


def test_branches_alone_prune_only_what_they_name(model, context):
    ctx = context(model)
    prune(model, ctx, branches={"sensor": 0.5})
    assert {layer for layer, (old, new) in widths(ctx).items() if new < old} == {
        "encoders.motion.layers.2", "encoders.motion.gru", "encoders.motion.project",
    }  # fmt: skip


def test_a_branch_may_lose_a_share_of_its_own_work(model, context):
    ctx = context(model)
    prune(model, ctx, macs_ratio=0.4, branches={"motion": 0.0})
    found = ctx.facts["branches"]
    assert found["image"]["macs"][1] < 0.7 * found["image"]["macs"][0]
    assert widths(ctx)["encoders.motion.gru"] == [24, 24]


@pytest.mark.parametrize("criterion", ["taylor", "magnitude", "activation"])
def test_every_criterion_ranks(criterion, model, context):
    ctx = context(model)
    assert count(prune(model, ctx, macs_ratio=0.3, criterion=criterion)) < count(model)


def test_taylor_keeps_what_the_task_needs(model, context):
    """Channels that nothing reads go first."""
    crippled = copy.deepcopy(model)
    with torch.no_grad():
        crippled.module.encoders.image.pooled.project.weight[::2] = 0
        crippled.module.encoders.image.pooled.project.bias[::2] = 0
    ctx = context(crippled)
    pruned = prune(crippled, ctx, branches={"image": 0.5})
    kept = json.loads(Path(pruned.card.applied[-1]["prune"]).read_text())["rounds"][0]["kept"]
    assert kept["encoders.image.pooled.project.weight"]["0"] == list(range(1, 32, 2))


def test_each_branch_gets_the_share_that_its_harm_allows(model, context):
    ctx = context(model)
    pruned = prune(model, ctx, macs_ratio=0.4, spread="branches")
    costs = [entry["macs"] for entry in ctx.facts["branches"].values()]
    assert 0.4 < sum(after for _, after in costs) / sum(before for before, _ in costs) <= 0.6
    assert set(answer(pruned)) == {"kind", "level"}


def test_harm_is_judged_on_rows_that_were_not_trained_on_where_there_are_some(model, context, monkeypatch):
    read, dataset = [], context(model).dataset
    batches, count = type(dataset).batches, type(dataset).count
    monkeypatch.setattr(
        type(dataset), "batches", lambda self, split, *given, **more: read.append(split) or batches(self, split, *given, **more)
    )
    Harm(model, analyse(model), dataset, samples=8, seed=0)
    monkeypatch.setattr(type(dataset), "count", lambda self, split: 1 if split == "val" else count(self, split))
    Harm(model, analyse(model), dataset, samples=8, seed=0)
    assert read == ["val", "train"]


def test_nothing_removed_harms_next_to_nothing_and_more_harms_more(model, context):
    found = analyse(model)
    harm = Harm(model, found, context(model).dataset, samples=192, seed=0)
    few, many = ([root for layer in found.layers for root in layer.roots[: layer.width * part // 4]] for part in (1, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert harm([]) == pytest.approx(0, abs=1e-6)
    assert 0 < harm(few) < harm(many)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_latency_is_bisected_on_what_was_measured(model, context):
    """The clock counts the parameters of the candidate, so that the answer can be told."""
    heard = []

    def clock(candidate):
        heard.append(count(candidate))
        return [Measurement("latency_p50_ms", float(count(candidate)), "ms", "lower", subject="bundle", target="here")]

    ctx = context(model, measure=clock)
    pruned = prune(model, ctx, latency_ratio=0.3)
    assert 0.6 * count(model) < count(pruned) <= 0.7 * count(model)
    assert len(heard) <= 8
    assert len(ctx.facts["latencies"]) == len(heard)


def test_what_is_timed_can_be_saved_and_built_again(model, context, tmp_path):
    """The target runs an exported graph, and the export loads a checkpoint."""
    heard = []

    def clock(candidate):
        loaded = load_model(save_model(candidate, tmp_path / f"candidate{len(heard)}"))
        assert all(torch.equal(value, answer(loaded)[name]) for name, value in answer(candidate).items())
        heard.append(count(loaded))
        return [Measurement("latency_p50_ms", float(heard[-1]), "ms", "lower", subject="bundle", target="here")]

    pruned = prune(model, context(model, measure=clock), latency_ratio=0.4, rounds=2)
    assert heard[0] == count(model)
    assert count(pruned) <= 0.6 * heard[0]


def test_several_rounds_reach_the_share_and_do_not_pass_it(model, context):
    once, often = context(model), context(model)
    prune(model, once, macs_ratio=0.4, criterion="magnitude", round_to=4)
    prune(model, often, macs_ratio=0.4, criterion="magnitude", round_to=4, rounds=4)
    left = [sum(found["macs"][1] for found in ctx.facts["branches"].values()) for ctx in (once, often)]
    assert left[1] == pytest.approx(left[0], rel=0.1)


def test_a_layer_that_a_later_round_would_empty_is_named_before_any_training(model, context):
    said = []
    ctx = context(model, progress=lambda text, _: said.append(text))
    with pytest.raises(PruneError, match=r"(?s)ratio 0\.99 would empty layer '.*largest possible ratio is 0\.9"):
        prune(model, ctx, ratio=0.99, rounds=3, recovery_epochs=1)
    assert not any("epoch" in text for text in said)


def test_a_recovery_that_diverges_names_its_option_and_keeps_the_pruned_weights(model, context, empty_cache):
    with pytest.raises(Diverged, match=r"prune: .* of epoch 1, learning rate \d") as caught:
        prune(model, context(model), ratio=0.5, recovery_epochs=2, recovery_learning_rate=1e30)
    assert "the weights it started from are kept" in caught.value.why
    assert "lower prune.recovery_learning_rate" in caught.value.fix
    kept = load_model(save_model(caught.value.kept, empty_cache / "kept"))
    assert count(kept) < count(model)
    assert all(torch.isfinite(value).all() for value in answer(kept).values())


def test_a_branch_that_loses_nothing_of_what_was_asked_says_why(model, context):
    heard = []
    prune(model, context(model, note=heard.append), branches={"image": 0.1, "head:level": 0.5}, criterion="magnitude")
    assert "prune: nothing of 'image' was removed: 0.1 of its layers' channels is less than half a group" in heard[0]
    assert heard[1].startswith("prune: nothing of 'head:level' was removed: ")


def test_a_branch_of_which_next_to_nothing_is_left_is_named(model, context):
    heard = []
    ctx = context(model, note=heard.append)
    prune(model, ctx, branches={"image": 0.9}, criterion="magnitude", round_to=1)
    before, after = ctx.facts["branches"]["image"]["macs"]
    assert after < 0.1 * before
    assert heard[0].startswith(f"prune: {after / before:.0%} of the multiply-accumulates of 'image' are left. ")
    assert not any("of 'motion' are left" in note for note in heard)


def test_rounds_with_recovery_train_between_the_cuts(model, context):
    ctx = context(model)
    pruned = prune(model, ctx, macs_ratio=0.5, rounds=2, recovery_epochs=1, round_to=4, floor=0.2)
    record = json.loads(Path(pruned.card.applied[-1]["prune"]).read_text())
    assert len(record["rounds"]) == 2
    before, after = (sum(found["macs"][place] for found in ctx.facts["branches"].values()) for place in (0, 1))
    assert after <= 0.51 * before


def test_a_pruned_checkpoint_is_saved_loaded_and_pruned_again(model, context, tmp_path):
    once = load_model(save_model(prune(model, context(model), ratio=0.25), tmp_path / "once"))
    twice = prune(once, context(once), ratio=0.5)
    assert [Path(name).name for entry in twice.card.applied for name in entry.values()] == ["prune.json", "prune2.json"]
    loaded = load_model(save_model(twice, tmp_path / "twice"))
    assert count(loaded) == count(twice) < count(once) < count(model)
    assert all(torch.equal(value, answer(loaded)[name]) for name, value in answer(twice).items())


def test_a_users_own_module_gives_the_same_in_a_fresh_process(tmp_path, data, context, fresh_python):
    (tmp_path / "own.py").write_text(OWN)
    plain = {**CARD, "factory": "own:build", "kwargs": {}}
    (tmp_path / "model.yaml").write_text(cards.parse(plain).to_yaml())
    own = load_model(cards.load(tmp_path))
    ctx = context(own)
    pruned = prune(own, ctx, ratio=0.5)
    assert widths(ctx)["look.query"] == [4, 2]
    save_model(pruned, tmp_path / "saved")
    wanted = {name: value.tolist() for name, value in answer(pruned).items()}
    found = fresh_python(
        "import json, torch\n"
        "from edgemm.contracts import card_file as cards\n"
        "from edgemm.workshop.models.checkpoint.loading import load_model\n"
        "from edgemm.workshop.models.tried import sample_inputs\n"
        f"model = load_model(cards.load({str(tmp_path / 'saved')!r}))\n"
        "with torch.no_grad():\n"
        "    answers = model(sample_inputs(model.card, batch=3, seed=7))\n"
        "print(json.dumps({name: value.tolist() for name, value in answers.items()}))\n"
    )
    found = json.loads(found.splitlines()[-1])
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_the_pruned_model_exports_and_onnx_runtime_agrees(model, context, tmp_path):
    import onnxruntime

    pruned = prune(model, context(model), ratio=0.5)
    session = onnxruntime.InferenceSession(str(export_onnx(pruned, tmp_path / "model.onnx")), providers=["CPUExecutionProvider"])
    inputs = sample_inputs(pruned.card, batch=3, seed=7)
    found = session.run(list(pruned.card.outputs), {name: value.numpy() for name, value in inputs.items()})
    for value, wanted in zip(found, answer(pruned).values(), strict=True):
        np.testing.assert_allclose(value, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({}, "nothing says how much to prune.", "macs_ratio"),
        ({"ratio": 0.5, "macs_ratio": 0.5}, "ratio and macs_ratio are given; only one of them can be the target.", "keep one"),
        ({"macs_ratio": 1.0}, "macs_ratio is 1.", "below 1"),
        ({"ratio": -0.5}, "ratio is -0.5.", "above 0"),
        ({"macs_ratio": 0.5, "branches": {"image": 1.5}}, "branches.image is 1.5.", "below 1"),
        ({"ratio": 0.5, "round_to": 0}, "round_to is 0.", "at least 1"),
        ({"ratio": 0.5, "floor": 2.0}, "floor is 2.0.", "from 0 to 1"),
        ({"ratio": 0.5, "floor": 0.5}, "floor stands beside shares of channels", "leave floor out"),
        ({"ratio": 0.5, "samples": 0}, "samples is 0.", "at least 1"),
        ({"ratio": 0.5, "recovery_epochs": 1, "recovery_learning_rate": -1.0}, "recovery_learning_rate is -1.0.", "above 0"),
        ({"ratio": 0.99}, "ratio 0.99 would empty layer 'encoders.image.layers.1.0' of branch 'image', which has 16 channels.", "0.96"),
        ({"ratio": 1.5, "rounds": 2}, "ratio 1.5 would empty layer 'encoders.image.layers.1.0'", "0.96"),
        ({"ratio": 0.5, "branches": {"image": 1.0}}, "ratio 1 would empty layer 'encoders.image.layers.1.0'", "0.96"),
        ({"macs_ratio": 0.95, "floor": 0.25}, "macs_ratio 0.95 cannot be reached.", "lower floor or round_to"),
        ({"macs_ratio": 0.5, "floor": 0.25, "branches": {"image": 0.99}}, "branches.image 0.99 cannot be reached.", "ask for at most"),
        ({"latency_ratio": 0.5}, "latency_ratio needs a target to measure on.", "macs_ratio"),
        ({"ratio": 0.5, "branches": {"camera": 0.5}}, "'camera' is no part of this model.", "motion"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_told(options, what, fix, model, context):
    with pytest.raises(EdgemmError) as caught:
        prune(model, context(model), **options)
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_a_criterion_without_data_says_which_needs_none(criterion, model, context):
    with pytest.raises(PruneError, match=f"criterion '{criterion}' needs training data") as caught:
        prune(model, context(model, with_data=False), ratio=0.5, criterion=criterion)
    assert "criterion: magnitude" in caught.value.fix
    assert count(prune(model, context(model, with_data=False), ratio=0.5, criterion="magnitude")) < count(model)


def test_taylor_without_labels_says_so(model, context):
    ctx = Context(model.card, datasets.synthetic(model.card), context(model).scratch)
    with pytest.raises(PruneError, match="needs training data with labels") as caught:
        prune(model, ctx, ratio=0.5)
    assert "no column for output 'kind'" in caught.value.why


def test_recovery_without_data_is_refused_before_anything(model, context):
    with pytest.raises(PruneError, match="recovery_epochs needs training data"):
        prune(model, context(model, with_data=False), ratio=0.5, criterion="magnitude", recovery_epochs=1)


def test_a_model_of_outputs_alone_has_nothing_to_prune(context):
    from torch import nn

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(80, 4)

        def forward(self, image, motion):
            both = self.layer(motion.flatten(1))
            return {"kind": both[:, :3], "level": both[:, 3]}

    bare = FusedModel(cards.parse({**CARD, "factory": "own:build", "kwargs": {}}), Bare()).eval()
    with pytest.raises(PruneError, match="nothing of this model can be pruned") as caught:
        prune(bare, context(bare), ratio=0.5)
    assert "layer: it is an output of the model" in caught.value.why


def test_a_record_of_another_model_is_refused(model):
    other = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match="does not fit what the factory builds"):
        restore(other, {"format": 1, "rounds": [{"attention": [], "kept": {"encoders.sound.weight": {"0": [0]}}}]})
    with pytest.raises(CheckpointError, match="has format 9"):
        restore(other, {"format": 9})


def test_code_that_torch_export_refuses_is_named_before_anything_is_pruned(context):
    from torch import nn

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.kind, self.level = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, image, motion):
            seen = motion.mean(1)
            if float(seen.sum()) > 0:
                seen = seen * 2
            return {"kind": self.kind(seen), "level": self.level(seen).squeeze(1)}

    model = FusedModel(cards.parse({**CARD, "factory": "own:build", "kwargs": {}}), Stubborn()).eval()
    with pytest.raises(ExportError, match=r"test_prune\.py:\d+: `if float\(seen\.sum\(\)\) > 0:`"):
        prune(model, context(model), ratio=0.5)
    assert model.module.kind.weight.shape == (3, 4)
