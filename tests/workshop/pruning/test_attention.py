"""The stand-in for torch's multi-head attention answers as the original does."""

import pytest
import torch
from torch import nn

from edgemm.contracts import card_file
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.pruning.attention import SplitAttention, replaceable, split_attention

CALLS = {
    "self attention": ({}, {}),
    "no weights wanted": ({}, {"need_weights": False}),
    "weights of each head": ({}, {"average_attn_weights": False}),
    "without biases": ({"bias": False}, {}),
    "time first": ({"batch_first": False}, {}),
    "other widths of keys and values": ({"kdim": 10, "vdim": 6}, {}),
    "hidden keys": ({}, {"key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5])}),
    "a mask of booleans": ({}, {"attn_mask": torch.ones(3, 5).triu(2).bool()}),
    "a mask of numbers": ({}, {"attn_mask": torch.randn(3, 5)}),
    "a mask for every head": ({}, {"attn_mask": torch.randn(8, 3, 5)}),
}


def drawn(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, 4, **{"batch_first": True, **options}).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # torch starts biases at zero
    return made


@pytest.mark.parametrize("name", CALLS)
def test_it_answers_as_the_original(name):
    options, call = CALLS[name]
    stock = drawn(**options)
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, options.get("kdim", 16)), torch.randn(2, 5, options.get("vdim", 16))
    given = [x if stock.batch_first else x.transpose(0, 1) for x in (query, key, value)]
    wanted, shares = stock(*given, **call)
    found, ours = SplitAttention(stock)(*given, **call)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert (shares is None) == (ours is None)
    if shares is not None:
        torch.testing.assert_close(ours, shares, atol=1e-6, rtol=1e-5)


def test_one_sample_without_a_batch():
    stock, x = drawn(), torch.randn(5, 16)
    for mask in (None, torch.tensor([False, False, True, False, True])):
        for wanted, found in zip(stock(x, x, x, mask), SplitAttention(stock)(x, x, x, mask), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_it_is_in_the_mode_of_the_original():
    assert not SplitAttention(drawn()).training
    assert SplitAttention(drawn().train()).training


def test_transformer_layers_take_it_and_a_shared_one_stays_shared():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    module = nn.ModuleDict({"one": layer, "same": layer, "encoder": nn.TransformerEncoder(layer, 2).eval()})
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        wanted = module["one"](x), module["encoder"](x)
        names = split_attention(module)
        found = module["one"](x), module["encoder"](x)
    assert names == ["one.self_attn", "same.self_attn", "encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
    assert module["one"].self_attn is module["same"].self_attn
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def test_a_text_encoder_with_padding_takes_it_and_answers_in_eval_as_in_training():
    plain = {
        "factory": "own:build",
        "inputs": {"x": {"modality": "sensor", "shape": [5, 16]}, "pad": {"modality": "sensor", "shape": [5]}},
        "outputs": {"y": {"task": "tensor"}},
    }

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), 2)

        def forward(self, x, pad):
            return self.encoder(x, src_key_padding_mask=pad > 0)

    torch.manual_seed(0)
    model = FusedModel(card_file.parse(plain), Text())
    rows = {"x": torch.randn(2, 5, 16), "pad": torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 0, 1]])}
    with torch.no_grad():
        wanted = model.train()(rows)["y"]
        torch.testing.assert_close(model.eval()(rows)["y"], wanted, atol=1e-5, rtol=1e-5)
        split_attention(model.module)
        torch.testing.assert_close(model(rows)["y"], wanted, atol=1e-5, rtol=1e-5)


def test_what_holds_more_than_layers_is_left_alone():
    class Own(nn.MultiheadAttention):
        pass

    module = nn.ModuleDict({"plain": drawn(), "rows": drawn(add_bias_kv=True), "zero": drawn(add_zero_attn=True), "own": Own(16, 4)})
    assert replaceable(module) == ["plain"]
