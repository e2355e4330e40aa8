"""Logits of words by what a text tower says of them: the tower runs once, here, and only its vectors go along."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.models.layers.words import word_vectors
from edgemm.workshop.models.protocols import Head, labels_of


class Words(Head):
    """The cosine between the branch's vector and each word's, by the model's own scale and bias.

    Args:
        path: The Hugging Face folder whose text tower reads the words: the one that the branch is of.
        file: The words: ``parcel: [a parcel on a doorstep, a cardboard box]``; prompts of one word are averaged.
    """

    paths: ClassVar[tuple[str, ...]] = ("path", "file")

    def __init__(self, width: int, output: Output, *, path: str, file: str) -> None:
        super().__init__(width, output)
        labels_of(output, "words")
        words = word_vectors(Path(path), Path(file))
        if words.labels != output.labels:
            raise CardError(
                f"outputs.{output.name}: its labels are {', '.join(output.labels or ())}, the words in '{file}' {', '.join(words.labels)}.",
                why="each word is one label, in this order.",
                fix="write the file's words as labels, or draft the card anew: edgemm init FOLDER --words FILE.",
            )
        if words.vectors.shape[1] != width:
            raise CardError(
                f"outputs.{output.name}: the branch gives {width} numbers, the words of '{path}' have {words.vectors.shape[1]}.",
                why="they do not lie in one space.",
                fix="name the folder that the branch is of.",
            )
        self.layer = nn.Linear(width, len(words.labels))
        self.layer.weight = nn.Parameter(words.vectors * words.scale, requires_grad=False)
        self.layer.bias = nn.Parameter(torch.full((len(words.labels),), words.bias), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x / x.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt())
