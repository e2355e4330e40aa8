"""What the steps of a recipe can refuse is told before the first of them works."""

from dataclasses import replace

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.recipe import load, parse, shipped
from edgemm.contracts.report import Measurement
from edgemm.data.dataset import open_dataset
from edgemm.errors import EdgemmError, Mistakes
from edgemm.pipeline import stages, torch_steps
from edgemm.pipeline.job import Job
from edgemm.progress import Progress

CARD = {
    "factory": "models:digits",
    "kwargs": {
        "encoders": {name: {"mlp": {"hidden": [24], "width": 16}} for name in ("left", "right")},
        "fusion": {"concat": {"width": 16}},
    },
    "inputs": {name: {"modality": "sensor", "shape": [6]} for name in ("left", "right")},
    "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}},
}


@pytest.fixture
def job(tmp_path) -> Job:
    (tmp_path / "model.yaml").write_text(cards.parse(CARD).to_yaml())
    card = cards.load(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        rows = {name: rng.normal(size=(8, 6)).astype(np.float32) for name in ("left", "right")}
        np.savez(tmp_path / f"{split}.npz", **rows, kind=rng.integers(3, size=8))
    return Job(card, str(tmp_path), open_dataset(tmp_path, card), Progress())


def refused(job: Job, *steps, targets=("onnxruntime",)) -> EdgemmError:
    recipe = parse({"steps": list(steps), "targets": list(targets)}, card=job.card)
    with pytest.raises(EdgemmError) as caught:
        torch_steps.check(job, recipe)
    return caught.value


FIRST = {"prune": {"ratio": 0.5, "recovery_epochs": 3}}


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"prune": {"macs_ratio": 0.5, "rounds": 0}}, "rounds is 0."),
        ({"distill": {"temperature": 0}}, "distill: temperature is 0."),
        ({"distill": {"epochs": 0}}, "epochs is 0."),
        ({"distill": {"loss_weights": {"sort": 2.0}}}, "a loss weight names 'sort', no output of this model."),
        ({"qat": {"calibration_samples": 0}}, "calibration_samples is 0."),
        ({"qat": {"precision": {"left": "int4"}}}, "precision.left: 'int4' is no precision of target 'onnxruntime'."),
        ({"qat": {"learning_rate": 0}}, "learning_rate is 0."),
        ({"quantize": {"calibration_samples": 1}}, "1 calibration sample: too few to take ranges from."),
        ({"quantize": {"precision": {"left": "bf16"}}}, "precision.left: target 'onnxruntime' has no bf16."),
        ({"quantize": {"precision": {"left": "int4"}}}, "precision.left: 'int4' is no precision."),
    ],
)  # fmt: skip
def test_a_wrong_option_of_a_later_step_is_told_before_the_first_trains(step, what, job):
    assert refused(job, FIRST, step).what == what


def test_a_teacher_with_other_heads_is_told_before_the_first_step(job, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    plain = {**CARD, "outputs": {"sort": {"task": "classification", "labels": ["a", "b"]}}}
    (other / "model.yaml").write_text(cards.parse(plain).to_yaml())
    error = refused(job, FIRST, {"distill": {"teacher": str(other)}})
    assert error.what == "the teacher has no output 'kind'."


def test_all_mistakes_of_all_steps_are_told_at_once(job):
    error = refused(job, {"prune": {"ratio": 0.5, "samples": 0}}, {"distill": {"epochs": 0}}, {"quantize": {"calibration_samples": 0}})
    assert isinstance(error, Mistakes)
    assert [one.what.split()[0] for one in error.errors] == ["samples", "epochs", "0"]


def test_every_target_is_asked_by_the_steps_that_work_for_it(job):
    error = refused(job, {"quantize": {"precision": {"left": "bf16"}}}, targets=("openvino", "onnxruntime"))
    assert error.what == "precision.left: target 'onnxruntime' has no bf16."


def test_a_later_latency_is_told_as_of_the_machine_at_the_first():
    found = [
        Measurement("latency_p50_ms", 2.0, "ms", low=1.5, high=2.5),
        Measurement("latency_p95_ms", 4.0, "ms"),
        Measurement("size_mib", 3.0, "MiB"),
    ]
    slower = torch_steps.as_before(found, 1.5)
    assert [(m.value, m.low, m.high) for m in slower] == [(3.0, 2.25, 3.75), (6.0, None, None), (3.0, None, None)]


def test_the_branch_and_layer_that_pruning_took_most_from_are_named(job):
    plain = {
        "steps": [{"prune": {"branches": {"left": 0.5}, "criterion": "magnitude", "round_to": 1}}, "quantize"],
        "targets": ["onnxruntime"],
    }
    shaped = torch_steps.shape(job, stages.export(job), parse(plain), opset=18)
    rows = {row["layer"]: row for row in shaped.applied[0].facts["layers"]}
    assert all((row["share_of_branch_lost"] > 0) == (row["branch"] == "left") for row in rows.values())
    said = shaped.heaviest_cut()
    assert "Pruning took most from branch 'left' (" in said
    worst = max(rows.values(), key=lambda row: row["share_of_branch_lost"])
    before, after = worst["channels"]
    assert f"its layer '{worst['layer']}' ({before} -> {after} channels)" in said
    assert replace(shaped, applied=[]).heaviest_cut() == ""


@pytest.mark.slow
def test_a_pruned_candidate_is_exported_and_timed_on_the_target_itself(job):
    """What is timed is exported from a checkpoint, so a pruned candidate has to be one that can be built again."""
    from edgemm.workshop.models.checkpoint.loading import load_model

    plain = {"steps": [{"prune": {"ratio": 0.5, "criterion": "magnitude"}}, "quantize"], "targets": ["onnxruntime"]}
    pruned = torch_steps.shape(job, stages.export(job), parse(plain), opset=18).job
    assert pruned.card.path != job.card.path
    measure = torch_steps._timer(job, parse(plain), 18)
    assert measure is not None
    for card in (job.card, pruned.card):
        (p50,) = [m.value for m in measure(load_model(card)) if m.name == "latency_p50_ms"]
        assert 0 < p50 < 1000


def test_another_budget_or_calibration_trains_nothing_again(job, empty_cache):
    steps = [{"prune": {"ratio": 0.5, "criterion": "magnitude"}}, {"distill": {"epochs": 1}}]
    exported = stages.export(job)
    for samples, points in ((4, 1.0), (6, 0.5)):
        plain = {"steps": [*steps, {"quantize": {"calibration_samples": samples}}], "targets": ["onnxruntime"]}
        again = replace(job, made=[], reused=[])
        torch_steps.shape(again, exported, parse({**plain, "budgets": {"accuracy_drop_points": points}}), opset=18)
    assert again.made == []
    assert again.reused[:2] == ["prune", "distill"]


def test_the_shipped_recipes_are_refused_nothing(job):
    assert "prune50-distil-int8" in shipped()
    for name in shipped():
        if name not in ("two-tower", "tower-merge"):  # for pairs of embeddings alone
            torch_steps.check(job, load(name, card=job.card))
