"""A file of words and what each of them says: `parcel: [a parcel on a doorstep, a cardboard box]`."""

from __future__ import annotations

from pathlib import Path

import yaml

from edgemm.contracts import written
from edgemm.errors import CardError

LEAST = 2  # words: nothing can be told apart from nothing


def read_words(file: Path) -> dict[str, list[str]]:
    """Word -> its prompts.

    Raises:
        CardError: The file cannot be read, or holds something else.
    """
    try:
        plain = written.load(file.read_text(encoding="utf-8"), lambda plain, path: True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise CardError(f"cannot read the words in '{file}'.", why=" ".join(str(err).split()), fix="write `parcel: [a parcel]`.") from err
    entries = plain.items() if isinstance(plain, dict) else ()
    words = {str(word): [prompts] if isinstance(prompts, str) else prompts for word, prompts in entries}
    odd = [word for word, prompts in words.items() if not prompts or not all(isinstance(one, str) and one.strip() for one in prompts)]
    if odd or len(words) < LEAST:
        raise CardError(
            f"'{file}' does not hold two words or more with their prompts" + (f": '{odd[0]}' has none." if odd else "."),
            fix="write `parcel: [a parcel on a doorstep, a cardboard box]`, and what it looks like otherwise: `nothing: [an empty porch]`.",
        )
    return words
