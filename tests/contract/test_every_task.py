"""What holds for every task: cell, truth, metric, interval, reading, entity; and its loss and head in the workshop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.card_file import parse
from edgemm.contracts.task import Cells, Task, guarded_metrics, of, scored_outputs
from edgemm.errors import DataError


@dataclass(frozen=True)
class Example:
    """A card's outputs, cells of a dataset and what a model that is right about them answers.

    Attributes:
        nonsense: Cells that cannot be.
        things: How many there are in all rows; None = one a row.
        beside: Another input, that an option names.
        no_head: Why the reference models have none.
        of_files: Why its head cannot be made of a width alone.
    """

    options: dict[str, Any]
    answers: dict[str, np.ndarray]
    cells: list[Any] = field(default_factory=list)
    nonsense: tuple[Any, ...] = ()
    others: dict[str, Any] = field(default_factory=dict)
    things: int | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    no_head: str = ""
    of_files: str = ""


PICTURE = np.zeros((32, 64, 3), np.uint8)
BOXES = np.full((4, 6, 3), 1.0, np.float32)  # rows, cx cy w h and two scores, places
BOXES[:, :4, 0], BOXES[:, 4:] = [16, 16, 20, 10], 0.01
BOXES[:2, 4, 0], BOXES[2:, 5, 0] = 0.9, 0.8
BESIDE = Cells(Path(), {"picture": PICTURE})
AREAS = np.random.default_rng(0).integers(0, 2, (4, 32, 64)).astype(np.uint8)
RODS = np.array([[[8, 8], [48, 16]], [[40, 8], [16, 24]], [[8, 24], [48, 24]]], np.float32)
IN_PIXELS = {"picture": {"modality": "image", "height": 32, "width": 64}}


def heat(points: np.ndarray) -> np.ndarray:
    """Logits (n, points, 32, 64) of a map for each point (n, points, 2), x and y in cells that are pixels."""
    rows, columns = np.mgrid[:32, :64] + 0.5
    x, y = points[..., 0, None, None], points[..., 1, None, None]
    return np.asarray(9 - np.square(columns - x) - np.square(rows - y), np.float32)


VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
EXAMPLES = {
    "classification": Example(
        {"labels": ["quiet", "glass"]},
        {"y": 9 * np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]},
        ["quiet", "glass", 1, "quiet"],
        ("smell", None, "", 2),
    ),
    "words": Example(
        {"labels": ["parcel", "dog"]},
        {"y": 9 * np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]},
        ["parcel", "dog", 1, "parcel"],
        ("smell", None, "", 2),
        of_files="its vectors are those of a folder's text tower: tests/workshop/models/test_towers.py",
    ),
    "multilabel": Example(
        {"labels": ["red", "round"]},
        {"y": np.array([[9, 9], [9, -9], [-9, 9]], np.float32)},
        ["red|round", ["red"], "round"],
        ("red|loud",),
    ),
    "regression": Example(
        {"unit": "dB"}, {"y": np.array([[61.5], [3.0], [-2.0]], np.float32)}, ["61.5", 3, "-2.0"], ("loud", None, "", "nan")
    ),
    "detection": Example(
        {"labels": ["person", "small parcel"], "frame": "picture"},
        {"y": BOXES},
        ["person 12 6 52 26", np.array([[0, 12, 6, 52, 26]]), "small parcel 12 6 52 26", "small parcel 12 6 52 26"],
        ("person", "dog 1 2 3 4", None, "", "person 1 2 1 4", "person 1 2 300 4", "person 0.1 0.2 0.3 0.4"),
        beside={"picture": {"modality": "image", "height": 32, "width": 32, "fit": "letterbox"}},
    ),
    "segmentation": Example(
        {"labels": ["ground", "road"], "frame": "picture"},
        {"y": 9 * np.eye(2, dtype=np.float32)[AREAS].transpose(0, 3, 1, 2)},
        [*AREAS],
        ("absent.png", None, "", np.full((32, 64), 7), np.zeros((4, 4), np.uint8)),
        things=AREAS.size,
        beside=IN_PIXELS,
    ),
    "keypoints": Example(
        {"labels": ["rod"], "points": ["head", "tail"], "frame": "picture", "truths": 3},
        {"y": heat(RODS)},
        [f"rod {a:g} {b:g} 2 {c:g} {d:g} 1" for (a, b), (c, d) in RODS],
        ("rod 1 1 2", "rope 1 1 2 6 2 2", None, "", "rod 1 1 2 60 99 2"),
        beside=IN_PIXELS,
    ),
    "embedding": Example({"pair": "z"}, {"y": VECTORS, "z": 2 * VECTORS}, others={"z": {"task": "embedding"}}),
    "tensor": Example({}, {"y": VECTORS}, no_head="nobody knows what it is to answer"),
}
"""An entry a task: a newcomer writes its own here, or in a test beside its folder."""


@pytest.fixture(params=plugins.names("tasks"))
def name(request) -> str:
    return request.param


@pytest.fixture
def example(name) -> Example:
    return EXAMPLES[name]


@pytest.fixture
def card(name, example):
    outputs = {"y": {"task": name, **example.options}, **example.others}
    inputs = {"x": {"modality": "sensor", "shape": [4]}, **example.beside}
    return parse({"factory": "own:build", "inputs": inputs, "outputs": outputs})


@pytest.fixture
def task(card) -> Task:
    return of(card.outputs["y"])


@pytest.fixture
def truth(task, example) -> np.ndarray | None:
    if not task.has_truth:
        return None if task.is_scored else example.answers["y"]
    return np.stack([task.truth(cell, BESIDE) for cell in example.cells])


def worse(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The answers given to the wrong rows."""
    return answers | {"y": np.roll(answers["y"], 1, axis=0)}


def test_a_card_with_it_is_written_and_read_again_as_it_was(card):
    assert parse(card.to_dict()).outputs == card.outputs


def test_it_has_a_line_about_itself_and_its_options_have_meanings(name):
    from edgemm.verbs.list import list as list_variants

    described = list_variants("tasks", name).variants[0]
    assert described.about
    assert all(choice.meaning for choice in described.options.values())


def test_an_unknown_option_is_refused(card, name, example):
    from edgemm.errors import CardError

    plain = card.to_dict()
    plain["outputs"]["y"]["labells"] = 3
    with pytest.raises(CardError, match=r"outputs\.y: unknown key 'labells'"):
        parse(plain)


def test_every_truth_has_one_shape_and_a_number_for_each_row(task, truth, example):
    if task.has_truth:
        assert len(truth) == len(example.cells)
        assert truth.dtype in (np.int64, np.float32, np.uint8)


def test_what_cannot_be_in_a_cell_is_an_error_that_names_no_row(task, example):
    if not task.has_truth:
        pytest.skip("no column is read")
    for cell in example.nonsense:
        with pytest.raises(DataError) as caught:
            task.truth(cell, BESIDE)
        assert "row" not in caught.value.what


def test_right_answers_score_best_and_the_interval_holds_the_value(task, truth, example):
    score, other = (task.measure(answers, truth).score() for answers in (example.answers, worse(example.answers)))
    assert score.n == len(example.answers["y"])
    assert other.value < score.value if score.better == "higher" else other.value > score.value
    best = {"ratio": 1.0, "dB": 200.0 if score.name == "sqnr_db" else 0.0}
    assert score.value == pytest.approx(best[score.unit])
    for one in (score, other):
        assert one.low is None or one.low <= one.value <= one.high


def test_what_is_lost_is_positive_paired_and_nothing_between_equals(task, truth, example):
    if not task.is_scored:
        pytest.skip("there is no accuracy to lose")
    right, wrong = (task.measure(answers, truth) for answers in (example.answers, worse(example.answers)))
    lost, nothing = right.drop(wrong), right.drop(right)
    assert lost.name == "accuracy_drop_points"
    assert lost.value > 0 == nothing.value
    assert lost.low <= lost.value <= lost.high
    assert lost.per_point > 0
    assert right.gain(1.0, [(-1.0, wrong)]).value == pytest.approx(lost.value)
    assert right.goodness() > wrong.goodness()


def test_the_guarded_metric_has_a_name_for_people(task, truth, example):
    if task.is_scored:
        assert guarded_metrics()[task.measure(example.answers, truth).score().name]


def test_only_what_is_scored_counts_as_that(card, task):
    assert ("y" in scored_outputs(card)) == task.is_scored


def test_other_metrics_are_numbers(task, truth, example):
    found = task.further(example.answers, truth)
    assert all(isinstance(value, float) for value in found.values())
    if task.is_scored:
        assert task.measure(example.answers, truth).score().name not in found


def test_a_confusion_matrix_counts_every_row_once(task, truth, example):
    matrix = task.confusion(example.answers, truth)
    if matrix is not None:
        assert matrix.sum() == (example.things or len(example.answers["y"])) == np.trace(matrix)


def test_a_reading_is_what_was_answered_and_its_entities_show_it(task, example):
    first = {read: example.answers[read][:1] for read in task.reads}
    seen, entities = task.read(first), list(task.entities())
    assert len({entity.key for entity in entities}) == len(entities)
    if seen is None:
        assert not entities
    elif seen.scores is None:
        assert [(entity.kind, entity.unit) for entity in entities] == [("number", seen.unit)]
    else:
        assert [entity.key for entity in entities if entity.kind in ("on_off", "count")] == list(seen.scores)
        assert all(0 <= score <= 1 for score in seen.scores.values())
        leading = max(seen.scores, key=seen.scores.__getitem__)
        assert all(leading in entity.choices for entity in entities if entity.kind == "word")
        assert task.answer_width in (None, example.answers["y"].shape[-1])
    assert seen is None or task.placed(seen, {}) == seen


def test_it_is_served_and_told_to_home_assistant(card, task, example):
    from edgemm.box.serving.decisions import Decider
    from edgemm.box.serving.extents import Extents
    from edgemm.box.serving.places import followers
    from edgemm.box.serving.settings import Settings
    from edgemm.box.serving.sinks._mqtt import homeassistant
    from edgemm.box.serving.tracking.scenes import Scenes
    from edgemm.contracts.decision import Sample
    from edgemm.contracts.sink import About

    answers = {read: example.answers[read][:1] for read in task.reads}
    readings, _ = Decider(card, {}).update(answers, 0.0)
    pictures = {name: Sample(np.empty(0), 0.0, 0.0) for name in card.inputs}
    sizes = Extents(card).of(pictures)
    readings |= Scenes(card, followers(card, Settings())).update(answers, pictures, sizes, begun_s=lambda name: -1.0, wall_s=0.0).readings
    about = About("box", "model", "1", ("x",), {"y": card.outputs["y"]}, {}, 0.5, lambda what, value: True)
    components = homeassistant.components(about, "edgemm/box", pictures=False)
    shown = [key for key in components if key.startswith("y_")]
    assert len(shown) == len(list(task.entities()))
    assert ("y" in readings) == bool(shown)
    if shown:
        topics = {entity["state_topic"] for key, entity in components.items() if key.startswith("y_")}
        assert homeassistant.states(homeassistant.shown(about)["y"], "edgemm/box", readings["y"]).keys() == topics


def test_it_has_a_loss_that_is_least_for_right_answers(card, task, truth, example):
    torch = pytest.importorskip("torch")
    from edgemm.workshop.training.loss import of as loss_of

    loss = loss_of(card.outputs["y"])
    right, wrong = ({key: torch.from_numpy(array) for key, array in one.items()} for one in (example.answers, worse(example.answers)))
    assert loss.imitation(right, right, temperature=2.0) == pytest.approx(0.0, abs=1e-6)
    assert loss.imitation(wrong, right, temperature=2.0) > 0.01
    assert loss.learns == task.is_scored
    if loss.learns:
        true = torch.from_numpy(truth) if task.has_truth else None
        assert loss.supervised(right, true) < loss.supervised(wrong, true)


def test_it_has_a_head_of_its_name_or_a_reason_why_not(card, name, example):
    torch = pytest.importorskip("torch")
    from edgemm.workshop.models.protocols import Head, Maps

    if example.no_head:
        assert name not in plugins.names("heads")
        return
    if example.of_files:
        assert name in plugins.names("heads")
        return
    head, seen = plugins.find(Head, name), (8, card.outputs["y"])
    if head.takes_maps:
        answer = head(*seen, Maps("picture", (32, 32), (8, 16), (8, 8)))((torch.zeros(3, 8, 4, 4), torch.zeros(3, 8, 2, 2)))
    else:
        answer = head(*seen)(torch.zeros(3, 8))
    width = of(card.outputs["y"]).answer_width
    assert len(answer) == 3
    assert width is None or answer.shape[-1] == width
