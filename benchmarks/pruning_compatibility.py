"""Every fusion with three pairs of encoders: what edgemm and torch-pruning make of half the channels.

Launch: python benchmarks/pruning_compatibility.py

A cell fails when the library raises, when the model does not run afterwards, or when fewer than a tenth of its parameters went. edgemm's
cells also have to prove (pruned = masked); torch-pruning has no such check, so its other cells only ran.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch_pruning
from _results import save
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.workshop.models.build import build
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.pruning.analysis import analyse
from edgemm.workshop.pruning.attention import split_attention
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.cutting import cut
from edgemm.workshop.pruning.proof import answers, cases, disturbed, prove

LEAST = 0.1  # share of the parameters that has to go for "pruned"
INPUTS = {
    "image": {"modality": "image", "height": 32, "width": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
    "sound": {"modality": "audio", "rate_hz": 8000, "seconds": 0.5, "features": {"log_mel": {"mels": 24}}},
    "text": {"modality": "text", "vocab": 200, "length": 12},
    "motion": {"modality": "sensor", "shape": [40, 6], "rate_hz": 50},
}
PAIRS = {
    "cnn + conv_gru": {"image": {"cnn": {"width": 64}}, "sound": {"conv_gru": {"width": 64}}},
    "residual_cnn + text_lstm": {"image": {"residual_cnn": {"width": 64}}, "text": {"text_lstm": {"width": 64}}},
    "depthwise_cnn + tcn": {"image": {"depthwise_cnn": {"width": 64}}, "motion": {"tcn": {"width": 64}}},
}
FUSIONS = {
    "average": {"average": {"width": 64}},
    "concat": {"concat": {"width": 64}},
    "cross_attention": {"cross_attention": {"width": 64, "heads": 4}},
    "gated, scalar": {"gated": {"width": 64, "gate": "scalar"}},
    "gated, vector": {"gated": {"width": 64, "gate": "vector"}},
    "graph": {"graph": {"width": 64}},
    "mlp": {"mlp": {"map_width": 64, "hidden": [64]}},
    "product": {"product": {"width": 64}},
    "towers": {"towers": {}},
    "weighted": {"weighted": {"width": 64}},
}
OUTPUTS = {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}}


def main() -> None:
    warnings.simplefilter("ignore")
    table: dict[str, dict[str, Any]] = {}
    for fusion, chosen in FUSIONS.items():
        for pair, encoders in PAIRS.items():
            torch.manual_seed(0)
            card = cards.parse(
                {
                    "factory": "models:digits",
                    "kwargs": {"encoders": encoders, "fusion": chosen},
                    "inputs": {name: INPUTS[name] for name in encoders},
                    "outputs": OUTPUTS,
                }
            )
            model = disturbed(FusedModel(card, build(card)).eval())
            table[f"{fusion} x {pair}"] = {name: cell(prune, copy.deepcopy(model)) for name, prune in LIBRARIES.items()}
    counts = {
        name: {verdict: sum(row[name]["verdict"] == verdict for row in table.values()) for verdict in ("pruned", "failed")}
        for name in LIBRARIES
    }
    save(
        "pruning_compatibility",
        {"cells": len(table), "counts": counts, "torch_pruning": version("torch-pruning"), "table": table},
    )


def cell(prune: Callable[[FusedModel], Mapping[str, Any]], model: FusedModel) -> dict[str, Any]:
    """One library on one model: the verdict, and why it failed."""
    before, features = count(model.module), model.features(sample_inputs(model.card))
    shapes = {name: value.shape for name, value in answers(model, features).items()}
    started, facts = time.perf_counter(), dict[str, Any]()
    try:
        facts = dict(prune(model))
    except Exception as err:
        return {"verdict": "failed", "why": f"raises {type(err).__name__}: {first_line(err)}"}
    seconds = round(time.perf_counter() - started, 2)
    try:
        after = {name: value.shape for name, value in answers(model, features).items()}
    except Exception as err:
        return {"verdict": "failed", "why": f"the pruned model does not run: {type(err).__name__}: {first_line(err)}"}
    if after != shapes:
        return {"verdict": "failed", "why": "the outputs have other shapes"}
    share = 1 - count(model.module) / before
    found = {"verdict": "pruned", "parameters_removed": round(share, 3), "seconds": seconds, **facts}
    return found if share >= LEAST else {**found, "verdict": "failed", "why": "next to nothing was pruned"}


def ours(model: FusedModel) -> dict[str, Any]:
    """Half of every layer, drawn at random, and the proof."""
    attention = split_attention(model.module)
    found = analyse(model, attention=tuple(attention))
    rng = np.random.default_rng(0)
    removed = [root for layer in found.layers for root in rng.choice(layer.roots, layer.width // 2, replace=False).tolist()]
    proof = prove(model, found, removed, cases(model, None))
    costs = Costs(found)
    cut(model.module, found.kept(removed))
    left = sum("output" not in whole.reason for whole in found.whole)
    return {"proof_error": proof.error, "left_whole": left, "macs_removed": round(1 - costs.total_macs(removed) / costs.total_macs(), 3)}


def theirs(model: FusedModel, *left_out: type[nn.Module]) -> dict[str, Any]:
    """The same share by torch-pruning: magnitude, the heads and ``left_out`` ignored, all outputs summed for its trace."""
    module = _Tuple(model)
    features = tuple(x.contiguous() for x in model.features(sample_inputs(model.card)))
    ignored = [part for head in model.module.heads.values() for part in head.modules() if isinstance(part, nn.Linear)]
    ignored += [part for part in model.modules() if isinstance(part, left_out)]
    pruner = torch_pruning.pruner.MetaPruner(
        module,
        features,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=ignored,
        output_transform=lambda outputs: sum(value.sum() for value in outputs),
    )
    pruner.step()
    return {}


class _Tuple(nn.Module):
    """The module, returning a tuple as torch-pruning's trace wants it."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.fused = model

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.fused.call_module(features).values())


LIBRARIES: dict[str, Callable[[FusedModel], Mapping[str, Any]]] = {
    "edgemm": ours,
    "torch-pruning": theirs,
    "torch-pruning, GRU and LSTM left out": lambda model: theirs(model, nn.RNNBase),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def first_line(err: Exception) -> str:
    return next((line.strip()[:160] for line in str(err).splitlines() if line.strip()), "no reason given")


if __name__ == "__main__":
    main()
