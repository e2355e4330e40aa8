"""The parity ladder, with the fault it was built for: OpenVINO computes some INT8 graphs wrongly when the batch is dynamic."""

import json
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.contracts.plain_values import plain
from edgemm.contracts.rung import Culprit, Difference, Rung
from edgemm.contracts.specs import TensorSpec
from edgemm.errors import ExportError, ParityError
from edgemm.graph import files, ladder, parity
from edgemm.workshop.models import export_parity
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import export_onnx
from tests.onnx_models import model as onnx_model

CARD = {
    "factory": "a:b",
    "inputs": {"left": {"modality": "sensor", "shape": [6]}, "right": {"modality": "sensor", "shape": [4]}},
    "outputs": {"sum": {"task": "tensor"}},
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, left, right):
        return self.last(torch.tanh(self.left(left)) + torch.relu(self.right(right)))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return FusedModel(cards.parse(CARD), Small()).eval()


@pytest.fixture(scope="module")
def small_onnx(small, tmp_path_factory):
    return export_onnx(small, tmp_path_factory.mktemp("small") / "model.onnx")


@pytest.fixture(scope="module")
def small_samples():
    rng = np.random.default_rng(0)
    return [{"left": rng.normal(size=(1, 6)).astype(np.float32), "right": rng.normal(size=(1, 4)).astype(np.float32)} for _ in range(4)]


def changed(path: Path, name: str, tmp_path: Path) -> Path:
    """A copy of a graph in which one weight is other than it should be."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.5 + 0.1, name))
    return files.save(model, tmp_path / "changed.onnx")


def test_an_export_that_equals_torch_passes(small, small_onnx, small_samples):
    rung = export_parity.check_export(small, small_onnx, small_samples)
    assert rung.ok
    assert rung.outputs["sum"].max_abs < 1e-5


@pytest.mark.parametrize(("weight", "branch"), [("right.bias", "right"), ("left.bias", "left"), ("last.bias", "head:sum")])
def test_an_export_that_differs_is_named_by_output_error_and_branch(small, small_onnx, small_samples, tmp_path, weight, branch):
    with pytest.raises(ParityError, match=r"output 'sum' of the exported graph differs from torch by \d") as caught:
        export_parity.check_export(small, changed(small_onnx, weight, tmp_path), small_samples)
    assert f"the difference arises in branch '{branch}' at node 'node_linear" in str(caught.value)


def test_a_graph_that_mixes_the_samples_of_a_batch_is_caught(small, small_onnx, small_samples, tmp_path):
    model = onnx.load(small_onnx)
    last = model.graph.node[-1]
    last.output[0] = "mixed"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    model.graph.node.append(helper.make_node("ReduceMax", ["mixed", "batch_axis"], ["peak"], name="peak"))
    model.graph.node.append(helper.make_node("Max", ["peak", "mixed"], ["sum"], name="mixing"))
    with pytest.raises(ParityError, match="output 'sum'"):
        export_parity.check_export(small, files.save(model, tmp_path / "mixing.onnx"), small_samples)


def test_differences_have_error_scale_and_ratio():
    found = parity.difference(np.array([3.0, 4.0]), np.array([3.0, 3.5]))
    assert (found.max_abs, found.scale, found.relative) == (0.5, 4.0, 0.125)
    assert found.sqnr_db == pytest.approx(20.0)


def test_equal_infinities_are_equal_and_others_are_not():
    inf = np.array([1.0, -np.inf])
    assert parity.difference(inf, inf).sqnr_db == np.inf
    assert parity.difference(inf, np.array([1.0, 0.0])).sqnr_db == -np.inf
    assert parity.difference(np.array([1.0]), np.array([np.nan])).max_abs == np.inf


def test_a_rung_is_plain_json():
    rung = Rung("a to b", "a", "b", {"y": parity.difference(np.ones(2), np.ones(2))}, culprit=Culprit("image", "conv"))
    assert json.loads(json.dumps(plain(rung), allow_nan=False))["outputs"]["y"] == {"max_abs": 0.0, "sqnr_db": None, "scale": 1.0}


def test_a_copy_has_more_outputs_and_the_original_has_not(small_onnx):
    model = onnx.load(small_onnx)
    made = parity.with_outputs(model, ["relu", "tanh", "sum"])
    assert [value.name for value in made.graph.output] == ["sum", "relu", "tanh"]
    assert [value.name for value in model.graph.output] == ["sum"]


def wrong_bias() -> onnx.ModelProto:
    """Q/DQ - Conv with bias - ReLU - Q/DQ (unsigned) - mean - Q/DQ, flattened with Range over the batch size."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-127, 128, (32, 16, 3, 3)).astype(np.int8), "ws": np.full(32, 1e-3, np.float32), "wz": np.zeros(32, np.int8),
        "b": rng.normal(0, 1, 32).astype(np.float32), "hw": np.array([2, 3]), "one": np.array([-1]), "first": np.array([0]),
        "zero": np.int64(0), "step": np.int64(1), "width": np.int64(32), "columns": np.arange(32),
        "in_s": np.float32(3 / 127), "in_z": np.int8(0), "mid_s": np.float32(6 / 255), "mid_z": np.uint8(0),
        "pool_s": np.float32(4 / 127), "pool_z": np.int8(0),
    }  # fmt: skip

    def pair(source: str, name: str) -> list[onnx.NodeProto]:
        names = [f"{name}_s", f"{name}_z"]
        return [
            helper.make_node("QuantizeLinear", [source, *names], [f"{name}_q"], name=f"{name}/quantize"),
            helper.make_node("DequantizeLinear", [f"{name}_q", *names], [f"{name}_d"], name=f"{name}/dequantize"),
        ]

    nodes = [
        *pair("x", "in"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["weight"], name="weight", axis=0),
        helper.make_node("Conv", ["in_d", "weight", "b"], ["maps"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"], name="relu"),
        *pair("active", "mid"),
        helper.make_node("ReduceMean", ["mid_d", "hw"], ["mean"], name="mean"),
        *pair("mean", "pool"),
        helper.make_node("Reshape", ["pool_d", "one"], ["flat"], name="flat"),
        helper.make_node("Shape", ["x"], ["sizes"], name="shape", start=0, end=1),
        helper.make_node("Squeeze", ["sizes", "first"], ["batch_size"], name="squeeze"),
        helper.make_node("Range", ["zero", "batch_size", "step"], ["rows"], name="range"),
        helper.make_node("Mul", ["rows", "width"], ["starts"], name="starts"),
        helper.make_node("Unsqueeze", ["starts", "one"], ["starts_column"], name="column"),
        helper.make_node("Add", ["starts_column", "columns"], ["places"], name="places"),
        helper.make_node("Gather", ["flat", "places"], ["y"], name="gather"),
    ]
    return onnx_model(nodes, {"x": ["batch", 16, 8, 8]}, {"y": ["batch", 32]}, constants)


class Compiled:
    """OpenVINO with the batch left open, or fixed to 1: a session as the ladder wants it."""

    def __init__(self, path: Path, *, dynamic: bool) -> None:
        core = ov.Core()
        model = core.read_model(str(path))
        if not dynamic:
            model.reshape({"x": [1, 16, 8, 8]})
        self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
        self.inputs = [TensorSpec("x", "float32", ("batch", 16, 8, 8))]

    def run(self, feed):
        answers = self._model(feed)
        return {name: answers[index] for index, port in enumerate(self._model.outputs) for name in port.names}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    rng = np.random.default_rng(1)
    path = files.save(wrong_bias(), tmp_path_factory.mktemp("fault") / "model.onnx")
    return path, [{"x": rng.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(3)]


def test_openvinos_wrong_int8_with_a_dynamic_batch_breaks_the_rung_and_the_convolution_is_named(fault):
    path, samples = fault
    (rung,) = ladder.check_graphs(path, path, Compiled(path, dynamic=True), samples, reopen=lambda p: Compiled(p, dynamic=True))
    assert not rung.ok
    assert rung.outputs["y"].sqnr_db < 10
    assert rung.culprit == Culprit("head:y", "conv")
    assert "output 'y' is off by" in rung.note


def test_the_same_graph_with_a_fixed_batch_passes(fault):
    path, samples = fault
    (rung,) = ladder.check_graphs(path, path, Compiled(path, dynamic=False), samples, reopen=lambda p: Compiled(p, dynamic=False))
    assert rung.ok
    assert rung.culprit is None
    assert rung.outputs["y"].sqnr_db > 25  # 29.6 where sums of 8-bit weights overflow


def test_a_broken_rung_without_a_way_to_look_closer_still_says_which_output_is_off(fault):
    path, samples = fault
    (rung,) = ladder.check_graphs(path, path, Compiled(path, dynamic=True), samples)
    assert (rung.ok, rung.culprit) == (False, None)
    assert "'y'" in rung.note


def test_what_quantizing_costs_is_told_per_output_and_branch_and_fails_nothing(small_onnx, small, small_samples, tmp_path):
    from edgemm.contracts.plugins import load
    from edgemm.contracts.step import Context
    from edgemm.contracts.target import Numerics, Target
    from edgemm.data import dataset
    from edgemm.workshop.steps.quantize import quantize

    ctx = Context(small.card, dataset.synthetic(small.card), tmp_path, numerics=Numerics("mixed"))
    path = files.save(quantize(files.load(small_onnx), ctx, calibration_samples=16), tmp_path / "quantized.onnx")
    with load(Target, "openvino").open(path) as session:
        cost, target = ladder.check_graphs(small_onnx, path, session, small_samples, card=small.card, target="openvino")
    assert cost.ok
    assert 10 < cost.outputs["sum"].sqnr_db < 60
    assert set(cost.branches) == {"left", "right"}
    assert (target.name, target.ok) == ("Q/DQ to openvino", True)


def test_a_poor_branch_is_noted(small_onnx, small, small_samples, tmp_path):
    path = changed(small_onnx, "right.bias", tmp_path)

    class Same:
        inputs = [TensorSpec("left", "float32", ("batch", 6)), TensorSpec("right", "float32", ("batch", 4))]  # noqa: RUF012

        def run(self, feed):
            found, _ = parity.run_reference(onnx.load(path), [feed])
            return found

    cost, _ = ladder.check_graphs(small_onnx, path, Same(), small_samples, card=small.card)
    assert cost.branches["left"].sqnr_db > 100
    assert cost.branches["right"].sqnr_db < 30
    assert cost.ok


def test_a_target_may_be_as_far_off_as_quantizing_itself():
    reference, found = {"y": np.array([1.0, -1.0])}, {"y": np.array([1.2, -0.8])}
    assert not ladder.judge_target(reference, found, {}).ok
    assert not ladder.judge_target(reference, found, {"y": Difference(0.01, 40.0, 1.0)}).ok
    assert ladder.judge_target(reference, found, {"y": Difference(0.3, 11.0, 1.0)}).ok


def test_a_slow_graph_is_compared_on_fewer_samples(small_onnx, small_samples):
    assert parity.run_reference(onnx.load(small_onnx), small_samples, seconds=0.0)[1] == parity.FEWEST
    assert parity.run_reference(onnx.load(small_onnx), small_samples)[1] == len(small_samples)


@pytest.mark.parametrize(
    ("kind", "domain", "words"),
    [
        ("Mystery", "elsewhere", r"does not take the graph at node 'odd' \(Mystery\) of branch 'x'\.\n  why: .*is not a registered"),
        ("BitwiseNot", "", r"does not take the graph.*\n  why: .*tensor\(float\)"),
    ],
)
def test_a_graph_that_the_reference_does_not_take_is_named_by_node_and_branch(kind, domain, words):
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Relu", ["x"], ["r"], "fine"), onnx.helper.make_node(kind, ["r"], ["y"], "odd", domain=domain)]
    face = ([value("x", onnx.TensorProto.FLOAT, [1, 4])], [value("y", onnx.TensorProto.FLOAT, [1, 4])])
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("elsewhere", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *face), opset_imports=imports, ir_version=10)
    with pytest.raises(ExportError, match=words) as caught:
        parity.reference_session(model)
    assert "ONNX's own operators" in caught.value.fix


def test_a_node_without_a_name_is_named_by_what_it_computes():
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node("Mystery", ["x"], ["y"], domain="elsewhere")
    face = ([value("x", onnx.TensorProto.FLOAT, [1, 4])], [value("y", onnx.TensorProto.FLOAT, [1, 4])])
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("elsewhere", 1)]
    with pytest.raises(ExportError, match=r"at node 'y' \(Mystery\)"):
        parity.reference_session(onnx.helper.make_model(onnx.helper.make_graph([node], "g", *face), opset_imports=imports, ir_version=10))
