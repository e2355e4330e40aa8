"""Lines of NVIDIA's tegrastats, L4T 32 to 39: the power of the board's rails.

What else a line holds differs between releases, boards and users, so that only the memory, which all of them show, tells a line from
other text. Of the numbers of a rail the first is now, the second the mean since tegrastats began, the third (L4T 39) the highest.
"""

from __future__ import annotations

import re

from edgemm.box.devices.rails import UNCONNECTED
from edgemm.errors import MeasureError

RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB\b")
RAIL = re.compile(r"(?<=\s)([A-Za-z]\w*) (\d{1,7})(mW)?(/\d{1,7}(?:mW)?)?(?:/\d{1,7}(?:mW)?)?(?= |$)")


def rails_mw(line: str) -> dict[str, float]:
    """Rail -> its power now; what has neither a unit nor a second number is a clock ("APE 174") or was cut off.

    Raises:
        MeasureError: The line is none of tegrastats': there is no memory in it, or more used than there is.
    """
    memory = RAM.search(line)
    if memory is None or int(memory[1]) > int(memory[2]) or int(memory[2]) == 0:
        shown = line.strip()[:80]
        raise MeasureError(
            f"'{shown}' is not a line of tegrastats.",
            why="it says nothing of the memory." if memory is None else f"{memory[1]} of {memory[2]} MB of memory cannot be in use.",
            fix="run tegrastats alone to see what it prints; anything else that writes there must go to stderr.",
        )
    return {match[1]: float(match[2]) for match in RAIL.finditer(line) if (match[3] or match[4]) and match[1] != UNCONNECTED}
