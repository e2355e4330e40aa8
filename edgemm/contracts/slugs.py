"""Names as they may stand in ids, topics and file names: no two names share one, and it does not matter in which order they stand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

UNSAFE = re.compile(r"[^a-zA-Z0-9_-]+")
DIGITS = 8  # of the hash that tells names apart


def slug(name: str) -> str:
    """``name`` in letters, digits, _ and -. Where it holds letters of other alphabets, a hash of it stands behind what is left."""
    plain = UNSAFE.sub("_", name).strip("_") or "x"
    return plain if name.isascii() else f"{plain}_{_hash(name)}"


def slugs(names: Iterable[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """Name -> its slug, that of no other name nor one of ``taken``, whatever the case of its letters."""
    return distinct({name: slug(name) for name in names}, taken=taken)


def distinct(wanted: Mapping[str, str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """Name -> the slug it wants, with a hash of the name behind it where others want the same; a name that is its own slug keeps it."""
    kept: dict[str, str] = {}
    used = {word.lower() for word in taken}
    rivals = [word.lower() for word in wanted.values()]
    for name in sorted(wanted, key=lambda name: (name != wanted[name], name != name.lower(), name)):
        plain, digits = wanted[name], DIGITS
        chosen = plain if name == plain or rivals.count(plain.lower()) == 1 else f"{plain}_{_hash(name)}"
        while chosen.lower() in used:
            chosen, digits = f"{plain}_{_hash(name, digits)}", digits + 1
        used.add(chosen.lower())
        kept[name] = chosen
    return {name: kept[name] for name in wanted}


def _hash(name: str, digits: int = DIGITS) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
