"""From a report of `edgemm benchmark` to a peer's row, and from rows to a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgemm.box.measuring.statistics import ratio

HEAD = """# The same checkpoints through other tools

Made by `benchmarks/peers/`; everything of one model was timed in one interleaved run. Each row shows the fastest of what was measured
of it (runtimes, number of threads). Lost: percentage points of accuracy against the float original on test, with the 95% interval. A
ratio above 1 says how many times as long as edgemm's bundle it takes. Compressing: seconds, processor seconds, MiB of memory at most.
Lines: what a user writes. All other figures are in the JSON file beside this one.

"""
SHOWN = ("bundle", "foreign")


def row(report: dict[str, Any], tried: dict[str, Any], candidates: Sequence[str], bundles: Sequence[str]) -> dict[str, Any]:
    """A peer's try with everything that was measured of it, the fastest first."""
    measured = [found for given in candidates for found in _measured(report, given, bundles)]
    failed = [
        note
        for note in report["details"].get("notes", [])
        if any(note.startswith(f"{given}") and "was not measured" in note for given in candidates)
    ]
    short = [" ".join(note.replace(str(Path(tried["file"]).parent) + "/", "").split())[:300] for note in failed] if failed else []
    facts = {key: value for key, value in tried.items() if key not in ("key", "file")}
    return {**facts, "measured": sorted(measured, key=lambda found: found["latency_p50_ms"]), "not_measured": short}


def markdown(name: str, figures: dict[str, Any]) -> str:
    """One model's table."""
    ours = [row["form"] for row in figures["table"] if row["peer"] == "ours" and row["works"]]
    head = ["tool", "form", "ran", "p50 ms", *(f"against {form}" for form in ours), "lost, points", "MiB", "compressing", "lines"]
    rows = [head, ["---"] * len(head)] + [_cells(row, ours) for row in figures["table"]]
    return f"## {name}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def _measured(report: dict[str, Any], given: str, bundles: Sequence[str]) -> Iterator[dict[str, Any]]:
    of = [m for m in report["measurements"] if m["candidate"] == given and m["subject"] in SHOWN]
    for target in dict.fromkeys(m["target"] for m in of):
        mine = {(m["name"], m["output"]): m for m in of if m["target"] == target}
        p50 = mine["latency_p50_ms", None]
        drops = {output: m for (name, output), m in mine.items() if name.endswith(("_drop_points", "_drop"))}
        scores = {output: round(m["value"], 4) for (name, output), m in mine.items() if name in ("accuracy", "f1", "mae", "recall_at_1")}
        name = given if target == "command" else f"{given}, {target}"
        yield {
            "target": target,
            "options": given.rpartition("@")[2] if "@" in given else "",
            "ran": p50["precision_ran"],
            "latency_p50_ms": round(p50["value"], 4),
            "size_mib": round(mine["size_mib", None]["value"], 3) if ("size_mib", None) in mine else _size(given),
            "scores": scores,
            "lost": {output: {key: _rounded(m[key]) for key in ("value", "low", "high", "unit")} for output, m in drops.items()},
            "against": {Path(b).parent.name: _ratio(report, name, f"{b}, openvino") for b in bundles if b != given},
            "disturbed": bool(report["details"]["disturbances"].get(name, {}).get("flagged")),
        }


def _ratio(report: dict[str, Any], name: str, baseline: str) -> dict[str, Any]:
    """p50 of one form over another's, paired launch by launch."""
    sides = [[t for t in report["details"]["timeline"] if t["kept"] and t["candidate"] == who] for who in (name, baseline)]
    ours, theirs = ([[turn["p50_ms"]] for turn in side] for side in sides)
    found = ratio(ours, theirs, launches=[turn["launch"] for turn in sides[0]])
    return {"value": _rounded(found.value), "low": _rounded(found.low), "high": _rounded(found.high), "verdict": found.verdict}


def _cells(row: dict[str, Any], ours: Sequence[str]) -> list[str]:
    cost = f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} s, {row['peak_rss_mib']}" if "seconds" in row else ""
    about = [row["peer"], row["form"]]
    if not row["measured"]:
        why = row.get("why") or "; ".join(row["not_measured"]) or "nothing was measured"
        return [*about, f"fails: {_short(why)}", *[""] * (len(ours) + 3), cost, str(row["lines"])]
    best = row["measured"][0]
    ran = f"{best['target']}{', ' + best['options'] if best['options'] else ''}, {best['ran']}{' (disturbed)' if best['disturbed'] else ''}"
    against = [_ratio_words(best["against"].get(form)) for form in ours]
    lost = "; ".join(f"{output} {_interval(m)}" for output, m in best["lost"].items())
    size = "" if best["size_mib"] is None else f"{best['size_mib']:.2f}"
    return [*about, ran, f"{best['latency_p50_ms']:.3f}", *against, lost, size, cost, str(row["lines"])]


def _ratio_words(found: dict[str, Any] | None) -> str:
    return _interval(found) if found else "1"


def _interval(found: dict[str, Any]) -> str:
    edges = f" [{found['low']:.2f}, {found['high']:.2f}]" if found["low"] is not None and found["high"] is not None else ""
    return f"{found['value']:.2f}{edges}"


def _short(why: str) -> str:
    return why.replace("|", "/")[:160]


def _size(given: str) -> float | None:
    """MiB of the model file that a command names."""
    files = [Path(word) for word in given.split() if Path(word).suffix == ".pt2"]
    return round(files[0].stat().st_size / 2**20, 3) if files else None


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
