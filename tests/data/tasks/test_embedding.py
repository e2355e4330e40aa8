"""Pairs of vectors: recall by torchmetrics, and what ties count."""

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalRecall

from edgemm.contracts.card import Output
from edgemm.contracts.task import of
from edgemm.errors import MeasureError

PICTURE = Output("picture", "embedding", {"pair": "words"})


def statistics(pictures, words):
    return of(PICTURE).measure({"picture": pictures, "words": words}, None)


def test_recall_counts_rows_whose_own_partner_is_nearest():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(1500, 8))
    pictures = words + rng.normal(size=words.shape)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pictures, words)]
    score = statistics(pictures, words).score()
    assert score.value == pytest.approx(((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(1500)).mean())
    assert (score.name, score.unit) == ("recall_at_1", "ratio")


def test_recall_at_1_5_and_10_equal_torchmetrics():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(50, 6))
    pictures = words + rng.normal(size=words.shape)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pictures, words)]
    cosine, own = torch.tensor(unit[0] @ unit[1].T).flatten(), torch.eye(50).flatten().bool()
    found = {"recall_at_1": statistics(pictures, words).value(), **of(PICTURE).further({"picture": pictures, "words": words}, None)}
    for most in (1, 5, 10):
        expected = RetrievalRecall(top_k=most)(cosine, own, indexes=torch.arange(50).repeat_interleave(50))
        assert found[f"recall_at_{most}"] == pytest.approx(float(expected))


def test_a_collapsed_embedding_scores_chance_not_one():
    same = np.ones((50, 4), np.float32)
    assert statistics(same, same).value() == pytest.approx(1 / 50)
    assert of(PICTURE).further({"picture": same, "words": same}, None)["recall_at_5"] == pytest.approx(5 / 50)


def test_words_that_say_one_thing_twice_are_found_by_chance_among_themselves():
    words = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    found = statistics(words, words)
    assert found.rows.tolist() == [0.5, 0.5, 1.0, 1.0], "a perfect model cannot tell equal words apart; losing both would punish it"
    assert of(PICTURE).further({"picture": words, "words": words}, None)["recall_at_5"] == 1.0


def test_ties_with_others_that_are_nearer_do_not_help():
    pictures, words = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert statistics(pictures, words).rows.tolist() == [0.0, 0.5, 0.0]


def test_a_drop_takes_both_towers_as_they_are_after():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(200, 8))
    pictures = words + 0.8 * rng.normal(size=words.shape)
    turned = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    before = statistics(pictures, words)
    assert before.drop(statistics(pictures @ turned, words @ turned)).value == pytest.approx(0, abs=1e-9)
    assert before.drop(statistics(pictures @ turned, words)).value > 30


def test_vectors_of_unequal_size_are_no_pair():
    with pytest.raises(MeasureError, match=r"predictions \(3, 4\) and predictions \(3, 5\) do not belong together"):
        statistics(np.ones((3, 4)), np.ones((3, 5)))


def test_without_a_pair_nothing_is_scored_or_read():
    alone = of(Output("words", "embedding"))
    assert not alone.is_scored
    assert alone.read({"words": np.ones((1, 4))}) is None
    assert list(alone.entities()) == []


def test_a_reading_is_the_cosine_of_a_pair():
    seen = of(PICTURE).read({"picture": np.array([[3.0, 0.0]]), "words": np.array([[1.0, 1.0]])})
    assert seen.value == pytest.approx(2**-0.5)
