"""A memory of negatives: what is kept, and that it tells a student apart which a small batch alone does not."""

import pytest
import torch

from edgemm.workshop.training.negatives import Negatives

PAIRS = {"a": "b", "b": "a"}


def test_the_latest_rows_of_the_teacher_are_kept_while_training_and_no_more_than_asked():
    memory = Negatives(PAIRS, 5)
    rows = torch.eye(8)
    for first in (0, 3):
        memory(dict.fromkeys(PAIRS, rows[first : first + 3]), dict.fromkeys(PAIRS, rows[first : first + 3]))
    assert torch.equal(memory._kept["a"], torch.cat([rows[3:6], rows[:2]]))
    memory.eval()(dict.fromkeys(PAIRS, rows[6:]), dict.fromkeys(PAIRS, rows[6:]))
    assert torch.equal(memory._kept["a"], torch.cat([rows[3:6], rows[:2]]))


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn():
    torch.manual_seed(0)
    memory, vectors = Negatives(PAIRS, 64), {name: torch.randn(16, 8) for name in PAIRS}
    assert all(part == pytest.approx(0, abs=1e-5) for _ in range(3) for part in memory(vectors, vectors).values())


def test_earlier_rows_tell_what_a_batch_of_one_cannot():
    torch.manual_seed(0)
    taught, other = {name: torch.randn(1, 8) for name in PAIRS}, {name: torch.randn(1, 8) for name in PAIRS}
    alone = Negatives(PAIRS, 0)(other, taught)
    memory = Negatives(PAIRS, 64)
    memory({name: torch.randn(32, 8) for name in PAIRS}, {name: torch.randn(32, 8) for name in PAIRS})
    assert all(part == pytest.approx(0, abs=1e-6) for part in alone.values())
    assert all(part > 0.1 for part in memory(other, taught).values())
