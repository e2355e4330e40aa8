"""Words and what each of them says: `parcel: [a parcel on a doorstep, a cardboard box]`, in a file or as a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from edgemm.contracts import written
from edgemm.errors import CardError

LEAST = 2  # words: nothing can be told apart from nothing
Prompts = Mapping[str, Sequence[str]]
"""Word -> the sentences that stand for it."""


def read_words(file: Path) -> dict[str, list[str]]:
    """Word -> its prompts.

    Raises:
        CardError: The file cannot be read, or holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise _unreadable(str(file), err) from err
    return parse(text, str(file))


def parse(text: str, where: str) -> dict[str, list[str]]:
    """The same of a text; ``where`` it stands, for errors.

    Raises:
        CardError: It holds something else.
    """
    try:
        plain = written.load(text, lambda plain, path: True)
    except yaml.YAMLError as err:
        raise _unreadable(where, err) from err
    entries = plain.items() if isinstance(plain, dict) else ()
    words = {str(word): [prompts] if isinstance(prompts, str) else prompts for word, prompts in entries}
    odd = [word for word, prompts in words.items() if not _are_prompts(prompts)]
    if odd or len(words) < LEAST:
        raise CardError(
            f"'{where}' does not hold two words or more with their prompts" + (f": '{odd[0]}' has none." if odd else "."),
            fix="write `parcel: [a parcel on a doorstep, a cardboard box]`, and what it looks like otherwise: `nothing: [an empty porch]`.",
        )
    return words


def as_text(words: Prompts) -> str:
    """The content of a file of words."""
    return written.dump({word: list(prompts) for word, prompts in words.items()}, default_flow_style=None, width=140)


def _are_prompts(prompts: object) -> bool:
    return isinstance(prompts, list) and bool(prompts) and all(isinstance(one, str) and one.strip() for one in prompts)


def _unreadable(where: str, err: Exception) -> CardError:
    return CardError(f"cannot read the words in '{where}'.", why=" ".join(str(err).split()), fix="write `parcel: [a parcel]`.")
