"""What holds for every modality: samples, front-end and errors."""

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.card import Input
from edgemm.contracts.modality import Modality, of
from edgemm.contracts.specs import TensorSpec
from edgemm.errors import DataError

EXAMPLES = {
    "image": {"height": 12, "width": 10},
    "audio": {"rate_hz": 8000, "seconds": 0.2, "features": {"log_mel": {"mels": 8}}},
    "text": {"length": 5, "vocab": 20, "mask": True},
    "sensor": {"shape": [6, 3], "mean": [0.0, 1.0, 2.0], "std": [1.0, 2.0, 3.0]},
    "tensor": {"dtype": "float32", "shape": [4]},
}
"""Options for the modalities that cannot do without; a newcomer without required options needs no entry."""


@pytest.fixture(params=plugins.names("modalities"))
def modality(request) -> Modality:
    return of(Input("x", request.param, EXAMPLES.get(request.param, {})))


def batch(modality: Modality, size: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([modality.synthetic(rng) for _ in range(size)])


def test_a_made_up_sample_is_what_the_graph_takes(modality):
    sample = modality.synthetic(np.random.default_rng(0))
    TensorSpec("x", modality.dtype(), tuple(modality.shape())).check(sample)
    assert sample.dtype == modality.dtype()


def test_made_up_samples_follow_the_seed(modality):
    first, again = (modality.synthetic(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_missing_sample_is_one_the_graph_takes(modality):
    TensorSpec("x", modality.dtype(), tuple(modality.shape())).check(modality.absent())
    assert modality.absent().dtype == modality.dtype()


def test_the_front_end_keeps_the_batch_and_leaves_its_input_alone(modality):
    raw = batch(modality)
    before = raw.copy()
    value = raw
    for op in modality.frontend():
        value = op(value)
    for tensor in value if isinstance(value, tuple) else (value,):
        assert tensor.shape[0] == 3
        assert tensor.dtype in (np.float32, np.int64)
        assert np.isfinite(tensor).all()
    np.testing.assert_array_equal(raw, before)


def test_the_front_end_treats_each_sample_alone(modality):
    raw = batch(modality)

    def through(x: np.ndarray) -> np.ndarray:
        for op in modality.frontend():
            x = op(x)
        return x[0] if isinstance(x, tuple) else x

    together = through(raw)
    for row in range(3):
        np.testing.assert_allclose(through(raw[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


def test_a_cell_that_is_a_sample_already_decodes_to_itself(modality, tmp_path):
    sample = modality.synthetic(np.random.default_rng(0))
    np.testing.assert_array_equal(modality.decode(sample, tmp_path), sample)


def test_a_cell_that_is_nonsense_is_a_data_error(modality, tmp_path):
    with pytest.raises(DataError) as caught:
        modality.decode({"no": "cell"}, tmp_path)
    assert caught.value.fix or caught.value.why
