"""Times everything that `compress.py` has made, all of one model in one interleaved run, and writes the tables. For a quiet machine.

Launch: python benchmarks/peers/measure.py [NAME ...] [-- OPTION ...]        (without NAME: every model that was compressed)
OPTIONs go to `edgemm benchmark`, such as --rounds 2 --launches 1 for a look. A table is written again as soon as its model is done.
Figures go to results/<device>/<date>.json and, as tables, to results/<device>/peers.md.
"""

from __future__ import annotations

import argparse
import json
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
    words, _, options = " ".join(sys.argv[1:]).partition("-- ")
    names = parser.parse_args(words.split()).names or sorted(path.parent.name for path in work().glob("*/given.json"))
    for name in names:
        results = measure(name, options.split())
        kept = json.loads(results.read_text(encoding="utf-8"))
        tables = [_table.markdown(key.removeprefix("peers_"), kept[key]) for key in sorted(kept) if key.startswith("peers_")]
        (results.parent / "peers.md").write_text(_table.HEAD + "\n".join(tables), encoding="utf-8")
        print(_table.markdown(name, kept[f"peers_{name}"]))


def measure(name: str, options: Sequence[str]) -> Path:
    """One model: edgemm's bundles tuned for this machine, then everything side by side; the file of results."""
    place = work() / name
    given = json.loads((place / "given.json").read_text(encoding="utf-8"))
    rows = [row for peer in PEERS for form in script(peer).FORMS if (row := _row(place / peer / form / "row.json"))]
    bundles = [row["file"] for row in rows if row["peer"] == "ours" and row["works"]]
    for bundle in bundles:
        run([*EDGEMM, "compile", bundle])
    others = [word for row in rows if row["peer"] != "ours" and row["works"] for word in candidates(row)]
    words = ["benchmark", *bundles, *others, "-d", given["data"], "--no-roofline", "-o", place / "report", *options]
    run([*EDGEMM, *words], allowed=(0, 1, 3))
    report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    table = [_table.row(report, row, candidates(row), bundles) for row in rows]
    return save(f"peers_{name}", _without_places({"table": table, "notes": report["details"]["notes"]}, place))


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


def _row(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    main()
