"""The joint's one definition: numpy, torch and ONNX compute the same, and which members are there decides which joint answers."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from edgemm.contracts import joint_ops
from edgemm.contracts.card import Card, Output
from edgemm.contracts.joint import RULES, Joint, JointHead, subset_name, subsets
from edgemm.contracts.joint_ops import ABSENT, NumpyOps
from edgemm.graph.joint import join, joint_nodes
from edgemm.workshop.models.late import HeadJoint

MEMBERS = ("eye", "ear", "nose")
ROWS, WIDTH = 7, 4
GROUPS = {"ear": ((1,), (0, 4), (2,), (3,))}  # its five labels, of which two mean the second of the head's


def head(task: str, rule: str) -> JointHead:
    rules = {subset_name(subset): "alone" if len(subset) == 1 else rule for subset in subsets(MEMBERS)}
    grouped = GROUPS if task in ("classification", "multilabel") else {}
    return JointHead(dict.fromkeys(MEMBERS, "says"), rules, grouped, ("nose",) if task == "classification" else ())


def widths(one: JointHead) -> dict[str, int]:
    return {member: 5 if member in one.groups else WIDTH for member in MEMBERS}


def answers(one: JointHead, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    said = {member: rng.normal(0, 2, (ROWS, width)).astype(np.float32) for member, width in widths(one).items()}
    for member in one.chances:
        said[member] = np.exp(said[member]) / np.exp(said[member]).sum(1, keepdims=True)
    return said


def parameters(one: JointHead, task: str) -> dict[str, np.ndarray]:
    """Some that no fit would leave at their start."""
    rng = np.random.default_rng(1)
    mask = np.array([[float(m in subset) for m in MEMBERS] for subset in subsets(MEMBERS)], np.float32)[None]
    start = joint_ops.parameters(one, task, WIDTH, widths(one))
    shaken = {name: value + rng.normal(0, 0.2, value.shape).astype(np.float32) for name, value in start.items()}
    shaken["weights"] *= mask[:, :, :, None]
    if "mixing" in shaken:
        shaken["mixing"] *= mask[:, :, None, :, None]
    for name in ("gate_best", "gate_even"):
        if name in shaken:
            shaken[name] *= mask[:, :, :, None] * mask[:, :, None, :]
    return shaken


def in_numpy(one: JointHead, task: str, said, known, there=MEMBERS) -> np.ndarray:
    ops, k = NumpyOps(), {**known, **joint_ops.constants(one, task, WIDTH)}
    parts = [joint_ops.evidence(ops, task, said[member], k, one, member, WIDTH) for member in one.members]
    parts = [part if member in there else np.full_like(part, ABSENT) for member, part in zip(one.members, parts, strict=True)]
    return joint_ops.joined(ops, task, parts, k, one, WIDTH)


CASES = [(task, rule) for task, rules in RULES.items() for rule in rules]


@pytest.mark.parametrize(("task", "rule"), CASES)
def test_torch_and_onnx_compute_what_numpy_does(task, rule):
    one = head(task, rule)
    said, known = answers(one), parameters(one, task)
    expected = in_numpy(one, task, said, known)

    module = HeadJoint(one, task, WIDTH, widths(one))
    module.set(known)
    in_torch = module([torch.from_numpy(said[member]) for member in MEMBERS]).numpy()

    labels = {"labels": tuple("abcd")} if task in ("classification", "multilabel") else {}
    card = Card({}, {"h": Output("h", task, labels)}, joint=Joint(dict.fromkeys(MEMBERS, ()), {"h": one}))
    faces = [helper.make_tensor_value_info(f"{member}/says", TensorProto.FLOAT, ["batch", size]) for member, size in widths(one).items()]
    members = helper.make_model(helper.make_graph([], "members", faces, faces), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    graph = join(members, card, {"h": known}, {"h": WIDTH})
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (in_onnx,) = session.run(None, {f"{member}/says": value for member, value in said.items()})

    assert expected.shape == (ROWS, WIDTH)
    np.testing.assert_allclose(in_torch, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(in_onnx, expected, rtol=1e-4, atol=1e-4)
    assert len(joint_nodes(graph)) == len(graph.graph.node)


@pytest.mark.parametrize(("task", "rule"), CASES)
def test_a_missing_member_leaves_the_joint_of_the_others_whatever_it_would_have_said(task, rule):
    one = head(task, rule)
    known = parameters(one, task)
    said, other = answers(one), answers(one, seed=9)
    for there in (subset for subset in subsets(MEMBERS) if len(subset) < len(MEMBERS)):
        mixed = {member: said[member] if member in there else other[member] for member in MEMBERS}
        answered = in_numpy(one, task, said, known, there)
        np.testing.assert_array_equal(in_numpy(one, task, mixed, known, there), answered)
        number = subsets(MEMBERS).index(there)
        changed = {**known, "shift": known["shift"].copy()}
        changed["shift"][0, number] += 1
        np.testing.assert_allclose(in_numpy(one, task, said, changed, there), answered + 1, rtol=1e-5, atol=1e-5)


def test_a_member_alone_answers_in_the_order_of_its_own_logits():
    one = JointHead({"eye": "says", "ear": "says"}, {"eye": "alone", "ear": "alone", "eye+ear": "average"})
    said = {name: np.random.default_rng(3).normal(0, 3, (50, WIDTH)).astype(np.float32) for name in ("eye", "ear")}
    known = joint_ops.parameters(one, "classification", WIDTH, dict.fromkeys(one.members, WIDTH))
    ops, k = NumpyOps(), {**known, **joint_ops.constants(one, "classification", WIDTH)}
    parts = {m: joint_ops.evidence(ops, "classification", said[m], k, one, m, WIDTH) for m in one.members}
    for member in one.members:
        heard = [parts[m] if m == member else np.full_like(parts[m], ABSENT) for m in one.members]
        answered = joint_ops.joined(ops, "classification", heard, k, one, WIDTH)
        np.testing.assert_array_equal(answered.argsort(1), said[member].argsort(1))


def test_noisy_or_is_the_chance_that_any_member_is_right():
    one = JointHead({"eye": "says", "ear": "says"}, {"eye": "alone", "ear": "alone", "eye+ear": "noisy_or"})
    logits = {"eye": np.array([[0.0, 2.0]], np.float32), "ear": np.array([[1.0, -1.0]], np.float32)}
    known = joint_ops.parameters(one, "multilabel", 2, {"eye": 2, "ear": 2})
    ops, k = NumpyOps(), {**known, **joint_ops.constants(one, "multilabel", 2)}
    parts = [joint_ops.evidence(ops, "multilabel", logits[m], k, one, m, 2) for m in one.members]
    chance = 1 / (1 + np.exp(-joint_ops.joined(ops, "multilabel", parts, k, one, 2)))
    each = [1 / (1 + np.exp(-logits[m])) for m in one.members]
    np.testing.assert_allclose(chance, 1 - (1 - each[0]) * (1 - each[1]), rtol=1e-4)


def test_every_subset_has_a_place():
    names = [subset_name(subset) for subset in subsets(MEMBERS)]
    assert names == ["eye", "ear", "nose", "eye+ear", "eye+nose", "ear+nose", "eye+ear+nose"]
    assert len(names) == sum(1 for size in (1, 2, 3) for _ in itertools.combinations(MEMBERS, size))
