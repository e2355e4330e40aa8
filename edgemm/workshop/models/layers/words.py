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
from edgemm.errors import CardError
from edgemm.store.artifact import sha256_file
from edgemm.workshop.models.build import features_of
from edgemm.workshop.models.hf_folder import Folder, require_family
from edgemm.workshop.models.layers.tower import Tower
from edgemm.workshop.models.protocols import Features
from edgemm.workshop.models.word_file import read_words

SENTENCES_SCALE = 20.0  # of sentence encoders, which have none of their own: what sentence-transformers trains them with
ALIKE = 0.9999  # a cosine above it: nothing tells two words apart
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
    family = require_family(source)
    side = next((side for side in family.sides(source).values() if side.modality == "text"), None)
    if side is None:
        raise CardError(f"'{folder}' has no text tower.", why="words need one.", fix="take CLIP, SigLIP, CLAP or a sentence encoder.")
    spec = Input("text", "text", side.options)
    features, _ = features_of(spec, folder)
    tower = Tower(folder, features, pool=None).eval()
    prompts = [prompt for group in words.values() for prompt in group]
    vectors = _encoded(tower, spec, features, prompts)
    averaged, at = [], 0
    for group in words.values():
        averaged.append(functional.normalize(vectors[at : at + len(group)].mean(0), dim=-1))
        at += len(group)
    stacked = torch.stack(averaged)
    _require_different(tuple(words), stacked, file)
    return WordVectors(tuple(words), stacked, SENTENCES_SCALE if tower.scale is None else tower.scale, tower.bias)


def _encoded(tower: Tower, spec: Input, features: Features, prompts: list[str]) -> Tensor:
    modality = of(spec)
    ids = torch.from_numpy(np.stack([modality.decode(prompt, Path()) for prompt in prompts]))
    parts = []
    with torch.no_grad():
        for some in ids.split(AT_ONCE):
            mask = some.ne(features.pad) if tower.side.hides_padding else None
            parts.append(functional.normalize(tower(some, mask), dim=-1))
    return torch.cat(parts)


def _require_different(labels: tuple[str, ...], vectors: Tensor, file: Path) -> None:
    cosines = (vectors @ vectors.T).triu(1)
    if float(cosines.max()) < ALIKE:
        return
    one, other = divmod(int(cosines.argmax()), len(labels))
    raise CardError(
        f"the words '{labels[one]}' and '{labels[other]}' in '{file}' have the same vector.",
        why="the text tower reads their prompts alike, so nothing will ever tell them apart.",
        fix="write other prompts for one of them, or one word for both.",
    )
