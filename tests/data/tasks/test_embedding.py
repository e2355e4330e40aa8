"""Pairs of vectors: recall by torchmetrics, and what ties count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalRecall

from edgemm.contracts.card import Output
from edgemm.contracts.task import Cells, of
from edgemm.errors import CardError, DataError, MeasureError

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


NAMED = of(Output("picture", "embedding", {"pair": "words", "named": True}))


def test_rows_of_one_name_are_as_good_as_the_rows_own_partner():
    rng = np.random.default_rng(0)
    names, words = rng.integers(5, size=40), rng.normal(size=(40, 6))
    pictures = words + 2 * rng.normal(size=words.shape)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pictures, words)]
    ranked = names[(-(unit[0] @ unit[1].T)).argsort(axis=1)] == names[:, None]
    answers = {"picture": pictures, "words": words}
    assert 0 < NAMED.measure(answers, names).value() < 1
    assert NAMED.measure(answers, names).rows.tolist() == pytest.approx(ranked[:, 0].astype(float).tolist())
    assert NAMED.further(answers, names)["recall_at_5"] == pytest.approx(ranked[:, :5].any(axis=1).mean())


def test_of_named_rows_that_tie_those_of_the_name_come_first_by_chance():
    same = np.ones((10, 4), np.float32)
    names = np.array([0] * 4 + [1] * 6)
    answers = {"picture": same, "words": same}
    assert NAMED.measure(answers, names).rows.tolist() == pytest.approx([0.4] * 4 + [0.6] * 6)
    first_five_all_of_the_other = 6 / 252  # 6 choose 5, of 10 choose 5
    expected = (4 * (1 - first_five_all_of_the_other) + 6) / 10
    assert NAMED.further(answers, names)["recall_at_5"] == pytest.approx(expected)


def test_a_name_is_read_as_it_is_written_and_an_empty_cell_is_an_error():
    row = Cells(Path(), {})
    assert NAMED.truth(" Anna ", row) == NAMED.truth("Anna", row) != NAMED.truth("anna", row)
    with pytest.raises(DataError, match="the cell is empty"):
        NAMED.truth("", row)
    with pytest.raises(CardError, match=r"outputs\.picture: 'named' without a 'pair'"):
        of(Output("picture", "embedding", {"named": True}))


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
