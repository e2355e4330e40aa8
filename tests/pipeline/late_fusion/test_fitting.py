"""Fitting a joint: what is calibrated, which rule wins, and that a member alone stays as good as it was."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.joint import JointHead
from edgemm.data import calibration
from edgemm.errors import CardError, Mistakes
from edgemm.pipeline.late_fusion import choosing
from edgemm.pipeline.late_fusion import labels as joint_labels
from edgemm.pipeline.late_fusion import members as joint_members
from edgemm.pipeline.late_fusion.fitting import Rows, answer, fit

LABELS = 5


def sensed(count: int, seed: int, *, sizes=(2.5, 1.5)) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two members that each see the truth through their own noise: its posterior's logits, so the right temperature is known."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, LABELS, count)
    said = {}
    for name, size in zip(("eye", "ear"), sizes, strict=True):
        seen = rng.normal(size=(count, LABELS)) + size * np.eye(LABELS)[truth]
        said[name] = (size * seen).astype(np.float32)  # the log-likelihood, up to a constant
    return said, truth


def rows(said, truth, task="classification", width=LABELS) -> Rows:
    return Rows(task, said, {name: np.ones(len(value), bool) for name, value in said.items()}, truth, width)


HEAD = JointHead({"eye": "class", "ear": "class"})


def test_members_that_are_too_sure_are_calibrated_and_independent_ones_are_multiplied():
    said, truth = sensed(2000, 0)
    loud = {"eye": said["eye"] * 3, "ear": said["ear"] / 4}
    fitted = fit(HEAD, rows(loud, truth))
    assert fitted.parameters["eye.scale"].item() == pytest.approx(1 / 3, rel=0.1)
    assert fitted.parameters["ear.scale"].item() == pytest.approx(4, rel=0.15)
    assert fitted.head.rules == {"eye": "alone", "ear": "alone", "eye+ear": "average"}
    fresh, then = sensed(4000, 1)
    answered = answer(fitted.head, rows({"eye": fresh["eye"] * 3, "ear": fresh["ear"] / 4}, then), fitted.parameters)
    best = (fresh["eye"] + fresh["ear"]).argmax(1)  # Bayes' rule, as both are independent given the truth
    assert (answered.argmax(1) == then).mean() >= (best == then).mean() - 0.005
    assert calibration.reliability("classification", answered, then).ece < 0.02


def test_a_member_that_calls_one_label_by_anothers_name_wants_stacking():
    said, truth = sensed(1500, 2)
    said["ear"] = said["ear"][:, [0, 1, 2, 4, 3]]
    fitted = fit(HEAD, rows(said, truth))
    assert fitted.head.rules["eye+ear"] == "stacking"
    assert {row.rule for row in fitted.tried if row.subset == "eye+ear"} == {"average", "noisy_or", "stacking", "gate"}


def test_a_member_that_is_only_sometimes_right_and_knows_it_wants_a_gate():
    rng = np.random.default_rng(3)
    count = 3000
    truth, sees = rng.integers(0, LABELS, count), rng.random(count) < 0.5
    other = rng.integers(0, LABELS, count)
    eye = np.where(sees[:, None], 6 * np.eye(LABELS)[truth], 0.3 * np.eye(LABELS)[other]) + rng.normal(0, 0.2, (count, LABELS))
    ear = np.where(sees[:, None], 3 * np.eye(LABELS)[other], 3 * np.eye(LABELS)[truth]) + rng.normal(0, 0.2, (count, LABELS))
    fitted = fit(HEAD, rows({"eye": eye.astype(np.float32), "ear": ear.astype(np.float32)}, truth))
    loss = {row.rule: row.loss for row in fitted.tried if row.subset == "eye+ear"}
    assert loss["gate"] < loss["average"]
    assert loss["gate"] < loss["noisy_or"]


def test_what_a_rule_learns_of_an_odd_val_is_not_taken_where_it_harms_train():
    said, truth = sensed(1500, 2)
    usual, then = sensed(1000, 12, sizes=(4, 3))
    said["ear"] = said["ear"][:, [0, 1, 2, 4, 3]]  # the voice of val says one label as all others say another
    free = fit(HEAD, rows(said, truth))
    held = fit(HEAD, rows(said, truth), elsewhere=rows(usual, then))
    assert free.head.rules["eye+ear"] == "stacking"
    right = [float((answer(one.head, rows(usual, then), one.parameters).argmax(1) == then).mean()) for one in (free, held)]
    assert right[1] > right[0] + 0.02
    learned = {row.rule: row for row in held.tried if row.subset == "eye+ear"}
    assert learned["stacking"].taken or "of train where the average is in" in learned["stacking"].note


def test_rows_that_show_the_same_are_in_one_fold():
    rng = np.random.default_rng(0)
    heard = np.repeat(rng.normal(size=(40, 2, 3)), 2, 0)  # each shown twice
    heard[:, 0] += rng.normal(size=(80, 3))  # to one member otherwise
    fold = choosing.folds(choosing.Part("classification", heard[:, None], np.zeros(80, int), 3), 0)
    np.testing.assert_array_equal(fold[::2], fold[1::2])
    assert set(fold) == set(range(5))


@pytest.mark.parametrize("rule", ["average", "noisy_or", "stacking", "gate", "max", "vote"])
def test_a_rule_that_is_asked_for_is_taken_and_a_member_alone_answers_as_it_did(rule):
    said, truth = sensed(600, 4)
    fitted = fit(HEAD, rows(said, truth), rule=rule)
    assert fitted.head.rules["eye+ear"] == rule
    for member in said:
        alone = answer(fitted.head, rows(said, truth), fitted.parameters, hearing=[member])
        np.testing.assert_array_equal(alone.argmax(1), said[member].argmax(1))


def test_weights_that_are_asked_for_are_taken():
    said, truth = sensed(600, 5)
    fitted = fit(HEAD, rows(said, truth), rule="weighted", weights=(3, 1))
    np.testing.assert_allclose(fitted.parameters["weights"][0, 2, :, 0], [0.75, 0.25])


def test_one_logit_for_two_labels_is_shifted_too():
    rng = np.random.default_rng(6)
    truth = (rng.random(3000) < 0.2).astype(np.int64)
    z = 2 * truth + rng.normal(size=3000) + 1.5  # a detector that says yes too early
    said = {"eye": np.stack([np.zeros(3000), z], 1).astype(np.float32), "ear": np.stack([np.zeros(3000), 3 * z], 1).astype(np.float32)}
    fitted = fit(HEAD, rows(said, truth, width=2))
    assert fitted.parameters["eye.shift"][0, 0] == 0
    assert fitted.parameters["eye.shift"][0, 1] < -3
    answered = answer(fitted.head, rows(said, truth, width=2), fitted.parameters, hearing=["eye"])
    assert calibration.reliability("classification", answered, truth).ece < 0.02


def test_a_multilabel_is_calibrated_label_by_label():
    rng = np.random.default_rng(7)
    truth = (rng.random((3000, 3)) < [0.1, 0.5, 0.9]).astype(np.float32)
    said = {
        name: (scale * (2 * truth - 1 + rng.normal(size=truth.shape)) + 1).astype(np.float32) for name, scale in (("eye", 3), ("ear", 1))
    }
    fitted = fit(JointHead({"eye": "a", "ear": "a"}), rows(said, truth, "multilabel", 3))
    answered = answer(fitted.head, rows(said, truth, "multilabel", 3), fitted.parameters)
    assert calibration.reliability("multilabel", answered, truth).ece < 0.02
    both = calibration.losses("multilabel", answered, truth).mean()
    for member in said:
        alone = answer(fitted.head, rows(said, truth, "multilabel", 3), fitted.parameters, hearing=[member])
        assert both < calibration.losses("multilabel", alone, truth).mean()


def test_a_regression_is_told_in_its_own_unit_and_its_members_weigh_what_they_know():
    rng = np.random.default_rng(8)
    truth = rng.normal(60, 8, 2000).astype(np.float32)
    said = {"eye": (truth[:, None] / 2 + rng.normal(0, 1, (2000, 1))).astype(np.float32),
            "ear": (truth[:, None] + 20 + rng.normal(0, 6, (2000, 1))).astype(np.float32)}  # fmt: skip
    fitted = fit(JointHead({"eye": "level", "ear": "level"}), rows(said, truth, "regression", 1))
    known = rows(said, truth, "regression", 1)
    errors = {
        name: float(np.abs(answer(fitted.head, known, fitted.parameters, hearing=hearing)[:, 0] - truth).mean())
        for name, hearing in (("eye", ["eye"]), ("ear", ["ear"]), ("both", None))
    }
    assert fitted.head.rules["eye+ear"] == "stacking"
    assert errors["both"] < errors["eye"] < errors["ear"] < 6


def test_embeddings_are_averaged_as_unit_vectors():
    rng = np.random.default_rng(9)
    said = {name: rng.normal(size=(20, 6)).astype(np.float32) * size for name, size in (("eye", 100), ("ear", 0.1))}
    fitted = fit(JointHead({"eye": "vector", "ear": "vector"}), rows(said, None, "embedding", 6))
    unit = {name: value / np.linalg.norm(value, axis=1, keepdims=True) for name, value in said.items()}
    answered = answer(fitted.head, rows(said, None, "embedding", 6), fitted.parameters)
    np.testing.assert_allclose(answered, (unit["eye"] + unit["ear"]) / 2, atol=1e-5)


def test_a_row_without_a_member_counts_for_the_others():
    said, truth = sensed(800, 10)
    there = {"eye": np.arange(800) % 2 == 0, "ear": np.ones(800, bool)}
    said["eye"][~there["eye"]] = 1e3  # what a black picture would be answered
    known = Rows("classification", said, there, truth, LABELS)
    fitted = fit(HEAD, known)
    answered = answer(fitted.head, known, fitted.parameters)
    np.testing.assert_array_equal(answered[~there["eye"]].argmax(1), said["ear"][~there["eye"]].argmax(1))


def test_labels_are_joined_by_a_table():
    members = {"yard": ("nobody", "human", "pedestrian"), "sound": ("person", "quiet")}
    labels = joint_labels.join("event", members, {"person": ["human", "pedestrian"], "quiet": ["nobody"]})
    assert labels.names == ("quiet", "person")
    assert labels.groups == {"yard": ((0,), (1, 2)), "sound": ((1,), (0,))}


def test_labels_that_cannot_be_joined_are_named():
    with pytest.raises(CardError, match=r"head 'event' cannot be joined: 'yard' has none for dog; 'sound' has none for cat"):
        joint_labels.join("event", {"yard": ("person", "cat"), "sound": ("person", "dog")}, {})
    with pytest.raises(CardError, match=r"no member of head 'event' has a label 'humn'") as err:
        joint_labels.join("event", {"yard": ("human", "none"), "sound": ("person", "none")}, {"person": ["humn"]})
    assert "human" in err.value.fix
    with pytest.raises(CardError, match=r"'human' of 'yard' is said to mean 'person' and 'none'"):
        joint_labels.join("event", {"yard": ("human", "x"), "sound": ("person", "none")}, {"person": ["human"], "none": ["human", "x"]})
    with pytest.raises(CardError, match=r"--label 'person' is not of the form LABEL: OTHER, OTHER"):
        joint_labels.parse_table(["person"])


def card(task: str = "classification", labels=("no", "yes"), **more) -> Card:
    options = {"labels": tuple(labels)} if labels else {}
    image = Input("image", "image", {"height": 8, "width": 8, "channels": 1, **more})
    return Card({"image": image}, {"class": Output("class", task, options)}, path=Path("/nowhere/model.yaml"), model="m.onnx")


@pytest.mark.parametrize(
    ("heads", "rules", "words"),
    [
        (["event: yard.class, sund.class"], [], "there is no member 'sund'"),
        (["event: yard.clas, sound.class"], [], "'yard' has no output 'clas'"),
        (["event"], [], "is not of the form HEAD: MEMBER.OUTPUT"),
        (["event: yard, sound, level"], [], "would join different tasks"),
        (["event: raw, sound"], [], "'raw.class' cannot be joined"),
        (["event: yard, sound"], ["evnt: max"], "is about no head"),
        (["event: yard, sound"], ["event: median"], "'median' is no rule"),
        (["event: yard, sound"], ["event: 1, 2, 3"], "are no weights of 2 members"),
        (["event: yard, sound"], [], "no head hears member 'level'"),
    ],
)
def test_heads_that_cannot_be_are_told_before_work(heads, rules, words):
    members = {"yard": card(), "sound": card(), "level": card("regression", ()), "raw": card("tensor", ())}
    with pytest.raises((CardError, Mistakes), match=words):
        joint_members.parse_heads(heads, rules, members)


def test_members_are_told_by_name_and_place():
    with pytest.raises((CardError, Mistakes), match=r"'yard.onnx' is not of the form NAME=MODEL"):
        joint_members.open_members(["yard.onnx"], print)
    with pytest.raises((CardError, Mistakes), match=r"needs two members or more"):
        joint_members.open_members(["one=digits"], print)
    with pytest.raises((CardError, Mistakes), match=r"two members are called 'one'"):
        joint_members.open_members(["one=digits", "one=digits"], print)


def test_an_input_that_members_read_alike_is_one_and_else_both_are_kept_and_fed_from_one_column(tmp_path):
    members = {"yard": card(), "gate": card(), "far": card(mean=[0.5], std=[0.2])}
    asked = joint_members.parse_heads(["event: yard, gate, far"], [], members)
    composed = joint_members.compose(members, asked, {}, tmp_path / "model.yaml")
    assert list(composed.card.inputs) == ["image", "far_image"]
    assert composed.card.column("image") == composed.card.column("far_image") == "image"
    assert composed.card.joint.members == {"yard": ("image",), "gate": ("image",), "far": ("far_image",)}
    assert any("'far' reads 'image' otherwise" in note for note in composed.notes)
