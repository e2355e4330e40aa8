"""Files that other tools quantized: boxes and scores under one scale, and pairs that OpenVINO computes wrongly, are named and mended."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgemm.contracts import card_file as cards
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.data import dataset
from edgemm.graph import parity, user_onnx
from edgemm.graph.quantized_elsewhere import faults
from edgemm.workshop.steps.quantize import quantize
from tests.onnx_models import model as onnx_model

CARD = {
    "model": "detector.onnx",
    "inputs": {"x": {"modality": "tensor", "dtype": "float32", "shape": [1, 8, 6, 6]}},
    "outputs": {"y": {"task": "tensor"}},
}
PIXELS = np.float32(2.5)
"""A step of one scale over boxes of up to 640 pixels and scores below 1."""


def detector(step=PIXELS, *, joined=True, named=True):
    """A layer of boxes and one of scores with its sigmoid, joined and then quantized, or quantized apart."""
    random = np.random.default_rng(0)
    constants = {"size": np.float32(200.0), "step": step, "fine": np.float32(1 / 255), "zero": np.int8(0), "dots": np.uint8(0)}
    nodes = []
    for name, made in (("box", 4), ("score", 2)):
        constants |= {f"{name}_w": random.integers(-127, 128, (made, 8, 1, 1)).astype(np.int8), f"{name}_s": np.float32(1 / 300)}
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_w", f"{name}_s", "zero"], [f"{name}_d"], f"{name}_weights"))
        nodes.append(helper.make_node("Conv", ["x", f"{name}_d"], [name], f"{name}_layer"))

    def pair(source, result, *parts):
        nodes.append(helper.make_node("QuantizeLinear", [source, *parts], [f"{result}_q"], f"{result}_quantize"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{result}_q", *parts], [result], f"{result}_dequantize"))

    nodes.append(helper.make_node("Mul", ["box", "size"], ["pixels"], "to_pixels"))
    nodes.append(helper.make_node("Sigmoid", ["score"], ["shares"], "squash"))
    if joined:
        nodes.append(helper.make_node("Concat", ["pixels", "shares"], ["both"], "join", axis=1))
        pair("both", "y", "step", "zero")
    else:
        pair("pixels", "pixels_8", "step", "zero")
        pair("shares", "shares_8", "fine", "dots")
        nodes.append(helper.make_node("Concat", ["pixels_8", "shares_8"], ["y"], "join", axis=1))
    if not named:
        for node in nodes:
            node.name = ""
    return onnx_model(nodes, {"x": [1, 8, 6, 6]}, {"y": [1, 6, 6, 6]}, constants)


def test_boxes_and_scores_under_one_scale_are_named_with_the_step_that_spoils_them():
    (said,) = faults(detector())
    assert said.startswith("quantizer 'y_quantize' has one scale for all that 'join' joins, so that 'shares' comes out in steps of 2.5.")
    assert "export the float model and quantize that" in said


def test_scales_of_their_own_or_a_fine_one_are_no_fault():
    assert faults(detector(joined=False)) == []
    assert faults(detector(np.float32(1 / 127))) == []


@pytest.mark.parametrize("name", ["mixed", "uint8", "int8"])
def test_what_shared_a_scale_is_float_again_after_quantizing(name, tmp_path):
    model, card = detector(), cards.parse(CARD)
    context = Context(card, dataset.synthetic(card), tmp_path, target="here", numerics=Numerics(name))
    made = quantize(model, context, calibration_samples=4)
    feeds = [batch.inputs for batch in dataset.synthetic(card, seed=3).calibration(4)]
    before, after = (parity.run_reference(graph, feeds)[0]["y"].reshape(-1, 6, 36)[:, 4:] for graph in (model, made))
    assert set(np.unique(before)) == {0.0}, "what one scale makes of scores"
    assert len(np.unique(after)) > 100
    assert 0 < after.min() < after.max() < 1


@pytest.mark.parametrize("named", [True, False])
def test_reading_such_a_file_tells_it(named, tmp_path):
    onnx.save(detector(named=named), tmp_path / "detector.onnx")
    notes = []
    user_onnx.prepare(cards.parse(CARD, path=tmp_path / "model.yaml"), tmp_path / "prepared.onnx", notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("'detector.onnx' was quantized by another tool: quantizer '")
    names = [node.name for node in onnx.load(tmp_path / "prepared.onnx").graph.node]
    assert len(set(names)) == len(names)
