"""Token merging: after each layer of a vision transformer the tokens that are most alike become one; what is left has less to do."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.errors import MergeError
from edgemm.store.artifact import write_json
from edgemm.workshop.merging.hooks import Merge
from edgemm.workshop.merging.matching import left, most
from edgemm.workshop.models import towers
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import TorchBranches, find_parts, selected
from edgemm.workshop.models.towers import Sizes, Tower

STAGE = "torch"
FORMAT = 1
LEAST_LEFT = 2  # a class token, and one that it looks at


def merge(
    model: FusedModel, ctx: Context, *, tokens_per_layer: int = 8, leave: int | None = None, branches: dict[Branch, int] | None = None
) -> FusedModel:
    """A copy of ``model`` whose vision transformers go on with fewer tokens from layer to layer.

    Of the tokens after a layer those whose attention keys are most alike are averaged, each weighed by how many it stands for already,
    and attention counts it so often. Class tokens and registers stay by themselves. After the last layer every token is where it was, so
    that whatever reads them (a pooling, a fusion) is as before. No weight changes; ``distill`` afterwards wins back what it cost.

    Args:
        tokens_per_layer: So many tokens go after each layer but the last of every transformer that sees or hears; words are left alone.
        leave: Tokens that stay at least: merging ends where no more are left, so that more may go after each of the first layers, and
            what decides costs little. None = so many go after each layer but the last.
        branches: Branch selector -> its own number; only the branches named here are changed then.

    Raises:
        MergeError: There is no such transformer, or so many tokens that none would be left.
        ExportError: torch.export refuses the model; names the line.
    """
    check(ctx, tokens_per_layer=tokens_per_layer, leave=leave, branches=branches)
    rows = []
    for tower, branch, count, size in _measured(model, tokens_per_layer, leave, branches):
        row = {"tower": tower.name, "branch": branch, "count": count, "protected": size.protected, "tokens": size.tokens}
        rows.append(row if leave is None else row | {"leave": leave})
        every = left(size.tokens, count, size.protected, leave, len(tower.layers))
        alone = "" if tower.mask else "; its layers take no mask, so attention counts a merged token once"
        share = f"{sum(every) / size.tokens / len(every):.0%} of the tokens' work is left"
        ctx.note(f"merge: '{branch}' goes from {size.tokens} tokens to {every[-1]} over its {len(every)} layers, {share}{alone}.")
    ctx.facts["towers"] = rows
    return _recorded(restore(copy.deepcopy(model).eval(), {"format": FORMAT, "towers": rows}), rows, ctx)


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises MergeError."""
    for name, count in {"tokens_per_layer": given["tokens_per_layer"], **(given["branches"] or {})}.items():
        if count < 1:
            raise MergeError(f"{name}: {count} tokens a layer.", fix="write a whole number of at least 1; 8 of 196 is usual.")
    if given["leave"] is not None and given["leave"] < LEAST_LEFT:
        raise MergeError(f"leave: {given['leave']} tokens.", fix=f"write at least {LEAST_LEFT}; a third of them is usual.")


def check_model(model: FusedModel, ctx: Context, *, tokens_per_layer: int = 8, leave: int | None = None, branches: Any = None) -> None:
    """What the model tells before it is exported. Raises MergeError, ExportError as the step does."""
    _measured(model, tokens_per_layer, leave, branches)


def restore(model: FusedModel, record: Mapping[str, Any]) -> FusedModel:
    """Let a freshly built model merge as a record tells.

    Raises:
        CheckpointError: The record is of another format or another model.
    """
    for row, tower in towers.recorded(model, record, FORMAT, "merge"):
        merging = Merge(int(row["count"]), int(row["protected"]), tower.mask, towers.is_packed(tower), row.get("leave"))
        merging.attach(model.module, tower)
    return model


def _measured(
    model: FusedModel, tokens_per_layer: int, leave: int | None, branches: Mapping[Branch, int] | None
) -> list[tuple[Tower, str, int, Sizes]]:
    """Towers, their branches, how many tokens go after each layer, and of how many: proved to leave something."""
    parts = find_parts(model)
    by_branch = {branch: count for selector, count in (branches or {}).items() for branch in selected(parts, selector, model.card)}
    wanted = _wanted(model, parts, tokens_per_layer, by_branch if branches else None)
    sizes = towers.measure(model, [tower for tower, _, _ in wanted])
    for tower, branch, count in wanted:
        _require_left(tower, branch, count, sizes[tower.name], leave)
    return [(tower, branch, count, sizes[tower.name]) for tower, branch, count in wanted]


def _wanted(model: FusedModel, parts: TorchBranches, count: int, by_branch: Mapping[str, int] | None) -> list[tuple[Tower, str, int]]:
    """Towers, their branches, and how many tokens go after each layer."""
    owners = {tower.name: towers.branch_of(tower, parts) for tower in towers.towers(model.module)}
    texts = {name for name, spec in model.card.inputs.items() if spec.modality == "text"}
    named = set(by_branch or ())
    if refused := sorted(named & texts):
        raise MergeError(
            f"branches: '{refused[0]}' is text.",
            why="words have an order and an end, and merging them would lose both.",
            fix="name branches that see or hear.",
        )
    chosen = [tower for tower in towers.towers(model.module) if owners[tower.name] and owners[tower.name] not in texts]
    if by_branch is not None:
        chosen = [tower for tower in chosen if owners[tower.name] in named]
    lacking = sorted(named - {owners[tower.name] for tower in chosen})
    if lacking or not chosen:
        where = f"branch '{lacking[0]}'" if lacking else "the model"
        raise MergeError(
            f"{where} has no transformer whose tokens could be merged.",
            why="there is no list of layers of one kind, each with a linear layer that makes keys (k_proj, key, qkv), on an input that is "
            "no text.",
            fix="leave the step merge out, or name other branches.",
        )
    return [(tower, owners[tower.name], count if by_branch is None else by_branch[owners[tower.name]]) for tower in chosen]


def _require_left(tower: Tower, branch: str, count: int, size: Sizes, leave: int | None) -> None:
    able = most(size.tokens, size.protected, len(tower.layers), leave)
    if leave is not None and leave >= size.tokens:
        raise MergeError(
            f"leave: {leave} of branch '{branch}', which has {size.tokens} tokens.",
            why="none would go.",
            fix=f"write less, such as {max(LEAST_LEFT, size.tokens // 3)}.",
        )
    if count > able and leave is not None:
        raise MergeError(
            f"tokens_per_layer: {count} of branch '{branch}', with {leave} to leave.",
            why=f"of its {size.tokens} tokens {size.tokens - size.protected} may go, at most every second one after a layer.",
            fix=f"at most {able}.",
        )
    if count > able:
        raise MergeError(
            f"tokens_per_layer: {count} leaves nothing of branch '{branch}'.",
            why=f"its {len(tower.layers)} layers have {size.tokens} tokens, of which {size.tokens - size.protected} may go; after each but "
            "the last at most every second one does.",
            fix=f"at most {able}; or more in the first layers alone: leave: {max(LEAST_LEFT, size.tokens // 3)}."
            if able
            else "leave this branch out.",
        )


def _recorded(merged: FusedModel, rows: list[dict[str, Any]], ctx: Context) -> FusedModel:
    """The model with a card that names the record, so that it can be saved and built again."""
    taken = {Path(name).name for entry in merged.card.applied for name in entry.values()}
    path = ctx.scratch / next(name for name in ("merge.json", *(f"merge{number}.json" for number in range(2, 1000))) if name not in taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "towers": rows})
    recorded = FusedModel(merged.card.replace(applied=(*merged.card.applied, {"merge": str(path.resolve())})), merged.module)
    recorded.silenced = merged.silenced
    return recorded.eval()
