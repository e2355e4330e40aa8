"""A user's graph that answers with chances where logits are read, or with one logit for two labels."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, ExportError
from edgemm.graph import parity, user_onnx
from tests.graph import user_files

TAILS = {
    "logits": [("Identity", ["z"], {})],
    "sigmoid": [("Sigmoid", ["z"], {})],
    "hard sigmoid": [("HardSigmoid", ["z"], {})],
    "by hand": [("Neg", ["z"], {}), ("Exp", ["t0"], {}), ("Add", ["t1", "one"], {}), ("Reciprocal", ["t2"], {})],
    "softmax": [("Softmax", ["z"], {"axis": 1})],
    "flat": [("Squeeze", ["z", "axis"], {})],
}
X = np.random.default_rng(1).normal(size=(1, 32)).astype(np.float32)


def prepared(tmp_path, tail, width, task="classification", labels=("no", "yes")):
    """The card's graph ready for the graph steps, and what was noted."""
    body = [helper.make_node("MatMul", ["a", "w"], ["z"], name="head")]
    for number, (kind, names, options) in enumerate(TAILS[tail]):
        body.append(helper.make_node(kind, names, ["y" if number == len(TAILS[tail]) - 1 else f"t{number}"], **options))
    weights = {
        "w": np.random.default_rng(0).normal(size=(32, width)).astype(np.float32),
        "one": np.ones(1, np.float32),
        "axis": np.array([1]),
    }
    shape = ["N"] if tail == "flat" else ["N", width]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    user_files.write(tmp_path / "m.onnx", body, weights, inputs={"a": 32}, outputs={"y": output})
    plain = {
        "model": "m.onnx", "inputs": {"a": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 32]}},
        "outputs": {"y": {"task": task, "labels": list(labels)}},
    }  # fmt: skip
    notes = []
    path = user_onnx.prepare(cards.parse(plain, path=tmp_path / "model.yaml"), tmp_path / "out.onnx", notes.append)
    return onnx.load(path), notes


@pytest.mark.parametrize("tail", ["logits", "flat"])
def test_one_logit_becomes_the_chance_of_the_second_of_two_labels(tmp_path, tail):
    graph, notes = prepared(tmp_path, tail, 1)
    onnx.checker.check_model(graph, full_check=True)
    logit = X @ np.random.default_rng(0).normal(size=(32, 1)).astype(np.float32)
    (answer,) = parity.asked(parity.reference_session(graph), graph, {"a": X})
    assert np.allclose(answer, np.concatenate([0 * logit, logit], 1), atol=1e-5)
    assert notes == []


@pytest.mark.parametrize("tail", ["sigmoid", "hard sigmoid", "by hand"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_chance_where_a_sign_is_read_is_refused_by_node(tmp_path, tail, task):
    width = 1 if task == "classification" else 2
    with pytest.raises(ExportError, match=r"node 'y' \((Sigmoid|HardSigmoid|Reciprocal)\): output 'y' is never below 0"):
        prepared(tmp_path, tail, width, task)


def test_logits_of_several_labels_pass(tmp_path):
    assert prepared(tmp_path, "logits", 3, "multilabel", "abc")[1] == []


def test_a_softmax_where_logits_are_read_is_told(tmp_path):
    (note,) = prepared(tmp_path, "softmax", 3, labels="abc")[1]
    assert "output 'y' holds chances" in note
    assert "softmax of a softmax" in note


def test_another_width_than_the_card_has_labels_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"output 'y' of 'm.onnx' has shape \(2, 4\); the card names 3 labels"):
        prepared(tmp_path, "logits", 4, labels="abc")
