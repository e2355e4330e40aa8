"""What a student learns from a teacher: the losses, the teacher, the taps, and going without a modality."""

import copy
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Input, Output
from edgemm.data.modalities.text import build_vocabulary
from edgemm.errors import EdgemmError, TrainError
from edgemm.workshop.models.build import build
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.feature_taps import Deprivation, Taps, find_ends
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.training.distillation import Distillation, Projector, comparable, map_loss, relation_loss, width_axis
from edgemm.workshop.training.layer_pairs import pair
from edgemm.workshop.training.loss import feature_loss, of
from edgemm.workshop.training.task_losses import Tensors
from edgemm.workshop.training.teacher import Teacher, require_same_heads

LABELS = Output("kind", "classification", {"labels": ("a", "b", "c")})
SENSORS = {"left": {"modality": "sensor", "shape": [4]}, "right": {"modality": "sensor", "shape": [3]}}


def imitation(student, teacher):
    return of(LABELS).imitation(student, teacher, temperature=2.0)


def own_card(outputs=None, inputs=None):
    return cards.parse(
        {
            "factory": "own:build",
            "inputs": inputs or SENSORS,
            "outputs": outputs or {"kind": {"task": "classification", "labels": ["a", "b", "c"]}},
        }
    )


class Two(nn.Module):
    """Two branches that end in modules of their own, a fusion and a head."""

    def __init__(self, width=6, activated=False):
        super().__init__()
        self.left, self.right = nn.Linear(4, width), nn.Linear(3, width)
        self.join, self.head = nn.Linear(2 * width, 5), nn.Linear(5, 3)
        self.activated = activated

    def forward(self, left, right):
        left, right = self.left(left), self.right(right)
        if self.activated:
            left, right = torch.tanh(left), torch.tanh(right)
        return self.head(F.relu(self.join(torch.cat([left, right], 1))))


def own(seed=0, **options) -> FusedModel:
    torch.manual_seed(seed)
    return FusedModel(own_card(), Two(**options)).eval()


def batch_of(rows: int, seed: int = 0, first: int = 0) -> Tensors:
    torch.manual_seed(seed)
    return Tensors(
        {"left": torch.randn(rows, 4), "right": torch.randn(rows, 3)},
        {"kind": torch.randint(3, (rows,))},
        {},
        torch.arange(first, first + rows),
    )


def test_one_feature_weight_suits_branches_of_any_scale():
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 6), torch.randn(8, 6)
    for scale in (1e-2, 1e2):
        scaled = feature_loss(scale * student, scale * teacher, "mse")
        assert scaled == pytest.approx(float(feature_loss(student, teacher, "mse")), rel=1e-4)
    assert feature_loss(3 * teacher, teacher, "cosine") == pytest.approx(0.0, abs=1e-6)


def test_relations_know_neither_width_nor_rotation():
    torch.manual_seed(0)
    teacher = torch.randn(9, 6)
    turned = teacher @ torch.linalg.qr(torch.randn(8, 8))[0][:6]
    assert relation_loss(2 * turned, teacher) == pytest.approx(0.0, abs=1e-6)
    assert relation_loss(torch.randn(9, 8), teacher) > 0.01


def test_relations_of_a_sequence_are_also_those_between_its_tokens():
    torch.manual_seed(0)
    sample = torch.randn(1, 5, 6)
    teacher = sample.repeat(4, 1, 1)
    student = teacher[:, torch.randperm(5)]  # all samples are still alike; their tokens changed places
    assert relation_loss(teacher, teacher) == pytest.approx(0.0, abs=1e-6)
    assert relation_loss(student, teacher) > 0.01


def test_a_projector_maps_the_axis_that_differs():
    assert width_axis((8, 5, 5), (16, 5, 5)) == 0
    assert width_axis((5, 8), (5, 8)) is None
    assert Projector(8, 16, 1)(torch.zeros(2, 8, 5, 5)).shape == (2, 16, 5, 5)
    assert not comparable((5, 8), (6, 16))
    assert not comparable((8,), (8, 1))


def test_the_loss_is_the_sum_of_labels_and_teacher_and_skips_labels_where_a_batch_has_none():
    student, teacher = own(0), own(1)
    batch = batch_of(8)
    with torch.no_grad():
        outputs, taught = student(batch.inputs), teacher(batch.inputs)
    loss = Distillation(student.card, Teacher(teacher), logits_weight=2.0, task_weight=0.5, loss_weights={"kind": 3.0})
    parts = loss(outputs, batch)
    assert parts["kind (teacher)"] == pytest.approx(6.0 * float(imitation(outputs, taught)))
    assert parts["kind (labels)"] == pytest.approx(1.5 * float(F.cross_entropy(outputs["kind"], batch.truth["kind"])))
    assert set(loss(outputs, Tensors(batch.inputs, {}, {}, batch.rows))) == {"kind (teacher)"}
    assert not list(loss.parameters()), "the teacher is no part of what is trained"


def test_the_teacher_is_asked_once_a_row_and_again_for_rows_it_has_not_seen():
    teacher, calls = own(), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    asked = Teacher(teacher, rows={"train": 12, "val": 8})
    first = asked(batch_of(8), "train").outputs["kind"]
    again = asked(batch_of(8), "train").outputs["kind"]
    assert len(calls) == 1
    assert torch.equal(first, again)
    assert not again.requires_grad
    asked(batch_of(4, seed=1, first=8), "train")
    assert len(calls) == 2
    other = asked(batch_of(8, seed=2), "val").outputs["kind"]
    assert len(calls) == 3, "a row of val is another than the row of train with its number"
    assert not torch.equal(first, other)
    asked(batch_of(8), "")
    assert len(calls) == 4, "rows that may change are asked anew"


def test_a_teacher_whose_answers_do_not_fit_is_asked_anew_and_says_so_once():
    teacher, calls, notes = own(), [], []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    asked = Teacher(teacher, rows={"train": 8}, memory_bytes=50, note=notes.append)
    for _ in range(3):
        asked(batch_of(8), "train")
    assert len(calls) == 3
    assert len(notes) == 1
    assert "it is asked anew in every epoch" in notes[0]


@pytest.mark.parametrize(("first", "is_kept"), [(0, True), (10**7, False)])
def test_a_teachers_memory_holds_its_limit_with_where_the_answers_lie(first, is_kept):
    """A row's place counts too: a few rows far down in a long manifest, or a great many rows."""
    teacher, calls, notes, limit = own(), [], [], 4 << 20
    teacher.register_forward_hook(lambda *_: calls.append(1))
    asked = Teacher(teacher, rows={"train": 200_000}, memory_bytes=limit, note=notes.append)
    kinds = asked(batch_of(8, first=first), "train").outputs["kind"].shape[1]
    assert limit > 4 * kinds * 200_000, "the answers alone fit"
    batches = [batch_of(100, first=start + first) for start in range(0, 2000, 100)]
    tracemalloc.start()
    for batch in batches:
        asked(batch, "train")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < limit
    asked(batches[0], "train")
    assert len(calls) == (22 if not is_kept else 21)
    assert bool(notes) != is_kept


def test_answers_kept_in_inference_mode_can_be_trained_with():
    asked = Teacher(own(), rows={"train": 8})
    with torch.inference_mode():
        asked(batch_of(8), "train")
    student = own(1)
    loss = imitation(student(batch_of(8).inputs), asked(batch_of(8), "train").outputs)
    loss.backward()
    assert student.module.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"sort": {"task": "classification", "labels": ["a", "b", "c"]}}, r"the teacher has no output 'kind'(.|\n)*its outputs are sort"),
        ({"kind": {"task": "regression"}}, r"output 'kind': task is 'regression' for the teacher and 'classification' for the student"),
        ({"kind": {"task": "classification", "labels": ["a", "b"]}}, r"output 'kind': the teacher has 2 labels, the student 3"),
        (
            {"kind": {"task": "classification", "labels": ["b", "a", "c"]}},
            r"output 'kind': teacher and student name its labels differently, or in another order(.|\n)*b, a, c",
        ),
    ],
)
def test_a_teacher_with_other_heads_is_refused_by_name(outputs, message):
    with pytest.raises(TrainError, match=message):
        require_same_heads(own_card(outputs), own_card())


def test_every_head_that_differs_is_named():
    two = {"one": {"task": "regression"}, "two": {"task": "regression"}}
    with pytest.raises(EdgemmError, match=r"no output 'one'(.|\n)*no output 'two'"):
        require_same_heads(own_card(), own_card(two))


def test_a_teacher_that_reads_other_inputs_is_refused():
    wide = own_card(inputs={**SENSORS, "left": {"modality": "sensor", "shape": [9]}})
    with pytest.raises(TrainError, match=r"the teacher's input 'left' is not the student's(.|\n)*9"):
        require_same_heads(wide, own_card())


def test_a_teacher_for_whom_a_row_would_be_another_sample_is_refused(tmp_path):
    slow, fast = ({"left": {"modality": "audio", "rate_hz": rate, "seconds": 8000 / rate}} for rate in (8000, 16000))
    with pytest.raises(TrainError, match=r"the teacher's input 'left' is not the student's(.|\n)*their 'rate_hz' differs"):
        require_same_heads(own_card(inputs=fast), own_card(inputs=slow))
    words = []
    for name in ("one", "two"):
        (tmp_path / name).write_text(build_vocabulary([f"a {name}"], 10))
        words.append(own_card(inputs={"left": {"modality": "text", "tokenizer": str(tmp_path / name), "length": 8}}))
    require_same_heads(words[0], words[0])
    with pytest.raises(TrainError, match="their 'tokenizer' differs"):
        require_same_heads(*words)


def test_a_teacher_with_more_heads_or_fewer_inputs_will_do():
    more = {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}}
    require_same_heads(own_card(more, {"left": SENSORS["left"]}), own_card())


def test_taps_hear_the_ends_of_branches_and_fusion():
    model = own()
    ends = find_ends(model)
    assert (ends.features["left"], ends.features["right"]) == ("left", "right")
    assert ends.features["fusion"] == "join"
    assert ends.replaceable == {"left": ["left"], "right": ["right"]}
    taps = Taps(model, ends.features)
    batch = batch_of(4)
    model(batch.inputs)
    assert torch.equal(taps.features(4)["left"], model.module.left(batch.inputs["left"]))
    taps.close()
    assert not model.module.left._forward_hooks


def test_where_a_branch_ends_in_an_activation_its_features_are_taken_before_it_and_it_cannot_be_replaced():
    ends = find_ends(own(activated=True))
    assert ends.features["left"] == "left"
    assert ends.replaceable == {}


def test_steps_folded_into_the_batch_are_an_axis_of_a_sample():
    model = load_model(cards.load("text-audio-image-multitask"), weights=False)
    ends = find_ends(model)
    taps = Taps(model, ends.features)
    with torch.no_grad():
        model(sample_inputs(model.card, batch=3))
    heard = taps.features(3)
    steps = next(spec.steps for spec in model.card.inputs.values() if spec.steps)
    assert {tuple(tensor.shape[:2]) for tensor in heard.values()} == {(3, steps)}


def test_a_pair_compares_what_can_be_compared_and_says_what_not():
    narrow, wide, notes = own(width=4), own(width=6), []
    found = pair(narrow, wide, {"left": 1.0, "fusion": 0.5}, notes.append)
    assert found is not None
    assert dict(found.weights) == {"left": 1.0, "fusion": 0.5}
    assert (found.student_shapes["left"], found.teacher_shapes["left"]) == ((4,), (6,))
    found.close()
    assert not notes

    class Bare(Two):
        def forward(self, left, right):
            mixed = left @ self.left.weight.T
            return self.head(F.relu(self.join(torch.cat([mixed, self.right(right)], 1))))

    bare = FusedModel(own_card(), Bare()).eval()
    assert pair(bare, wide, {"left": 1.0}, notes.append) is None
    assert "the features of 'left' are not compared: no submodule of the student returns its last tensor." in notes
    assert pair(wide, bare, {"left": 1.0}, notes.append) is None
    assert "the teacher has no submodule that ends where 'left' does; it is not compared there." in notes


def test_a_feature_of_a_head_or_of_no_part_is_an_error():
    with pytest.raises(TrainError, match=r"features names 'head'(.|\n)*learned by logits_weight"):
        pair(own(), own(1), {"head": 1.0}, print)
    with pytest.raises(EdgemmError, match=r"'lefty' is no part of this model(.|\n)*did you mean 'left'"):
        pair(own(), own(1), {"lefty": 1.0}, print)


def deprived(model, share, notes=None):
    return Deprivation(model, share, find_ends(model).replaceable, (notes if notes is not None else []).append)


def test_a_missing_modality_is_replaced_at_its_end_by_the_running_mean_and_one_always_stays():
    model = own()
    heard = {}
    model.module.join.register_forward_pre_hook(lambda _module, args: heard.update(x=args[0].detach()))
    deprivation = deprived(model, 0.9)
    batch = batch_of(400)
    torch.manual_seed(0)
    model.train()
    model(batch.inputs)
    deprivation.close()
    gone = [(heard["x"][:, part] - heard["x"][:, part].median(0).values).abs().amax(1) < 1e-5 for part in (slice(0, 6), slice(6, 12))]
    assert gone[0].sum() > 100
    assert gone[1].sum() > 100
    assert not (gone[0] & gone[1]).any(), "one modality of a sample always stays"
    replaced = heard["x"][gone[0], :6][0]
    batch_mean = model.module.left(batch.inputs["left"]).mean(0)
    assert torch.allclose(replaced, batch_mean, atol=1e-5)


def test_in_eval_mode_and_after_closing_nothing_is_missing():
    model, batch = own(), batch_of(64)
    plain = model(batch.inputs)["kind"]
    deprivation = deprived(model, 0.9)
    assert torch.equal(model(batch.inputs)["kind"], plain)
    model.train()
    assert not torch.equal(model(batch.inputs)["kind"], plain)
    deprivation.close()
    assert torch.equal(model(batch.inputs)["kind"], plain)


def test_a_branch_without_a_module_at_its_end_is_silenced_at_its_input():
    model, notes = own(activated=True), []
    seen = {}
    deprived(model, 0.5, notes)
    model.module.left.register_forward_pre_hook(lambda _module, args: seen.update(left=args[0]))
    batch = batch_of(200)
    model.train()
    model(batch.inputs)
    silent = (seen["left"] == 0).all(dim=1)
    assert 40 < int(silent.sum()) < 120
    assert torch.equal(seen["left"][~silent], batch.inputs["left"][~silent])
    assert "'left', 'right' ends in no submodule" in notes[0]


def test_going_without_needs_two_inputs():
    card = own_card(inputs={"left": SENSORS["left"]})
    with pytest.raises(TrainError, match=r"modality_dropout is 0.3, and this model has 1 input"):
        Deprivation(FusedModel(card, nn.Linear(4, 3)), 0.3, {}, print)


def test_a_model_that_cannot_bear_silence_is_refused():
    class Dividing(Two):
        def forward(self, left, right):
            return super().forward(left / left.square().sum(1, keepdim=True).sqrt(), right).log_softmax(-1)

    model = FusedModel(own_card(), Dividing(activated=True)).eval()
    with pytest.raises(TrainError, match="the model answers NaN where 'left' is silent"):
        deprived(model, 0.3)


def test_a_copy_of_a_model_is_heard_by_the_same_taps():
    model = own()
    taps = Taps(model, {"left": "left"})
    twin = copy.deepcopy(model)
    twin(batch_of(3).inputs)
    assert np.shape(taps.features(3)["left"]) == (3, 6)


def test_of_maps_the_cells_count_in_which_something_is_seen():
    teacher, seen = torch.randn(4, 3, 6, 6), torch.zeros(4, 6, 6)
    seen[:, :2, :2] = 1.0
    wrong = {"there": teacher.clone(), "elsewhere": teacher.clone()}
    wrong["there"][..., :2, :2] += 1.0
    wrong["elsewhere"][..., 2:, 2:] += 1.0
    there, elsewhere = (float(map_loss(wrong[where], teacher, seen, 1.0)) for where in ("there", "elsewhere"))
    assert there > 0.5
    assert elsewhere == 0.0
    assert float(map_loss(wrong["elsewhere"], teacher, seen, 0.5)) > 0
    assert feature_loss(wrong["there"], teacher, "mse") < 0.2 * there, "of all cells alike the few say little"


def test_maps_of_a_picture_are_learned_where_the_teacher_s_answer_has_something():
    encoders = {"image": {"c2f": {"channels": [4, 8, 8]}}, "left": {"mlp": {"width": 8}}}
    inputs = {"image": {"modality": "image", "height": 32, "width": 32}, "left": SENSORS["left"]}
    outputs = {"boxes": {"task": "detection", "labels": ["a", "b"], "frame": "image"}}
    kwargs = {"encoders": encoders, "fusion": {"film": {"width": 8}}}
    card = cards.parse({"factory": "models:digits", "kwargs": kwargs, "inputs": inputs, "outputs": outputs})
    torch.manual_seed(0)
    teacher, student = (FusedModel(card, build(card)).eval() for _ in range(2))
    compared = pair(student, teacher, {"image": 1.0, "left": 1.0, "fusion": 1.0}, pytest.fail)
    loss = Distillation(card, Teacher(teacher, taps=compared.teacher), taps=compared.student, features=compared.weights, foreground=1.0)
    batch = Tensors(sample_inputs(card), {}, {}, torch.arange(2))
    parts = loss(student(batch.inputs), batch)
    loss.foreground = 0.0
    alike = loss(student(batch.inputs), batch)
    changed = {tap.removesuffix(" (features)") for tap in parts if parts[tap] != alike[tap]}
    assert changed == {tap for tap in compared.weights if not tap.startswith("left")} >= {"image", "fusion"}


@pytest.mark.parametrize(
    ("task", "options", "channels"),
    [
        ("segmentation", {"labels": ("ground", "a")}, 2),
        ("keypoints", {"labels": ("a",), "points": ("top", "left"), "layout": "centres"}, 7),
    ],
)
def test_masks_and_points_say_where_something_is_to_be_seen(task, options, channels):
    image = Input("image", "image", {"height": 32, "width": 32})
    output = Output("y", task, {**options, "frame": "image"}, inputs={"image": image})
    answer = torch.full((1, channels, 16, 16), -9.0)
    if task == "segmentation":
        answer[:, 0] = 0.0
    answer[:, 1, 2:4, 2:4] = 9.0
    seen = of(output).foreground({"y": answer}, (8, 8))
    assert seen.shape == (1, 8, 8)
    assert seen[0, 1, 1] > 0.9
    assert seen.sum() - seen[0, 1, 1] < 0.1
