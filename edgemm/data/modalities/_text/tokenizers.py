"""Text to token ids, with Hugging Face ``tokenizers``."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from edgemm.errors import CardError, DataError

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "[pad]")
UNKNOWN_NAMES = ("<unk>", "[UNK]", "<|unk|>", "[unk]")


@dataclass(frozen=True)
class Words:
    """A tokenizer set to one length. Shared between threads: encoding does not change it."""

    tokenizer: Tokenizer
    pad: int
    unknown: int
    size: int

    def encode(self, text: str) -> np.ndarray:
        """int64 (length,); at least one id is not padding.

        Raises:
            DataError: The tokenizer has no id for something in ``text``.
        """
        try:
            ids = np.array(self.tokenizer.encode(text).ids, np.int64)
        except Exception as err:  # tokenizers raises bare Exception
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise DataError(f"the tokenizer fails on '{shown}'.", why=f"{err}".rstrip(".") + ".", fix="give it an unknown token.") from err
        if (ids == self.pad).all():
            ids[0] = self.unknown
        return ids


def load(path: str, length: int, pad: int | None) -> Words:
    """The tokenizer in a file, set to ``length``.

    Raises:
        CardError: No file, not a tokenizer, or one without a padding token while the card names none.
    """
    try:
        status = Path(path).stat()
    except OSError as err:
        raise CardError(
            f"the tokenizer '{path}' cannot be read.", why=f"{err.strerror}.", fix="mend the path; it is relative to the card."
        ) from err
    return _load(path, length, pad, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _load(path: str, length: int, pad: int | None, mtime_ns: int, size: int) -> Words:
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as err:  # tokenizers raises bare Exception
        raise CardError(
            f"'{path}' is not a tokenizer.", why=f"{err}".rstrip(".") + ".", fix="give a Hugging Face tokenizers JSON (tokenizer.json)."
        ) from err
    padding = tokenizer.padding or {}
    if pad is None:
        named = [tokenizer.token_to_id(name) for name in PAD_NAMES]
        pad = padding.get("pad_id", next((token_id for token_id in named if token_id is not None), None))
    if pad is None:
        raise CardError(
            f"the tokenizer '{path}' names no padding token.", why=f"texts are padded to {length} ids.", fix="add pad: <id> to the input."
        )
    direction = padding.get("direction", "right")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "<pad>", direction=direction.lower())
    return Words(tokenizer, pad, _unknown(tokenizer, pad), tokenizer.get_vocab_size())


def _unknown(tokenizer: Tokenizer, pad: int) -> int:
    """The id that stands for an empty text: the unknown token, else what a blank becomes, else the lowest id that is not padding."""
    named = [getattr(tokenizer.model, "unk_token", None), *UNKNOWN_NAMES]
    token_ids = [tokenizer.token_to_id(name) for name in named if name]
    try:
        blank = [number for number in tokenizer.encode(" ").ids if number != pad]
    except Exception:  # a tokenizer without an unknown token may have no id for a blank
        blank = []
    return next((number for number in token_ids if number is not None), blank[0] if blank else int(pad == 0))


def build(texts: Iterable[str], size: int) -> str:
    """See ``text.build_vocabulary``."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=size, special_tokens=["<pad>", "<unk>"], show_progress=False))
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>")
    return tokenizer.to_str(pretty=True)
