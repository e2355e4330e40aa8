"""What holds for every augmentation: shape and dtype stay, the argument is left alone, equal seeds give equal rows."""

import ast
from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import augmentation as augmentations
from edgemm.contracts import plugins
from edgemm.contracts.card import Input
from edgemm.contracts.modality import Modality
from edgemm.contracts.modality import of as modality_of
from edgemm.errors import CardError

EVERY = [(name, modality) for name in plugins.names("augmentations") for modality in plugins.constant("augmentations", name, "MODALITIES")]
OPTIONS = {
    "image": {"height": 12, "width": 16, "channels": 3},
    "audio": {"rate_hz": 8000, "seconds": 0.25},
    "text": {"length": 8, "vocab": 20},
    "sensor": {"shape": [10, 3]},
}


def part_of(modality: str) -> Modality:
    return modality_of(Input("x", modality, OPTIONS[modality]))


def options_of(name: str, folder: Path) -> dict:
    if name != "background":
        return {}
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(folder / "street.wav", np.random.default_rng(3).uniform(-0.5, 0.5, 4000), 8000)
    return {"folder": str(folder)}


@pytest.mark.parametrize(("name", "modality"), EVERY)
def test_it_changes_rows_and_nothing_else(name, modality, tmp_path):
    part = part_of(modality)
    made = augmentations.of(name, options_of(name, tmp_path), "train.augment.x")
    rng = np.random.default_rng(0)
    samples = np.stack([part.synthetic(rng) for _ in range(16)])
    before = samples.copy()
    first, second, other = (made.change(samples, np.random.default_rng(seed), part) for seed in (1, 1, 2))
    assert first.samples.shape == samples.shape
    assert first.samples.dtype == samples.dtype
    assert np.array_equal(samples, before)
    assert np.array_equal(first.samples, second.samples)
    assert not np.array_equal(first.samples, samples)
    assert not np.array_equal(first.samples, other.samples)
    assert np.isfinite(first.samples).all()


@pytest.mark.parametrize(("name", "modality"), EVERY)
def test_an_option_out_of_range_is_an_error_with_its_place(name, modality, tmp_path):
    declared = plugins.options("augmentations", name).values()
    numbers = [option.name for option in declared if ast.unparse(option.annotation) == "float"]
    wrong = {numbers[0]: -1.0}
    with pytest.raises(CardError, match=rf"train\.augment\.x\.{name}: {numbers[0]} is -1\.0(.|\n)*fix: write a number from"):
        augmentations.of(name, {**options_of(name, tmp_path), **wrong}, "train.augment.x")
