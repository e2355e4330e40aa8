"""The section ``gates`` of a recipe: which branches run only where they can change the answer. All mistakes at once, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgemm.contracts.card import Card
from edgemm.contracts.gate import SHADOW, Wish, in_order
from edgemm.errors import Collector, RecipeError, nearest

KEYS = ("run", "after", "loss_points", "every_s", "shadow", "next_rows")
MOST_NEXT = 100_000
"""Rows of a next set, at most: of more there is little that the bound on all data does not say."""
EXAMPLE = "gates: [{run: image, after: audio, loss_points: 0.3}]"


def parse(plain: Any, where: str, card: Card | None, mistakes: Collector) -> tuple[Wish, ...]:
    """The gates of a recipe, cheapest first: each behind those inputs that it comes after.

    Args:
        card: Held against its inputs, where there is one.
    """
    if not isinstance(plain, list):
        mistakes.add(RecipeError(f"{where}: 'gates' is not a list.", fix=EXAMPLE))
        return ()
    wishes: dict[str, Wish] = {}
    floors: dict[str, float] = {}
    for number, entry in enumerate(plain, 1):
        here = f"{where}: gate {number}"
        before = len(mistakes.errors)
        _check_entry(entry, here, card, mistakes)
        if len(mistakes.errors) > before:
            continue
        run = str(entry["run"])
        if "after" not in entry:
            floors[run] = float(entry["every_s"])
        elif run in wishes:
            mistakes.add(RecipeError(f"{here}: '{run}' has a gate already.", fix="keep one of them; a floor stands there as every_s."))
        else:
            wishes[run] = _wish(run, entry)
    for run, every_s in floors.items():
        if run in wishes:
            wishes[run] = replace(wishes[run], every_s=every_s)
        elif not mistakes.errors:
            mistakes.add(_floor_alone(run, where))
    return _ordered(wishes, where, card, mistakes)


def _wish(run: str, entry: Mapping[str, Any]) -> Wish:
    every_s = entry.get("every_s")
    return Wish(
        run,
        tuple(map(str, _names(entry["after"]))),
        float(entry["loss_points"]),
        None if every_s is None else float(every_s),
        float(entry.get("shadow", SHADOW)),
        entry.get("next_rows"),
    )


def _check_entry(entry: Any, here: str, card: Card | None, mistakes: Collector) -> None:
    if not isinstance(entry, dict) or "run" not in entry:
        mistakes.add(RecipeError(f"{here} does not say which input's branch it keeps from running.", fix=EXAMPLE))
        return
    for key in entry:
        if key not in KEYS:
            mistakes.add(RecipeError(f"{here}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    names = _names(entry.get("after", ()))
    if not isinstance(entry["run"], str) or not all(isinstance(name, str) for name in names):
        mistakes.add(RecipeError(f"{here}: run and after are names of inputs.", fix=EXAMPLE))
        return
    for name in (entry["run"], *names) if card is not None else ():
        if card is not None and name not in card.inputs:
            mistakes.add(RecipeError(f"{here}: '{name}' is no input of this model.", fix=nearest(name, card.inputs)))
    if "after" in entry and not names:
        mistakes.add(RecipeError(f"{here}: after is empty.", why="nothing could decide about it.", fix=EXAMPLE))
    wanted = ("loss_points",) if "after" in entry else ("every_s",)
    bounds = {"loss_points": 100.0, "every_s": float("inf"), "shadow": 1.0}
    for key, most in bounds.items():
        if key in entry or key in wanted:
            value = entry.get(key)
            least = value == 0 and key == "shadow"
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not (0 < value <= most or least):
                mistakes.add(_no_number(here, key, value, most))
    following = entry.get("next_rows")
    if following is not None and (not isinstance(following, int) or isinstance(following, bool) or not 0 <= following <= MOST_NEXT):
        mistakes.add(
            RecipeError(
                f"{here}: next_rows is {following!r}, no number of rows from 0 to {MOST_NEXT}.",
                why="the bound holds for the next set of so many rows by itself, and not only for all data together.",
                fix="write how many rows a test has; leave it out for as many as val has, or write 0 for all data alone.",
            )
        )


def _no_number(here: str, key: str, value: Any, most: float) -> RecipeError:
    example = {"loss_points": "0.3", "every_s": "10", "shadow": f"{SHADOW:g}"}[key]
    if value is None:
        why = "a gate costs accuracy: say how much." if key == "loss_points" else "without `after` an entry is a floor for a gate."
        return RecipeError(f"{here}: {key} is missing.", why=why, fix=f"write {key}: {example}.")
    limit = "" if most == float("inf") else f" of at most {most:g}"
    return RecipeError(f"{here}: {key} is {value!r}, no number above 0{limit}.", fix=f"write {key}: {example}.")


def _floor_alone(run: str, where: str) -> RecipeError:
    return RecipeError(
        f"{where}: gates: '{run}' has every_s and no gate that it could be the floor of.",
        why="every_s says how often a branch runs at least, whatever its gate says.",
        fix=f"add {{run: {run}, after: ..., loss_points: 0.3}}; or, in run.yaml, inputs: {{{run}: {{rate_hz: 0.1}}}}.",
    )


def _ordered(wishes: Mapping[str, Wish], where: str, card: Card | None, mistakes: Collector) -> tuple[Wish, ...]:
    """In their order; what is never gated stands behind them all, so that something is left that always runs."""
    order = in_order({run: wish.after for run, wish in wishes.items()})
    circle = [run for run in wishes if run not in order]
    if wishes and card is not None and len(card.inputs) == 1:
        mistakes.add(
            RecipeError(
                f"{where}: a gate on '{next(iter(wishes))}', the only input of this model.",
                why="where the gate is shut there would be nothing to answer from.",
                fix="remove the gate.",
            )
        )
    elif circle:
        waits = "wait for each other" if len(circle) > 1 else f"waits for '{circle[0]}' itself"
        gates = "the gates of" if len(circle) > 1 else "the gate of"
        mistakes.add(
            RecipeError(
                f"{where}: {gates} {' and '.join(circle)} {waits}.",
                why="each is asked after the other, so none could be the first."
                if len(circle) > 1
                else "what it says is known once it ran.",
                fix="leave one input without a gate, and let the others come after it."
                if len(circle) > 1
                else "write another input in after.",
            )
        )
    return tuple(wishes[run] for run in order)


def means_text(path: Sequence[str | int]) -> bool:
    """Where a recipe means the name of an input, below ``gates``."""
    return len(path) >= 2 and path[1] in ("run", "after")


def _names(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]
