"""Accuracy budgets held on the target itself: what harms most goes back to float, until every head keeps its budget.

How a budget is judged. A candidate and the original answer the same rows of val (never of test), and each head's loss is their paired
difference with a 95% interval. A head *misses* when the loss itself is above its limit; the interval does not decide that, or a small
val set would let nothing pass. It decides two other things: which branch is the more harmful one (what the interval *proves* to be
lost), and whether the outcome is called *unsure* (the interval reaches across the limit), which is then noted.

What is tried. Everything in INT8; where that misses, everything in float, so that it is known what reverting can reach at most; then
each part with quantizers alone in INT8, be it a branch or the fusion that only joins them. These go back to float, the most harmful
first, until the budgets hold; of the last one only as many layers as it takes, found by bisection over its layers ordered by their noise
at the outputs. Where nothing with quantizers holds the budgets and float does, the float graph itself is the result. Where float misses
too, INT8 stays unless reverting wins something. With n branches and a branch of at most 16 layers that is 2 + 2n + 4 runs over val, and
as many compilations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgemm.box.measuring.measurements import size_bytes
from edgemm.contracts.interval import rows_to_show_below, show_interval
from edgemm.contracts.plain_values import read
from edgemm.contracts.report import ROUNDING, Measurement
from edgemm.contracts.report_parts import Attempt
from edgemm.pipeline import answers
from edgemm.pipeline.accuracy_policy import Policy
from edgemm.pipeline.part_quantized import LEAST_LIMIT, Alone, Partial

WORTH = 0.1
"""Where the model misses its budgets in float too: reverting has to take away at least this share of what INT8 misses them by."""
MOST_FLOAT = 0.5
"""Where training with quantization may follow: no more than this share of the INT8 weights goes back to float before it is tried."""


@dataclass(frozen=True)
class Guarded:
    """What came out.

    Attributes:
        partial: The graph to go on with, and its runtime options.
        reverted: Nodes in float that the recipe wanted in INT8.
        table: What was tried, as the report shows it.
        met: Whether every budget holds on the deciding rows.
        excess: By how much limits are passed, in limits, over all outputs.
        blocker: ``{"branch", "layer"}`` that harms most, where a budget could not be reached.
    """

    partial: Partial
    reverted: Sequence[str] = ()
    table: Sequence[Attempt] = ()
    notes: Sequence[str] = ()
    met: bool = True
    excess: float = 0.0
    blocker: Mapping[str, str] | None = None


def guard(partial: Partial, policy: Policy, *, retrained: Callable[[], Partial] | None = None, heaviest_cut: str = "") -> Guarded:
    """Hold the accuracy budgets.

    Args:
        partial: The Q/DQ graph on its target, with the runtime options that are safe there.
        retrained: Trains the model with quantization and quantizes what is left; asked for at most once, where ``on_miss`` is such a step
            and reverting ``MOST_FLOAT`` of the INT8 weights does not suffice.
        heaviest_cut: A sentence on what the steps before quantizing took most from, for when they alone cost more than a budget.
    """
    if not policy.limits or partial.job.data is None:
        return Guarded(partial)
    split, note = answers.decision_split(partial.job.dataset)
    notes = [f"{partial.target}: {note}"] if note else []
    if not split:
        return Guarded(partial, notes=notes)
    trains = policy.retrains and retrained is not None
    if policy.retrains and not trains:
        why = "an ONNX file cannot be trained, and a trained graph was already."
        notes.append(f"{partial.target}: on_miss: {policy.on_miss} could only revert: {why}")
    search = _Search(partial, policy, f"everything in {partial.form}", share=MOST_FLOAT if trains else 1.0, heaviest_cut=heaviest_cut)
    guarded = search.run()
    if not guarded.met and trains and retrained is not None:
        again = _Search(retrained(), policy, "trained with quantization", table=search.table, heaviest_cut=heaviest_cut).run()
        if again.met or again.excess <= guarded.excess:
            notes.append(f"{partial.target}: reverting to float did not suffice, so the model was trained with quantization.")
            guarded = again
        else:
            notes.append(f"{partial.target}: training with quantization was tried too, and was worse than reverting to float.")
    return replace(guarded, table=[read(Attempt, row) for row in search.table], notes=[*notes, *guarded.notes])


@dataclass(frozen=True)
class _Tried:
    """One candidate: the nodes it has in float, what it loses, the part of the INT8 weights it gave up, its row of the table."""

    nodes: frozenset[str]
    lost: Mapping[str, Measurement]
    share: float
    row: dict[str, Any]

    @property
    def missed(self) -> bool:
        return any(entry["missed"] for entry in self.row["outputs"].values())

    @property
    def excess(self) -> float:
        """By how much the limits are passed, in limits, over all outputs."""
        least = {name: LEAST_LIMIT * (m.per_point or 1.0) for name, m in self.lost.items()}
        entries = self.row["outputs"].items()
        return sum(float(max(0.0, entry["value"] - entry["limit"]) / max(entry["limit"], least[name])) for name, entry in entries)


class _Search:
    """One walk from everything in INT8 to what keeps the budgets."""

    def __init__(
        self,
        partial: Partial,
        policy: Policy,
        what: str,
        *,
        share: float = 1.0,
        table: list[dict[str, Any]] | None = None,
        heaviest_cut: str = "",
    ) -> None:
        self.partial, self.policy, self.what, self.most, self.heaviest_cut = partial, policy, what, share, heaviest_cut
        self.form = partial.form
        self.table: list[dict[str, Any]] = [] if table is None else table
        self.legal: list[_Tried] = []

    def run(self) -> Guarded:
        first = self.attempt(self.what, ())
        self.legal.append(first)
        if not first.missed:
            return self.outcome(first, met=True)
        floor = self.attempt("everything in float", self.partial.but())
        ranked = self.ranked()
        reached = (self.revert(ranked) or self.all_float(floor)) if self.policy.on_miss != "report" else None
        if reached is not None:
            return self.outcome(reached, met=True)
        best = min(self.legal, key=lambda tried: (tried.excess, tried.share))
        if floor.missed and best.excess > (1 - WORTH) * first.excess:
            best = first
        best.row["decision"] += "; the best that is allowed"
        return self.outcome(best, met=False, ranked=ranked, floor=floor)

    def attempt(self, what: str, nodes: Collection[str]) -> _Tried:
        """Run a candidate on the deciding rows and write it down."""
        lost = self.partial.lost(nodes)
        limits = {name: limit for name, limit in self.policy.limits.items() if name in lost}
        outputs = {
            name: {**_plain(lost[name]), "limit": limit, "missed": lost[name].value > limit + ROUNDING} for name, limit in limits.items()
        }
        tried = _Tried(frozenset(nodes), lost, self.share(nodes), {"target": self.partial.target, "step": what, "outputs": outputs})
        tried.row["size_mib"] = size_bytes(self.partial.graph(nodes).main) / 2**20
        tried.row["decision"] = "misses" if tried.missed else "holds"
        self.table.append(tried.row)
        return tried

    def share(self, nodes: Collection[str]) -> float:
        """Part of the INT8 layers that ``nodes`` contain, by their weights."""
        weights = self.partial.weights
        total = sum(weights.values())
        return sum(count for name, count in weights.items() if name in nodes) / total if total else 0.0

    def ranked(self) -> list[Alone]:
        """Branches, most harmful first; each is a row of the table."""
        ranking = self.partial.alone(self.policy.limits)
        for rank, alone in enumerate(ranking, 1):
            outputs = {name: {**_plain(m), "limit": self.policy.limits.get(name)} for name, m in alone.lost.items()}
            step = f"only {alone.branch} in {self.form}"
            decision = f"number {rank} in harm, noise {alone.noise_db:.0f} dB below the signal"
            self.table.append({"target": self.partial.target, "step": step, "outputs": outputs, "decision": decision})
        return ranking

    def revert(self, ranked: Sequence[Alone]) -> _Tried | None:
        """Branches back to float until the budgets hold; None where they do not."""
        floating: list[str] = []
        for alone in ranked:
            if alone.branch in self.policy.locked:
                self.say(f"{alone.branch} in float", "not tried: the recipe marks it int8")
                continue
            pieces = self.allowed(alone.branch, floating)
            if not pieces:
                self.say(f"{alone.branch} in float", f"not tried: more than half of the {self.form} weights would be float")
                continue
            reverted = [*floating, *(node for nodes in pieces.values() for node in nodes)]
            tried = self.attempt(f"{self.words(reverted)} in float", reverted)
            if self.too_large(tried):
                continue
            self.legal.append(tried)
            if not tried.missed:
                return self.narrow(pieces, floating, tried)
            floating = reverted
        return None

    def all_float(self, floor: _Tried) -> _Tried | None:
        """The float graph, where it holds what no graph with quantizers does, and may be taken."""
        if floor.missed or self.policy.locked or floor.share > self.most or self.too_large(floor):
            return None
        return floor

    def allowed(self, branch: str, floating: Sequence[str]) -> dict[str, list[str]]:
        """A branch's pieces, the noisiest first; of a branch too large to be reverted whole, those that may."""
        pieces = self.partial.pieces(branch)
        noise = self.partial.noise(pieces) if len(pieces) > 1 else dict.fromkeys(pieces, 0.0)
        nodes, allowed = list(floating), dict[str, list[str]]()
        for name in sorted(pieces, key=lambda name: noise[name]):
            if self.share([*nodes, *pieces[name]]) <= self.most:
                nodes += pieces[name]
                allowed[name] = pieces[name]
        return allowed

    def narrow(self, pieces: Mapping[str, Sequence[str]], floating: Sequence[str], whole: _Tried) -> _Tried:
        """As few of ``pieces`` in float as suffice: the noisiest first, their number found by bisection."""
        order, best = list(pieces.values()), whole
        least, enough = 0, len(order)
        while enough - least > 1:
            middle = (least + enough) // 2
            nodes = [*floating, *(node for piece in order[:middle] for node in piece)]
            tried = self.attempt(f"{self.words(nodes)} in float", nodes)
            if tried.missed or self.too_large(tried):
                least = middle
            else:
                enough, best = middle, tried
        return best

    def too_large(self, tried: _Tried) -> bool:
        """Whether a candidate breaks the size budget, which all in INT8 kept; noted in its row."""
        limit = self.policy.size_mib
        if limit is None or tried.row["size_mib"] <= limit or self.legal[0].row["size_mib"] > limit:
            return False
        tried.row["decision"] += f"; not allowed: above the budget of {limit:g} MiB"
        return True

    def say(self, step: str, decision: str) -> None:
        self.table.append({"target": self.partial.target, "step": step, "outputs": {}, "decision": decision})

    def words(self, nodes: Collection[str]) -> str:
        """What is in float, by branch; of a branch in part, its layers."""
        phrases, modules = [], self.partial.modules
        if self.is_float(nodes):
            return "everything"
        for branch, layers in self.partial.layers.items():
            inside = [name for name in layers if name in nodes]
            if len(inside) == len(layers):
                phrases.append(f"'{branch}'")
            elif inside:
                phrases.append(f"{len(inside)} of {len(layers)} layers of '{branch}' ({', '.join(modules[name] for name in inside)})")
        return " and ".join(phrases) or "nothing"

    def is_float(self, nodes: Collection[str]) -> bool:
        """Whether nothing is left in INT8 with ``nodes`` in float."""
        return bool(nodes) and all(name in nodes for layers in self.partial.layers.values() for name in layers)

    def outcome(self, tried: _Tried, *, met: bool, ranked: Sequence[Alone] = (), floor: _Tried | None = None) -> Guarded:
        """The candidate as the result, with its notes."""
        model, notes = self.partial.holding(self.partial.graph(tried.nodes)), []
        tried.row["decision"] += "; taken"
        target, was = self.partial.target, self.legal[0]
        if tried.nodes:
            notes.append(
                f"{target}: {self.form} lost {_said(was)} on val; {self.words(tried.nodes)} went back to float: {_said(tried)} now."
            )
        if self.is_float(tried.nodes):
            notes.append(
                f"{target}: NOTHING IS QUANTIZED: no graph with {self.form} held the accuracy budget, so the bundle runs the float graph."
            )
        entries = tried.row["outputs"]
        unsure = [name for name, e in entries.items() if not e["missed"] and e["high"] is not None and e["high"] > e["limit"]]
        for name in unsure:
            needed = rows_to_show_below(entries[name]["n"], entries[name]["low"], entries[name]["high"], entries[name]["limit"])
            about = f"about {needed} instead of {entries[name]['n']} val rows would tell." if needed else "more val rows would tell."
            notes.append(f"{target}: '{name}' keeps its budget on val, but the interval reaches across the limit; {about}")
        if met:
            return Guarded(model, sorted(tried.nodes), notes=notes)
        blocker = self.blocker(ranked, tried)
        notes.append(f"{target}: the accuracy budget was not reached on val: {_said(tried)}.{self.why(blocker, floor)}")
        return Guarded(model, sorted(tried.nodes), (), notes, False, tried.excess, blocker)

    def blocker(self, ranked: Sequence[Alone], tried: _Tried) -> dict[str, str] | None:
        """The branch still in INT8 that harms most, and its noisiest layer."""
        for alone in ranked:
            pieces = {name: nodes for name, nodes in self.partial.pieces(alone.branch).items() if name not in tried.nodes}
            if pieces:
                noise = self.partial.noise(self.partial.pieces(alone.branch))
                return {"branch": alone.branch, "layer": self.partial.modules[min(pieces, key=lambda name: noise[name])]}
        return None

    def why(self, blocker: Mapping[str, str] | None, floor: _Tried | None) -> str:
        held = f" What blocks it is branch '{blocker['branch']}', most of all its layer '{blocker['layer']}'." if blocker else ""
        if floor is not None and floor.missed:
            cut = f" {self.heaviest_cut}" if self.heaviest_cut else ""
            return f" Everything in float loses {_said(floor)}: the steps before quantizing cost too much.{cut}{held}"
        return held


def _plain(m: Measurement) -> dict[str, Any]:
    return {"value": m.value, "low": m.low, "high": m.high, "unit": m.unit, "n": m.n}


def _said(tried: _Tried) -> str:
    """``1.2 points [0.4, 2] of 'digit' (limit 1)``."""
    return ", ".join(_loss(name, entry) for name, entry in tried.row["outputs"].items())


def _loss(name: str, entry: Mapping[str, Any]) -> str:
    unit = "" if entry["unit"] in ("", "points") else f" {entry['unit']}"
    text = f"{entry['value']:.3g} {entry['unit']} {show_interval(entry['low'], entry['high'])} of '{name}' (limit {entry['limit']:g}{unit})"
    return text.replace("  ", " ")
