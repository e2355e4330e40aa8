"""Options of a training, and the learning rate over its steps."""

import pytest

from edgemm.contracts.training import SCHEDULES, Choice
from edgemm.errors import Mistakes, TrainError
from edgemm.workshop.training.options import DISTILL, QAT, TrainOptions
from edgemm.workshop.training.schedules import rate_share


def rate(schedule: str, step: int, steps: int) -> float:
    return 0.1 * rate_share(Choice(schedule, {key: numbers[0] for key, numbers in SCHEDULES[schedule].items()}), step, steps)


def test_the_cosine_warms_up_linearly_and_ends_at_a_hundredth():
    rates = [rate("cosine", step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1 / 50)
    assert max(rates) == rates[50] == pytest.approx(0.1)
    assert rates[51:] == sorted(rates[51:], reverse=True)
    assert rates[525] == pytest.approx(0.1 * (0.01 + 0.99 / 2), rel=1e-3)
    assert rates[-1] == pytest.approx(0.001, rel=0.01)


def test_the_step_schedule_drops_to_a_tenth_twice():
    rates = [rate("step", step, 1000) for step in (100, 599, 600, 849, 850, 999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_a_training_of_a_few_steps_needs_no_warm_up():
    assert rate("cosine", 0, 5) == pytest.approx(0.1)


def test_one_cycle_rises_to_the_highest_and_falls_to_next_to_nothing():
    rates = [rate("one-cycle", step, 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((0.004, 0.1, 1e-5), rel=1e-3)
    assert 290 < top < 310
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_several_options_out_of_range_are_told_at_once():
    with pytest.raises(Mistakes) as caught:
        TrainOptions(epochs=0, repeats=0, label_smoothing=1.0, schedule="linear").check()
    assert len(caught.value.errors) == 4


def test_a_section_is_overridden_by_what_is_given_and_stages_say_their_own_length():
    section = {"epochs": 5, "optimizer": {"sgd": {"momentum": 0.5}}, "average": "ema", "stages": []}
    options = TrainOptions.of(section, steps=100, learning_rate=None)
    assert (options.epochs, options.steps, options.learning_rate) == (None, 100, 1e-3)
    assert options.optimizer == Choice("sgd", {"momentum": 0.5})
    assert options.average == Choice("ema", {"decay": 0.999})
    with pytest.raises(TrainError, match=r"epochs is given, and the card's training has stages(.|\n)*fix: leave epochs out"):
        TrainOptions.of({"stages": [{"epochs": 2}]}, epochs=3)


def batches(rows: int) -> int:
    return -(-rows // 64)


def test_without_epochs_small_sets_are_gone_through_more_often():
    assert [TrainOptions().passes(batches(rows)) for rows in (100, 1050, 5000, 35_000, 1_000_000)] == [200, 142, 31, 20, 20]


def test_distilling_and_training_rounded_weights_count_steps_too():
    assert [TrainOptions(usual=DISTILL).passes(batches(rows)) for rows in (100, 1050, 5000, 35_000, 1_000_000)] == [200, 142, 31, 5, 5]
    assert [TrainOptions(usual=QAT).passes(batches(rows)) for rows in (100, 1050, 5000, 35_000)] == [200, 36, 8, 3]


def test_epochs_and_steps_that_are_given_win():
    assert TrainOptions(epochs=3, usual=DISTILL).passes(17) == 3
    assert TrainOptions(steps=100, usual=DISTILL).passes(17) == 6
    assert TrainOptions(steps=5000).passes(17) == 295
    with pytest.raises(TrainError, match=r"epochs and steps are both given(.|\n)*fix: keep one"):
        TrainOptions(epochs=3, steps=100).check()


def test_patience_is_a_quarter_of_all_epochs_and_at_least_ten():
    assert [TrainOptions().patience_of(epochs) for epochs in (1, 20, 31, 147)] == [10, 10, 10, 37]
    assert TrainOptions(patience=3).patience_of(147) == 3
    assert TrainOptions(patience=0).patience_of(147) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"patience": -1}, "patience is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"loss_weights": {"a": -1.0}}, "loss_weights is"),
        ({"mixed_precision": "int8"}, "mixed_precision is 'int8'"),
    ],
)
def test_an_option_out_of_range_is_named_with_what_to_write(options, words):
    with pytest.raises(TrainError, match=rf"{words}(.|\n)*fix: write"):
        TrainOptions(**options).check()
