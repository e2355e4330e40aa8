"""What a job makes of an ONNX file that comes without a card: states that were only guessed."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgemm.contracts.card import Card
from edgemm.pipeline.job import start
from edgemm.verbs.init import init
from tests.graph import user_files
from tests.graph.user_files import nodes, weights


@pytest.fixture
def cleaner(tmp_path) -> Path:
    """A sound and a hint in, the cleaned sound out: by its name it could be a state."""
    body = [*nodes("o")[:-1], helper.make_node("MatMul", ["c", "w3"], ["o"]), helper.make_node("Add", ["o", "a"], ["a_out"])]
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 0.2, (48, 32)).astype(np.float32)
    return user_files.write(tmp_path / "cleaner.onnx", body, weights(w3=wide), outputs={"a_out": 32})


def rows(folder: Path, *names: str) -> Path:
    path = folder / f"{'_'.join(names)}.npz"
    np.savez(path, **{name: np.ones((8, {"a": 32, "b": 8}[name]), np.float32) for name in names})
    return path


def state_of(card: Card) -> str | None:
    return card.inputs["a"].options.get("state")


def test_an_input_that_the_data_hold_is_no_state_whatever_an_output_is_called(cleaner, tmp_path):
    job = start(cleaner, rows(tmp_path, "a", "b"))
    assert state_of(job.card) is None
    assert next(iter(job.dataset.batches("train", 1))).inputs["a"].all()
    assert job.notes == ["input 'a' is read from the data; it is no state that output 'a_out' carries over."]


@pytest.mark.parametrize("data", [None, ("b",)])
def test_a_guessed_state_is_told_with_the_way_to_say_otherwise(data, cleaner, tmp_path):
    job = start(cleaner, data and rows(tmp_path, *data))
    assert state_of(job.card) == "a_out"
    assert "input 'a' is taken for a state that output 'a_out' carries over" in job.notes[0]
    assert f"edgemm init {cleaner} -o model.yaml" in job.notes[0]


def test_a_card_confirms_a_state_or_denies_it(cleaner, tmp_path):
    card = init(str(cleaner), output=tmp_path / "model.yaml")
    assert "state: a_out  # guessed" in card.read_text()
    job = start(card, rows(tmp_path, "a", "b"))
    assert state_of(job.card) == "a_out"
    assert job.notes == ["the card calls input 'a' a state: nothing is calibrated on the data's own 'a'."]
    card.write_text("\n".join(line for line in card.read_text().splitlines() if "state:" not in line))
    assert state_of(start(cleaner, None).card) is None, "the card beside the file counts"


def test_an_input_alone_is_no_state(tmp_path):
    path = user_files.write(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["a", "w1"], ["a_out"])], weights(), inputs={"a": 32}, outputs={"a_out": 32}
    )
    job = start(path, None)
    assert state_of(job.card) is None
    assert not job.notes
