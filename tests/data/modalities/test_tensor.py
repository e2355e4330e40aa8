"""Plain tensors: batch axes anywhere, states, constants."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Input
from edgemm.contracts.modality import input_specs, of
from edgemm.data.modalities.tensor import Tensor
from edgemm.errors import CardError, DataError


def test_the_batch_axis_stands_where_the_card_says():
    plain = {
        "model": "vad.onnx",
        "inputs": {
            "input": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 576]},
            "state": {"modality": "tensor", "dtype": "float32", "shape": [2, "batch", 128], "state": "stateN"},
            "sr": {"modality": "tensor", "dtype": "int64", "shape": [], "value": 16000},
            "frame": {"modality": "tensor", "dtype": "uint8", "shape": [1, 3, "height", "width"]},
        },
        "outputs": {"stateN": {"task": "tensor"}},
    }
    card = cards.parse(plain)
    assert [spec.shape for spec in input_specs(card)] == [("batch", 576), (2, "batch", 128), (), (1, 3, "height", "width")]
    assert [of(spec).batch_axis() for spec in card.inputs.values()] == [0, 1, None, None]
    assert [of(spec).shape() for spec in card.inputs.values()] == [(576,), (2, 128), (), (1, 3, "height", "width")]


def test_a_state_begins_with_zeros_and_a_constant_keeps_its_value():
    state = Tensor(dtype="float32", shape=[2, "batch", 3], state="out")
    assert state.initial().shape == (2, 3)
    assert not state.initial().any()
    rate = Tensor(dtype="int64", shape=[], value=16000)
    assert rate.initial() == rate.synthetic(np.random.default_rng(0)) == 16000
    assert rate.initial().dtype == np.int64
    assert Tensor(dtype="float32", shape=["batch", 2], value=[1, 2]).initial().tolist() == [1.0, 2.0]
    assert Tensor(dtype="float32", shape=["batch", 2]).initial() is None


def test_cells_are_cast_to_the_cards_type_when_nothing_is_lost(tmp_path):
    spec = Tensor(dtype="int64", shape=["batch", 3])
    assert spec.decode("1 2 3", tmp_path).dtype == np.int64
    assert Tensor(dtype="float32", shape=["batch", 3]).decode([1, 2, 3], tmp_path).dtype == np.float32
    with pytest.raises(DataError, match="the cell holds values that are no int64"):
        spec.decode("1 2.5 3", tmp_path)
    with pytest.raises(DataError, match="the cell holds values that are no uint8"):
        Tensor(dtype="uint8", shape=["batch", 1]).decode([300], tmp_path)
    with pytest.raises(DataError, match=r"the value at \[0\] is nan"):
        Tensor(dtype="float32", shape=["batch", 1]).decode([np.nan], tmp_path)


def test_a_fixed_batch_of_one_may_be_left_out_of_the_data(tmp_path):
    spec = Tensor(dtype="float32", shape=[1, 3, 2, 2])
    assert spec.decode(np.zeros((3, 2, 2)), tmp_path).shape == (1, 3, 2, 2)
    with pytest.raises(DataError, match=r"in shape \(2, 2, 3\), the card says \[1, 3, 2, 2\]"):
        spec.decode(np.zeros((2, 2, 3)), tmp_path)


def test_free_axes_take_the_size_of_the_data(tmp_path):
    spec = Tensor(dtype="float32", shape=["batch", 3, "height", "width"])
    assert spec.decode(np.zeros((3, 5, 7)), tmp_path).shape == (3, 5, 7)
    with pytest.raises(DataError, match=r"the cell has shape \(15,\), the card says \[3, 'height', 'width'\]"):
        spec.decode(np.zeros(15), tmp_path)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", -6, 6), ("uint8", 0, 255), ("int64", 0, 1), ("bool", 0, 1)])
def test_made_up_samples_suit_the_type(dtype, low, high):
    sample = of(Input("x", "tensor", {"dtype": dtype, "shape": ["batch", 100]})).synthetic(np.random.default_rng(0))
    assert sample.dtype == dtype
    assert low <= sample.min() < sample.max() <= high


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float23"}, "dtype is 'float23'"),
        ({"shape": ["batch", 0]}, "shape is"),
        ({"shape": ["batch", "batch"]}, "'batch' names one axis"),
        ({"value": 1, "state": "out"}, "state and value exclude each other"),
        ({"value": [1, 2, 3]}, r"value is \[1, 2, 3\]"),
    ],
)
def test_impossible_options_are_card_errors(options, words):
    with pytest.raises(CardError, match=words):
        Tensor(**{"dtype": "float32", "shape": ["batch", 2]} | options)
