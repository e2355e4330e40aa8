"""Pairs of vectors are learned by contrast."""

import torch

from edgemm.contracts.card import Output
from edgemm.workshop.training.loss import of


def test_the_contrast_is_low_for_matched_pairs_only():
    vectors = torch.eye(8)
    loss = of(Output("here", "embedding", {"pair": "there"}))
    matched = loss.supervised({"here": vectors, "there": vectors}, None)
    assert matched < 0.01 < 1 < loss.supervised({"here": vectors, "there": vectors.flip(0)}, None)


def test_without_a_pair_there_is_only_a_teacher_to_learn_from():
    assert not of(Output("here", "embedding")).learns
