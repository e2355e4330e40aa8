"""What a card says of late fusion: whole models as members, and by which rule each subset of them is joined at each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from edgemm.errors import CardError, nearest

ALONE, AVERAGE, WEIGHTED, STACKING, NOISY_OR, GATE, MAX, VOTE = (
    "alone",
    "average",
    "weighted",
    "stacking",
    "noisy_or",
    "gate",
    "max",
    "vote",
)
RULES = {
    "classification": (AVERAGE, NOISY_OR, STACKING, GATE, WEIGHTED, MAX, VOTE),
    "multilabel": (AVERAGE, NOISY_OR, STACKING, GATE, WEIGHTED, MAX, VOTE),
    "regression": (AVERAGE, STACKING, WEIGHTED),
    "embedding": (AVERAGE, WEIGHTED),
}
"""Task -> rules that join answers to it, the simplest first."""
TRIED = (AVERAGE, NOISY_OR, STACKING, GATE)
"""Rules that are tried where nobody asks for one."""
MOST_MEMBERS = 5
"""Of one head: each subset has a joint of its own, 31 of five."""
JOIN = "+"
FACTORY = "members:late"
"""The factory of a card whose members are all torch models; they stand among its kwargs."""


@dataclass(frozen=True)
class JointHead:
    """How one head hears its members.

    Attributes:
        members: Member -> its own output that is heard.
        rules: Subset, as ``yard+sound`` -> its rule; every subset, in the order of ``subsets``.
        groups: Member -> for each label of the head the places of the member's labels that mean it; absent: the same labels.
        chances: Members that answer with chances where others answer with logits.
        single: Members that answer with one number for two labels: the second's.
    """

    members: Mapping[str, str]
    rules: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    chances: tuple[str, ...] = ()
    single: tuple[str, ...] = ()


@dataclass(frozen=True)
class Joint:
    """A model of models.

    Attributes:
        members: Member -> those inputs of the card that it takes and somebody sends: no states, no constants.
        heads: Output of the card -> how it is made.
    """

    members: Mapping[str, tuple[str, ...]]
    heads: Mapping[str, JointHead]

    def alone_at(self, name: str) -> bool:
        """Whether an input's members take nothing else: without it they are silent."""
        return all(inputs == (name,) for inputs in self.members.values() if name in inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is empty is left out."""
        heads = {name: {key: value for key, value in vars(head).items() if value} for name, head in self.heads.items()}
        return {"members": dict(self.members), "heads": heads}


def subsets(members: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset of a head's members but the empty one: each alone first, all of them last."""
    return [subset for size in range(1, len(members) + 1) for subset in combinations(members, size)]


def subset_name(subset: Sequence[str]) -> str:
    """As ``JointHead.rules`` calls it."""
    return JOIN.join(subset)


def parse(plain: Any, inputs: Mapping[str, Any], tasks: Mapping[str, str], where: str) -> Joint:
    """What stands under ``joint`` in a card.

    Args:
        inputs: The card's.
        tasks: Output of the card -> its task.

    Raises:
        CardError: It is not what ``edgemm fuse`` writes.
    """
    try:
        members = {str(name): tuple(map(str, taken)) for name, taken in plain["members"].items()}
        heads = {str(name): _head(entry) for name, entry in plain["heads"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CardError(
            f"{where}: 'joint' cannot be read.", why=f"{type(err).__name__}: {err}.", fix="write the card with edgemm fuse."
        ) from err
    for name, taken in members.items():
        for one in taken:
            if one not in inputs:
                raise CardError(f"{where}: joint.members.{name} takes '{one}', which is no input.", fix=nearest(one, inputs))
    for name, head in heads.items():
        if name not in tasks:
            raise CardError(f"{where}: joint.heads.{name} is no output.", fix=nearest(name, tasks))
        _check_head(name, head, members, tasks[name], where)
    return Joint(members, heads)


def _head(plain: Mapping[str, Any]) -> JointHead:
    groups = {
        str(member): tuple(tuple(int(place) for place in group) for group in rows) for member, rows in plain.get("groups", {}).items()
    }
    rules = {str(subset): str(rule) for subset, rule in plain.get("rules", {}).items()}
    members = {str(member): str(output) for member, output in plain["members"].items()}
    return JointHead(members, rules, groups, *(tuple(map(str, plain.get(key, ()))) for key in ("chances", "single")))


def _check_head(name: str, head: JointHead, members: Mapping[str, Any], task: str, where: str) -> None:
    for member in (*head.members, *head.groups, *head.chances, *head.single):
        if member not in members:
            raise CardError(f"{where}: joint.heads.{name} names '{member}', which is no member.", fix=nearest(member, members))
    if task not in RULES:
        raise CardError(f"{where}: joint.heads.{name}: answers to '{task}' cannot be joined.", fix=f"one of: {', '.join(RULES)}.")
    wanted = [subset_name(subset) for subset in subsets(list(head.members))]
    if list(head.rules) != wanted or not head.members:
        raise CardError(
            f"{where}: joint.heads.{name}.rules is not about every subset of its members.",
            why=f"it tells {', '.join(head.rules) or 'none'}; the subsets are {', '.join(wanted)}.",
            fix="write the card with edgemm fuse.",
        )
    for rule in head.rules.values():
        if rule not in (ALONE, *RULES[task]):
            raise CardError(f"{where}: joint.heads.{name}: '{rule}' is no rule for {task}.", fix=nearest(rule, RULES[task]))
