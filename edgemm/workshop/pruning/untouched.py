"""Branches of which channels should go, and none went: why."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.pruning.layers import Structure
from edgemm.workshop.pruning.targets import Plan


def untouched(plan: Plan, found: Structure, left: Mapping[str, int]) -> list[str]:
    """A sentence for each branch that was named, or has layers that ``ratio`` means, and kept all their channels.

    Args:
        plan: What was asked for, its branches resolved.
        found: The model as it was.
        left: Layer -> channels that it kept; layers that cannot be pruned are not in it.
    """
    of_all = (plan.ratio or 0.0) if plan.macs is None and plan.latency is None else 0.0
    said = []
    for branch in found.parts.names():
        own = [layer for layer in found.layers if layer.branch == branch]
        share = (plan.branches or {}).get(branch, of_all if own else 0.0)
        if share and all(left[layer.name] == layer.width for layer in own):
            said.append(f"nothing of '{branch}' was removed: {_why(branch, found) if not own else _too_little(share)}.")
    return said


def _too_little(share: float) -> str:
    return f"{share:g} of its layers' channels is less than half a group of those kept together; lower round_to"


def _why(branch: str, found: Structure) -> str:
    reasons = sorted({f"'{whole.name}': {whole.reason}" for whole in found.whole if whole.branch == branch})
    return "; ".join(reasons) or "it has no layer whose channels can go"
