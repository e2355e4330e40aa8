"""The graph form of a model: which layers become int8, what a batch norm does there, what survives copying."""

import copy
import functools

import numpy as np
import pytest

from edgemm.contracts import card_file as cards

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

import onnx  # noqa: E402  (all of them may be absent)
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgemm.graph.back_to_float import quantized_readers  # noqa: E402
from edgemm.graph.float_tail import float_tail  # noqa: E402
from edgemm.store.instructions import saturates  # noqa: E402
from edgemm.workshop.models.fused import FusedModel  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.torch_branches import find_parts  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from edgemm.workshop.quantizing import pt2e  # noqa: E402
from tests import dense_models  # noqa: E402

CARD = {
    "factory": "models:digits",
    "inputs": {
        "image": {"modality": "image", "height": 16, "width": 16, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "text": {"modality": "text", "vocab": 30, "length": 6},
        "motion": {"modality": "sensor", "shape": [12, 4], "rate_hz": 50},
    },
    "outputs": {"vector": {"task": "tensor"}, "other": {"task": "tensor"}},
}


class Everything(nn.Module):
    """Every kind of layer that may be quantized or has to be left alone, as a user might write it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=1e-3)  # before a convolution: nothing to fold it into
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.first_norm = nn.BatchNorm2d(8, eps=1e-2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8, affine=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.dense = nn.Linear(6, 8)
        self.dense_norm = nn.BatchNorm1d(8)
        self.table = nn.Embedding(30, 8, padding_idx=0)
        self.tied = nn.Linear(8, 30, bias=False)
        self.tied.weight = self.table.weight
        self.gru = nn.GRU(4, 4, num_layers=2, dropout=0.3, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.mix = nn.Parameter(torch.randn(24, 8) * 0.2)

    def forward(self, image, text, motion):
        x = torch.relu(self.first_norm(self.first(self.norm(image))))
        x = x + self.depthwise_norm(self.depthwise(x))
        x = torch.relu(self.dense_norm(self.dense(self.up_norm(self.up(x)).mean((2, 3)))))
        words = self.table(text)
        words = self.attention(words, words, words, need_weights=False)[0].mean(1)
        joined = torch.cat([x, words, self.gru(motion)[0][:, -1]], 1)
        mixed = torch.relu(joined @ self.mix)
        return mixed, self.tied(mixed)


@pytest.fixture(scope="module")
def card():
    return cards.parse(CARD)


@pytest.fixture(scope="module")
def model(card):
    torch.manual_seed(0)
    made = FusedModel(card, Everything()).train()
    with torch.no_grad():
        for seed in range(5):
            made(sample_inputs(card, batch=8, seed=seed))
    return made.eval()


@pytest.fixture(scope="module")
def student(model):
    """``student(floats=[])``: a trainee whose ranges were taken."""

    @functools.cache
    def made(*floats):
        student = pt2e.prepare(model, find_parts(model).of_parameter, frozenset(floats), is_narrow=saturates())
        trainee = pt2e.trainee_of(student)
        trainee.observe(True)
        answers(student, sample_inputs(model.card, batch=32))
        trainee.observe(False)
        return student

    return made


@pytest.fixture(scope="module")
def quantized(model, student):
    return pt2e.convert(student(), model, frozenset())


@pytest.fixture(scope="module")
def graph(quantized, tmp_path_factory):
    return export_onnx(quantized, tmp_path_factory.mktemp("quantized") / "qdq.onnx")


def answers(model, inputs):
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(inputs).items()}


def decibels(wanted, found):
    return min(10 * np.log10(np.square(wanted[n]).mean() / max(np.square(wanted[n] - found[n]).mean(), 1e-12)) for n in wanted)


def test_converting_changes_no_answer_of_the_trainee(model, student, quantized):
    inputs = sample_inputs(model.card, batch=5, seed=3)
    assert decibels(answers(student().eval(), inputs), answers(quantized, inputs)) > 60
    assert decibels(answers(model, inputs), answers(quantized, inputs)) > 12


def test_the_graph_answers_alike_in_onnx_runtime(quantized, graph):
    inputs = sample_inputs(quantized.card, batch=5, seed=3)
    wanted = answers(quantized, inputs)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    found = dict(zip(wanted, session.run(list(wanted), {name: value.numpy() for name, value in inputs.items()}), strict=True))
    assert decibels(wanted, found) > 25


def test_every_layer_with_weights_is_int8_and_the_gru_and_lone_norms_are_float(graph):
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    made = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name.startswith("frontend/"):
            continue
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
        if node.op_type == "GRU":
            assert not {made[name].op_type for name in node.input if name in made} & {"DequantizeLinear"}
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GRU") == 2
    assert "ConvTranspose" in kinds
    stored = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"} & set(weights)
    assert (30, 8) in {numpy_helper.to_array(weights[name]).shape for name in stored}
    assert {weights[name].data_type for name in stored} == {onnx.TensorProto.INT8}


def test_no_two_layers_share_the_zero_point_of_their_weights(graph):
    model = onnx.load(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    zeros = [node.input[2] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    assert len(zeros) == len(set(zeros)) > 5


def test_weights_left_in_float_keep_their_names(quantized, graph):
    names = {tensor.name for tensor in onnx.load(graph).graph.initializer}
    assert {"attention.in_proj_bias", "norm.weight", "norm.running_mean"} <= names


def test_a_branch_left_in_float_is_named_in_the_file_and_holds_no_integers(model, student, tmp_path):
    made = pt2e.convert(student("image"), model, frozenset(["image"]))
    found = onnx.load(export_onnx(made, tmp_path / "part.onnx"))
    assert [(entry.key, entry.value) for entry in found.metadata_props] == [("edgemm.float_branches", "image")]
    made_by = {name: node.op_type for node in found.graph.node for name in node.output}
    convolutions = [node for node in found.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert all(made_by.get(node.input[1]) != "DequantizeLinear" for node in convolutions)


def test_a_quantized_model_has_one_mode_nothing_to_train_and_copies_whole(quantized):
    assert not any(parameter.requires_grad for parameter in quantized.parameters())
    inputs = sample_inputs(quantized.card, batch=2)
    before = answers(quantized, inputs)
    twin = copy.deepcopy(quantized).train()
    assert twin.float_model is not quantized.float_model
    assert all(np.array_equal(value, before[name]) for name, value in answers(twin, inputs).items())


def test_tied_weights_stay_tied_and_every_weight_comes_back(model, quantized):
    before, after = model.module.state_dict(), quantized.float_model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    module = quantized.float_model.module
    assert module.tied.weight is module.table.weight


def test_training_reaches_every_weight_of_the_module(model):
    student = pt2e.prepare(model, find_parts(model).of_parameter, frozenset())
    student.train()
    sum(value.square().sum() for value in student(sample_inputs(model.card, batch=8)).values()).backward()
    assert [name for name, p in student.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_a_silenced_channel_stays_silent_and_finite(model):
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        silenced.module.first_norm.weight[2] = 0.0
    student = pt2e.prepare(silenced, {}, frozenset())
    trainee = pt2e.trainee_of(student)
    trainee.observe(True)
    trainee.round(False)
    inputs = sample_inputs(model.card, batch=8)
    assert decibels(answers(silenced, inputs), answers(student, inputs)) > 60
    assert all(np.isfinite(value).all() for value in answers(student.train(), inputs).values())


@pytest.mark.parametrize("expectation", ["conv", "matmul"])
def test_a_mean_over_bins_is_no_layer_to_train_in_int8(expectation, tmp_path):
    torch.manual_seed(0)
    model = dense_models.dense(dense_models.Boxes(expectation), "objects")
    student = pt2e.prepare(model, find_parts(model).of_parameter, frozenset())
    trainee = pt2e.trainee_of(student)
    trainee.observe(True)
    answers(student, sample_inputs(model.card, batch=2))
    trainee.observe(False)
    path = export_onnx(pt2e.convert(student, model, frozenset()), tmp_path / "qdq.onnx")
    graph = onnx.load(path)
    readers = {*quantized_readers(graph)}
    assert len(readers) > 30
    assert not readers & float_tail(graph)
