"""What a command says: its result, what it wrote, the next command, or one block for each mistake. Also with which code it exits."""

from pathlib import Path
from typing import Any

import typer

BUDGET_MISSED = 3


def wrote(path: Path, quiet: bool = False) -> None:
    if not quiet:
        from edgemm.store.artifact import show_size

        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        typer.echo(f"wrote {path} ({show_size(sum(file.stat().st_size for file in files))})")


def suggest(command: str, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(f"next: {command}")


def show(result: Any, json: bool) -> None:
    """Print a result as its own words, or as JSON (``to_dict``)."""
    from json import dumps

    typer.echo(dumps(result.to_dict(), indent=1, ensure_ascii=False, default=str) if json else str(result))


def conclude(report: Any, json: bool, command: str, *, shown: Any = None, markdown: bool = False) -> None:
    """End a command that measured: its table and verdicts (or JSON, or Markdown), the next command, the exit code."""
    if markdown and not json:
        from edgemm.report.markdown import render

        typer.echo(render(report), nl=False)
    else:
        show(shown or report, json)
    suggest(command, quiet=json or markdown or not command)
    failures = getattr(report, "details", {}).get("failures", [])
    for name in failures:
        typer.echo(f"edgemm: nothing of '{name}' could be measured; the report's notes say why.", err=True)
    if failures:
        raise typer.Exit(1)
    if report.missed:
        raise typer.Exit(BUDGET_MISSED)


def words(error: Exception) -> str:
    """What a user reads instead of a traceback: one block for each mistake."""
    from edgemm.contracts import plugins
    from edgemm.errors import EdgemmError, Mistakes
    from edgemm.store import artifact

    if isinstance(error, Mistakes):
        return "\n".join(f"edgemm: {mistake.block()}" for mistake in error.errors)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in plugins.EXTRAS:
        error = plugins.missing_extra(error, "this command")
    elif isinstance(error, OSError):
        error = artifact.unwritable(Path(error.filename or "a file"), error) if artifact.is_unwritable(error) else _unforeseen(error)
    elif isinstance(error, MemoryError):
        error = EdgemmError("out of memory.", why=str(error), fix="close other programs, or use a machine with more (see `edgemm doctor`).")
    elif not isinstance(error, EdgemmError):
        error = _unforeseen(error)
    return f"edgemm: {error}"


def _unforeseen(error: Exception) -> Exception:
    from edgemm.errors import EdgemmError

    return EdgemmError(
        f"{type(error).__name__}: {error}",
        why="edgemm did not expect this; it may be a fault in edgemm, or in your model's code.",
        fix="run the same command with --debug to see where it happens.",
    )
