"""The top of the report page: how much smaller, how much faster, what it cost, whether the budgets hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from edgemm.contracts.report import Measurement, Report, Variant, Verdict
from edgemm.contracts.timing_parts import Ratio
from edgemm.report.formatting import name_of, number, shown

ABOUT_EQUAL = 0.03  # a ratio this near to 1 is called "the same": below what repeated runs reproduce

UNDECIDED = "no difference shown"


@dataclass(frozen=True)
class Fact:
    """One tile: ``big word`` is the message (3.6× smaller), ``sub`` what it rests on, ``mood`` good, bad, doubt or ""."""

    name: str
    big: str
    word: str
    sub: str
    mood: str

    def tile(self) -> str:
        big = f"{escape(self.big)} <small>{escape(self.word)}</small>"
        return (
            f'<div class="tile {self.mood}"><dt>{escape(self.name)}</dt><dd class="big">{big}</dd>'
            f'<dd class="sub">{escape(self.sub)}</dd></div>'
        )


def lead(report: Report) -> str:
    """The result in one sentence for each compressed form, and the machine."""
    words = []
    for compressed in _compressed(report):
        facts = [fact for fact in (_size(report, compressed), _speed(report, compressed)) if fact]
        phrases = [f"{fact.big} {fact.word}" for fact in facts]
        phrases += [f"{m.output or 'accuracy'} {' '.join(_loss_words(m))}" for m in _losses(compressed)]
        words += [f"{compressed.label}: {', '.join(phrases)}."] if phrases else []
    device = report.environment.get("device")
    words += [f"Measured on {device}."] if device and report.measurements else []
    return f'<p class="lead">{escape(" ".join(words))}</p>' if words else ""


def tiles(report: Report) -> str:
    """A row of tiles for each compressed form."""
    parts = []
    for compressed in _compressed(report):
        facts = [_size(report, compressed), _speed(report, compressed), *(_loss(report, compressed, m) for m in _losses(compressed))]
        facts.append(_budgets([verdict for verdict in report.budgets if verdict.target == compressed.target]))
        drawn = "".join(fact.tile() for fact in facts if fact)
        heading = f'<p class="group">{escape(compressed.label)}</p>' if len(_compressed(report)) > 1 else ""
        parts.append(f'{heading}<dl class="tiles">{drawn}</dl>' if drawn else "")
    return "".join(parts)


def _compressed(report: Report) -> list[Variant]:
    return [variant for variant in report.variants() if variant.subject == "bundle"]


def _size(report: Report, compressed: Variant) -> Fact | None:
    baseline = _baseline(report, compressed, "size_mib")
    return _ratio(compressed, baseline, "size_mib", ("smaller", "larger"), "MiB") if baseline else None


def _speed(report: Report, compressed: Variant) -> Fact | None:
    baseline = _baseline(report, compressed, "latency_p50_ms")
    if baseline is None:
        return None
    fact = _ratio(compressed, baseline, "latency_p50_ms", ("faster", "slower"), "ms")
    big, word, sub, mood = fact.big, fact.word, fact.sub, fact.mood
    pair = _pair(report, compressed, baseline)
    if pair and pair.low and pair.high:
        low, high = 1 / pair.high, 1 / pair.low
        sub += f"; 95 %: {low:.2f}× … {high:.2f}×"
        mood = "doubt" if low <= 1 <= high else mood
    if pair and pair.verdict == UNDECIDED:
        big, word, mood = "no difference", "in speed shown", "doubt"
    if (pair and pair.disturbed) or report.is_disturbed(compressed) or report.is_disturbed(baseline):
        word, mood = f"{word} (disturbed)", "doubt"
    default = _other(report, compressed, "default", "latency_p50_ms")
    if default and default is not baseline:
        times = _value(default, "latency_p50_ms") / _value(compressed, "latency_p50_ms")
        phrase = " ".join(_times(times, ("faster than", "slower than"), "as fast as"))
        other = _pair(report, compressed, default)
        sub += f"; {f'{UNDECIDED} to' if other and other.verdict == UNDECIDED else phrase} its default"
    return Fact(fact.name, big, word, sub, mood)


def _pair(report: Report, compressed: Variant, baseline: Variant) -> Ratio | None:
    """The row of ``ratios`` in which the two were timed side by side, None where they were not."""
    ours, theirs = _names(report, compressed), _names(report, baseline)
    return next((row for row in report.details.ratios if row.candidate in ours and row.baseline in theirs), None)


def _names(report: Report, variant: Variant) -> set[str]:
    """What a variant is called in ``ratios``: a benchmark tells forms of one source apart by names of their own."""
    identity = (variant.candidate, variant.target, variant.subject)
    forms = report.details.disturbances.items()
    return {variant.candidate} | {form for form, row in forms if (row.source, row.target, row.subject) == identity}


def _baseline(report: Report, compressed: Variant, name: str) -> Variant | None:
    """What ``compressed`` is held against: the same target in float, else its default, else the original."""
    candidates = (_other(report, compressed, subject, name) for subject in ("float", "default", "original"))
    return next((variant for variant in candidates if variant), None)


def _other(report: Report, compressed: Variant, subject: str, name: str) -> Variant | None:
    """The variant of ``subject`` for the same target, of the same candidate where there is one; both must have ``name`` above zero."""
    if not _value(compressed, name) > 0:
        return None
    fits = [v for v in report.variants() if v.subject == subject and v.target in (None, compressed.target) and _value(v, name) > 0]
    return min(fits, key=lambda variant: variant.candidate != compressed.candidate, default=None)


def _value(variant: Variant, name: str) -> float:
    measurement = variant.get(name)
    return measurement.value if measurement else math.nan


def _ratio(compressed: Variant, baseline: Variant, name: str, words: tuple[str, str], unit: str) -> Fact:
    then, now = _value(baseline, name), _value(compressed, name)
    against = {"original": "the original", "float": f"{compressed.target} in float"}.get(baseline.subject, "its default")
    mood = "good" if then / now > 1 + ABOUT_EQUAL else "bad" if then / now < 1 - ABOUT_EQUAL else "doubt"
    return Fact(name_of(name), *_times(then / now, words, "same"), f"{number(then)} → {number(now)} {unit}, against {against}", mood)


def _times(ratio: float, words: tuple[str, str], same: str) -> tuple[str, str]:
    """``("3.6×", "faster")``."""
    if abs(ratio - 1) <= ABOUT_EQUAL:
        return ("the", same) if same == "same" else ("", same)
    factor, word = (ratio, words[0]) if ratio > 1 else (1 / ratio, words[1])
    return f"{factor:.0f}×" if factor >= 20 else f"{factor:.1f}×" if factor >= 1.1 else f"{factor:.2f}×", word


def _losses(compressed: Variant) -> list[Measurement]:
    return [m for m in compressed.measurements if m.name == "accuracy_drop_points" and math.isfinite(m.value)]


def _in_points(loss: Measurement) -> bool:
    return loss.unit == "points" or (not loss.unit and loss.per_point in (None, 1.0))


def _loss_words(loss: Measurement) -> tuple[str, str]:
    """What happened to the quality: ``("−0.32", "points")``; for a regression how much its error grew: ``("+0.25", "dB of error")``."""
    change = -loss.value if _in_points(loss) else loss.value
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    return f"{sign}{abs(change):.2f}", "points" if _in_points(loss) else f"{loss.unit} of error".strip()


def _loss(report: Report, compressed: Variant, loss: Measurement) -> Fact:
    after = next((m for m in compressed.measurements if m.output == loss.output and m.name != loss.name), None)
    before = next((m for m in report.find(after.name, subject="original", output=loss.output)), None) if after else None
    remarks = [f"{shown(before)} → {shown(after)}"] if before and after else []
    if loss.low is not None and loss.high is not None:
        low, high = (-loss.high, -loss.low) if _in_points(loss) else (loss.low, loss.high)
        remarks.append(f"95 %: {low:+.2f} … {high:+.2f}".replace("-", "−"))
    verdict = next((v for v in report.budgets if (v.name, v.target, v.output) == (loss.name, compressed.target, loss.output)), None)
    mood = _mood(verdict) if verdict else ""
    return Fact(name_of(after.name if after else "accuracy", loss.output), *_loss_words(loss), "; ".join(remarks), mood)


def _mood(verdict: Verdict) -> str:
    return {"met": "doubt" if verdict.uncertain else "good", "missed": "bad"}.get(verdict.verdict, "doubt")


def _budgets(verdicts: Sequence[Verdict]) -> Fact | None:
    if not verdicts:
        return None
    groups = {
        "missed": [v for v in verdicts if v.verdict == "missed"],
        "unknown": [v for v in verdicts if v.verdict == "unknown"],
        "met, but within the interval": [v for v in verdicts if v.verdict == "met" and v.uncertain],
    }
    remarks = [f"{word}: {', '.join(name_of(v.name, v.output).lower() for v in group)}" for word, group in groups.items() if group]
    moods = {_mood(verdict) for verdict in verdicts}
    mood = "bad" if "bad" in moods else "doubt" if "doubt" in moods else "good"
    met = sum(verdict.verdict == "met" for verdict in verdicts)
    return Fact("Budgets", f"{met} of {len(verdicts)}", "met", "; ".join(remarks) or "every budget holds", mood)
