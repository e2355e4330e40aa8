"""Layers that the exporter cannot write get a form that computes the same."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edgemm.contracts import card_file as cards
from edgemm.errors import ExportError
from edgemm.graph import files, parity
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.exportable import exportable
from edgemm.workshop.models.onnx_export import export_onnx

LENGTHS = torch.tensor([3, 7, 1, 5])
SOURCE = """
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

class Net(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.kind, self.embedding = kind, nn.Embedding(20, 6, padding_idx=0)
        self.bag = nn.EmbeddingBag(20, 6, padding_idx=0, **options) if kind == "bag" else None
        self.memory = getattr(nn, kind.upper())(6, 5, batch_first=True, **options) if kind != "bag" else None

    def forward(self, ids):
        if self.kind == "bag":
            return self.bag(ids)
        lengths = (ids != 0).sum(1).clamp(min=1)
        packed = pack_padded_sequence(self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, states = self.memory(packed)
        padded, lengths = pad_packed_sequence(out, batch_first=True, total_length=8)
        return padded.sum(1) / lengths[:, None] + (states[0] if self.kind == "lstm" else states)[-1].sum(1, keepdim=True)

def offsets():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(20, 6)
        def forward(self, ids):
            return self.bag(ids.reshape(-1), torch.arange(0, ids.numel(), ids.shape[1]))
    return Net()
"""


BAGS = [("bag", {"mode": mode}) for mode in ("mean", "sum", "max")]


def both(run):
    with torch.no_grad():
        plain = run()
        with exportable():
            return plain, run()


def cut(output):
    return output[:, : int(LENGTHS.max())]


@pytest.mark.parametrize(
    ("kind", "layers", "directions", "batch_first"), [*itertools.product(["LSTM", "GRU"], [1, 2], [1, 2], [True, False])]
)
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_a_packed_sequence_is_computed_by_its_lengths(kind, layers, directions, batch_first, proj_size):
    if proj_size and kind == "GRU":
        pytest.skip("a GRU has no projection")
    torch.manual_seed(0)
    options = {"proj_size": proj_size} if proj_size else {}
    memory = getattr(nn, kind)(4, 6, num_layers=layers, bidirectional=directions == 2, batch_first=batch_first, **options)
    x = 3 * torch.randn((4, 9, 4) if batch_first else (9, 4, 4))

    def run():
        out, states = memory(pack_padded_sequence(x, LENGTHS, batch_first=batch_first, enforce_sorted=False))
        padded, lengths = pad_packed_sequence(out, batch_first=batch_first, padding_value=-1.0)
        return cut(padded if batch_first else padded.transpose(0, 1)), lengths, *(states if kind == "LSTM" else [states])

    plain, ours = both(run)
    for one, other in zip(plain, ours, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [*itertools.product([1, 2], [False, True], [False, True])])
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_a_projected_lstm_is_a_plain_one_and_a_linear_layer(layers, bidirectional, bias):
    torch.manual_seed(0)
    memory = nn.LSTM(4, 6, num_layers=layers, bidirectional=bidirectional, bias=bias, proj_size=3)
    x = 3 * torch.randn(9, 2, 4)
    (plain, (hidden, cell)), (out, (h, c)) = both(lambda: memory(x))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in ((plain, out), (hidden, h), (cell, c)))


@pytest.mark.parametrize(
    ("mode", "padding_idx", "is_weighted"),
    [*itertools.product(["sum", "mean", "max"], [None, 0, -1], [False]), ("sum", 0, True)],
)
def test_an_embedding_bag_is_an_embedding_and_a_sum(mode, padding_idx, is_weighted):
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding_idx)
    ids = torch.randint(0, 10, (6, 5))
    ids[0], ids[1, 2:], ids[2, 3:] = 0, 0, 9
    weights = torch.rand(6, 5) if is_weighted else None
    plain, ours = both(lambda: bag(ids, per_sample_weights=weights))
    assert torch.allclose(plain, ours, atol=1e-6)


def test_afterwards_torch_is_as_it_was():
    before = nn.LSTM.forward, pack_padded_sequence.__code__, nn.functional.embedding_bag
    with pytest.raises(ZeroDivisionError), exportable():
        raise ZeroDivisionError
    assert before == (nn.LSTM.forward, pack_padded_sequence.__code__, nn.functional.embedding_bag)


def model_of(place, factory, **kwargs):
    (place / "net.py").write_text(SOURCE)
    plain = {
        "factory": f"net:{factory}", "kwargs": kwargs, "outputs": {"y": {"task": "tensor"}},
        "inputs": {"ids": {"modality": "text", "length": 8, "vocab": 20}},
    }  # fmt: skip
    return load_model(cards.parse(plain, path=place / "model.yaml"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("lstm", {"bidirectional": True}), ("gru", {"num_layers": 2}), ("lstm", {"proj_size": 3, "bidirectional": True}), *BAGS],
)
def test_the_exported_graph_answers_batches_of_mixed_lengths_as_torch_does(tmp_path, kind, options):
    model = model_of(tmp_path, "Net", kind=kind, **options)
    graph = files.load(export_onnx(model, tmp_path / "model.onnx"))
    ids = np.random.default_rng(0).integers(1, 20, (5, 8))
    for row, length in enumerate([8, 1, 3, 5, 2]):
        ids[row, length:] = 0
    with torch.no_grad():
        expected = model({"ids": torch.from_numpy(ids)})["y"].numpy()
    answers, _ = parity.run_reference(graph, [{"ids": ids}])
    assert np.abs(answers["y"].reshape(expected.shape) - expected).max() < 1e-5


@pytest.mark.parametrize(("factory", "kwargs", "words"), [
    ("offsets", {}, r"module 'bag' \(EmbeddingBag\) at .*net.py:\d+: `return self.bag(.|\n)*no form in ONNX with offsets"),
    ("Net", {"kind": "rnn"}, r"module 'memory' \(RNN\)(.|\n)*an RNN on a packed sequence has no form in ONNX(.|\n)*use a GRU or an LSTM"),
])  # fmt: skip
def test_what_has_no_such_form_is_refused_by_module_and_line(tmp_path, factory, kwargs, words):
    with pytest.raises(ExportError, match=words):
        export_onnx(model_of(tmp_path, factory, **kwargs), tmp_path / "model.onnx")
