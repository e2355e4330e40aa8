"""The recipe: how to compress, for which targets, within which budgets. Checked whole before anything runs, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import gates_section, options, plugins, search_section, written
from edgemm.contracts.card import Card
from edgemm.contracts.gate import Wish
from edgemm.contracts.search_space import Search
from edgemm.errors import Collector, EdgemmError, RecipeError, nearest
from edgemm.store import utf8

KEYS = ("steps", "targets", "budgets", "for", "tune", "gates", "search")
SPEED, SIZE = "speed", "size"
BUDGETS = ("accuracy_drop_points", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "size_mib", "peak_rss_mib", "cold_start_ms")
PER_OUTPUT = ("accuracy_drop_points",)
DEFAULT = "default"
"""Selector of the branches that the precision of a step that quantizes does not name."""


@dataclass(frozen=True)
class Step:
    """One entry under ``steps``: a plugin of ``steps/`` and its options.

    Attributes:
        last: Why no step of its stage can come after it; None = they can.
    """

    name: str
    options: Mapping[str, Any]
    stage: str
    last: str | None = None

    @property
    def quantizes(self) -> bool:
        """Whether it puts Q/DQ into a graph: its ``precision`` names branches, ``on_miss`` what is done where accuracy is missed."""
        return bool(plugins.constant("steps", self.name, "QUANTIZES"))

    @property
    def prunes(self) -> bool:
        """Whether it makes tensors smaller: its facts then name ``layers`` and what each lost."""
        return bool(plugins.constant("steps", self.name, "PRUNES"))

    @property
    def trains_quantized(self) -> bool:
        """Whether its result has Q/DQ already."""
        return bool(plugins.constant("steps", self.name, "TRAINS_QUANTIZED"))

    def knows(self, key: str, selector: str, card: Card) -> bool:
        """Whether an option's selector is a part of the model, or what stands for all that are not named."""
        return selector in card.selectors() or (self.quantizes and (key, selector) == ("precision", DEFAULT))


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        targets: Target name -> options for it.
        budgets: Budget name -> limit, or for ``accuracy_drop_points`` also output -> limit. A bare ``accuracy_drop_points`` is in points
            for every output, where a regression's point is a hundredth of its labels' standard deviation; a limit for one output is in
            its own unit.
        aim: ``speed`` = INT8 only as far as the result is not slower than the float graph as the runtime takes it; ``size`` = in any case.
        tunes: Whether front-ends, runtime options and INT8 itself are chosen by timing them on this machine.
        search: What ``edgemm search`` varies; nobody else looks at it.
        gates: Branches that run only where they can change the answer, cheapest first.
    """

    name: str
    steps: tuple[Step, ...]
    targets: Mapping[str, Mapping[str, Any]]
    budgets: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    aim: str = SPEED
    tunes: bool = True
    search: Search | None = None
    gates: tuple[Wish, ...] = ()

    def torch_steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.stage == "torch")

    def graph_steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.stage == "graph")

    def with_steps(self, entries: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> Recipe:
        """The recipe, under a name, with other steps, which are not checked, and nothing to search."""
        steps = tuple(_step(step, dict(step_options)) for step, step_options in entries)
        sha256 = _digest(steps, self.targets, self.budgets, self.aim, self.tunes, self.gates)
        return replace(self, name=name, steps=steps, sha256=sha256, search=None)

    def with_budgets(self, budgets: Mapping[str, Any], card: Card | None = None) -> Recipe:
        """The recipe with these budgets beside and instead of its own.

        Raises:
            RecipeError, Mistakes: An unknown budget, or one that is no number.
        """
        mistakes = Collector()
        whole = {**self.budgets, **_budgets(dict(budgets), self.name, card, mistakes)}
        mistakes.raise_if_any()
        return replace(self, budgets=whole, sha256=_digest(self.steps, self.targets, whole, self.aim, self.tunes, self.gates))

    def entries(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Names and options of the steps."""
        return [(step.name, step.options) for step in self.steps]

    def plain(self) -> dict[str, Any]:
        """What ``parse`` makes the recipe of, but for what it searches."""
        steps = [{step.name: dict(step.options)} for step in self.steps]
        gates = {"gates": [wish.plain() for wish in self.gates]} if self.gates else {}
        return {"steps": steps, "targets": dict(self.targets), "budgets": dict(self.budgets), "for": self.aim, "tune": self.tunes, **gates}

    def notes(self, card: Card) -> list[str]:
        """What of this recipe the card has no use for, in words."""
        dropped = self.search.dropped if self.search else ()
        return [
            *(f"search.space: '{name}' is left out, the model has no such input." for name in dropped),
            *self._unused_selectors(card),
        ]

    def _unused_selectors(self, card: Card) -> list[str]:
        return [
            f"{step.name}.{key}: '{selector}' is skipped, the model has no {selector} input."
            for step in self.steps
            for key, option in plugins.options("steps", step.name).items()
            for selector in options.selector_keys(step.options.get(key), option.annotation)
            if not step.knows(key, selector, card)
        ]


def folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    return package / "_recipes" if (package / "_recipes").is_dir() else package.parent / "recipes"


def shipped() -> list[str]:
    """Names of the recipes that come with edgemm."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load(name_or_path: str | Path, *, card: Card | None = None) -> Recipe:
    """Read a recipe from a path or by shipped name, and check it (against ``card``, when given).

    Raises:
        RecipeError: One mistake.
        Mistakes: All of them.
    """
    path = Path(name_or_path)
    if not path.is_file():
        name = path.name.removesuffix(".yaml")
        inside = folder() / f"{name}.yaml"
        if not inside.is_file() or (path.parent != Path() and path.parent.name != "recipes"):
            raise RecipeError(f"no recipe '{name_or_path}'.", why="neither a file nor a shipped name.", fix=nearest(name, shipped()))
        path = inside
    try:
        text = path.read_text(encoding="utf-8")
        plain = written.load(text, _means_text)
    except UnicodeDecodeError as err:
        raise RecipeError(f"cannot read the recipe {path}.", why=utf8.why(err), fix=utf8.fix(path, err)) from err
    except (OSError, yaml.YAMLError) as err:
        raise RecipeError(f"cannot read the recipe {path}.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    return parse(plain, name=path.stem, card=card, where=path.name)


def parse(plain: Any, *, name: str = "recipe", card: Card | None = None, where: str = "") -> Recipe:
    """Make a Recipe of plain values, reporting every mistake at once.

    Args:
        where: The file it comes from, as errors name it; the name where there is none.

    Raises:
        RecipeError, Mistakes: As ``load``.
    """
    where = where or name
    if not isinstance(plain, dict):
        raise RecipeError(f"{where}: a recipe is a mapping.", fix=f"it has the keys {', '.join(KEYS[:-1])} and {KEYS[-1]}.")
    mistakes = Collector()
    for key in plain:
        if key not in KEYS:
            mistakes.add(RecipeError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    steps = _steps(plain.get("steps") or [], where, card, mistakes)
    targets = _targets(plain.get("targets"), where, mistakes)
    budgets = _budgets(plain.get("budgets") or {}, where, card, mistakes)
    aim = plain.get("for", SPEED)
    if aim not in (SPEED, SIZE):
        mistakes.add(RecipeError(f"{where}: for: {aim!r} is no aim.", fix=f"for: {SPEED}, which is the default, or for: {SIZE}."))
    tunes = plain.get("tune", True)
    if not isinstance(tunes, bool):
        mistakes.add(
            RecipeError(f"{where}: tune: {tunes!r} is neither true nor false.", fix="tune: true, which is the default, or tune: false.")
        )
    gates = gates_section.parse(plain["gates"], where, card, mistakes) if "gates" in plain else ()
    search = None
    if "search" in plain and len(steps) == len(plain.get("steps") or []):  # what searches the options of wrong steps is not looked at
        search = _search(plain["search"], steps, where, card, mistakes)
    mistakes.raise_if_any()
    return Recipe(name, steps, targets, budgets, _digest(steps, targets, budgets, aim, tunes, gates), aim, tunes, search, gates)


def _digest(
    steps: Sequence[Step], targets: Mapping[str, Any], budgets: Mapping[str, Any], aim: str, tunes: bool, gates: Sequence[Wish]
) -> str:
    """What tells a recipe from another one: all but what it searches."""
    parts = [*((step.name, sorted(step.options.items())) for step in steps), targets, budgets]
    parts += ([SIZE] if aim == SIZE else []) + ([] if tunes else ["untuned"]) + [wish.plain() for wish in gates]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _search(plain: Any, steps: Sequence[Step], where: str, card: Card | None, mistakes: Collector) -> Search | None:
    def check(name: str, step_options: Mapping[str, Any], here: str) -> list[EdgemmError]:
        return _step_mistakes(_step(name, step_options), here, card)

    return search_section.parse(
        plain, [(step.name, step.options) for step in steps], where, check, mistakes,
        costs=[budget for budget in BUDGETS if budget not in PER_OUTPUT],
        selectors=card.selectors() if card else None, outputs=list(card.outputs) if card else None,
    )  # fmt: skip


def _means_text(plain: Any, path: written.Path) -> bool:
    """Where a recipe means a word: the names in its lists, and an option of a step or a target that is one."""
    if path[0] == "search":
        return search_section.means_text(path[1:])
    if path[0] == "gates":
        return gates_section.means_text(path[1:])
    if path[0] in ("steps", "targets") and len(path) == 2 and isinstance(path[1], int):
        return True
    if path[0] == "steps" and len(path) > 3 and path[2] in plugins.names("steps"):
        return options.means_text(plugins.options("steps", str(path[2])), path[3:])
    if path[0] == "targets" and len(path) > 2 and path[1] in plugins.names("targets"):
        return options.means_text(plugins.options("targets", str(path[1])), path[2:])
    return False


def _steps(plain: Any, where: str, card: Card | None, mistakes: Collector) -> tuple[Step, ...]:
    steps: list[Step] = []
    if not isinstance(plain, list):
        mistakes.add(RecipeError(f"{where}: 'steps' is not a list.", fix="steps: [{quantize: {}}]"))
        return ()
    for number, entry in enumerate(plain, 1):
        here = f"{where}: step {number}"
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            mistakes.add(RecipeError(f"{here} is not one step with its options.", fix="write `- quantize: {method: ptq}`."))
            continue
        (name, step_options) = next(iter(entry.items()))
        if name not in plugins.names("steps"):
            mistakes.add(RecipeError(f"{here}: unknown step '{name}'.", fix=nearest(str(name), plugins.names("steps"))))
            continue
        step_options = {} if step_options is None else step_options
        if not isinstance(step_options, dict):
            mistakes.add(RecipeError(f"{here} ({name}): its options are not a mapping.", fix=f"write `- {name}: {{option: value}}`."))
            continue
        step = _step(name, step_options)
        mistakes.errors += options.check(step_options, plugins.options("steps", name), f"{here} ({name})", RecipeError)
        mistakes.errors += _selector_mistakes(step, here, card)
        _check_stage(step, here, card, mistakes)
        _check_order(step, steps, here, mistakes)
        steps.append(step)
    return tuple(steps)


def _step(name: str, step_options: Mapping[str, Any]) -> Step:
    return Step(name, step_options, plugins.constant("steps", name, "STAGE"), plugins.constant("steps", name, "LAST"))


def _step_mistakes(step: Step, here: str, card: Card | None) -> list[EdgemmError]:
    """What is wrong with a step's options, whatever stands around it."""
    return [
        *options.check(step.options, plugins.options("steps", step.name), here, RecipeError),
        *_selector_mistakes(step, here, card),
    ]


def _check_stage(step: Step, here: str, card: Card | None, mistakes: Collector) -> None:
    if step.stage == "torch" and card is not None and card.model:
        mistakes.add(
            RecipeError(
                f"{here}: '{step.name}' needs a PyTorch model, and this card names '{card.model}'.",
                why=f"{step.name} changes a torch module; "
                + ("an ONNX file has none." if card.is_onnx else "a captured program can be run, but not built again."),
                fix="remove the step, or give a card with factory and weights.",
            )
        )


def _check_order(step: Step, before: list[Step], here: str, mistakes: Collector) -> None:
    """Torch steps come before graph steps, and nothing of its stage after a step that is ``last``."""
    graph = next((earlier.name for earlier in before if earlier.stage == "graph"), None)
    if step.stage == "torch" and graph is not None:
        why = f"{step.name} works on the torch model, {graph} on the exported graph."
        mistakes.add(RecipeError(f"{here}: '{step.name}' comes after '{graph}'.", why=why, fix=f"move {step.name} before {graph}."))
    last = next((earlier for earlier in before if earlier.last and earlier.stage == step.stage), None)
    if last is not None:
        twice = last.name == step.name
        what = f"{here}: '{step.name}' comes {'twice' if twice else f'after {last.name!r}'}."
        fix = f"keep one {step.name}." if twice else f"move {step.name} before {last.name}."
        mistakes.add(RecipeError(what, why=last.last or "", fix=fix))


def _selector_mistakes(step: Step, here: str, card: Card | None) -> list[EdgemmError]:
    always = {"fusion", "head", *plugins.names("modalities")}
    return [
        RecipeError(f"{here}: {key} names '{selector}', no part of this model.", fix=nearest(selector, card.selectors()))
        for key, option in plugins.options("steps", step.name).items()
        for selector in options.selector_keys(step.options.get(key), option.annotation)
        if card is not None and selector not in always and not step.knows(key, selector, card)
    ]


def _targets(plain: Any, where: str, mistakes: Collector) -> dict[str, dict[str, Any]]:
    if isinstance(plain, list):
        plain = {str(name): {} for name in plain}
    if not isinstance(plain, dict) or not plain:
        mistakes.add(RecipeError(f"{where}: 'targets' is missing or empty.", fix=f"targets: {{{plugins.names('targets')[0]}: {{}}}}"))
        return {}
    targets = {}
    for name, target_options in plain.items():
        if name not in plugins.names("targets"):
            mistakes.add(RecipeError(f"{where}: unknown target '{name}'.", fix=nearest(str(name), plugins.names("targets"))))
            continue
        target_options = {} if target_options is None else target_options
        errors = options.check(target_options, plugins.options("targets", name), f"{where}: targets.{name}", RecipeError)
        mistakes.errors += errors
        targets[name] = {} if errors else dict(target_options)
    return targets


def _budgets(plain: Any, where: str, card: Card | None, mistakes: Collector) -> dict[str, Any]:
    if not isinstance(plain, dict):
        mistakes.add(RecipeError(f"{where}: 'budgets' is not a mapping.", fix="budgets: {accuracy_drop_points: 1.0}"))
        return {}
    for name, limit in plain.items():
        here = f"{where}: budgets.{name}"
        if name not in BUDGETS:
            mistakes.add(RecipeError(f"{where}: unknown budget '{name}'.", fix=nearest(str(name), BUDGETS)))
        elif isinstance(limit, dict) and name in PER_OUTPUT:
            for output, value in limit.items():
                if card is not None and output not in card.outputs:
                    mistakes.add(RecipeError(f"{here}: '{output}' is no output of this model.", fix=nearest(str(output), card.outputs)))
                mistakes.errors += _not_a_limit(value, f"{here}.{output}")
        else:
            mistakes.errors += _not_a_limit(limit, here)
    return plain


def _not_a_limit(value: Any, here: str) -> list[EdgemmError]:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return []
    return [RecipeError(f"{here}: {value!r} is not a number of at least 0.", fix="write a number, such as 1.0.")]
