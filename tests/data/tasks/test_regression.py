"""Measurements: mean absolute error and correlation against torchmetrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional as oracle

from edgemm.contracts.card import Output
from edgemm.contracts.task import Cells, of
from edgemm.errors import DataError

LEVEL = Output("level", "regression", {"unit": "dB"})


def test_mae_and_correlation_equal_torchmetrics_in_the_outputs_unit():
    rng = np.random.default_rng(0)
    answers, truth = rng.normal(size=(200, 1)).astype(np.float32), rng.normal(size=200).astype(np.float32)
    score = of(LEVEL).measure({"level": answers}, truth).score()
    ours, theirs = torch.tensor(answers[:, 0]), torch.tensor(truth)
    assert score.value == pytest.approx(float(oracle.mean_absolute_error(ours, theirs)), rel=1e-5)
    assert (score.name, score.unit, score.better) == ("mae", "dB", "lower")
    assert of(LEVEL).further({"level": answers}, truth)["pearson"] == pytest.approx(float(oracle.pearson_corrcoef(ours, theirs)), abs=1e-6)


def test_an_answer_that_never_changes_has_no_correlation():
    assert np.isnan(of(LEVEL).further({"level": np.ones(4)}, np.arange(4.0))["pearson"])


def test_steps_are_averaged_over_and_counted_by_row():
    rng = np.random.default_rng(0)
    answers, truth = rng.normal(size=(20, 7)), rng.normal(size=(20, 7))
    score = of(Output("y", "regression", {"per_step": True})).measure({"y": answers}, truth).score()
    assert score.value == pytest.approx(float(np.abs(answers - truth).mean()))
    assert score.n == 20


def test_a_reading_is_the_last_number_in_its_unit():
    seen = of(LEVEL).read({"level": np.array([[1.0, 2.5]])})
    assert (seen.value, seen.unit, seen.scores) == (2.5, "dB", None)


@pytest.mark.parametrize("cell", ["1.5m/s", "1_0", "0x10", "yes", b"x", 1 + 2j, np.datetime64("2024-01-01"), "x.npy", ["1", "b"]])
def test_what_is_no_number_is_refused(cell):
    with pytest.raises(DataError, match="is no number"):
        of(LEVEL).truth(cell, Cells(Path()))


@pytest.mark.parametrize("cell", [float("nan"), "inf", "-inf", "nan", [1.0, None], 1e39, "1e39"])
def test_what_is_not_finite_is_refused(cell):
    with pytest.raises(DataError, match="finite number"):
        of(LEVEL).truth(cell, Cells(Path()))


@pytest.mark.parametrize("cell", ["", "  ", None, [], "[]"])
def test_an_empty_cell_is_refused(cell):
    with pytest.raises(DataError, match=r"is empty|is no number"):
        of(LEVEL).truth(cell, Cells(Path()))
