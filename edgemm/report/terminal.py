"""What a command says: what it wrote, its result, the next command, or one block for each mistake. Also with which code it exits."""

from __future__ import annotations

import json as jsons
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.contracts import plugins
from edgemm.errors import EdgemmError, Mistakes
from edgemm.report.markdown import render
from edgemm.store import artifact

FAILED, FELL_SHORT = 1, 3


@dataclass(frozen=True)
class Ending:
    """What a command has to say when it is done.

    Attributes:
        result: Its own words are printed, or its ``to_dict``; None = what was written is all there is to say.
        written: Files and folders.
        next: The command that may follow.
        report: Whose budgets decide the exit code; with ``--markdown`` it is printed instead of the result.
        fell_short: It was done, but not all that was asked for; ``result`` says what.
    """

    result: Any = None
    written: Sequence[Path] = ()
    next: str = ""
    report: Any = None
    fell_short: bool = False


def conclude(ending: Ending, *, json: bool = False, markdown: bool = False, on_screen: Sequence[str] = ()) -> int:
    """Print it, as JSON or Markdown where that is asked for, and return the exit code.

    Args:
        on_screen: Lines that its reader has before their eyes already.
    """
    if json:
        plain = {"written": list(map(str, ending.written))} if ending.result is None else ending.result.to_dict()
        print(jsons.dumps(plain, indent=1, ensure_ascii=False, default=str))
    elif markdown:
        print(render(ending.report), end="")
    else:
        _say(ending, on_screen)
    failures = getattr(getattr(ending.report, "details", None), "failures", ())
    for name in failures:
        print(f"edgemm: nothing of '{name}' could be measured; the report's notes say why.", file=sys.stderr)
    if failures:
        return FAILED
    return FELL_SHORT if ending.fell_short or (ending.report is not None and ending.report.missed) else 0


def _say(ending: Ending, on_screen: Sequence[str]) -> None:
    for path in ending.written:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        print(f"wrote {path} ({artifact.show_size(sum(file.stat().st_size for file in files))})")
    if ending.result is not None:
        print(_without(str(ending.result), on_screen))
    if ending.next:
        print(f"next: {ending.next}")


def _without(text: str, lines: Sequence[str]) -> str:
    """The text without some of its lines, and without the gap where a whole block of them stood."""
    kept = [line for line in text.split("\n") if line not in lines]
    return text if not set(lines) & set(text.split("\n")) else re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip("\n")


def words(error: Exception) -> str:
    """What a user reads instead of a traceback: one block for each mistake."""
    if isinstance(error, Mistakes):
        return "\n".join(f"edgemm: {mistake.block()}" for mistake in error.errors)
    if isinstance(error, ModuleNotFoundError) and plugins.extra_of((error.name or "").partition(".")[0]):
        error = plugins.missing_extra(error, "this command")
    elif isinstance(error, OSError):
        error = _of_the_system(error)
    elif isinstance(error, MemoryError):
        error = EdgemmError("out of memory.", why=str(error), fix="close other programs, or use a machine with more (see `edgemm doctor`).")
    elif not isinstance(error, EdgemmError):
        error = _unforeseen(error)
    return f"edgemm: {error}"


def _of_the_system(error: OSError) -> Exception:
    if artifact.is_unwritable(error):
        return artifact.unwritable(Path(error.filename or "a file"), error)
    if artifact.is_odd_name(error):
        return EdgemmError(f"there cannot be a file '{str(error.filename)[:200]}'.", why=f"{error.strerror}.", fix="check the path.")
    return _unforeseen(error)


def _unforeseen(error: Exception) -> Exception:
    return EdgemmError(
        f"{type(error).__name__}: {error}",
        why="edgemm did not expect this; it may be a fault in edgemm, or in your model's code.",
        fix="run the same command with --debug to see where it happens.",
    )
