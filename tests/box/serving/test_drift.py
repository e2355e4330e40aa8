"""The drift watch: silent on what the model knows, loud on what it does not; saves nothing unless asked."""

import os
import threading

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.drift import Mean, Store, encrypt, read_saved
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import DriftSettings
from edgemm.errors import RunError
from tests.box.serving.conftest import write_clip

KEY = "ab" * 32


def play(bundle, clip, **drift):
    opened = open_bundle(bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(clip)}}
    runner = Runner(opened, parse({"sources": [source], "drift": {"window": 10, **drift}}, opened.card), fast=True)
    runner.run(threading.Event())
    return runner.status()["drift"]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """Pictures and sound like the golden samples': middle brightness, a little noise."""
    return write_clip(tmp_path_factory.mktemp("ordinary") / "clip.mp4", [(128, 0.05)] * 2)


@pytest.fixture(scope="module")
def glaring(tmp_path_factory):
    """Nothing the model was calibrated with: glaring light and a roar."""
    return write_clip(tmp_path_factory.mktemp("glaring") / "clip.mp4", [(255, 0.9)] * 2)


def test_what_the_model_knows_is_no_drift(bundle, ordinary):
    state = play(bundle, ordinary)
    assert (state["recalibrate"], state["why"]) == (False, "")
    assert set(state["shift"]) == {"image", "audio"}


def test_what_it_does_not_know_is_told_with_the_input_and_how_far(bundle, glaring):
    state = play(bundle, glaring)
    assert state["recalibrate"]
    assert "image lies" in state["why"]
    assert "standard deviations off" in state["why"]


def test_nothing_is_saved_unless_asked_for(bundle, glaring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "saved" not in play(bundle, glaring)
    assert not list(tmp_path.iterdir())


def test_samples_are_saved_encrypted_and_read_with_the_key_alone(bundle, glaring, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFT_KEY", KEY)
    state = play(bundle, glaring, save=str(tmp_path / "kept"), key_env="DRIFT_KEY")
    (path,) = (tmp_path / "kept").iterdir()
    assert state["saved"] == 1
    assert path.stat().st_mode & 0o077 == 0
    assert read_saved(path, bytes.fromhex(KEY))["image"].shape == (1, 32, 32, 3)
    with pytest.raises(RunError, match="cannot be read"):
        read_saved(path, os.urandom(32))


def test_the_folder_never_grows_beyond_its_bound(tmp_path):
    store = Store(DriftSettings(save=str(tmp_path), save_mib=0.05))
    rng = np.random.default_rng(0)
    for _ in range(20):
        store.save({"x": rng.normal(size=1000)})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 0.05 * 2**20
    assert store.error.endswith("holds as much as it may")
    assert read_saved(next(tmp_path.iterdir()))["x"].shape == (1000,)


def test_a_full_disk_is_noted_and_stops_nothing():
    store = Store(DriftSettings(save="/dev/full/kept"))
    store.save({"x": np.zeros(3)})
    assert store.error
    assert store.saved == 0


def test_a_key_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("DRIFT_KEY", "not hex")
    with pytest.raises(RunError, match="the key is no key"):
        Store(DriftSettings(save="x", key_env="DRIFT_KEY"))


def test_a_shift_is_told_in_standard_deviations():
    mean = Mean(np.array([1.0, 1.0]), 0.5)
    for _ in range(4):
        mean.add(np.array([2.0, 2.0]))
    assert mean.shift() == pytest.approx(2.0)
    assert mean.count == 0


def test_encrypting_twice_never_gives_the_same():
    assert encrypt(b"x", bytes(32)) != encrypt(b"x", bytes(32))
