"""Data decoded elsewhere: what comes out is what went in, for every kind of input, without its packages."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card_file import SHIPPED
from edgemm.data.dataset import find_labels, open_dataset, synthetic
from edgemm.data.sources import MARK


def stored(folder, batch):
    np.savez(folder / "test.npz", **batch.inputs, **batch.truth)
    (folder / MARK).touch()
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_input_of_every_shipped_card_comes_back_as_it_was(name, tmp_path):
    card = cards.load(name)
    bare = card.replace(outputs={key: type(output)(key, "tensor") for key, output in card.outputs.items()})
    before = next(iter(synthetic(bare, samples=3).batches("test", 3)))
    after = next(iter(open_dataset(stored(tmp_path, before), bare).batches("test", 3)))
    assert set(after.inputs) == set(before.inputs)
    for key, array in before.inputs.items():
        assert after.inputs[key].dtype == array.dtype
        np.testing.assert_array_equal(after.inputs[key], array)


def test_labels_and_colours_in_another_order_are_not_turned_again(tmp_path, porch):
    plain = """
factory: none:build
inputs:
  picture: {modality: image, height: 8, width: 8, order: bgr}
outputs:
  event: {task: classification}
columns: {image: picture}
"""
    (tmp_path / "model.yaml").write_text(plain)
    card = find_labels(porch, cards.load(tmp_path / "model.yaml"))
    before = next(iter(open_dataset(porch, card).batches("test", 10)))
    after = next(iter(open_dataset(stored(tmp_path, before), card).batches("test", 10)))
    np.testing.assert_array_equal(after.inputs["picture"], before.inputs["picture"])
    np.testing.assert_array_equal(after.truth["event"], before.truth["event"])


def test_labels_that_are_numbers_come_back_as_they_were_counted(tmp_path):
    outputs = {"digit": {"task": "classification", "labels": ["2", "1", "5"]}}
    card = cards.parse({"factory": "own:build", "inputs": {"x": {"modality": "sensor", "shape": [1]}}, "outputs": outputs})
    np.savez(tmp_path / "whole.npz", x=np.zeros((3, 1), np.float32), digit=np.array([5, 2, 1]), split=np.array(["test"] * 3))
    before = next(iter(open_dataset(tmp_path / "whole.npz", card).batches("test", 3)))
    assert before.truth["digit"].tolist() == [2, 0, 1]
    (tmp_path / "there").mkdir()
    after = next(iter(open_dataset(stored(tmp_path / "there", before), card).batches("test", 3)))
    assert after.truth["digit"].tolist() == [2, 0, 1], "2 is the third label here, not the one called 2"
