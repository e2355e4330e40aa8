"""Small files of /proc and /sys: what cannot be read is empty or None, never an error."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def text(path: Path) -> str:
    """The file's text without white space and NUL bytes around it; "" where it cannot be read (EAGAIN of a gated block included)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """The number a file holds, or None."""
    words = text(path)
    try:
        value = float(words)
    except ValueError:
        return None
    return value if abs(value) < 1e18 else None  # nan and inf are no reading
