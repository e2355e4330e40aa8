"""Whole transformer layers go: those whose loss changes the answers least; proved."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgemm.contracts.dataset import Dataset
from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.data import dataset as data
from edgemm.errors import PruneError
from edgemm.store.artifact import write_json
from edgemm.workshop.models import towers
from edgemm.workshop.models.folding import folded
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import find_parts, selected
from edgemm.workshop.models.towers import Tower
from edgemm.workshop.pruning.proof import TOLERANCE, Case, answers, cases, difference

STAGE = "torch"
FORMAT = 1
BATCH = 32


def shorten(
    model: FusedModel, ctx: Context, *, layers: float = 0.25, branches: dict[Branch, float] | None = None, samples: int = 128
) -> FusedModel:
    """A copy of ``model`` with fewer layers in its transformers.

    One layer after the other goes, each time the one without which the answers to training rows are nearest to the whole model's. The
    result is proved equal to the whole model with all weights of those layers set to zero: then a layer with shortcuts hands on what it
    got, so only layers that norm before and not after them can go. ``distill`` afterwards wins back what it cost.

    Args:
        layers: Share of the layers of each transformer, rounded down.
        branches: Branch selector -> its own share; only the branches named here are changed then.
        samples: Rows whose answers are compared; labels are not read.

    Raises:
        PruneError: There is no such transformer, its layers do not hand on what they got, nothing would go, or the proof failed.
        ExportError: torch.export refuses the model; names the line.
    """
    check(ctx, layers=layers, branches=branches, samples=samples)
    model = folded(model)
    parts = find_parts(model)
    shares = {branch: share for selector, share in (branches or {}).items() for branch in selected(parts, selector, model.card)}
    found = [(tower, towers.branch_of(tower, parts)) for tower in towers.towers(model.module)]
    chosen = [(tower, branch) for tower, branch in found if branch and (not branches or branch in shares)]
    if not chosen:
        raise PruneError(
            "there is no transformer whose layers could go.",
            why="there is no list of layers of one kind, each with a linear layer that makes keys (k_proj, key, qkv), on one input.",
            fix="leave the step shorten out, or name other branches.",
        )
    shorter, comparisons = copy.deepcopy(model).eval(), cases(model, None, seed=ctx.seed)
    rows = []
    for tower, branch in chosen:
        gone = int(shares.get(branch, layers) * len(tower.layers))
        if not gone:
            ctx.note(f"shorten: '{branch}' keeps its {len(tower.layers)} layers; a share of them is less than one.")
            continue
        _require_passing(model, tower, comparisons)
        kept = _least_missed(shorter, tower, gone, _batches(ctx, samples), ctx)
        rows.append({"tower": tower.name, "kept": kept})
        _keep(shorter.module, tower, kept)
        lost = ", ".join(str(number) for number in range(len(tower.layers)) if number not in kept)
        ctx.note(f"shorten: '{branch}' goes from {len(tower.layers)} layers to {len(kept)}; those counted {lost} from 0 went.")
    if not rows:
        raise PruneError("no layer would go.", why="the share of each transformer's layers is less than one.", fix="ask for more.")
    ctx.facts["towers"] = rows
    ctx.facts["proof"] = {"error": _proved(model, shorter, rows, comparisons), "tolerance": TOLERANCE, "cases": len(comparisons)}
    return _recorded(shorter, rows, ctx)


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises PruneError."""
    for name, share in {"layers": given["layers"], **(given["branches"] or {})}.items():
        if not 0 < share < 1:
            raise PruneError(f"{name}: a share of {share} of the layers.", fix="write a share above 0 and below 1, such as 0.25.")
    if given["samples"] < 1:
        raise PruneError(f"samples is {given['samples']}.", fix="write at least 1; 128 is usual.")


def restore(model: FusedModel, record: Mapping[str, Any]) -> FusedModel:
    """Give a freshly built model the layers that were kept; its weights are read afterwards.

    Raises:
        CheckpointError: The record is of another format or another model.
    """
    for row, tower in towers.recorded(model, record, FORMAT, "shorten"):
        _keep(model.module, tower, row["kept"])
    return model


def _keep(module: nn.Module, tower: Tower, kept: Sequence[int]) -> None:
    """Leave only some layers in a tower's list, in place."""
    layers = module.get_submodule(tower.name)
    parent, _, name = tower.name.rpartition(".")
    setattr(module.get_submodule(parent) if parent else module, name, type(layers)(*_as_given(layers, kept)))


def _as_given(layers: nn.Module, kept: Sequence[int]) -> tuple[Any, ...]:
    """What a ModuleList, or a Sequential, is made of."""
    parts = [list(layers.children())[number] for number in kept]
    return (parts,) if isinstance(layers, nn.ModuleList) else tuple(parts)


@contextmanager
def _silent(module: nn.Module, tower: Tower, gone: Sequence[int]) -> Iterator[None]:
    """Inside, all weights of some layers are zero."""
    parameters = [p for number in gone for p in module.get_submodule(tower.layers[number]).parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


@contextmanager
def _without(module: nn.Module, tower: Tower, gone: Sequence[int]) -> Iterator[None]:
    """Inside, some layers are not there."""
    parent, _, name = tower.name.rpartition(".")
    holder, layers = module.get_submodule(parent) if parent else module, module.get_submodule(tower.name)
    _keep(module, tower, [number for number in range(len(tower.layers)) if number not in gone])
    try:
        yield
    finally:
        setattr(holder, name, layers)


def _require_passing(model: FusedModel, tower: Tower, comparisons: Sequence[Case]) -> None:
    """Raises PruneError unless a layer without weights hands on what it got."""
    case, first = comparisons[0], [0]
    with _silent(model.module, tower, first):
        expected = answers(model, case.features)
    with _without(model.module, tower, first):
        error = difference(expected, answers(model, case.features))
    if not error <= TOLERANCE:
        raise PruneError(
            f"layers of '{tower.name}' cannot go.",
            why="without its weights a layer does not hand on what it got: it norms after its shortcuts, as BERT does, or does something "
            "else beside them.",
            fix="prune heads and hidden units instead (prune), or leave this branch out.",
        )


def _batches(ctx: Context, samples: int) -> list[dict[str, torch.Tensor]]:
    dataset: Dataset = ctx.dataset if ctx.dataset is not None else data.synthetic(ctx.card, samples=samples, seed=ctx.seed)
    split = next(name for name in ("train", "calib", "val", "test") if name in dataset.splits() and dataset.count(name))
    batches = dataset.batches(split, min(BATCH, samples), limit=samples, shuffle=ctx.seed)
    return [{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.inputs.items()} for batch in batches]


def _least_missed(model: FusedModel, tower: Tower, count: int, batches: Sequence[dict[str, torch.Tensor]], ctx: Context) -> list[int]:
    """The layers that stay when ``count`` went, one by one."""
    whole, gone = _answered(model, batches), list[int]()
    for number in range(count):
        distances = {}
        for layer in range(len(tower.layers)):
            if layer not in gone:
                ctx.progress(f"trying {tower.name} without a layer", (number + layer / len(tower.layers)) / count)
                with _without(model.module, tower, [*gone, layer]):
                    distances[layer] = _distance(whole, _answered(model, batches))
        gone.append(min(distances, key=lambda layer: distances[layer]))
    return [layer for layer in range(len(tower.layers)) if layer not in gone]


@torch.no_grad()
def _answered(model: FusedModel, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    rows = [model(batch) for batch in batches]
    return {name: torch.cat([row[name].float().flatten(1) for row in rows]) for name in rows[0]}


def _distance(whole: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Summed over outputs: error of a row as a share of its answer, on average."""
    shares = [(value - other[name]).norm(dim=1) / value.norm(dim=1).clamp_min(1e-9) for name, value in whole.items()]
    return float(torch.stack([share.mean() for share in shares]).sum())


def _proved(model: FusedModel, shorter: FusedModel, rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Case]) -> float:
    """Largest difference between the shortened model and the whole one with silent layers. Raises PruneError."""
    known = {tower.name: tower for tower in towers.towers(model.module)}
    reference = copy.deepcopy(model).eval()
    for row in rows:
        tower = known[row["tower"]]
        for number in range(len(tower.layers)):
            if number not in row["kept"]:
                for parameter in reference.module.get_submodule(tower.layers[number]).parameters():
                    parameter.data.zero_()
    worst = 0.0
    for case in comparisons:
        error = difference(answers(reference, case.features), answers(shorter, case.features))
        if not error <= TOLERANCE:
            raise PruneError(
                f"the proof failed: on {case.name} the shortened model differs from the silent one by {error:.1e} of the output's size.",
                why=f"{TOLERANCE:.0e} is allowed.",
                fix="nothing was shortened; leave the step out, and please report the model.",
            )
        worst = max(worst, error)
    return worst


def _recorded(shorter: FusedModel, rows: list[dict[str, Any]], ctx: Context) -> FusedModel:
    """The model with a card that names the record, so that it can be saved and built again."""
    taken = {Path(name).name for entry in shorter.card.applied for name in entry.values()}
    names = ("shorten.json", *(f"shorten{number}.json" for number in range(2, 1000)))
    path = ctx.scratch / next(name for name in names if name not in taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "towers": rows})
    recorded = FusedModel(shorter.card.replace(applied=(*shorter.card.applied, {"shorten": str(path.resolve())})), shorter.module)
    recorded.silenced = shorter.silenced
    return recorded.eval()
