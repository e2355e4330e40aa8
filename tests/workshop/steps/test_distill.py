"""The step: a student that learns from its teacher, in every way a recipe can ask for, and what cannot be."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts.recipe import parse
from edgemm.contracts.step import Context
from edgemm.data import dataset as datasets
from edgemm.data import in_memory
from edgemm.data.in_memory import open_split
from edgemm.errors import DataError, EdgemmError, TrainError
from edgemm.pipeline.torch_steps import named
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.feature_taps import find_ends
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.steps.distill import distill
from edgemm.workshop.training.answers import evaluate
from edgemm.workshop.training.loop import Diverged, seeded_model, train_model
from edgemm.workshop.training.options import TrainOptions


def plain(width: int = 16, **changes) -> dict:
    mlp = {"mlp": {"hidden": [24], "width": width}}
    return {
        "factory": "models:digits",
        "kwargs": {"encoders": {"left": mlp, "right": mlp}, "fusion": {"concat": {"width": 16, "dropout": 0.0}}},
        "inputs": {"left": {"modality": "sensor", "shape": [6]}, "right": {"modality": "sensor", "shape": [6]}},
        "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression", "unit": "dB"}},
    } | changes


CARD = cards.parse(plain())


def arrays(rows: int, seed: int) -> dict[str, np.ndarray]:
    """The label can be read from either side, better from both; the level is a sum of both."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=rows)
    left, right = (rng.normal(size=(rows, 6)).astype(np.float32) for _ in range(2))
    for side in (left, right):
        side[np.arange(rows), kind] += 2.0
    return {"left": left, "right": right, "kind": kind, "level": 60 + 5 * (left[:, 3] + right[:, 3])}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sides")
    for seed, (split, rows) in enumerate({"train": 390, "val": 200, "test": 300}.items()):
        np.savez(folder / f"{split}.npz", **arrays(rows, seed))
    return folder


@pytest.fixture(scope="module")
def teacher(data: Path) -> FusedModel:
    model = seeded_model(CARD, seed=0)
    train_model(model, datasets.open_dataset(data, CARD), options=TrainOptions(epochs=25, learning_rate=0.01), from_scratch=True)
    return model


@pytest.fixture
def crippled(teacher: FusedModel) -> FusedModel:
    """The teacher with half of each encoder's hidden layer set to zero."""
    model = copy.deepcopy(teacher)
    with torch.no_grad():
        for encoder in model.module.encoders.values():
            encoder.layers[1].weight[:12] = 0
            encoder.layers[1].bias[:12] = 0
    return model


@pytest.fixture
def context(data: Path, teacher: FusedModel, tmp_path: Path):
    """``context(**fields)``; its ``notes`` are a list in ``facts``' place until the step has run."""

    def made(**fields) -> Context:
        given = {"dataset": datasets.open_dataset(data, CARD), "teacher": teacher, "scratch": tmp_path}
        return Context(CARD, **{**given, **fields})

    return made


def weights(model: FusedModel) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.module.state_dict().values()])


def accuracy(model: FusedModel, data: Path, split: str = "val") -> float:
    found = evaluate(model, open_split(datasets.open_dataset(data, CARD), split))
    given, truth = found.answers["kind"], found.truth["kind"]
    return float((given.argmax(1) == truth).mean())


FAST = {"epochs": 4, "learning_rate": 0.005}


def test_a_crippled_student_recovers_and_the_facts_tell_of_it(crippled, context, data):
    ctx = context()
    before = weights(crippled)
    student = distill(crippled, ctx, **FAST)
    assert torch.equal(weights(crippled), before), "a step leaves its argument alone"
    assert not student.training
    scores = ctx.facts["val"]
    assert set(scores) == {"teacher", "before", "after"}
    assert scores["before"]["kind"]["accuracy"] < scores["after"]["kind"]["accuracy"]
    assert scores["after"]["kind"]["accuracy"] >= scores["teacher"]["kind"]["accuracy"] - 0.03
    assert scores["after"]["kind"]["accuracy"] == pytest.approx(accuracy(student, data))
    curves = ctx.facts["curves"]
    assert [epoch for epoch, _ in curves["loss/train"]] == [1, 2, 3, 4]
    assert [epoch for epoch, _ in curves["loss/val"]] == [0, 1, 2, 3, 4]
    assert curves["loss/train"][-1][1] < curves["loss/train"][0][1]
    parts = {name for name in curves if name.startswith("parts of the loss/")}
    assert parts == {f"parts of the loss/{output} ({source})" for output in ("kind", "level") for source in ("labels", "teacher")}


def test_the_same_seed_gives_the_same_student_and_another_seed_another(crippled, context):
    options = {"epochs": 1, "features": {"fusion": 1.0}, "modality_dropout": 0.2}
    first, second, other = (weights(distill(crippled, context(seed=seed), **options)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_student_recovers_in_bf16_too_and_keeps_weights_in_float32(crippled, context, data):
    student = distill(crippled, context(), epochs=3, learning_rate=0.01, mixed_precision="bf16")
    assert accuracy(student, data) > accuracy(crippled, data)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_labels_are_not_read_where_the_tasks_weigh_nothing(crippled, context, tmp_path, data):
    wrong = dict(np.load(data / "train.npz"))
    wrong["kind"] = (wrong["kind"] + 1) % 3
    np.savez(tmp_path / "train.npz", **wrong)
    (tmp_path / "val.npz").write_bytes((data / "val.npz").read_bytes())
    lied_to = datasets.open_dataset(tmp_path, CARD)
    deaf_to_labels = distill(crippled, context(dataset=lied_to), **FAST, task_weight=0.0)
    assert torch.equal(weights(deaf_to_labels), weights(distill(crippled, context(), **FAST, task_weight=0.0)))
    assert accuracy(deaf_to_labels, data) > 0.75


def test_a_student_that_cannot_be_bettered_keeps_the_weights_it_had(teacher, context):
    ctx = context()
    student = distill(teacher, ctx, epochs=1, learning_rate=0.5)
    assert ctx.facts["best_epoch"] == 0
    assert torch.equal(weights(student), weights(teacher))


def test_features_of_another_width_are_learned_through_a_projector_that_is_dropped(teacher, context):
    narrow = seeded_model(cards.parse(plain(width=8)), seed=1)
    with torch.no_grad():
        narrow.module.heads["level"].layers[-1].bias.fill_(60.0)  # else its large error leaves the rest no share of the clipped gradient
    ctx = context()
    student = distill(narrow, ctx, epochs=6, learning_rate=0.005, features={"left": 1.0, "fusion": 1.0}, relations=1.0)
    assert student.module.state_dict().keys() == narrow.module.state_dict().keys()
    for name in ("left (features)", "fusion (features)", "relations"):
        losses = [value for _, value in ctx.facts["curves"][f"parts of the loss/{name}"]]
        assert losses[-1] < losses[0], name
    for model in (student, teacher, narrow):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()), "no hook is left behind"


def test_features_bring_the_students_branch_nearer_to_the_teachers(crippled, teacher, context, data):
    batch = next(datasets.open_dataset(data, CARD).batches("test", 300))
    x = torch.from_numpy(batch.inputs["left"])

    def apart(model):
        with torch.no_grad():
            return float((model.module.encoders["left"](x) - teacher.module.encoders["left"](x)).square().mean())

    plainly = distill(crippled, context(), **FAST)
    by_features = distill(crippled, context(), **FAST, features={"left": 2.0})
    assert apart(by_features) < apart(plainly)


def test_without_a_modality_a_student_answers_better_when_it_was_deprived_in_training(crippled, context, data):
    batch = next(datasets.open_dataset(data, CARD).batches("test", 300))
    inputs = {name: torch.from_numpy(value) for name, value in batch.inputs.items()}

    def without_left(model):
        """Accuracy where the left branch is its mean over the data, as on the box."""
        (module,) = find_ends(model).replaceable["left"]
        hook = model.module.get_submodule(module).register_forward_hook(lambda _m, _a, out: out.mean(0, keepdim=True).expand_as(out))
        with torch.no_grad():
            answered = model(inputs)["kind"].argmax(1).numpy()
        hook.remove()
        return float((answered == batch.truth["kind"]).mean())

    options = {"epochs": 10, "learning_rate": 0.01}
    spoiled, deprived = (distill(crippled, context(), **options, modality_dropout=share) for share in (0.0, 0.5))
    assert without_left(deprived) > without_left(spoiled)
    assert accuracy(deprived, data, "test") > 0.8


def test_rows_without_labels_are_learned_from(crippled, context, tmp_path, data):
    more = arrays(300, 9)
    np.savez(tmp_path / "train.npz", left=more["left"], right=more["right"])
    few = {name: value[:40] for name, value in np.load(data / "train.npz").items()}
    (tmp_path / "few").mkdir()
    np.savez(tmp_path / "few" / "train.npz", **few)
    (tmp_path / "few" / "val.npz").write_bytes((data / "val.npz").read_bytes())
    small = datasets.open_dataset(tmp_path / "few", CARD)
    alone, helped = context(dataset=small), context(dataset=small)
    distill(crippled, alone, epochs=3, learning_rate=0.003)
    student = distill(crippled, helped, epochs=3, learning_rate=0.003, unlabeled=str(tmp_path))
    after = [ctx.facts["curves"]["loss/val"][-1][1] for ctx in (alone, helped)]
    assert after[1] < after[0]
    assert accuracy(student, data) > 0.75


def test_another_card_can_be_the_teacher(crippled, context, teacher, tmp_path):
    save_model(teacher, tmp_path / "other")
    ctx = context(teacher=None)
    student = distill(crippled, ctx, **FAST, teacher=str(tmp_path / "other"))
    assert torch.equal(weights(student), weights(distill(crippled, context(), **FAST)))


def test_a_teacher_may_have_heads_that_the_data_does_not_know(crippled, context):
    more = cards.parse(plain(outputs={**plain()["outputs"], "mood": {"task": "regression"}}))
    ctx = context(teacher=seeded_model(more, seed=0))
    distill(crippled, ctx, epochs=1)
    assert set(ctx.facts["val"]["teacher"]) == {"kind", "level"}


def test_the_teacher_is_asked_once_for_every_row(crippled, context, teacher):
    asked = copy.deepcopy(teacher)
    calls: list[int] = []
    asked.register_forward_hook(lambda _m, args, _out: calls.append(len(args[0]["left"])))
    distill(crippled, context(teacher=asked), epochs=4)
    assert sum(calls) == 200 + 390 + 200  # scored on val; then every row of train and of val once


def test_rows_of_a_function_may_change_unless_they_are_in_memory_and_the_teacher_is_then_asked_anew(
    crippled, context, teacher, tmp_path, monkeypatch
):
    (tmp_path / "sidesource.py").write_text(
        "import numpy as np\n"
        "def rows(split):\n"
        "    rng = np.random.default_rng(0)\n"
        "    for n in range({'train': 64, 'val': 32}.get(split, 0)):\n"
        "        yield dict(left=rng.normal(size=6), right=rng.normal(size=6), kind=n % 3, level=60.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dataset = datasets.open_dataset("sidesource:rows", CARD)
    expected = {1 << 20: 32 + 64 + 32, 0: 32 + 3 * 32 + 2 * 64}
    for memory_bytes, rows in expected.items():
        monkeypatch.setattr(in_memory.open_split, "__kwdefaults__", in_memory.open_split.__kwdefaults__ | {"memory_bytes": memory_bytes})
        asked, calls = copy.deepcopy(teacher), []
        asked.register_forward_hook(lambda _m, args, _out, calls=calls: calls.append(len(args[0]["left"])))
        distill(crippled, context(teacher=asked, dataset=dataset), epochs=2)
        assert sum(calls) == rows


def test_a_distilled_student_is_saved_and_loaded_as_any_other(crippled, context, tmp_path):
    student = distill(crippled, context(), epochs=1)
    save_model(student, tmp_path / "saved")
    assert torch.equal(weights(load_model(cards.load(tmp_path / "saved"))), weights(student))


def test_a_loss_that_is_no_number_names_the_step_and_the_rate_and_says_where_the_last_good_weights_are(
    crippled, context, data, monkeypatch, empty_cache
):
    from edgemm.workshop.training.distillation import Distillation

    calls = []
    real = Distillation.forward

    def explodes(self, outputs, batch):
        calls.append(self.training)
        parts = real(self, outputs, batch)
        return {name: part * (math.nan if sum(calls) == 10 else 1) for name, part in parts.items()}

    monkeypatch.setattr(Distillation, "forward", explodes)
    with pytest.raises(Diverged, match=r"distill: the loss is nan at step 3 of epoch 2, learning rate 0\.00") as caught:
        distill(crippled, context(), **FAST)
    assert "the best weights so far (epoch 1) are in" in caught.value.why
    assert "lower distill.learning_rate" in caught.value.fix
    (folder,) = (empty_cache / "last_good").iterdir()
    kept = load_model(cards.load(folder))
    assert torch.equal(weights(kept), weights(caught.value.kept))
    assert accuracy(kept, data) > accuracy(crippled, data)


def test_a_loss_that_is_no_number_at_once_leaves_the_weights_that_were_given(crippled, context):
    with pytest.raises(Diverged, match=r"distill: .* of epoch 1, learning rate") as caught:
        distill(crippled, context(), epochs=2, learning_rate=1e30)
    assert "the weights it started from are kept" in caught.value.why
    assert torch.equal(weights(caught.value.kept), weights(crippled))


def test_a_teacher_with_other_heads_is_an_error_before_any_work(crippled, context):
    other = cards.parse(plain(outputs={"sort": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}}))
    ctx = context(teacher=seeded_model(other, seed=0), progress=lambda *_: pytest.fail("work was begun"))
    with pytest.raises(TrainError, match=r"the teacher has no output 'kind'(.|\n)*its outputs are sort, level"):
        distill(crippled, ctx)


@pytest.mark.parametrize("dataset", ["none", "synthetic", "empty"])
def test_without_training_data_nothing_is_begun(crippled, context, tmp_path, dataset):
    np.savez(tmp_path / "val.npz", **arrays(20, 0))
    given = {"none": lambda: None, "synthetic": lambda: datasets.synthetic(CARD), "empty": lambda: datasets.open_dataset(tmp_path, CARD)}
    why = {"none": "there is no dataset", "synthetic": "made up and have no labels", "empty": "no rows of split 'train'"}[dataset]
    with pytest.raises(DataError, match=rf"distill needs training data(.|\n)*{why}"):
        distill(crippled, context(dataset=given[dataset]()))


def test_unlabeled_data_without_a_train_split_is_an_error(crippled, context, tmp_path):
    np.savez(tmp_path / "test.npz", **arrays(20, 0))
    with pytest.raises(DataError, match=r"unlabeled: .* has no rows of split 'train'"):
        distill(crippled, context(), unlabeled=str(tmp_path))


def test_a_step_without_a_teacher_is_an_error(crippled, context):
    with pytest.raises(TrainError, match=r"distill has no teacher(.|\n)*add teacher: <card>"):
        distill(crippled, context(teacher=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0(.|\n)*above 0"),
        ({"task_weight": -1.0}, r"task_weight is -1\.0"),
        ({"features": {"left": -2.0}}, r"features\.left is -2\.0"),
        ({"modality_dropout": 1.0}, r"modality_dropout is 1\.0"),
        ({"epochs": 0}, r"epochs is 0"),
        ({"memory": 8}, r"memory stands without relations"),
        ({"memory": 8, "relations": 1.0}, r"memory needs embeddings that are pairs"),
        ({"logits_weight": 0.0}, r"nothing is learned from the teacher"),
    ],
)
def test_options_out_of_range_are_named(crippled, context, options, message):
    with pytest.raises(TrainError, match=message):
        distill(crippled, context(), **options)


def test_a_feature_of_no_part_is_an_error_that_names_the_parts(crippled, context):
    with pytest.raises(EdgemmError, match=r"'lefty' is no part of this model(.|\n)*did you mean 'left'"):
        distill(crippled, context(), features={"lefty": 1.0})


def test_a_recipe_can_say_all_of_it():
    given = {"epochs": 3, "features": {"sensor": 1, "fusion": 0.5}, "relations": 0.1, "modality_dropout": 0.2, "teacher": "big/model.yaml"}
    assert parse({"steps": [{"distill": given}], "targets": ["onnxruntime"]}, card=CARD).steps[0].options == given
    with pytest.raises(EdgemmError, match="features names 'imag', no part of this model"):
        parse({"steps": [{"distill": {"features": {"imag": 1.0}}}], "targets": ["onnxruntime"]}, card=CARD)


def test_another_teacher_or_other_unlabelled_rows_make_another_key(teacher, tmp_path):
    save_model(teacher, tmp_path / "other")
    recipe = parse({"steps": [{"distill": {"teacher": str(tmp_path / "other"), "unlabeled": str(tmp_path)}}], "targets": ["onnxruntime"]})
    found = []
    for rows in (20, 30):
        np.savez(tmp_path / "train.npz", **{side: arrays(rows, 0)[side] for side in ("left", "right")})
        found.append(named(recipe.steps[0], CARD))
    save_model(seeded_model(CARD, seed=5), tmp_path / "other")
    found.append(named(recipe.steps[0], CARD))
    assert found[0]["teacher"] == found[1]["teacher"] != found[2]["teacher"]
    assert found[0]["unlabeled"] != found[1]["unlabeled"] == found[2]["unlabeled"]
