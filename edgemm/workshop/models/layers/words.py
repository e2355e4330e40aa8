"""Words as vectors: prompts read from a file, sent through a folder's text tower, averaged a word."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgemm.contracts.card import Input
from edgemm.contracts.modality import of
from edgemm.contracts.word_file import read_words
from edgemm.data.word_vectors import averaged
from edgemm.store.artifact import sha256_file
from edgemm.workshop.models.build import features_of
from edgemm.workshop.models.hf_folder import Folder, text_side
from edgemm.workshop.models.layers.tower import Tower
from edgemm.workshop.models.protocols import Features

SENTENCES_SCALE = 20.0  # of sentence encoders, which have none of their own: what sentence-transformers trains them with
AT_ONCE = 64  # prompts


@dataclass(frozen=True)
class WordVectors:
    """Words in the file's order.

    Attributes:
        vectors: (words, d), each of length 1.
        scale, bias: A logit is ``scale * cosine + bias``.
    """

    labels: tuple[str, ...]
    vectors: Tensor
    scale: float
    bias: float


def word_vectors(folder: Path, file: Path) -> WordVectors:
    """What the text tower of ``folder`` makes of the words in ``file``.

    Raises:
        CardError: The file is wrong, the folder has no text tower, or two words cannot be told apart.
        CheckpointError: The folder's weights cannot be read.
    """
    return _word_vectors(folder.resolve(), file.resolve(), sha256_file(file) if file.is_file() else "")


@functools.lru_cache(maxsize=4)
def _word_vectors(folder: Path, file: Path, digest: str) -> WordVectors:
    words = read_words(file)
    source = Folder(folder, str(folder))
    side = text_side(source)
    spec = Input("text", "text", side.options)
    features, _ = features_of(spec, folder)
    tower = Tower(folder, features, pool=None).eval()
    prompts = [prompt for group in words.values() for prompt in group]
    vectors = averaged(words, _encoded(tower, spec, features, prompts).numpy(), str(file))
    scale = SENTENCES_SCALE if tower.scale is None else tower.scale
    return WordVectors(tuple(words), torch.from_numpy(vectors), scale, tower.bias)


def _encoded(tower: Tower, spec: Input, features: Features, prompts: list[str]) -> Tensor:
    modality = of(spec)
    ids = torch.from_numpy(np.stack([modality.decode(prompt, Path()) for prompt in prompts]))
    parts = []
    with torch.no_grad():
        for some in ids.split(AT_ONCE):
            mask = some.ne(features.pad) if tower.side.hides_padding else None
            parts.append(functional.normalize(tower(some, mask), dim=-1))
    return torch.cat(parts)
