"""A head of one logit answers for two labels; a model built in half precision is taken in float32."""

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, ExportError
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.row_by_row import require_own_answers

SOURCE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, flat, dtype="float32", chance=None, width=1):
        super().__init__()
        self.chance = chance
        self.flat, self.line = flat, nn.Linear(2, width).to(getattr(torch, dtype))
    def forward(self, x):
        z = self.line(x)
        z = CHANCES[self.chance](z) if self.chance else z
        return z[..., 0] if self.flat else z
CHANCES = {
    "sigmoid": torch.sigmoid,
    "limits": lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6),
    "hard sigmoid": nn.functional.hardsigmoid,
    "whole softmax": lambda z: torch.softmax(z, 1),
    "softmax": lambda z: torch.softmax(torch.cat([0 * z, z], 1), 1)[:, 1:],
    "by hand": lambda z: 1 / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.tanh(z) + 1) / 2,
    "normal": lambda z: 0.5 * (1 + torch.erf(z)),
    "averaged": lambda z: (torch.sigmoid(z) + torch.sigmoid(2 * z)) / 2,
    "logarithm": nn.functional.logsigmoid,
    "other's logarithm": lambda z: torch.log(1 - torch.sigmoid(z)),
}
LOGITS = {
    "bounded": lambda z: 3 * torch.tanh(z),
    "low": lambda z: z - 9,
    "high": lambda z: z + 9,
    "gated": lambda z: (z + 9) * torch.sigmoid(z),
    "still zero": lambda z: 0 * z.detach() + 0.1 * z,
    "of a chance": lambda z: torch.logit(torch.sigmoid(z)),
}
CHANCES |= LOGITS
"""
CHANCES = ["sigmoid", "limits", "hard sigmoid", "softmax", "by hand", "tanh", "normal", "averaged", "logarithm", "other's logarithm"]
LOGITS = [None, "bounded", "low", "high", "gated", "still zero", "of a chance"]
ROWS = {"x": np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)}


def model(place, labels=("no", "yes"), note=lambda text: None, task="classification", shape=(2,), per_step=False, **kwargs):
    (place / "net.py").write_text(SOURCE)
    plain = {
        "factory": "net:Net", "kwargs": kwargs, "inputs": {"x": {"modality": "sensor", "shape": list(shape)}},
        "outputs": {"y": {"task": task, "labels": list(labels)} | ({"per_step": True} if per_step else {})},
    }  # fmt: skip
    return load_model(cards.parse(plain, path=place / "model.yaml"), note=note)


@pytest.mark.parametrize("flat", [True, False])
def test_one_logit_is_the_chance_of_the_second_of_two_labels(tmp_path, flat):
    net = model(tmp_path, flat=flat)
    x = torch.tensor([[5.0, -3.0], [-4.0, 2.0], [0.3, 0.1]])
    with torch.no_grad():
        answer, logit = net({"x": x})["y"], net.module.line(x)[:, 0]
    assert answer.shape == (3, 2)
    assert torch.allclose(answer.softmax(1)[:, 1], logit.sigmoid())
    assert torch.equal(answer.argmax(1) == 1, logit > 0)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("chance", CHANCES)
def test_a_chance_in_place_of_the_logit_is_refused(tmp_path, flat, chance):
    side = "above" if "logarithm" in chance else "below"
    with pytest.raises(ExportError, match=rf"Net\) at .*net\.py:\d+: .*output 'y' is never {side} 0(.|\n)*torch\.logit"):
        require_own_answers(model(tmp_path, flat=flat, chance=chance), ROWS)


@pytest.mark.parametrize("logit", LOGITS)
def test_a_logit_passes_also_where_all_rows_mean_the_same(tmp_path, logit):
    require_own_answers(model(tmp_path, flat=False, chance=logit), ROWS)


@pytest.mark.parametrize(("chance", "is_refused"), [("sigmoid", True), ("by hand", True), ("bounded", False), ("low", False)])
def test_chances_of_several_labels_at_once_are_refused_too(tmp_path, chance, is_refused):
    several = model(tmp_path, task="multilabel", labels=("only",), flat=False, chance=chance)
    if not is_refused:
        return require_own_answers(several, ROWS)
    with pytest.raises(ExportError, match=r"output 'y' is never below 0(.|\n)*would always mean yes"):
        require_own_answers(several, ROWS)


@pytest.mark.parametrize("flat", [True, False])
def test_one_logit_a_step_is_the_chance_of_the_second_of_two_labels(tmp_path, flat):
    net = model(tmp_path, shape=(3, 2), per_step=True, flat=flat)
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer, logit = net({"x": x})["y"], net.module.line(x)[..., 0]
    assert answer.shape == (4, 3, 2)
    assert torch.equal(answer.argmax(2) == 1, logit > 0)


def test_one_logit_for_three_labels_is_an_error(tmp_path):
    with pytest.raises(CardError, match=r"3 labels want \(N, 3\) logits(.|\n)*one logit, \(N,\) or \(N, 1\), may answer for two labels"):
        model(tmp_path, ("a", "b", "c"), flat=False)({"x": torch.zeros(1, 2)})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_model_built_in_another_type_is_taken_in_float32_and_says_so(tmp_path, dtype):
    notes = []
    net = model(tmp_path, note=notes.append, flat=False, dtype=dtype)
    assert net({"x": torch.zeros(1, 2)})["y"].dtype == torch.float32
    assert notes == [f"'net:Net' holds {dtype}: it is read as float32."]


def test_of_a_model_built_in_another_type_the_factory_is_named_also_where_weights_were_saved_in_float32(tmp_path):
    notes = []
    save_model(model(tmp_path, flat=False, dtype="float16"), tmp_path / "saved")
    load_model(cards.load(tmp_path / "saved"), note=notes.append)
    assert notes == ["'net:Net' holds float16: it is read as float32."]


@pytest.mark.parametrize(("chance", "is_told"), [("whole softmax", True), (None, False)])
def test_a_softmax_of_all_labels_is_told(tmp_path, chance, is_told):
    notes = []
    require_own_answers(model(tmp_path, labels="abc", flat=False, chance=chance, width=3), ROWS, notes.append)
    assert ["softmax of a softmax" in note for note in notes] == [True] * is_told
