"""Times everything that `compress.py` has made, all of one model in one interleaved run, and writes the tables. For a quiet machine.

Launch: python benchmarks/peers/measure.py [NAME ...] [--ours FORM=BUNDLE ...] [-- OPTION ...]
(without NAME: every model that was compressed)
--ours puts bundles beside that were made otherwise than by `compress.py`, such as those of `smaller.py`.
OPTIONs go to `edgemm benchmark`, such as --rounds 2 --launches 1 for a look. A table is written again as soon as its model is done.
Figures go to results/<device>/<date>.json and, as tables, to results/<device>/peers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import _table  # noqa: E402  beside this file
from _process import EDGEMM, run  # noqa: E402
from _results import save  # noqa: E402
from compress import PEERS, script, work  # noqa: E402
from environment import folder_of  # noqa: E402

ONE_THREAD = "@threads=1"
"""The best documented settings of a runtime include its number of threads: small models are fastest on one."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--ours", nargs="+", default=[], metavar="FORM=BUNDLE")
    words, _, options = " ".join(sys.argv[1:]).partition("-- ")
    given = parser.parse_args(words.split())
    for name in given.names or sorted(path.parent.name for path in work().glob("*/given.json")):
        for form, _, bundle in (word.partition("=") for word in given.ours):
            _put_beside(work() / name / "ours" / form, Path(bundle))
        results = measure(name, options.split())
        kept = json.loads(results.read_text(encoding="utf-8"))
        tables = [_table.markdown(key.removeprefix("peers_"), kept[key]) for key in sorted(kept) if key.startswith("peers_")]
        (results.parent / "peers.md").write_text(_table.HEAD + "\n".join(tables), encoding="utf-8")
        print(_table.markdown(name, kept[f"peers_{name}"]))


def measure(name: str, options: Sequence[str]) -> Path:
    """One model: edgemm's bundles tuned for this machine, then everything side by side; the file of results."""
    place = work() / name
    given = json.loads((place / "given.json").read_text(encoding="utf-8"))
    rows = [row for peer in PEERS for row in _rows(place / peer, script(peer).FORMS)]
    bundles = [row["file"] for row in rows if row["peer"] == "ours" and row["works"]]
    for bundle in bundles:
        run([*EDGEMM, "compile", bundle])
    others = [word for row in rows if row["peer"] != "ours" and row["works"] for word in candidates(row)]
    words = ["benchmark", *bundles, *others, "-d", given["data"], "--no-roofline", "-o", place / "report", *options]
    run([*EDGEMM, *words], allowed=(0, 1, 3))
    report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    table = [_table.row(report, row, candidates(row), bundles) for row in rows]
    return save(f"peers_{name}", _without_places({"table": table, "notes": report["details"].get("notes", [])}, place))


def candidates(row: dict[str, Any]) -> list[str]:
    """What `edgemm benchmark` is given for one try: as it is, and with its best settings also on one thread."""
    if not row["works"]:
        return []
    tunable = row["form"].endswith("best") and not row["file"].startswith("command:")
    return [row["file"], *([row["file"] + ONE_THREAD] if tunable else [])]


def _without_places(figures: dict[str, Any], place: Path) -> dict[str, Any]:
    """The same without the folders of this machine, which error messages and notes name."""
    text = json.dumps(figures)
    for folder in (place, work(), folder_of(None), HERE.parents[1]):
        text = text.replace(f"{folder}/", "")
    return dict(json.loads(text))


def _rows(place: Path, forms: Sequence[str]) -> list[dict[str, Any]]:
    """What one tool made: its own forms in their order, then others."""
    names = sorted((path.parent.name for path in place.glob("*/row.json")), key=lambda name: [*forms, name].index(name))
    return [json.loads((place / name / "row.json").read_text(encoding="utf-8")) for name in names]


def _put_beside(place: Path, bundle: Path) -> None:
    """A bundle of edgemm's as one more row, which says nothing of what it took to make."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle, place / "bundle")
    row = {"peer": "ours", "form": place.name, "lines": 1, "packages": [], "works": True, "why": None, "file": str(place / "bundle")}
    (place / "row.json").write_text(json.dumps(row, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
