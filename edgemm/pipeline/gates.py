"""The gates of a recipe, fitted on val for every target: answers with and without the branch, the threshold, what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgemm.box.bundle import parts as splits
from edgemm.box.measuring.part_times import REST, time_parts
from edgemm.contracts.gate import EXACT, Gate, GateFound, Wish, judges
from edgemm.contracts.modality import modalities
from edgemm.contracts.recipe import Recipe
from edgemm.data import exact
from edgemm.data.sureness import Sureness
from edgemm.errors import DataError, RecipeError
from edgemm.pipeline import ledger, standins
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.gating import choosing
from edgemm.pipeline.gating.choosing import ERROR, Chosen, Promise, Sides
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.ledger import Form, Ledger

ROWS = 20_000
"""Rows of val behind a bound, at most: a loss of 0.3 points is then shown where up to 0.23 are seen."""
BESIDE_ROWS = 2000
"""Rows of train that fix criterion and thresholds."""
BESIDE = ("train", "calib")


@dataclass(frozen=True)
class Fitted:
    """What came of a recipe's gates.

    Attributes:
        gates: Target -> its gates, cheapest first.
        found: For the report: also of gates that keep no budget.
        notes: Sentences for the user.
    """

    gates: Mapping[str, Sequence[Gate]] = field(default_factory=dict)
    found: Sequence[GateFound] = ()
    notes: Sequence[str] = ()


def check(job: Job, recipe: Recipe) -> None:
    """Refuse, before any work, gates that could not be shown to keep their budget.

    Raises:
        RecipeError: No head says how sure it is, or a gated input is one that nobody sends.
        DataError: Val is missing or too small; says how many rows it needs.
    """
    if not recipe.gates:
        return
    own = modalities(job.card)
    for wish in recipe.gates:
        for name in (wish.run, *wish.after):
            if own[name].initial() is not None:
                raise RecipeError(
                    f"gates: '{name}' is a state or a constant of the model, and no input with a branch.", fix="name another."
                )
    if not Sureness(job.card).heads:
        raise RecipeError(
            "gates: no output of this model says how sure it is.",
            why="a gate shuts where the answer without the branch is sure; that takes a classification or a multilabel output.",
            fix="remove the gates.",
        )
    if job.data is None or "val" not in job.dataset.splits() or not any(split in job.dataset.splits() for split in BESIDE):
        raise DataError(
            "gates need the splits train and val.",
            why="what a gate costs is shown on val, its thresholds are fixed on train before.",
            fix="give a dataset with both by -d.",
        )
    _check_rows(job, recipe.gates)


def _check_rows(job: Job, wishes: Sequence[Wish]) -> None:
    have = min(job.dataset.count("val"), ROWS)
    for wish in wishes:
        asked = Promise(wish.loss_points, wish.next_rows, ERROR / len(wishes))
        needed, for_all = choosing.rows_needed(asked), choosing.rows_for_all(asked)
        if have >= needed:
            continue
        least = 100 * exact.upper(0, have, asked.error - exact.SET_ASIDE) if have else 100.0
        points = f"{choosing.least_points(have, asked) * 1.05:.2g}"
        one = have >= for_all
        raise DataError(
            f"val is too small for the gate of '{wish.run}': {have} rows cannot show that it loses at most {wish.loss_points:g} points"
            f"{f' of the next {asked.coming(have)} rows' if one else ''}.",
            why=f"even without a single loss among them {'more' if one else f'up to {least:.2g} points'} would remain possible at 95%; it "
            f"takes {needed} rows, and more where some are lost.",
            fix=f"give val at least {needed} rows, or allow more: loss_points: {points}"
            f"{', or next_rows: 0, for a bound on all data like val and not on a test' if one else ''}.",
        )


def fit(job: Job, compiled: Sequence[Compiled], recipe: Recipe, known: Ledger) -> Fitted:
    """Choose the thresholds on every target, and refuse a gate that costs more than it saves.

    Args:
        job: After the torch steps.
        known: Holds the graphs in parts.

    Raises:
        RecipeError: The model cannot be split, or a gate does not pay; gives the figures.
    """
    if not recipe.gates:
        return Fitted()
    gates: dict[str, list[Gate]] = {}
    found: list[GateFound] = []
    notes: list[str] = []
    for part in compiled:
        form = known.forms.get(part.target)
        if form is None:
            raise RecipeError(
                f"gates: on {part.target} no branch can be skipped: this model cannot be run in parts.",
                why=" ".join(known.warnings),
                fix="remove the gates.",
            )
        for gate, one, words in _of_target(job, part, form, recipe):
            found.append(one)
            notes += words
            if gate is not None:
                gates.setdefault(part.target, []).append(gate)
    return Fitted(gates, found, notes)


def _of_target(job: Job, part: Compiled, form: Form, recipe: Recipe) -> list[tuple[Gate | None, GateFound, list[str]]]:
    wishes = recipe.gates
    files = splits.read(form.parts.folder)
    inputs, order = tuple(files.inputs), [wish.run for wish in wishes]
    if absent := [name for name in order if name not in inputs]:
        raise RecipeError(f"gates: '{absent[0]}' has no branch of its own in the graph.", fix="remove its gate.")
    after = {wish.run: judges(wish.run, order, inputs) for wish in wishes}
    wanted = list(dict.fromkeys([inputs, *after.values()]))
    candidate = ledger.in_parts(part, form)
    beside_split = next(split for split in BESIDE if split in job.dataset.splits())
    rows = {beside_split: standins.rows_for(files.macs, BESIDE_ROWS), "val": ROWS}  # the bound is as good as val has rows
    sides = {split: ledger.answered_by(job, candidate, form, wanted, most, split).subsets for split, most in rows.items()}
    times = _times(job, part, form, recipe)
    done = []
    for number, wish in enumerate(wishes):
        beside, val = (Sides.of(sides[split][inputs], sides[split][after[wish.run]]) for split in (beside_split, "val"))
        fixed = choosing.fix(job.card, beside, wish.loss_points)
        promise = Promise(wish.loss_points, wish.next_rows, ERROR / len(wishes), counts_gains=number == 0)
        chosen = choosing.choose(job.card, fixed, val, promise)
        found = _found(part.target, wish, after[wish.run], chosen, promise, len(val), times)
        require_that_it_pays(part.target, wish, chosen, times, order)
        gate = _gate(wish, after[wish.run], chosen, promise, len(val))
        done.append((gate, found, _notes(part, wish, chosen, promise, len(val), times, recipe)))
    return done


def _times(job: Job, part: Compiled, form: Form, recipe: Recipe) -> dict[str, float]:
    """What the parts take here; {} where the target cannot run here, or the recipe wants nothing timed."""
    if part.deployment.plugin().cannot_run() or not recipe.tunes:
        return {}
    candidate = ledger.in_parts(part, form)

    def timed() -> dict[str, float]:
        return time_parts(candidate, samples(job, 1)[0])

    facts = {"parts": form.parts.folder.name, "deployment": candidate.deployment.key(), "data": job.fingerprint}
    name = f"part-times {candidate.name}"
    return job.value(dict[str, float], name, facts, timed, steps=(), runs=[candidate.deployment], timed=True)


def _gate(wish: Wish, after: tuple[str, ...], chosen: Chosen, promise: Promise, rows: int) -> Gate | None:
    if chosen.threshold is None:
        return None
    apart, skipped = chosen.disagreed
    budget = wish.loss_points / 100 / max(chosen.skipped, 1 / rows)
    limit = min(1.0, max(exact.upper(apart, skipped) if skipped else 0.0, budget))
    return Gate(
        wish.run,
        after,
        chosen.criterion,
        chosen.threshold,
        wish.loss_points,
        max(one.points for one in chosen.lost if one.label is None),
        chosen.worst.bound,
        chosen.bound,
        chosen.skipped,
        rows,
        limit,
        wish.every_s,
        wish.shadow,
        promise.coming(rows),
    )


def _found(
    target: str, wish: Wish, after: Sequence[str], chosen: Chosen, promise: Promise, rows: int, times: Mapping[str, float]
) -> GateFound:
    return GateFound(
        target,
        wish.run,
        after,
        chosen.criterion,
        chosen.threshold,
        wish.loss_points,
        chosen.skipped,
        rows,
        chosen.bound,
        chosen.lost,
        chosen.too_few,
        times.get(wish.run),
        times.get(REST),
        promise.coming(rows),
        chosen.skipped_for_all,
    )


def saving_ms(wish: Wish, skipped: float, times: Mapping[str, float], later: Sequence[str]) -> float:
    """What a gate saves a decision, in milliseconds on average: what it skips, less what judging and shadow runs take.

    A call that is skipped costs no more than its judging, which is the answer; one that is not is answered twice.
    """
    branches = sum(times.get(name, 0.0) for name in later)
    return skipped * (1 - wish.shadow) * branches - (1 - skipped + skipped * wish.shadow) * times[REST]


def require_that_it_pays(target: str, wish: Wish, chosen: Chosen, times: Mapping[str, float], order: Sequence[str]) -> None:
    """Refuse a gate whose judging takes more than what it skips.

    Args:
        times: What the parts take, in milliseconds; {} where nobody timed them.
        order: All gated inputs, cheapest first.

    Raises:
        RecipeError: With the figures.
    """
    if not times or chosen.threshold is None:
        return
    later = order[order.index(wish.run) :]
    saved = saving_ms(wish, chosen.skipped, times, later)
    if saved <= 0:
        raise RecipeError(
            f"gates: on {target} the gate of '{wish.run}' costs more than it saves: {-saved:.3g} ms a decision.",
            why=f"its branch takes {times[wish.run]:.3g} ms and is skipped in {chosen.skipped:.0%} of the calls; judging takes "
            f"{times[REST]:.3g} ms in each call that is not skipped, and {wish.shadow:.0%} of the skipped ones run all the same.",
            fix="remove this gate; run the branch rarely instead (inputs: rate_hz in run.yaml), or allow it to lose more.",
        )


def _notes(
    part: Compiled, wish: Wish, chosen: Chosen, promise: Promise, rows: int, times: Mapping[str, float], recipe: Recipe
) -> list[str]:
    target, worst, coming = part.target, chosen.worst, promise.coming(rows)
    if chosen.threshold is None:
        of_next = f" of the next {coming} rows" if chosen.skipped_for_all else ""
        told = (
            f"{target}: '{wish.run}' runs always: no threshold was shown on val to lose at most {wish.loss_points:g} points{of_next}; the "
            f"strictest one loses {worst.points:.2g} (up to {worst.bound:.2g}) of '{worst.output}'."
        )
        return [f"{told} With next_rows: 0 it would not run in {chosen.skipped_for_all:.0%}." if of_next else told]
    confidence = "95% confidence" if chosen.bound == EXACT else "95% confidence (approximately)"
    of_next = f"; nor will the next {coming} rows lose more than {wish.loss_points:g}" if coming else ""
    notes = [
        f"{target}: '{wish.run}' does not run in {chosen.skipped:.0%} of val's rows, where the answer without it has a {chosen.criterion} "
        f"of {chosen.threshold:.6g} or more; that loses {worst.points:.2g} points of '{worst.output}', at most {worst.bound:.2g} with "
        f"{confidence}{of_next}. It holds for data like val: as many quiet moments, the same places."
    ]
    if chosen.too_few:
        labels = ", ".join(f"{label} ({count})" for label, count in chosen.too_few.items())
        needed = choosing.rows_of_a_label(promise)
        notes.append(
            f"{target}: the gate of '{wish.run}' is held for all labels together; val has too few rows to hold each alone ({needed}): "
            f"{labels}."
        )
    if not times:
        why = "nothing was timed (tune: false)" if not recipe.tunes else f"{target} cannot run here"
        notes.append(f"{target}: whether the gate of '{wish.run}' pays is not known: {why}.")
    return notes
