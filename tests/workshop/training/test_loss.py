"""Which outputs are learned, and how the loss of a task is found."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.training.loss import of, supervised_outputs, trained_outputs


def test_what_is_learned_and_what_needs_a_column_for_it():
    outputs = {
        "kind": {"task": "classification"},
        "level": {"task": "regression"},
        "here": {"task": "embedding", "pair": "alone"},
        "alone": {"task": "embedding"},
        "raw": {"task": "tensor"},
    }
    card = cards.parse({"factory": "own:build", "inputs": {"x": {"modality": "sensor", "shape": [4]}}, "outputs": outputs})
    assert trained_outputs(card) == ["kind", "level", "here"]
    assert supervised_outputs(card) == ["kind", "level"]


def test_a_task_without_a_loss_says_where_to_write_one():
    with pytest.raises(
        CardError, match=r"outputs\.y: task 'guess' has no loss(.|\n)*write guess\.py in a folder losses/ of EDGEMM_PLUGINS"
    ):
        of(Output("y", "guess"))
