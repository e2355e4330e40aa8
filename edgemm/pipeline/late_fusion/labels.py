"""Labels of several models made one list: what means the same is told by a table, and what cannot be joined is told before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemm.errors import CardError, nearest


@dataclass(frozen=True)
class Labels:
    """The labels of a head, and where its members have them.

    Attributes:
        groups: Member -> for each label the places of its own that mean it; without members that have the same list.
    """

    names: tuple[str, ...]
    groups: Mapping[str, tuple[tuple[int, ...], ...]]


def join(head: str, members: Mapping[str, Sequence[str]], table: Mapping[str, Sequence[str]]) -> Labels:
    """The labels of a head.

    Args:
        members: Member -> its labels.
        table: Label of the head -> what members call it; ``member.label`` is about one of them.

    Raises:
        CardError: The table names a label that nobody has, or one twice; or a member has no label for one of the head's (says which).
    """
    means = _meanings(head, members, table)
    names = tuple(dict.fromkeys(means[member, label] for member, labels in members.items() for label in labels))
    lacking = {
        member: missing
        for member, labels in members.items()
        if (missing := [name for name in names if name not in {means[member, label] for label in labels}])
    }
    if lacking:
        listed = "; ".join(f"'{member}' has none for {', '.join(missing)}" for member, missing in lacking.items())
        has = "; ".join(f"{member}: {', '.join(labels)}" for member, labels in members.items())
        raise CardError(
            f"the labels of head '{head}' cannot be joined: {listed}.",
            why=f"every member has to say something of every label. They have {has}.",
            fix="say which mean the same, one label of the head after the other: --label 'person: human, pedestrian'.",
        )
    groups = {
        member: tuple(tuple(place for place, label in enumerate(labels) if means[member, label] == name) for name in names)
        for member, labels in members.items()
    }
    same = tuple((place,) for place in range(len(names)))
    return Labels(names, {member: rows for member, rows in groups.items() if rows != same})


def _meanings(head: str, members: Mapping[str, Sequence[str]], table: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """Member and label of its -> label of the head."""
    means = {(member, label): label for member, labels in members.items() for label in labels}
    told: dict[tuple[str, str], str] = {}
    for name, aliases in table.items():
        for alias in aliases:
            member, _, label = alias.partition(".")
            meant = [key for key in means if key[1] == alias or key == (member, label)]
            if not meant:
                known = [label for labels in members.values() for label in labels]
                raise CardError(f"--label {name}: no member of head '{head}' has a label '{alias}'.", fix=nearest(alias, known))
            for key in meant:
                if told.get(key, name) != name:
                    raise CardError(
                        f"--label: '{key[1]}' of '{key[0]}' is said to mean '{told[key]}' and '{name}'.",
                        fix=f"write {key[0]}.{key[1]} under one of them.",
                    )
                told[key] = name
    return means | told


def parse_table(entries: Sequence[str]) -> dict[str, list[str]]:
    """``person: human, pedestrian`` each.

    Raises:
        CardError: One is not of that form.
    """
    table: dict[str, list[str]] = {}
    for entry in entries:
        name, colon, rest = entry.partition(":")
        aliases = [word.strip() for word in rest.split(",") if word.strip()]
        if not colon or not name.strip() or not aliases:
            raise CardError(
                f"--label '{entry}' is not of the form LABEL: OTHER, OTHER.", fix="write e.g. --label 'person: human, pedestrian'"
            )
        table.setdefault(name.strip(), []).extend(aliases)
    return table
