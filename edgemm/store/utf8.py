"""Texts that are not UTF-8: the byte that shows it, and the command that converts them."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def why(err: UnicodeDecodeError, what: str = "it") -> str:
    """What of the bytes cannot be UTF-8."""
    byte = err.object[err.start : err.start + 1]
    looks = f"'{byte.decode('cp1252', 'replace')}' in Windows' and Latin-1 files"
    return f"{what} is not UTF-8: byte {err.start} is 0x{byte.hex()}, which is {looks}."


def fix(path: Path, err: UnicodeDecodeError) -> str:
    """How to convert the file that ``err`` is about, or a line of."""
    if not err.object.decode("utf-8", "ignore").isascii() and err.object[:2] not in UTF16:
        return "other letters beside it are UTF-8: mend that place."
    encoding = "UTF-16" if err.object[:2] in UTF16 else "WINDOWS-1252"  # Latin-1 is a part of it
    copy = shlex.quote(str(path.with_name(f"utf8-{path.name}")))
    return f"save the file as UTF-8 (iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {copy}) and see whether its letters are right."
