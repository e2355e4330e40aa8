"""Export: inputs as the box has them, dynamic batch, the same bytes, and errors that name module and line."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from edgemm.contracts import card_file as cards  # noqa: E402
from edgemm.errors import CardError, ExportError, ParityError  # noqa: E402
from edgemm.graph import files  # noqa: E402
from edgemm.graph.branches import find_branches  # noqa: E402
from edgemm.workshop.models.export_parity import check_export  # noqa: E402
from edgemm.workshop.models.fused import FusedModel  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402

CARD = {
    "factory": "porch:build",
    "weights": "weights.safetensors",
    "inputs": {
        "image": {"modality": "image", "height": 16, "width": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
        "text": {"modality": "text", "vocab": 50, "length": 12, "mask": True},
        "imu": {"modality": "sensor", "shape": [20, 4], "rate_hz": 50},
    },
    "outputs": {"event": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}},
}
ONE_INPUT = {**CARD, "inputs": {"x": {"modality": "sensor", "shape": [8], "rate_hz": 1}}, "outputs": {"y": {"task": "tensor"}}}


class Fused(nn.Module):
    """Pooled picture, attended and LSTM-read text, GRU-read sensor; gated; two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table, self.words = nn.Embedding(50, 8), nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.imu = nn.GRU(4, 8, batch_first=True)
        self.gate = nn.Linear(32, 32)
        self.event, self.level = nn.Linear(32, 3), nn.Sequential(nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, image, text, mask, imu):
        words = self.table(text)
        words = words + self.attend(words, words, words, key_padding_mask=mask == 0, need_weights=False)[0]
        joined = torch.cat([self.image(image), self.words(words)[0].mean(1), self.imu(imu)[1][-1]], 1)
        joined = joined * torch.sigmoid(self.gate(joined))
        return {"event": self.event(joined), "level": self.level(joined)}


def fused() -> FusedModel:
    torch.manual_seed(0)
    return FusedModel(cards.parse(CARD), Fused()).eval()


def single(module: nn.Module) -> FusedModel:
    return FusedModel(cards.parse(ONE_INPUT), module.eval())


def run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path))
    return dict(zip([out.name for out in session.get_outputs()], session.run(None, feed), strict=True))


def feed_of(model: FusedModel, batch: int, seed: int = 5) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in sample_inputs(model.card, batch, seed).items()}


@pytest.fixture(scope="session")
def exported(shared: Callable) -> Path:
    return shared("exported", lambda folder: export_onnx(fused(), folder / "model.onnx")) / "model.onnx"


def test_the_graph_takes_what_the_box_has_and_names_what_the_card_names(exported):
    graph = onnx.load(exported).graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]}
    assert shapes == {
        "image": ["batch", 16, 16, 3], "text": ["batch", 12], "imu": ["batch", 20, 4], "event": ["batch", 3], "level": ["batch", 1],
    }  # fmt: skip
    assert next(v for v in graph.input if v.name == "image").type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_batch_size_gives_what_torch_gives(exported, batch):
    model, feed = fused(), feed_of(fused(), batch)
    with torch.no_grad():
        expected = model({name: torch.from_numpy(value) for name, value in feed.items()})
    for name, value in run(exported, feed).items():
        np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-5)


def test_recurrent_layers_stay_single_nodes_without_a_state_of_zeros(exported):
    nodes = {node.op_type: node for node in onnx.load(exported).graph.node}
    assert {"GRU", "LSTM"} <= set(nodes)
    assert {a.name: a.i for a in nodes["GRU"].attribute}["linear_before_reset"] == 1
    assert len(nodes["GRU"].input) <= 4 or not nodes["GRU"].input[5]


def test_index_arithmetic_of_the_exporter_is_folded(exported):
    kinds = [node.op_type for node in onnx.load(exported).graph.node]
    assert not {"Range", "GatherND", "IsNaN", "ConstantOfShape"} & set(kinds)


def test_each_branch_reads_the_batch_size_from_its_own_input(exported):
    model = onnx.load(exported)
    branches = find_branches(model, cards.parse(CARD))
    maker = {name: branches.of_node[node.name] for node in model.graph.node for name in node.output}
    crossing = [
        (node.name, name)
        for node in model.graph.node
        for name in node.input
        if branches.of_node[node.name] in branches.inputs and maker.get(name, branches.of_node[node.name]) != branches.of_node[node.name]
    ]
    assert not crossing


def test_the_same_model_gives_the_same_bytes_in_another_process(exported, tmp_path):
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("again", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.export_onnx(module.fused(), module.Path({str(tmp_path / "again.onnx")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", ""), "export is quiet"
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (exported, tmp_path / "again.onnx"))
    assert first == second


def test_the_file_holds_no_path_of_this_machine_and_still_maps_nodes_to_modules(exported):
    content = exported.read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content
    gru = next(node for node in onnx.load(exported).graph.node if node.op_type == "GRU")
    assert gru.metadata_props[0].value == "['imu']"


def test_weights_above_the_limit_lie_beside_the_graph(exported, tmp_path):
    model = files.load(exported)
    path = files.save(model, tmp_path / "large.onnx", limit_bytes=10_000)
    assert path.stat().st_size < exported.stat().st_size
    assert (tmp_path / "large.onnx.data").is_file()
    feed = feed_of(fused(), 2)
    np.testing.assert_array_equal(run(path, feed)["event"], run(exported, feed)["event"])
    assert files.load(path).graph.initializer[0].raw_data == model.graph.initializer[0].raw_data


def test_keyword_only_parameters_are_fed_by_name(tmp_path):
    class KeywordOnly(nn.Module):
        def forward(self, *, x):
            return x * 2

    path = export_onnx(single(KeywordOnly()), tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(path, {"x": np.ones((3, 8), np.float32)})["y"], np.full((3, 8), 2, np.float32))


def test_rows_whose_keys_are_all_masked_give_what_torch_gives(tmp_path):
    class Attention(nn.Module):
        def forward(self, x):
            q = x.reshape(-1, 1, 8, 1)
            return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=(x > 0)[:, None, None, :]).flatten(1)

    model = single(Attention())
    path = export_onnx(model, tmp_path / "model.onnx")
    x = np.stack([np.full(8, -1.0), np.linspace(-1, 1, 8)]).astype(np.float32)
    with torch.no_grad():
        expected = model({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(run(path, {"x": x})["y"], expected, atol=1e-6)
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "IsNaN"]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)


class Decides(Layer):
    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)  # decides


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Decides()

    def forward(self, x):
        return self.inner(x)


class FixedBatch(Layer):
    def forward(self, x):
        return self.layer(x + torch.zeros(2, 8))  # fixes the batch


class LoopsOverBatch(Layer):
    def forward(self, x):
        return torch.stack([self.layer(x[i]) for i in range(x.shape[0])])  # loops


class Foreign(Layer):
    def forward(self, x):
        return torch.linalg.svd(self.layer(x))[1]  # no ONNX form


class ForeignInside(Layer):
    def forward(self, x):
        return self.layer(x) + torch.linalg.eigvals(x[:, :4, None] * x[:, None, :4]).real  # none in what it is made of


class Sounding(Layer):
    def forward(self, x):
        spectrum = torch.stft(x, 4, 2, return_complex=True)
        return self.layer(torch.istft(spectrum, 4, 2))  # back to sound


class WrongWidth(Layer):
    def forward(self, x):
        return self.layer(x[:, :7])  # too narrow


class Numpy(Layer):
    def forward(self, x):
        return self.layer(torch.from_numpy(x.numpy() * 2))  # leaves torch


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Decides(), ["the model (Decides)", "# decides", "takes a decision on a value", "torch.where"]),
        (Outer(), ["module 'inner' (Decides)", "# decides", "takes a decision on a value"]),
        (FixedBatch(), ["# fixes the batch", "the size 'batch' is fixed to a number", "x.shape[0]"]),
        (LoopsOverBatch(), ["# loops", "the size 'batch' is fixed to a number", "do not loop over the batch"]),
        (ForeignInside(), ["# none in what it is made of", "ONNX has no form of aten.linalg_eig"]),
        (Foreign(), ["# no ONNX form", "ONNX has no form of aten._linalg_svd", "simpler torch operations"]),
        (Sounding(), ["# back to sound", "ONNX has no form of istft", "conv_transpose1d"]),
        (WrongWidth(), ["module 'layer' (Linear)", "# too narrow", "same reduction dim", "compare the card's inputs"]),
        (Numpy(), ["# leaves torch", ".numpy() is not supported", "torch operations only"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_failure_names_module_and_line_of_the_users_model(module, words, tmp_path, capfd):
    with pytest.raises(ExportError) as caught:
        export_onnx(single(module), tmp_path / "model.onnx")
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "test_onnx_export.py:" in text
    assert capfd.readouterr() == ("", ""), "the exporter's own complaints are not shown"
    assert not list(tmp_path.iterdir())


def test_a_module_that_returns_something_else_than_the_card_says_is_a_card_error(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(CardError, match="returned 2 values"):
        export_onnx(single(Two()), tmp_path / "model.onnx")


def test_an_opset_the_exporter_cannot_write_is_refused(tmp_path):
    with pytest.raises(ExportError, match="opset 16 is too old"):
        export_onnx(single(nn.Identity()), tmp_path / "model.onnx", opset=16)


class OddlyNamed(nn.Module):
    """Weights, buffers and parts called as torch calls results of operators."""

    def __init__(self):
        super().__init__()
        self.linear, self.getitem = nn.Linear(8, 8), nn.Linear(8, 8)
        self.add_1, self.mul = nn.Parameter(torch.ones(8)), nn.ParameterList([torch.ones(8)])
        for name in ("cat", "mean", "view", "a"):
            self.register_buffer(name, torch.randn(8))

    def forward(self, x, y):
        left = self.linear(x) + self.add_1 + self.cat
        right = self.getitem(y) * self.mul[0] + self.mean + self.view + self.a
        first, second = torch.cat([left, right], 1).split([8, 8], 1)
        return first.mean(1, keepdim=True) + second.view(-1, 8), left, x


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["a", "mean"], ["linear", "cat", "o"]),
        (["view", "add"], ["add_1", "split", "getitem"]),
        (["linear.weight", "mul.0"], ["mean.1", "val_0", "view.1"]),
        (["in put/\u00e4.0", "b:1"], ["/out", "\u65e5\u672c", "x y"]),
    ],
)
def test_no_name_is_taken_twice_whatever_the_card_or_the_module_calls_things(inputs, outputs, tmp_path):
    card = cards.parse(
        {
            "factory": "own:build",
            "inputs": {name: {"modality": "tensor", "dtype": "float32", "shape": ["batch", 8]} for name in inputs},
            "outputs": {name: {"task": "tensor"} for name in outputs},
        }
    )
    torch.manual_seed(0)
    model = FusedModel(card, OddlyNamed()).eval()
    path = export_onnx(model, tmp_path / "model.onnx")
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == inputs
    assert [value.name for value in graph.output] == outputs
    names = [value.name for value in (*graph.initializer, *graph.input)] + [name for node in graph.node for name in node.output]
    assert len(set(names)) == len(names)
    feed = feed_of(model, 3)
    with torch.no_grad():
        expected = model({name: torch.from_numpy(value) for name, value in feed.items()})
    for name, value in run(path, feed).items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-5)


class HalfInside(Layer):
    def forward(self, x):
        return self.layer(x).half().float()


def test_what_forward_casts_to_single_precision_is_written_in_float32(tmp_path):
    model = onnx.load(export_onnx(single(HalfInside()), tmp_path / "model.onnx"))
    assert not [
        entry for node in model.graph.node for entry in node.attribute if entry.name == "to" and entry.i == onnx.TensorProto.FLOAT16
    ]


class Jumping(nn.Module):
    """An angle that lies where it is cut, and a sign of nearly nothing."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("tiny", torch.full((8,), 1e-20))

    def forward(self, x):
        small = x.abs() * self.tiny
        return torch.atan2(small, -1 - x.abs()) if self.kind == "angle" else torch.sign(small)


@pytest.mark.parametrize("kind", ["angle", "sign"])
def test_where_rounding_becomes_a_jump_the_exporter_is_not_blamed(tmp_path, kind):
    model = single(Jumping(kind))
    path = export_onnx(model, tmp_path / "model.onnx")
    graph = files.load(path)
    tiny = next(tensor for tensor in graph.graph.initializer if "tiny" in tensor.name)
    tiny.raw_data = np.full(8, -1e-20, np.float32).tobytes()
    with pytest.raises(ParityError, match=r"which jumps(.|\n)*cos and sin of an angle") as caught:
        check_export(model, files.save(graph, tmp_path / "other.onnx"), [feed_of(model, 1)])
    assert "report" not in str(caught.value)
