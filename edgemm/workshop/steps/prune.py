"""Structured pruning: whole channels, heads and hidden units go, tensors really get smaller, and the result is proved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.errors import PruneError
from edgemm.store.artifact import write_json
from edgemm.workshop.models.folding import folded
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.row_by_row import require_own_answers_on
from edgemm.workshop.models.torch_branches import selected
from edgemm.workshop.pruning import record as records
from edgemm.workshop.pruning import targets
from edgemm.workshop.pruning.analysis import analyse
from edgemm.workshop.pruning.attention import replaceable, split_attention
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.cutting import cut
from edgemm.workshop.pruning.harm import Harm
from edgemm.workshop.pruning.layers import Structure
from edgemm.workshop.pruning.planning import Rounding
from edgemm.workshop.pruning.proof import TOLERANCE, Proof, answers, cases, difference, prove
from edgemm.workshop.pruning.scores import check_data, score
from edgemm.workshop.pruning.silencing import silenced
from edgemm.workshop.pruning.targets import Goal, WholeModel, check_layers, plan_removal, untouched
from edgemm.workshop.training.options import TrainOptions

STAGE = "torch"
PRUNES = True
PACKAGES = ("accelerate",)
PROVED_SAMPLES = 8
"""Real samples that the proof compares on, beside random ones."""
LITTLE = 0.1
"""A branch that keeps less than this share of its multiply-accumulates is named in a note."""
HARM_SAMPLES = 256
"""Samples on which a branch's cuts are compared: eight cuts of each branch answer all of them."""


def prune(
    model: FusedModel,
    ctx: Context,
    *,
    ratio: float | None = None,
    branches: dict[Branch, float] | None = None,
    macs_ratio: float | None = None,
    latency_ratio: float | None = None,
    spread: Literal["even", "branches", "ranked"] = "even",
    criterion: Literal["taylor", "magnitude", "activation"] = "taylor",
    round_to: int = 8,
    floor: float | None = None,
    samples: int = 512,
    rounds: int = 1,
    recovery_epochs: int = 0,
    recovery_learning_rate: float = 1e-3,
) -> FusedModel:
    """A smaller copy of ``model``.

    What may go is found from the graph, each layer is tried alone, and the result is proved equal to the original with the removed
    channels set to zero. Outputs of heads, front-ends, and whatever does not prove are left whole, with the reason in ``ctx.facts``.

    Args:
        ratio: Share of the channels removed in every layer that may be pruned, each layer alike.
        branches: Branch selector -> share for that branch: of the channels of its layers; with ``macs_ratio`` or ``latency_ratio``, of
            its multiply-accumulates. Alone it prunes only the branches it names.
        macs_ratio: Share of the model's multiply-accumulates removed.
        latency_ratio: Share of the latency removed, measured on the target.
        spread: How the layers share the last two: all ``even``; ``branches``: even inside of a branch, and each branch its own share, by
            what its loss harms the answers for what it saves, both measured on the branch alone; or ``ranked`` over all branches by what
            channels give for what they cost, each branch by its own average. On spoiled digits (3 epochs of recovery, one seed, half of
            the MACs) an equal cut kept 86% on test, ranking 81 to 86%. At one measured latency (wide digits, 12 epochs of distillation)
            an equal cut kept 90.9%, shares by branch 92.7%.
        criterion: What a channel gives: the task loss without it (``taylor``), its weights, or what it carries.
        round_to: Widths become multiples of this, of recurrent layers of four times this; layers narrower than twice of it keep powers of
            two.
        floor: With ``macs_ratio`` and ``latency_ratio``: least share of its channels that a layer keeps; None = 0.7 of what an
            equal cut would leave, or less where the target asks for it.
        samples: Training samples that ``taylor`` and ``activation`` look at.
        rounds: Prune in so many steps, each on what the one before left; after the last the shares above are reached, not passed.
        recovery_epochs: Training with the tasks' own losses after every round.
        recovery_learning_rate: Highest learning rate of that training.

    Raises:
        PruneError: Contradicting options, an unreachable target, an empty layer, missing data, nothing to prune, or a failed proof.
        ExportError: torch.export refuses the model; names the line. Nothing was pruned then.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("model", "ctx")}
    check(ctx, **arguments)
    model = folded(model)
    require_own_answers_on(model, ctx.dataset)
    work = _Work(copy.deepcopy(model).eval(), ctx)
    for number in range(rounds):
        ctx.progress(f"analysing (round {number + 1} of {rounds})", number / rounds)
        structure = work.analyse()
        goal = replace(_goal(arguments), branches=_by_branch(branches or {}, structure, model))
        if not number:
            check_layers(goal, structure, Rounding(round_to))
        scores = score(criterion, work.model, structure, ctx.dataset, samples=samples, seed=ctx.seed, progress=ctx.progress)
        removed = plan_removal(
            goal.after(number + 1, rounds),
            structure,
            scores,
            Rounding(round_to, None if floor is None else floor ** (1 / rounds)),
            work.timed(structure) if latency_ratio else None,
            work.harm(structure, samples) if spread == "branches" else None,
            work.whole(),
        )
        work.weigh(structure, scores, removed)
        work.remove(structure, removed)
        if recovery_epochs:
            work.recover(recovery_epochs, recovery_learning_rate)
    return work.finish(goal)


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises PruneError, TrainError."""
    goal = _goal(given)
    targets.check(goal)
    check_data(given["criterion"], ctx.dataset)
    floor = given["floor"]
    requirements = {
        "round_to": (given["round_to"] >= 1, "at least 1"),
        "floor": (floor is None or 0 <= floor <= 1, "a number from 0 to 1"),
        "samples": (given["samples"] >= 1, "at least 1; 512 is usual"),
        "rounds": (given["rounds"] >= 1, "at least 1"),
        "recovery_epochs": (given["recovery_epochs"] >= 0, "a whole number of at least 0"),
    }
    for name, (is_right, words) in requirements.items():
        if not is_right:
            raise PruneError(f"{name} is {given[name]}.", fix=f"write {words}.")
    if floor is not None and goal.macs is None and goal.latency is None:
        raise PruneError(
            "floor stands beside shares of channels, and says nothing there.",
            why="it bounds what macs_ratio and latency_ratio take from a layer; ratio and branches alone say themselves what is left.",
            fix="leave floor out.",
        )
    if given["recovery_epochs"]:
        _check_recovery(ctx, given["recovery_epochs"], given["recovery_learning_rate"])


def _check_recovery(ctx: Context, epochs: int, learning_rate: float) -> None:
    if ctx.dataset is None or not ctx.dataset.count("train"):
        raise PruneError(
            "recovery_epochs needs training data.",
            why="no dataset was given, or it has no train split.",
            fix="give data with -d, or set it to 0.",
        )
    TrainOptions(epochs=epochs, learning_rate=learning_rate).check("recovery_")


def _goal(arguments: Mapping[str, Any]) -> Goal:
    """Those of the step's options that say how much goes."""
    return Goal(arguments["ratio"], arguments["macs_ratio"], arguments["latency_ratio"], arguments["branches"], arguments["spread"])


def restore(model: FusedModel, record: Mapping[str, Any]) -> FusedModel:
    """Give a freshly built model the structure that pruning left; its weights are read afterwards.

    Raises:
        CheckpointError: The record is of another format or another model.
    """
    records.rebuild(model.module, record)
    model.silenced = tuple(record.get("silenced", model.silenced))
    return model


class _Work:
    """The copy that is pruned, and what is known about it so far."""

    def __init__(self, model: FusedModel, ctx: Context) -> None:
        self.model, self.ctx = model, ctx
        self.rounds: list[dict[str, Any]] = []
        self.first: tuple[Structure, Costs] | None = None
        self.last: tuple[Structure, Costs, list[int]] | None = None
        self.proofs: list[Proof] = []
        self.latencies: list[list[float]] = []
        self.given: dict[str, float] = {}  # branch -> what its channels gave by the criterion before the first round
        self.taken: dict[str, float] = {}  # layer -> what went of that
        self.real = _real_samples(ctx)

    def analyse(self) -> Structure:
        """What may go; attention layers become such that heads can go.

        Raises:
            PruneError: Nothing may go, or the replaced attention layers answer differently.
        """
        attention = replaceable(self.model.module)
        if attention:
            self._replace(attention)
        structure = analyse(self.model, attention=tuple(attention), seed=self.ctx.seed, progress=self.ctx.progress)
        if not structure.layers:
            reasons = "; ".join(sorted({f"{whole.name}: {whole.reason}" for whole in structure.whole}))
            raise PruneError("nothing of this model can be pruned.", why=reasons[:500], fix="leave the step prune out of the recipe.")
        self.first = self.first or (structure, Costs(structure))
        return structure

    def _replace(self, attention: list[str]) -> None:
        comparisons = cases(self.model, self.real, seed=self.ctx.seed)
        before = [answers(self.model, case.features) for case in comparisons]
        split_attention(self.model.module, attention)
        for case, expected in zip(comparisons, before, strict=True):
            error = difference(expected, answers(self.model, case.features))
            if not error <= TOLERANCE:
                raise PruneError(
                    f"the replaced attention layers answer differently by {error:.1e} on {case.name}.",
                    why=f"replaced: {', '.join(attention)}.",
                    fix="nothing was pruned; please report the model.",
                )

    def timed(self, found: Structure) -> Callable[[list[int]], float]:
        """Measured latency with some channels gone.

        Raises:
            PruneError: There is no target to measure on.
        """
        measure = self.ctx.measure
        if measure is None:
            raise PruneError(
                "latency_ratio needs a target to measure on.",
                why="this run has none.",
                fix="name a target in the recipe, or use macs_ratio.",
            )
        costs = Costs(found)

        def time(removed: list[int]) -> float:
            kept = found.kept(removed)
            module = copy.deepcopy(self.model.module)
            cut(module, kept)
            candidate = self._recorded(module, [*self.rounds, records.entry(found.attention, kept)])
            latency = next(m.value for m in measure(candidate) if m.name == "latency_p50_ms")
            assert latency is not None  # the scheduler raises where it could not measure
            self.latencies.append([round(1 - costs.total_macs(removed) / costs.total_macs(), 4), float(latency)])
            return float(latency)

        return time

    def whole(self) -> WholeModel:
        """The model before the first round; its latency is what was measured first."""
        assert self.first is not None  # analyse ran
        return WholeModel.of(self.first[0], self.latencies[0][1] if self.latencies else None)

    def harm(self, found: Structure, samples: int) -> Callable[[list[int]], float]:
        """What is lost with some channels gone; every answer is shown as progress."""
        measured = Harm(self.model, found, self.ctx.dataset, samples=min(samples, HARM_SAMPLES), seed=self.ctx.seed)

        def lost(removed: list[int]) -> float:
            self.ctx.progress("trying each branch alone", 0.5)
            return measured(removed)

        return lost

    def weigh(self, found: Structure, scores: Mapping[int, float], removed: list[int]) -> None:
        """Note what the channels that go gave, by the criterion."""
        if not self.given:
            for layer in found.layers:
                self.given[layer.branch] = self.given.get(layer.branch, 0.0) + sum(scores.get(root, 0.0) for root in layer.roots)
        gone = set(removed)
        for layer in found.layers:
            lost = sum(scores.get(root, 0.0) for root in gone & set(layer.roots))
            self.taken[layer.name] = self.taken.get(layer.name, 0.0) + lost

    def remove(self, found: Structure, removed: list[int]) -> None:
        """Prove, then cut."""
        self.ctx.progress("proving", 0.9)
        self.proofs.append(prove(self.model, found, removed, cases(self.model, self.real, seed=self.ctx.seed + 1)))
        kept = found.kept(removed)
        self.last = (found, Costs(found), removed)
        cut(self.model.module, kept)
        self.rounds.append(records.entry(found.attention, kept))
        self.model.silenced = silenced(self.model)

    def recover(self, epochs: int, learning_rate: float) -> None:
        """Train with the tasks' own losses."""
        from edgemm.workshop.training.loop import train_model  # accelerate takes a second to import
        from edgemm.workshop.training.outcome import Diverged

        assert self.ctx.dataset is not None  # checked at the start
        options = TrainOptions(epochs=epochs, learning_rate=learning_rate, seed=self.ctx.seed)
        try:
            train_model(self.model, self.ctx.dataset, options=options, judge_start=True, progress=self.ctx.progress, note=self.ctx.note)
        except Diverged as err:
            if err.kept is not None:
                err.kept = self._recorded(err.kept.module, self.rounds)
            raise err.of("prune", option="recovery_learning_rate") from err

    def finish(self, asked: Goal) -> FusedModel:
        """Write the record, tell what was done, and return the model with a card that names the record."""
        self._tell(asked)
        return self._recorded(self.model.module, self.rounds)

    def _recorded(self, module: nn.Module, rounds: list[dict[str, Any]]) -> FusedModel:
        """A cut module with a card that names the record of its cuts, so that it can be saved and built again."""
        taken = {Path(name).name for entry in self.model.card.applied for name in entry.values()}
        name = next(name for name in ("prune.json", *(f"prune{number}.json" for number in range(2, 1000))) if name not in taken)
        path = self.ctx.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, records.record(json.loads(json.dumps(rounds)), self.model.silenced))
        card = self.model.card.replace(applied=(*self.model.card.applied, {"prune": str(path.resolve())}))
        recorded = FusedModel(card, module)
        recorded.silenced = self.model.silenced
        return recorded.eval()

    def _tell(self, goal: Goal) -> None:
        assert self.first is not None  # at least one round ran
        assert self.last is not None
        (before, costs), (structure, after, removed) = self.first, self.last
        gone = set(removed)
        widths = {layer.name: layer.width - len(gone & set(layer.roots)) for layer in structure.layers}
        old, new = costs.macs(), after.macs(removed)
        sizes, smaller = costs.parameters(), after.parameters(removed)
        names = before.parts.names()
        worst = max(self.proofs, key=lambda proof: proof.error)
        self.ctx.facts["branches"] = {
            name: {"parameters": [sizes.get(name, 0), smaller.get(name, 0)], "macs": [round(old.get(name, 0)), round(new.get(name, 0))]}
            for name in names
        }
        self.ctx.facts["layers"] = [
            {
                "layer": layer.name,
                "branch": layer.branch,
                "channels": [layer.width, widths.get(layer.name, layer.width)],
                "share_of_branch_lost": round(self.taken[layer.name] / (self.given[layer.branch] or 1.0), 4),
            }
            for layer in before.layers
        ]
        self.ctx.facts["left_whole"] = [
            {"layer": whole.name, "branch": whole.branch, "channels": whole.width, "reason": whole.reason} for whole in structure.whole
        ]
        self.ctx.facts["proof"] = {
            "error": worst.error,
            "tolerance": TOLERANCE,
            "cases": sum(p.cases for p in self.proofs),
            "worst": worst.worst,
        }
        if self.latencies:
            self.ctx.facts["latencies"] = self.latencies
        work, size = sum(new.values()) / sum(old.values()), sum(smaller.values()) / sum(sizes.values())
        if self.model.silenced:
            self.ctx.note(
                "prune: what the model computes in training alone (auxiliary heads) does not fit the cut channels; training goes on "
                "without it."
            )
        for reason in untouched(goal, before, widths):
            self.ctx.note(f"prune: {reason}")
        for name in names:
            if old.get(name) and new.get(name, 0) < LITTLE * old[name]:
                self.ctx.note(
                    f"prune: {new.get(name, 0) / old[name]:.0%} of the multiply-accumulates of '{name}' are left. "
                    f"If that is too little ask for less, or give it a share of its own: branches: {{{name}: 0.5}}."
                )
        self.ctx.note(
            f"prune: {work:.0%} of the multiply-accumulates and {size:.0%} of the parameters are left; "
            f"proved on {worst.cases} cases, largest difference {worst.error:.0e}."
        )


def _by_branch(branches: Mapping[str, float], structure: Structure, model: FusedModel) -> dict[str, float]:
    """Selectors resolved to branches; a later one overrides an earlier one."""
    resolved: dict[str, float] = {}
    for selector, share in branches.items():
        resolved |= dict.fromkeys(selected(structure.parts, selector, model.card), float(share))
    return resolved


def _real_samples(ctx: Context) -> dict[str, np.ndarray] | None:
    if ctx.dataset is None:
        return None
    split = next((name for name in ("val", "train", "test") if name in ctx.dataset.splits() and ctx.dataset.count(name)), None)
    return None if split is None else next(iter(ctx.dataset.batches(split, PROVED_SAMPLES, limit=PROVED_SAMPLES))).inputs
