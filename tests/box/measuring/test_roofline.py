"""Branches against the box's limits, and layers that waste time."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.roofline import audit, profile, roofline, save_feed
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.target import LayerRan
from edgemm.contracts.timing_parts import Peaks
from tests.onnx_models import model as onnx_model

onnx = pytest.importorskip("onnx")
PEAKS = Peaks(1, {"int8": 1000.0, "bf16": None, "f32": 100.0}, 10.0, 0.2, "openvino")


def test_a_branch_is_held_against_the_arithmetic_it_needs(layer):
    layers = [LayerRan("first,bend", "FullyConnected", "f32", "gemm", 1.0), LayerRan("second", "FullyConnected", "f32", "gemm", 0.5)]
    rows = {row.branch: row for row in roofline(layer, None, layers, PEAKS)}
    row = rows["x"]
    assert row.compute_us == pytest.approx(2 * 64 * 64 / 100e3)
    assert row.memory_us == pytest.approx(4 * 64 * 64 / 10e3)
    assert (row.reason, row.of_limit) == ("memory", 1.0)
    assert rows["head:kind"].reason == "launch overhead"


def test_a_front_end_is_held_against_its_own_arithmetic_and_its_constants(tmp_path):
    nodes = [
        onnx.helper.make_node("MatMul", ["sound", "bank"], ["bands"], "frontend/sound/0_MatMul"),
        onnx.helper.make_node("MatMul", ["bands", "w"], ["kind"], "decide"),
    ]
    constants = {"bank": np.ones((64, 64), np.float32), "w": np.ones((64, 3), np.float32)}
    onnx.save(onnx_model(nodes, {"sound": ["batch", 64]}, {"kind": ["batch", 3]}, constants), tmp_path / "model.onnx")
    layers = [LayerRan("bands", "FullyConnected", "f32", "gemm", 2.0), LayerRan("kind", "FullyConnected", "f32", "gemm", 1.0)]
    rows = {row.branch: row for row in roofline(tmp_path / "model.onnx", None, layers, PEAKS)}
    assert list(rows) == ["frontend:sound", "head:kind"]
    assert (rows["frontend:sound"].time_us, rows["frontend:sound"].memory_us) == (2.0, pytest.approx(4 * 64 * 64 / 10e3))


def test_a_branch_without_time_has_no_row(layer):
    assert roofline(layer, None, [LayerRan("first", "FullyConnected", "f32", "gemm", None)], PEAKS) == []


def test_reference_kernels_are_named_with_their_cost_the_costliest_first(layer):
    layers = [
        LayerRan("first", "FullyConnected", "f32", "brgemm_avx512_f32", 1.0),
        LayerRan("bend", "Eltwise", "f32", "ref_f32", 2.0),
        LayerRan("second", "RNNSeq", "f32", "ref_any_f32", 5.0),
    ]
    found = audit(layer, layers, "f32")
    assert [(row.layer, row.finding, row.share) for row in found] == [
        ("second", "reference kernel", 0.625),
        ("bend", "reference kernel", 0.25),
    ]


def test_layers_that_ran_in_another_precision_than_asked_are_named(foreign):
    layers = [
        LayerRan("first_conv", "Convolution", "f32", "jit_avx512_f32", 1.0),
        LayerRan("second_conv", "Convolution", "int8", "brgconv", 1.0),
    ]
    assert [(row.layer, row.finding) for row in audit(foreign, layers, "int8+f32")] == [("first_conv", "asked int8, ran f32")]


def test_a_float_layer_that_did_not_take_the_float_type_asked_for_is_named(layer):
    (row,) = audit(layer, [LayerRan("first", "FullyConnected", "f32", "gemm", 1.0)], "bf16")
    assert row.finding == "asked bf16, ran f32"


def test_reorders_and_what_lies_between_them_are_named(layer):
    around = LayerRan("a", "Reorder", "f32", "jit_uni", 1.0)
    found = audit(layer, [around, LayerRan("bend", "Eltwise", "f32", "jit", 3.0), around], "f32")
    assert [(row.layer, row.finding) for row in found] == [("bend", "between two reorders"), ("a", "reorder"), ("a", "reorder")]


def test_what_costs_next_to_nothing_is_left_out(layer):
    layers = [LayerRan("first", "FullyConnected", "f32", "gemm", 10_000.0), LayerRan("bend", "Eltwise", "f32", "ref_f32", 1.0)]
    assert audit(layer, layers, "f32") == []


def test_a_candidate_is_profiled_in_a_process_of_its_own(layer, feed, tmp_path: Path):
    pytest.importorskip("openvino")
    row = Candidate("one", "bundle", Deployment("openvino", layer, runtime_options={"threads": 1, "precision": "f32"}))
    layers = profile(row, save_feed(feed, tmp_path))
    assert any("first" in layer.name and layer.precision == "f32" for layer in layers)
