"""Of everything a checkpoint file may hold, the weights of the model are found, and what else is there is told."""

import argparse
import datetime
import pathlib
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, CheckpointError
from edgemm.workshop.models.checkpoint.loading import load_model

MODEL = """
from torch import nn
def build(**options):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return nn.Sequential(net) if options.get("wrapped") else net
"""


LEFT = "'w.pt' holds what the model has no place for, left out: "


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def state(seed: int, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in net(seed).state_dict().items()}


@pytest.fixture
def load(tmp_path):
    """``load(held, key)``: which of the seeded nets came out of a file that holds this, and the notes."""
    (tmp_path / "net.py").write_text(MODEL)

    def loaded(held, key=None, name="w.pt", **kwargs):
        if name.endswith("npz"):
            np.savez(tmp_path / name, **held)
        else:
            (save_file if name.endswith("safetensors") else torch.save)(held, tmp_path / name)
        weights = name if key is None else {"file": name, "key": key}
        inputs, outputs = {"x": {"modality": "sensor", "shape": [2]}}, {"y": {"task": "tensor"}}
        plain = {"factory": "net:build", "weights": weights, "kwargs": kwargs, "inputs": inputs, "outputs": outputs}
        notes: list[str] = []
        weight = next(load_model(cards.parse(plain, path=tmp_path / "model.yaml"), note=notes.append).module.parameters())
        return next(seed for seed in range(4) if torch.equal(weight, net(seed)[0].weight)), " ".join(notes)

    return loaded


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "params_ema", "ema_state_dict", "model_ema", "averaged_model"])
@pytest.mark.parametrize("raw", ["state_dict", "model", "params"])
def test_beside_an_average_the_raw_weights_are_taken_and_the_card_can_name_the_average(load, key, raw):
    held = {key: state(1), raw: state(0), "epoch": 3}
    seed, notes = load(held)
    assert seed == 0
    assert f"those under '{raw}' are taken; for those under '{key}' write weights: {{file: w.pt, key: {key}}}" in notes
    assert load(held, key)[0] == 1


def test_an_average_alone_is_taken(load):
    assert load({"ema_state_dict": state(1), "epoch": 1})[0] == 1
    assert load({"n_averaged": torch.tensor(3), **state(1, "module.")}) == (
        1,
        "'w.pt' holds what the model has no place for, left out: n_averaged.",
    )


def test_an_averaged_model_beside_its_model(load):
    held = {"model": state(0), "ema": AveragedModel(net(1)).state_dict()}
    assert load(held)[0] == 0
    assert load(held, "ema")[0] == 1
    assert load(held, "ema.module")[0] == 1


def test_an_average_under_a_prefix_of_the_same_state_dict(load):
    held = {"state_dict": state(0, "model.") | state(1, "ema_model.")}
    seed, notes = load(held)
    assert seed == 0
    assert notes.count("ema_model") == 2, "the key and how it is written; not once more as what has no place"
    assert "left out" not in notes
    assert load(held, "state_dict.ema_model")[0] == 1


@pytest.mark.parametrize("prefix", ["net.", "model.", "module.", "_orig_mod.", "module._orig_mod.model.net.", "lit.backbone."])
def test_a_prefix_that_makes_every_name_fit_is_stripped(load, prefix):
    assert load(state(2, prefix))[0] == 2
    assert load(state(2, prefix), name="w.safetensors")[0] == 2


def test_wrappers_inside_of_names_are_stripped(load):
    assert load({name.replace("0.", "0._orig_mod.", 1): value for name, value in state(2).items()})[0] == 2


def test_a_factory_may_wrap_what_was_saved_bare(load):
    assert load(state(2), wrapped=True)[0] == 2


@pytest.mark.parametrize("extra", ["criterion.weight", "loss_fn.weight", "total_ops", "0.total_ops", "metrics.auc.preds"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_nothing_needs_is_named_and_left(load, extra, prefix):
    name = extra if "." in extra and not extra[0].isdigit() else prefix + extra
    seed, notes = load({"state_dict": state(0, prefix) | {name: torch.ones(4)}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}})
    assert seed == 0
    assert notes == f"{LEFT}{name}."


@pytest.mark.parametrize("extra", ["3.weight", "0.scale"])
def test_one_more_layer_or_one_more_tensor_of_a_layer_is_an_error(load, extra):
    with pytest.raises(CheckpointError, match=f"do not fit the model that the factory builds(.|\n)*unexpected: {extra}"):
        load(state(0) | {extra: torch.ones(4)})


def test_names_that_are_missing_are_named(load):
    held = state(0, "model.")
    del held["model.2.bias"]
    with pytest.raises(CheckpointError, match=r"why: missing: 2.bias\."):
        load(held)


def test_two_that_fit_equally_well_are_an_error_that_names_them(load):
    held = {"left": state(0), "right": state(1)}
    with pytest.raises(CheckpointError, match=r"fit the model: left, right(.|\n)*weights: \{file: w.pt, key: left\}"):
        load(held)
    assert load(held, "right")[0] == 1
    with pytest.raises(CheckpointError, match=r"no state dict under the key 'middle'(.|\n)*left, right"):
        load(held, "middle")


def test_a_trainers_plain_values_are_read_without_running_anything(load):
    beside = {
        "callbacks": defaultdict(list, {"best": [1]}), "score": np.float64(0.5), "file": pathlib.Path("a/b"),
        "when": datetime.date(2026, 1, 1),
        "hyper_parameters": argparse.Namespace(lr=1.0, path=pathlib.PurePosixPath("x")), "losses": deque([1.0, np.float32(2)]),
        "order": OrderedDict(a=1), "history": np.arange(4.0), "kind": np.dtype("int8"), "set": {1, 2},
    }  # fmt: skip
    assert load({"state_dict": state(3, "model."), **beside}, name="w.ckpt")[0] == 3
    assert load({"state_dict": defaultdict(dict, state(3))}, name="w.ckpt")[0] == 3


@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("name", ["w.pt", "w.npz"])
def test_weights_may_be_arrays_of_numpy(load, name, kind):
    arrays = {key: np.asarray(value, kind if value.dtype == torch.float32 else None, order="F") for key, value in state(3).items()}
    assert load(arrays, name=name) == (3, "")
    if name == "w.pt":
        assert load({"params": arrays, "epoch": np.int64(3), "losses": np.arange(3.0), "names": np.array(["a"], object)})[0] == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_no_weights_and_the_way_out_works(load, tmp_path):
    torch.jit.script(net(1)).save(str(tmp_path / "w.pt"))
    (tmp_path / "model.yaml").write_text(
        "factory: net:build\nweights: w.pt\ninputs: {x: {modality: sensor, shape: [2]}}\noutputs: {y: {task: tensor}}\n"
    )
    (tmp_path / "net.py").write_text(MODEL)
    with pytest.raises(CheckpointError, match=r"is a TorchScript program, not weights(.|\n)*torch.jit.load\('w.pt'"):
        load_model(cards.load(tmp_path))


@pytest.mark.parametrize("weights", [["a.pt"], {"file": "a.pt"}, {"file": "a.pt", "key": 3}, 5])
def test_weights_are_a_file_or_a_file_and_a_key(weights):
    inputs, outputs = {"x": {"modality": "sensor", "shape": [2]}}, {"y": {"task": "tensor"}}
    with pytest.raises(CardError, match=r"weights: \{file: best.pt, key: ema_state_dict\}"):
        cards.parse({"factory": "a:b", "weights": weights, "inputs": inputs, "outputs": outputs})
