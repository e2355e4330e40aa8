"""Attention with masks, in every way people write them: the same answers in ONNX, ranges without minus infinity in INT8."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.contracts import step
from edgemm.contracts.target import Numerics
from edgemm.data import dataset as data
from edgemm.graph import files, parity
from edgemm.graph.branches import find_branches
from edgemm.graph.masks import masking_nodes
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import export_onnx
from edgemm.workshop.steps.quantize import quantize

CARD = cards.parse(
    {
        "factory": "a:b",
        "inputs": {"ids": {"modality": "text", "length": 6, "vocab": 20}, "x": {"modality": "sensor", "shape": [4]}},
        "outputs": {"y": {"task": "tensor"}},
    }
)


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.embedding, self.query, self.key = kind, nn.Embedding(20, 8, padding_idx=0), nn.Linear(4, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, x):
        pad, tokens, query = ids == 0, self.embedding(ids), self.query(x)[:, None]
        key = self.key(tokens)
        if self.kind == "multihead":
            return self.head(self.attention(query, key, tokens, key_padding_mask=pad, need_weights=False)[0][:, 0])
        if self.kind == "sdpa bool":
            return self.head(nn.functional.scaled_dot_product_attention(query, key, tokens, attn_mask=~pad[:, None])[:, 0])
        if self.kind == "sdpa -inf":
            mask = torch.zeros(pad.shape).masked_fill(pad, float("-inf"))[:, None]
            return self.head(nn.functional.scaled_dot_product_attention(query, key, tokens, attn_mask=mask)[:, 0])
        if self.kind == "max":
            return self.head(key.masked_fill(pad[..., None], float("-inf")).amax(1) + query[:, 0])
        scores = (key * query).sum(2)
        match self.kind:
            case "masked_fill":
                scores = scores.masked_fill(pad, float("-inf"))
            case "least float":
                scores = scores + pad.float() * torch.finfo(torch.float32).min
            case "-1e9":
                scores = scores - 1e9 * (1 - (~pad).float())
            case "where":
                scores = torch.where(pad, torch.tensor(-1e4), scores)
        return self.head((scores.softmax(1)[..., None] * tokens).sum(1))


KINDS = ("multihead", "sdpa bool", "sdpa -inf", "max", "masked_fill", "least float", "-1e9", "where")


def rows(count=24):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 20, (count, 6))
    for row in range(count):
        ids[row, 1 + row % 6 :] = 0
    return {"ids": ids, "x": rng.normal(size=(count, 4)).astype(np.float32)}


@pytest.fixture(params=KINDS)
def exported(request, tmp_path):
    model = FusedModel(CARD, Net(request.param)).eval()
    return model, files.load(export_onnx(model, tmp_path / "model.onnx"))


def test_masks_keep_their_meaning_in_onnx_and_stay_out_of_int8(exported, tmp_path):
    model, graph = exported
    feed = rows()
    with torch.no_grad():
        expected = model({name: torch.from_numpy(value) for name, value in feed.items()})["y"].numpy().reshape(-1)
    plain = parity.run_reference(graph, [feed])[0]["y"]
    assert np.abs(plain - expected).max() < 1e-5
    np.savez(tmp_path / "train.npz", **feed)
    dataset = data.open_dataset(tmp_path, CARD)
    for numerics in (Numerics(activations="uint8"), Numerics(activations="int8")):
        ctx = step.Context(CARD, dataset, tmp_path, branches=find_branches(graph, CARD), target="onnxruntime", numerics=numerics)
        small = quantize(graph, ctx, calibration_samples=24)
        error = parity.difference(plain, parity.run_reference(small, [feed])[0]["y"])
        assert error.sqnr_db > 20, (numerics.activations, error)
    assert masking_nodes(graph) or model.module.kind in ("multihead", "sdpa bool")  # there the exporter's own softmax holds it


@pytest.mark.parametrize("kind", ["multihead", "sdpa bool", "sdpa -inf", "least float"])
def test_rows_in_which_all_is_padding_are_answered_as_in_torch(kind, tmp_path):
    model = FusedModel(CARD, Net(kind)).eval()
    graph, feed = files.load(export_onnx(model, tmp_path / "model.onnx")), rows(4)
    feed["ids"][1] = 0
    with torch.no_grad():
        expected = model({name: torch.from_numpy(value) for name, value in feed.items()})["y"].numpy().reshape(-1)
    assert np.isfinite(expected).all()
    assert np.abs(parity.run_reference(graph, [feed])[0]["y"] - expected).max() < 1e-5


class Joined(Net):
    """The largest of what is no padding, beside what another branch says: joined, they are quantized."""

    def forward(self, ids, x):
        words = self.key(self.embedding(ids)).masked_fill((ids == 0)[..., None], float("-inf")).amax(1)
        return self.head(words + self.query(x)) if self.kind == "added" else self.wide(torch.cat([words, self.query(x)], 1))


@pytest.mark.parametrize("kind", ["joined", "added"])
def test_maxima_of_what_a_mask_left_are_computed_by_openvino_as_by_onnx_runtime(kind, tmp_path):
    from edgemm.box.targets.openvino import OpenVINO

    net = Joined(kind)
    net.wide = nn.Linear(16, 3)
    graph, feed = files.load(export_onnx(FusedModel(CARD, net).eval(), tmp_path / "model.onnx")), rows()
    np.savez(tmp_path / "train.npz", **feed)
    branches, dataset = find_branches(graph, CARD), data.open_dataset(tmp_path, CARD)
    ctx = step.Context(CARD, dataset, tmp_path, branches=branches, target="openvino", numerics=OpenVINO.numerics)
    small = quantize(graph, ctx, calibration_samples=24)
    expected = parity.run_reference(small, [feed])[0]["y"].reshape(-1, 3)
    with OpenVINO().open(files.save(small, tmp_path / "small.onnx"), precision="f32", threads=1) as session:
        answers = np.concatenate([session.run({name: value[row : row + 1] for name, value in feed.items()})["y"] for row in range(24)])
    assert parity.difference(expected, answers).sqnr_db > parity.TARGET_SQNR_DB
