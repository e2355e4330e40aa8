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


def test_of_named_rows_a_towers_own_vectors_are_told_apart_before_the_other_tower_tells_anything():
    names = torch.tensor([0, 0, 1, 1, 2])
    apart, mixed = torch.eye(3)[names], torch.eye(3)[torch.tensor([0, 1, 0, 1, 2])]
    blind = torch.ones(5, 3)
    loss = of(Output("here", "embedding", {"pair": "there", "named": True}))
    assert loss.supervised({"here": apart, "there": blind}, names) + 1 < loss.supervised({"here": mixed, "there": blind}, names)


def test_a_batch_without_two_rows_of_one_name_is_contrasted_as_pairs():
    vectors = torch.nn.functional.normalize(torch.arange(12.0).reshape(4, 3).sin())
    named, pairs = of(Output("here", "embedding", {"pair": "there", "named": True})), of(Output("here", "embedding", {"pair": "there"}))
    answers = {"here": vectors, "there": vectors.flip(1)}
    torch.testing.assert_close(named.supervised(answers, torch.arange(4)), pairs.supervised(answers, None))
