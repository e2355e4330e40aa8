"""JSON that somebody else wrote: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes, **options: Any) -> Any:
    """As ``json.loads``, which lets lists in lists without end pass as another error.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
