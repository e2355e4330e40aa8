"""The top of the report page: how much smaller, how much faster, what it cost, whether the budgets hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from edgemm._report.words import name_of, number, shown
from edgemm.report import Measurement, Report, Variant, Verdict

ABOUT_EQUAL = 0.03  # a ratio this near to 1 is called "the same": below what repeated runs reproduce


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
        said = [f"{fact.big} {fact.word}" for fact in facts]
        said += [f"{m.output or 'accuracy'} {' '.join(_loss_words(m))}" for m in _losses(compressed)]
        words += [f"{compressed.label}: {', '.join(said)}."] if said else []
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
    sub, mood = fact.sub, fact.mood
    interval = _interval(report, compressed, baseline)
    if interval:
        low, high = interval
        sub += f"; 95 %: {low:.2f}× … {high:.2f}×"
        mood = "doubt" if low <= 1 <= high else mood
    default = _other(report, compressed, "default", "latency_p50_ms")
    if default and default is not baseline:
        times = _value(default, "latency_p50_ms") / _value(compressed, "latency_p50_ms")
        sub += f"; {' '.join(_times(times, ('faster than', 'slower than'), 'as fast as'))} its default"
    return Fact(fact.name, fact.big, fact.word, sub, mood)


def _interval(report: Report, compressed: Variant, baseline: Variant) -> tuple[float, float] | None:
    """95% interval of how many times as fast, where the two were timed side by side."""
    for ratio in report.details.get("ratios") or ():
        same = (ratio.get("candidate"), ratio.get("baseline")) == (compressed.candidate, baseline.candidate)
        if same and ratio.get("low") and ratio.get("high"):
            return 1 / ratio["high"], 1 / ratio["low"]
    return None


def _baseline(report: Report, compressed: Variant, name: str) -> Variant | None:
    """What ``compressed`` is held against: the same target in float, else its default, else the original."""
    found = (_other(report, compressed, subject, name) for subject in ("float", "default", "original"))
    return next((variant for variant in found if variant), None)


def _other(report: Report, compressed: Variant, subject: str, name: str) -> Variant | None:
    """The variant of ``subject`` for the same target, of the same candidate where there is one; both must have ``name`` above zero."""
    if not _value(compressed, name) > 0:
        return None
    fits = [v for v in report.variants() if v.subject == subject and v.target in (None, compressed.target) and _value(v, name) > 0]
    return min(fits, key=lambda variant: variant.candidate != compressed.candidate, default=None)


def _value(variant: Variant, name: str) -> float:
    found = variant.get(name)
    return found.value if found else math.nan


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
    return loss.unit in ("", "points")


def _loss_words(loss: Measurement) -> tuple[str, str]:
    """What happened to the quality: ``("−0.32", "points")``; for a regression how much its error grew: ``("+0.25", "dB of error")``."""
    change = -loss.value if _in_points(loss) else loss.value
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    return f"{sign}{abs(change):.2f}", "points" if _in_points(loss) else f"{loss.unit} of error"


def _loss(report: Report, compressed: Variant, loss: Measurement) -> Fact:
    after = next((m for m in compressed.measurements if m.output == loss.output and m.name != loss.name), None)
    before = next((m for m in report.find(after.name, subject="original", output=loss.output)), None) if after else None
    said = [f"{shown(before)} → {shown(after)}"] if before and after else []
    if loss.low is not None and loss.high is not None:
        low, high = (-loss.high, -loss.low) if _in_points(loss) else (loss.low, loss.high)
        said.append(f"95 %: {low:+.2f} … {high:+.2f}".replace("-", "−"))
    verdict = next((v for v in report.budgets if (v.name, v.target, v.output) == (loss.name, compressed.target, loss.output)), None)
    mood = _mood(verdict) if verdict else ""
    return Fact(name_of(after.name if after else "accuracy", loss.output), *_loss_words(loss), "; ".join(said), mood)


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
    said = [f"{word}: {', '.join(name_of(v.name, v.output).lower() for v in found)}" for word, found in groups.items() if found]
    moods = {_mood(verdict) for verdict in verdicts}
    mood = "bad" if "bad" in moods else "doubt" if "doubt" in moods else "good"
    met = sum(verdict.verdict == "met" for verdict in verdicts)
    return Fact("Budgets", f"{met} of {len(verdicts)}", "met", "; ".join(said) or "every budget holds", mood)
