"""``python runner.pyz probe | run FOLDER | verify BUNDLE | doctor``: what edgemm does on another machine.

Nothing but the standard library is imported before it is known that the rest is there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """One command; results as JSON on stdout. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="runner.pyz", description="The part of edgemm that runs on another machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    probe_command = commands.add_parser("probe", help="what is here: Python, numpy, board, and why a target cannot run")
    probe_command.add_argument("targets", nargs="*")
    commands.add_parser("doctor", help="what this machine can do, and what to mend")
    verify = commands.add_parser("verify", help="check a bundle's files and answers")
    verify.add_argument("bundle", type=Path)
    run = commands.add_parser("run", help="do the job.json of a folder, and tell in its status.json")
    run.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "probe":
        print(json.dumps(probe(options.targets)))
        return 0
    if options.command == "run":
        return int(importlib.import_module("edgemm.box.remote.job").run(options.folder))
    return _verb(options.command, *([options.bundle] if options.command == "verify" else []))


def probe(targets: Sequence[str]) -> dict[str, Any]:
    """Facts that decide whether a job can run here. ``targets``: why each cannot run, "" where it can; {} where numpy is missing."""
    facts: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine(), "numpy": _version("numpy"), "targets": {}}
    if facts["numpy"] is None:
        return facts
    from edgemm.box.devices.environment import environment
    from edgemm.box.devices.jetson import identify
    from edgemm.contracts import plugins
    from edgemm.contracts.target import Target, problem

    board, problems = identify(), {name: problem(name) for name in targets}
    versions = {key: word for name, why in problems.items() if not why for key, word in plugins.load(Target, name).versions().items()}
    return facts | {"targets": problems, "jetson": board.to_dict() if board else None, "here": environment(versions)}


def _verb(name: str, *arguments: Any) -> int:
    from edgemm.contracts import plugins
    from edgemm.errors import EdgemmError

    try:
        result = plugins.function("verbs", name)(*arguments)
    except EdgemmError as err:
        print(f"edgemm: {err}", file=sys.stderr)
        return 1
    print(json.dumps(result.to_dict(), default=str))
    return 0


def _version(package: str) -> str | None:
    try:
        return str(importlib.import_module(package).__version__)
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
