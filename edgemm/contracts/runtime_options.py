"""Runtime options: the plain values that ``tune`` chooses among and a bundle's ``options.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.errors import TargetError, nearest


def check_options(target: str, given: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Refuse what ``target`` does not know.

    Args:
        known: Option -> its type, as an annotation written out (``int``, ``'f32' | 'bf16'``).

    Raises:
        TargetError: Naming the option and the nearest right one, or the values it takes.
    """
    for name, value in given.items():
        if name not in known:
            raise TargetError(f"{target} has no runtime option '{name}'.", fix=nearest(name, known))
        wants = known[name]
        if wants == "int":
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        else:
            fits = f"'{value}'" in wants.split(" | ")
        if not fits:
            says = "a whole number of at least 1" if wants == "int" else wants.replace(" | ", " or ")
            raise TargetError(f"{target}: runtime option '{name}' is {value!r}.", fix=f"set it to {says}.")
