"""`edgemm fit`: thresholds from recordings in which nothing happens."""

import pytest
import yaml

import edgemm
from edgemm.box.serving import alarms
from edgemm.errors import RunError
from tests.box.serving.conftest import BRIGHT, DARK, bundle, clip, write_clip

__all__ = ["bundle", "clip"]
A_DAY = 86400.0


@pytest.fixture(scope="session")
def night(shared):
    """Twelve seconds in the dark, somebody's headlights in the middle."""
    scenes = [(DARK, 0.0), (BRIGHT, 0.0), (DARK, 0.0)]
    return shared("run-night", lambda folder: write_clip(folder / "night.mp4", scenes, seconds=4.0)) / "night.mp4"


def test_each_class_gets_the_lowest_threshold_that_keeps_to_the_rate(bundle, night, tmp_path):
    (tmp_path / "run.yaml").write_text("name: porch\ndecisions:\n  event: {cool_down_s: 2, classes: {visitor: {debounce: 1}}}\n")
    done = edgemm.fit(bundle, quiet=[str(night)], alarms_per_day=A_DAY / 11, config=tmp_path / "run.yaml")
    classes = {one.label: one for one in done.classes}
    assert classes["quiet"].quiet
    assert classes["visitor"].alarms <= 1
    written = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert written["name"] == "porch"
    assert written["decisions"]["event"]["quiet"] == ["quiet"]
    assert written["decisions"]["event"]["classes"]["visitor"] == {"debounce": 1, "threshold": classes["visitor"].threshold}
    summary = edgemm.run(bundle, config=tmp_path / "run.yaml", source=[f"image,audio={night}"], quiet=True, fast=True)
    assert summary.events <= 2


def test_a_recording_too_short_for_the_rate_is_told_before_it_is_played(bundle, night, tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "watch", lambda *_: pytest.fail("hours were played first"))
    with pytest.raises(RunError, match=r"too short for 1 alarms a day: 12 s(.|\n)*record at least 24.0 h"):
        edgemm.fit(bundle, quiet=[str(night)], config=tmp_path / "run.yaml")
    assert not (tmp_path / "run.yaml").exists()


def test_a_live_camera_is_no_recording(bundle, tmp_path):
    with pytest.raises(RunError, match=r"--quiet 'rtsp://127.0.0.1:1/x' is live(.|\n)*record it first"):
        edgemm.fit(bundle, quiet=["image,audio=rtsp://127.0.0.1:1/x"], config=tmp_path / "run.yaml")


def test_without_a_recording_the_option_is_named(bundle, tmp_path):
    with pytest.raises(RunError, match="no quiet recording is given"):
        edgemm.fit(bundle, quiet=[], config=tmp_path / "run.yaml")
