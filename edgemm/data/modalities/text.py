"""Text: int64 token ids (length,) into the graph; ids, and after them a mask where the card asks, into ``forward``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.card import FILL_IN
from edgemm.contracts.frontend_ops import Mask, Op
from edgemm.contracts.modality import TOKENS, Form, Learned, Modality, TrainSplit, Vocabulary, flow, needing
from edgemm.contracts.stream import Texts
from edgemm.errors import CardError, DataError
from edgemm.store import json_text

PACKAGES = ("tokenizers",)
FORM = "tokens"
FORMS = ("text=tokens:16", "text=tokens:16+mask")
HUGGING_FACE = {"": "input_ids", "mask": "attention_mask"}
UNKNOWN = ("<unk>", "[UNK]")  # stands for a word, so it is no mark
UNKNOWN_VOCABULARY = 3  # ids 0 to 2 exist in every vocabulary


@dataclass(frozen=True)
class Text(Modality):
    """A text as ``length`` token ids, cut or padded at the tokenizer's side (the end, unless it says otherwise).

    Attributes:
        tokenizer: A Hugging Face ``tokenizers`` JSON file. Without one the card says ``vocab`` and ``train`` builds it.
        vocab: Number of ids the model has an embedding for.
        mask: Whether forward gets, after the ids, a mask with 1 at tokens and 0 at padding.
        pad: Id of padding, where the tokenizer does not name one.
    """

    length: int
    tokenizer: str | None = None
    vocab: int | None = None
    mask: bool = False
    pad: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise CardError(f"length is {self.length}.", fix="write a number of tokens, at least 1.")
        if self.vocab is not None and self.vocab < 3:
            raise CardError(f"vocab is {self.vocab}.", why="0 is <pad> and 1 is <unk>.", fix="write at least 3.")
        if self.tokenizer is None and self.vocab is None:
            raise CardError(
                "neither tokenizer nor vocab is given.", fix="add tokenizer: <file.json>, or vocab: <size> for one made by train."
            )

    def dtype(self) -> str:
        return "int64"

    def shape(self) -> tuple[int | str, ...]:
        return (self.length,)

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A string, or ids -> int64 (length,). An empty string is one unknown token, never all padding.

        Raises:
            DataError: Ids out of range or not whole numbers; a string where no tokenizer is there yet.
        """
        if isinstance(cell, str):
            if self.tokenizer is None:
                raise DataError(
                    "a text cannot become token ids yet.",
                    why=f"the card says vocab: {self.vocab} and names no tokenizer.",
                    fix="train the model (train builds the vocabulary), or add tokenizer: <file.json> to the card.",
                )
            ids: np.ndarray = self._words().encode(cell)
        else:
            ids = self._given(cell)
        if self.vocab is not None and (ids.min() < 0 or ids.max() >= self.vocab):
            raise DataError(
                f"token id {int(ids.max() if ids.max() >= self.vocab else ids.min())} is outside vocab: {self.vocab}.",
                why="the model has no embedding for it.",
                fix="use the tokenizer the model was trained with, or set vocab to its size.",
            )
        return ids

    def pad_id(self) -> int:
        """Id of padding: the card's, else the tokenizer's, else 0."""
        if self.pad is not None:
            return self.pad
        return self._words().pad if self.tokenizer is not None else 0

    def absent(self) -> np.ndarray:
        return np.full(self.length, self.pad_id(), np.int64)

    def frontend(self) -> list[Op]:
        return [Mask(self.pad_id())] if self.mask else []

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """Random ids, some of the tail padding."""
        size = self.vocab or self._words().size
        ids = np.full(self.length, self.pad_id(), np.int64)
        count = int(rng.integers(1, self.length + 1))
        ids[:count] = rng.integers(min(2, size - 1), size, count)
        return ids

    def reads_empty(self, cell: Any) -> bool:
        return isinstance(cell, str)

    def stream(self) -> Texts:
        return Texts()

    def axes(self) -> tuple[str, ...]:
        return TOKENS

    def words(self, sample: np.ndarray) -> str:
        return str(self._words().tokenizer.decode(sample[sample != self.pad_id()].tolist())) if self.tokenizer else ""

    def encoder(self) -> str:
        return "text_lstm"

    def vocabulary(self) -> Vocabulary:
        """See ``_vocabulary``."""
        return self._vocabulary

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        """The card's ``vocab``, else one more than the highest id in the tokenizer's file; marks are its special tokens.

        Raises:
            CardError: That cannot be read.
        """
        if self.tokenizer is None:
            return Vocabulary(self.vocab or 0, self.pad_id())
        path = Path(self.tokenizer)
        try:
            plain = json_text.loads(path.read_text(encoding="utf-8"))
            added = plain.get("added_tokens") or ()
            marks = tuple(token["id"] for token in added if token.get("special") and token.get("content") not in UNKNOWN)
            if self.vocab:
                return Vocabulary(self.vocab, self.pad_id(), marks)
            words = plain["model"]["vocab"]
            ids = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
            return Vocabulary(1 + max([*ids, *(token["id"] for token in added)]), self.pad_id(), marks)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise CardError(
                f"cannot read the vocabulary of '{path}'.", why=str(err), fix="give the JSON file that Hugging Face tokenizers writes."
            ) from err

    def learned(self, train: TrainSplit) -> Learned:
        if self.tokenizer:
            return Learned()
        file = train.scratch / f"{len(list(train.scratch.iterdir()))}.json"  # names that differ in case may share a file
        file.write_text(build_vocabulary(map(str, train.cells()), int(self.vocab or 0)), encoding="utf-8")
        return Learned({"tokenizer": str(file)}, f"a vocabulary of at most {self.vocab} words was built from the train split")

    @classmethod
    def drafted(cls, form: Form) -> dict[str, Any] | None:
        if len(form.sizes) != 1 or form.rate_hz or not form.has_only(words=("mask",)):
            return None
        return {"length": form.sizes[0], "vocab": UNKNOWN_VOCABULARY} | ({"mask": True} if form.words else {})

    @classmethod
    def draft_lines(cls, options: Mapping[str, Any], *, guessed: bool) -> list[str]:
        lines = [f"{key}: {flow(value)}" for key, value in options.items() if key != "vocab"]
        if "tokenizer" in options:
            return lines
        comment = "# a Hugging Face tokenizers JSON; or `vocab: <size>` instead, then train builds it"
        return [*lines, comment, f"tokenizer: tokenizer.json  {FILL_IN}"]

    def _words(self) -> Any:
        with needing("reading tokenizers"):
            from edgemm.data.modalities._text import tokenizers
        assert self.tokenizer is not None  # whoever asks for words has looked
        return tokenizers.load(self.tokenizer, self.length, self.pad)

    def _given(self, cell: Any) -> np.ndarray:
        ids = np.asarray(cell)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise DataError(
                f"token ids have dtype {ids.dtype} and shape {ids.shape}.",
                why="a text is a string, or a list of whole numbers.",
                fix="store the text itself, or ids of shape (length,).",
            )
        out = self.absent()
        out[: len(ids)] = ids[: self.length]
        return out


def build_vocabulary(texts: Iterable[str], size: int) -> str:
    """A word-level tokenizer of at most ``size`` ids, made of the most frequent lower-cased words.

    Returns:
        Hugging Face ``tokenizers`` JSON; 0 is ``<pad>``, 1 is ``<unk>``; words of the same count in alphabetical order.
    """
    with needing("building a vocabulary"):
        from edgemm.data.modalities._text import tokenizers
    return tokenizers.build(texts, size)
