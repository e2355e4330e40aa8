"""The porch camera and the room assistant of the examples run as their pages say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgemm
from tests.box.serving.conftest import SYSTEM_PYTHON

EXAMPLES = Path(__file__).parents[3] / "examples"
RECIPE = "steps: [{quantize: {calibration_samples: 20}}]\ntargets: {onnxruntime: {}}\nfor: size\n"


@pytest.fixture
def real_servers():
    if not (shutil.which("mosquitto") and shutil.which("mosquitto_sub") and os.path.exists(SYSTEM_PYTHON)):
        pytest.skip("no mosquitto here (make system installs it)")
    ready = subprocess.run([SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"], capture_output=True, check=False)
    if ready.returncode:
        pytest.skip("no RTSP server here (make system installs it)")


def test_the_porch_camera_decides_and_goes_on_without_sound(bundle, real_servers):
    script = EXAMPLES / "porch-camera" / "porch_camera.py"
    done = subprocess.run([sys.executable, script, bundle, "21"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with_sound, _, without = done.stdout.partition("the camera has lost its sound")
    assert all(int(count) > 2 for count in re.findall(r"(\d+) decisions and", done.stdout))
    assert "standing in for audio" not in with_sound
    assert "standing in for audio" in without
    assert "page: http://127.0.0.1:8099/" in done.stdout


@pytest.fixture
def room_bundle(tmp_path):
    """What the example's page makes, from few samples and in few epochs: it answers, not well."""
    sys.path.insert(0, str(EXAMPLES / "room-assistant"))
    try:
        import room
    finally:
        sys.path.pop(0)
    data = room.write(tmp_path / "scenes", {"train": 240, "val": 40, "test": 40})
    assert room.DUTIES.keys() == room.WORDS.keys()
    edgemm.train(EXAMPLES / "room-assistant" / "model.yaml", data=data, output=tmp_path / "trained", epochs=2)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    edgemm.compress(tmp_path / "trained" / "model.yaml", recipe=tmp_path / "recipe.yaml", data=data, output=tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_room_assistant_listens_to_words_and_sound(room_bundle, real_servers):
    script = EXAMPLES / "room-assistant" / "room_assistant.py"
    done = subprocess.run([sys.executable, script, room_bundle, "24"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "--- said: tell me when somebody is at the door" in done.stdout
    assert "is down" not in done.stdout, "nobody need speak all the time"
    summary = next(line for line in done.stdout.splitlines() if "decisions and" in line)
    ran = dict(re.findall(r"(text|audio) (\d+)[,)]", summary))
    assert 1 <= int(ran["text"]) <= 3, "its branch runs once a sentence"
    assert int(ran["audio"]) > 20
