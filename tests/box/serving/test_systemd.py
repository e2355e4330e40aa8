"""A service that stays up: crashes and hangs are noticed, a unit systemd accepts, another bundle without a pause."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving import systemd
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.supervising import Supervision, supervise
from edgemm.box.serving.swapping import Swapper
from edgemm.box.serving.systemd import SystemdNotifier
from tests.box.serving.conftest import make_bundle, wait_for


@pytest.fixture
def settings(bundle, clip, tmp_path):
    """Plain settings of an endless run."""
    source = {"stream": {"inputs": ["image", "audio"], "url": str(clip), "loop": True}}
    return {"name": "porch", "sources": [source], "sinks": [{"jsonl": {"path": str(tmp_path / "run.jsonl"), "decisions": True}}]}


def test_the_heartbeat_speaks_systemds_words(tmp_path):
    place = str(tmp_path / "ear")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(place)
        notifier = SystemdNotifier(place)
        notifier.beat()
        notifier.beat()
        notifier.stopping()
        notifier.close()
        assert [ear.recv(100) for _ in range(3)] == [b"READY=1\nWATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]
    deaf = SystemdNotifier(str(tmp_path / "nobody"))
    deaf.beat()
    deaf.close()


def test_a_run_that_hangs_or_crashes_is_started_again_within_ten_seconds(bundle, settings, tmp_path):
    import yaml

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "edgemm", "run", str(bundle), "--config", str(tmp_path / "run.yaml"), "--quiet"]
    stop, told, children = threading.Event(), Supervision(), []
    thread = threading.Thread(target=supervise, args=(command, stop), kwargs={"told": told, "on_start": children.append})
    thread.start()
    log = tmp_path / "run.jsonl"

    def grows():
        size = log.stat().st_size if log.exists() else 0
        wait_for(lambda: log.exists() and log.stat().st_size > size + 500, 40, "a decision")

    grows()
    time.sleep(1.2)  # its first beat
    children[-1].send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    wait_for(lambda: told.hangs == 1 and len(children) == 2, 12, "the restart")
    print(f"a run that hangs is started again after {time.monotonic() - frozen:.1f} s")
    assert time.monotonic() - frozen < 10
    grows()
    children[-1].kill()
    wait_for(lambda: len(children) == 3, 12, "the restart")
    grows()
    stop.set()
    thread.join(15)
    assert (told.starts, told.hangs) == (3, 1)
    assert children[-1].returncode == 0, "asked to end, it ends in good order"


def test_a_mistake_in_the_settings_is_not_tried_again():
    told = Supervision()
    code = supervise([sys.executable, "-c", "raise SystemExit(1)"], threading.Event(), told=told)
    assert (code, told.starts) == (1, 1)


def test_the_unit_is_hardened_and_systemd_accepts_it(bundle, settings, tmp_path):
    made = parse(settings, open_bundle(bundle).card)
    text = systemd.unit([str(bundle), "--source", "image=100% $HOME/a b"], made, is_root=True)
    for line in (
        "Type=notify",
        "WatchdogSec=8",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        f"ReadWritePaths={tmp_path}",
    ):
        assert line in text
    assert "'image=100%% $$HOME/a b'" in text
    installed = systemd.install([str(bundle)], made, place=tmp_path)
    assert installed.path.name == "edgemm-porch.service"
    assert "enable --now edgemm-porch" in str(installed)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", installed.path], capture_output=True, text=True, check=False)
        assert "edgemm-porch.service" not in done.stderr, done.stderr


@pytest.fixture
def swapping(shared, clip, settings, tmp_path):
    """A run whose bundle may be replaced, and what replaces it."""
    place = tmp_path / "bundle"
    shutil.copytree(make_bundle(tmp_path / "made"), place)
    runner, stop = Runner(open_bundle(place), parse(settings, open_bundle(place).card)), threading.Event()
    swapper = Swapper(runner, place)
    runner.on_tick.append(swapper.look)
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    wait_for(lambda: runner.engine.decided > 3)
    yield runner, swapper, place
    stop.set()
    thread.join(10)


def replace(place, new):
    shutil.rmtree(place)
    shutil.copytree(new, place)


def test_another_bundle_is_taken_without_a_pause(swapping, tmp_path):
    runner, swapper, place = swapping
    replace(place, make_bundle(tmp_path / "whole", in_parts=False))
    before = runner.engine.decided
    swapper.ask()
    wait_for(lambda: swapper.swaps == 1 or swapper.error)
    assert swapper.error == ""
    wait_for(lambda: runner.engine.decided > before + 10)
    assert not runner.engine.model.in_parts


def test_a_damaged_bundle_is_not_taken_and_the_old_one_serves_on(swapping):
    runner, swapper, place = swapping
    model = place / "targets" / "onnxruntime" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    before = runner.engine.model
    swapper.ask()
    assert "model.onnx" in wait_for(lambda: swapper.error)
    decided = runner.engine.decided
    wait_for(lambda: runner.engine.decided > decided + 5)
    assert runner.engine.model is before


def test_a_bundle_whose_golden_samples_fail_here_is_not_taken(swapping, tmp_path, monkeypatch):
    from edgemm.box.bundle import golden

    runner, swapper, place = swapping
    honest = golden.run

    def lying(session, samples):
        return {name: array + 1 for name, array in honest(session, samples).items()}

    with monkeypatch.context() as patched:
        patched.setattr(golden, "run", lying)
        bad = make_bundle(tmp_path / "bad")
    replace(place, bad)
    swapper.ask()
    assert "is off by 1" in wait_for(lambda: swapper.error)
    assert runner.bundle.manifest != open_bundle(place).manifest


def test_a_bundle_of_another_model_is_not_taken(swapping, tmp_path):
    _, swapper, place = swapping
    replace(place, make_bundle(tmp_path / "other", optional=True))
    swapper.ask()
    assert "declares its inputs or outputs otherwise" in wait_for(lambda: swapper.error)


def test_a_swap_keeps_what_is_on(swapping, tmp_path):
    runner, swapper, place = swapping
    runner.decider.threshold = 0.42
    replace(place, make_bundle(tmp_path / "again"))
    swapper.ask()
    wait_for(lambda: swapper.swaps == 1)
    assert runner.decider.threshold == 0.42
    assert np.isfinite(runner.summary().latency_p50_ms)
