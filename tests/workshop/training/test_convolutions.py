"""A gradient that oneDNN would write beyond its memory on AVX2 alone is computed without it, and only that."""

import pytest
import torch
from torch import nn

from edgemm.workshop.training import convolutions
from edgemm.workshop.training.convolutions import kept_within, overruns

OLDER, NEWER = frozenset({"avx2"}), frozenset({"avx2", "avx512f"})


def on(monkeypatch, instructions):
    monkeypatch.setattr(convolutions, "onednn_instructions", lambda: instructions)


@pytest.mark.parametrize(
    ("layers", "overrun"),
    [
        ([nn.Conv2d(4, 8, 1, stride=2)], True),
        ([nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(7, 6, 1, stride=2))], True),
        ([nn.Conv2d(4, 8, 1)], False),
        ([nn.Conv2d(8, 8, 1, stride=2)], False),
        ([nn.Conv2d(4, 8, 3, stride=2)], False),
        ([nn.Linear(4, 8)], False),
    ],
)
def test_a_strided_convolution_of_few_channels_is_found(layers, overrun, monkeypatch):
    on(monkeypatch, OLDER)
    assert overruns(nn.Sequential(*layers)) is overrun
    on(monkeypatch, NEWER)
    assert not overruns(nn.Sequential(*layers))


def test_in_a_traced_model_it_is_found_too(monkeypatch):
    on(monkeypatch, OLDER)
    traced = torch.export.export(nn.Sequential(nn.Conv2d(4, 8, 1, stride=2)), (torch.zeros(2, 4, 8, 8),)).module()
    assert overruns(traced)
    plain = torch.export.export(nn.Sequential(nn.Conv2d(4, 8, 1)), (torch.zeros(2, 4, 8, 8),)).module()
    assert not overruns(plain)


def test_gradients_stay_the_same_and_within_their_memory():
    """Sixty steps, after which the heap was lost every time on AVX2 alone."""
    layer = nn.Conv2d(4, 8, 1, stride=2)
    for seed in range(60):
        torch.manual_seed(seed)
        picture = torch.randn(64, 4, 8, 8).contiguous(memory_format=torch.channels_last)
        wanted = torch.einsum("nohw,nihw->oi", 2 * layer(picture).detach(), picture[:, :, ::2, ::2])
        with kept_within(overruns(layer)):
            (found,) = torch.autograd.grad(layer(picture).square().sum(), layer.weight)
        torch.testing.assert_close(found[..., 0, 0], wanted, rtol=1e-4, atol=1e-2)
    assert torch._C._get_mkldnn_enabled()
