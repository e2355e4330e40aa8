"""Front-ends in torch: nothing to train, nothing to save, exact under mixed precision, exportable and copyable."""

import copy

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts import frontend_ops
from edgemm.contracts.modality import modalities
from edgemm.workshop.models.frontend import Frontend


@pytest.fixture
def card():
    inputs = {
        "image": {"modality": "image", "height": 8, "width": 6, "steps": 2},
        "audio": {
            "modality": "audio",
            "rate_hz": 8000,
            "seconds": 0.2,
            "features": {"mfcc": {"mels": 20, "center": True, "normalize": "clip"}},
        },
        "text": {"modality": "text", "length": 4, "vocab": 10, "mask": True},
        "imu": {"modality": "sensor", "shape": [3, 2], "mean": [1.0, 2.0], "std": [3.0, 4.0]},
    }
    return cards.parse({"factory": "a:b", "inputs": inputs, "outputs": {"y": {"task": "embedding"}}})


def batch(card, count=2):
    rng = np.random.default_rng(0)
    rows = {}
    for name, part in modalities(card).items():
        steps = card.inputs[name].steps
        rows[name] = np.stack(
            [np.stack([part.synthetic(rng) for _ in range(steps)]) if steps else part.synthetic(rng) for _ in range(count)]
        )
    return rows


def in_torch(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def in_numpy(card, arrays):
    return [
        value
        for name, part in modalities(card).items()
        for value in frontend_ops.run(part.frontend(), arrays[name], steps=card.inputs[name].steps)
    ]


def test_forward_receives_the_features_in_card_order(card):
    arrays = batch(card)
    got = Frontend(card)(in_torch(arrays))
    assert [tuple(value.shape) for value in got] == [(2, 2, 3, 8, 6), (2, 13, 21), (2, 4), (2, 4), (2, 3, 2)]
    for ours, theirs in zip(got, in_numpy(card, arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_there_is_nothing_to_train_and_nothing_to_save(card):
    frontend = Frontend(card)
    assert list(frontend.parameters()) == []
    assert frontend.state_dict() == {}
    assert len(list(frontend.buffers())) > 0


def test_mixed_precision_leaves_it_exact(card):
    arrays = batch(card)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = Frontend(card)(in_torch(arrays))
    for ours, theirs in zip(got, in_numpy(card, arrays), strict=True):
        assert ours.dtype in (torch.float32, torch.int64)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_copy_is_independent_and_moves_between_devices(card):
    frontend = Frontend(card)
    twin = copy.deepcopy(frontend).to("meta")
    assert all(buffer.device.type == "meta" for buffer in twin.buffers())
    assert all(buffer.device.type == "cpu" for buffer in frontend.buffers())


def test_it_is_exported_with_a_free_batch(card):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frontend = Frontend(card)

        def forward(self, image, audio, text, imu):
            return self.frontend({"image": image, "audio": audio, "text": text, "imu": imu})

    axis = torch.export.Dim("batch")
    program = torch.export.export(Wrapped(), tuple(in_torch(batch(card)).values()), dynamic_shapes=({0: axis},) * 4)
    arrays = batch(card, 5)
    for ours, theirs in zip(program.module()(*in_torch(arrays).values()), in_numpy(card, arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
