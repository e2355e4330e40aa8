"""Layers of a Q/DQ graph put back into float."""

import numpy as np
import onnx
import pytest

from edgemm.graph import back_to_float, parity
from edgemm.graph.branches import find_branches
from edgemm.workshop.steps.quantize import quantize
from tests.workshop.steps.conftest import *  # noqa: F403  # the hand-made fused graph and its context

NUMERICS = ("mixed", "uint8", "int8")


@pytest.fixture(scope="module", params=NUMERICS)
def quantized(request, model, card, tmp_path_factory):
    from edgemm.contracts.step import Context
    from edgemm.contracts.target import Numerics
    from edgemm.data import dataset

    context = Context(card, dataset.synthetic(card), tmp_path_factory.mktemp("q"), numerics=Numerics(request.param))
    return quantize(model, context, calibration_samples=16)


def answers(model, samples):
    return parity.run_reference(model, samples)[0]


def types(model):
    return [node.op_type for node in model.graph.node]


def test_all_reverted_computes_the_float_graph_to_the_last_bit(model, quantized, samples):
    found = back_to_float.revert(quantized, model, [node.name for node in model.graph.node])
    assert "QuantizeLinear" not in types(found)
    onnx.checker.check_model(found, full_check=True)
    expected, got = answers(model, samples), answers(found, samples)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_nothing_reverted_changes_nothing(model, quantized, samples):
    found = back_to_float.revert(quantized, model, [])
    assert types(found) == types(quantized)
    assert all(np.array_equal(value, answers(found, samples)[name]) for name, value in answers(quantized, samples).items())


@pytest.mark.parametrize("branch", ["image", "fusion", "head:event", "head:level"])
def test_one_reverted_branch_reads_no_integers_and_the_others_still_do(model, card, quantized, branch):
    branches = find_branches(model, card)
    found = back_to_float.revert(quantized, model, branches.nodes(branch))
    onnx.checker.check_model(found, full_check=True)
    layers = back_to_float.int8_layers(found)
    assert set(layers) == {name for name in back_to_float.int8_layers(quantized) if branches.of_node[name] != branch}
    assert [value.name for value in found.graph.output] == ["event", "level"]


def test_a_branch_alone_in_int8_is_what_quantizing_it_alone_makes(model, card, context, samples):
    branches = find_branches(model, card)
    whole = quantize(model, context("mixed"), calibration_samples=16)
    alone = back_to_float.revert(whole, model, [name for name in back_to_float.body(branches) if branches.of_node[name] != "image"])
    others = {"audio": "fp32", "words": "fp32", "fusion": "fp32", "head": "fp32"}
    made = quantize(model, context("mixed"), calibration_samples=16, precision=others)
    expected, got = answers(made, samples), answers(alone, samples)
    for name in expected:
        assert parity.difference(expected[name], got[name]).sqnr_db > 60


def test_the_argument_stays_as_it_was(model, quantized):
    before = quantized.SerializeToString()
    back_to_float.revert(quantized, model, [node.name for node in model.graph.node])
    assert quantized.SerializeToString() == before


def test_a_branch_falls_into_its_layers_and_what_follows_each(model, card):
    branches = find_branches(model, card)
    assert back_to_float.groups("image", branches, ["conv1", "conv2"], 9) == {
        "conv1": ["conv1", "relu1"],
        "conv2": ["conv2", "relu2", "pool"],
    }
    assert list(back_to_float.groups("image", branches, ["conv1", "conv2"], 1).items()) == [
        ("conv1", ["conv1", "relu1", "conv2", "relu2", "pool"])
    ]
    assert back_to_float.groups("fusion", branches, ["mix"], 9) == {"mix": ["join", "mix", "relu3"]}
