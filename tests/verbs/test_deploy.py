"""`edgemm deploy` over a real sshd on this machine: proved there, swapped under a run, put back where the run refuses."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.errors import BundleError, RemoteError
from tests.box.serving.conftest import *  # noqa: F403  # the told-by-hand bundle and the clip
from tests.box.serving.conftest import free_port, make_bundle, wait_for

HERE = f"env PYTHONPATH={Path(edgemm.__file__).parents[1]} {sys.executable} -m edgemm"


@pytest.fixture
def box(sshd):
    """ssh options of a box that is this machine."""
    server = sshd()
    return {"remote": server.url, "ssh_config": server.config, "command": HERE}


@pytest.fixture
def serving(bundle, clip, tmp_path):
    """A run in a process of its own on a copy of the bundle: its place, its reload line, its status."""
    place, port = tmp_path / "porch.edgemm", free_port()
    shutil.copytree(bundle, place)
    source = f"sources:\n  - stream: {{inputs: [image, audio], url: {clip}, loop: true}}\n"
    (tmp_path / "run.yaml").write_text(f"{source}web: {{port: {port}}}\n")
    child = subprocess.Popen([sys.executable, "-m", "edgemm", "run", str(place), "-c", str(tmp_path / "run.yaml"), "--quiet"])

    def status():
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            line.request("GET", "/status")
            return json.loads(line.getresponse().read())
        except (OSError, ValueError):
            return {}
        finally:
            line.close()

    wait_for(lambda: status().get("decisions", 0) > 3, 40)
    yield place, {"reload": f"kill -HUP {child.pid}", "status": f"http://127.0.0.1:{port}/status"}, status
    child.send_signal(signal.SIGTERM)
    child.wait(15)


def test_a_new_bundle_serves_after_it_was_proved_there(box, serving, tmp_path):
    place, how, status = serving
    new = make_bundle(tmp_path / "new", in_parts=False)
    done = edgemm.deploy(new, to=str(place), **how, **box)
    assert done.serving
    assert "golden samples" in str(done)
    assert "and serves" in str(done)
    assert not status()["in_parts"]
    assert place.is_file()
    assert (tmp_path / "porch.edgemm.previous").is_dir()
    assert open_bundle(place).manifest == open_bundle(new).manifest


def test_a_bundle_the_run_refuses_is_put_back(box, serving, tmp_path):
    place, how, status = serving
    other = make_bundle(tmp_path / "other", optional=True)
    with pytest.raises(RemoteError, match="did not take the bundle; the old one serves on") as caught:
        edgemm.deploy(other, to=str(place), **how, **box)
    assert "declares its inputs or outputs otherwise" in str(caught.value)
    assert place.is_dir(), "the old one lies there again"
    assert status()["in_parts"]


def test_a_bundle_whose_golden_samples_fail_there_changes_nothing(box, tmp_path, monkeypatch, bundle):
    from edgemm.box.bundle import golden

    honest = golden.run
    with monkeypatch.context() as patched:
        patched.setattr(golden, "run", lambda session, samples: {name: array + 1 for name, array in honest(session, samples).items()})
        bad = make_bundle(tmp_path / "bad")
    place = tmp_path / "there.edgemm"
    place.write_bytes(b"what was there before")
    with pytest.raises(BundleError, match="nothing was changed there"):
        edgemm.deploy(bad, to=str(place), **box)
    assert place.read_bytes() == b"what was there before"
    assert not list(tmp_path.glob("*.new"))


def test_a_reload_that_fails_puts_the_old_one_back(box, bundle, tmp_path):
    place = tmp_path / "there.edgemm"
    place.write_bytes(b"what was there before")
    with pytest.raises(RemoteError, match="could not be reloaded"):
        edgemm.deploy(bundle, to=str(place), reload="false", **box)
    assert place.read_bytes() == b"what was there before"


def test_the_box_gets_what_it_needs_unless_the_whole_bundle_is_asked_for(box, tmp_path):
    bundle, place = make_bundle(tmp_path / "new", targets=("openvino", "onnxruntime")), str(tmp_path / "there.edgemm")
    slim = edgemm.deploy(bundle, to=place, target="onnxruntime", **box)
    assert open_bundle(place).targets() == ["onnxruntime"]
    assert "model.onnx" not in open_bundle(place).files
    whole = edgemm.deploy(bundle, to=place, slim=False, **box)
    assert open_bundle(place).files == open_bundle(bundle).files
    assert slim.size_bytes < whole.size_bytes


def test_without_a_run_it_lies_there_for_the_next_start(box, bundle, tmp_path):
    done = edgemm.deploy(bundle, to=str(tmp_path / "there.edgemm"), **box)
    assert done.serving is None
    assert "next start or reload" in str(done)
    assert open_bundle(tmp_path / "there.edgemm").manifest == open_bundle(bundle).manifest


def test_a_box_without_edgemm_is_told_apart(box, bundle, tmp_path):
    with pytest.raises(RemoteError, match="'no-such-edgemm' cannot verify"):
        edgemm.deploy(bundle, to=str(tmp_path / "there.edgemm"), **{**box, "command": "no-such-edgemm"})


def test_a_damaged_bundle_never_leaves_this_machine(box, bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "model.onnx").write_bytes(b"x" * (broken / "model.onnx").stat().st_size)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        edgemm.deploy(broken, to=str(tmp_path / "there.edgemm"), **box)
