"""The porch camera of the examples runs as its page says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.conftest import SYSTEM_PYTHON

SCRIPT = Path(__file__).parents[2] / "examples" / "porch-camera" / "porch_camera.py"


def test_the_porch_camera_decides_and_goes_on_without_sound(bundle):
    if not (shutil.which("mosquitto") and shutil.which("mosquitto_sub") and os.path.exists(SYSTEM_PYTHON)):
        pytest.skip("no mosquitto here (make system installs it)")
    ready = subprocess.run([SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"], capture_output=True, check=False)
    if ready.returncode:
        pytest.skip("no RTSP server here (make system installs it)")
    done = subprocess.run([sys.executable, SCRIPT, bundle, "21"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with_sound, _, without = done.stdout.partition("the camera has lost its sound")
    assert all(int(count) > 2 for count in re.findall(r"(\d+) decisions and", done.stdout))
    assert "standing in for audio" not in with_sound
    assert "standing in for audio" in without
    assert "page: http://127.0.0.1:8099/" in done.stdout
