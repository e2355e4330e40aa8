"""`edgemm benchmark --remote` against an emulated aarch64 machine that looks like an Orin Nano: another userland, another Python.

It proves packing, imports, numbers and ssh on aarch64; nothing about speed, CUDA or TensorRT. `tests/aarch64_box.sh` builds the machine.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import edgemm
from edgemm.progress import Progress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BOX = Path(os.environ.get("EDGEMM_AARCH64_BOX") or Path.home() / ".cache" / "edgemm-aarch64")
LINES = Path(__file__).parents[1] / "box" / "devices" / "tegrastats.txt"
SSHD = """Port {port}
ListenAddress 127.0.0.1
PidFile /run/sshd.pid
AuthorizedKeysFile /root/.ssh/edgemm
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
"""


@pytest.fixture
def box(tmp_path):
    """(url, ssh's configuration) of the running machine."""
    if os.getuid() != 0 or not (BOX / "ready").is_file():
        pytest.skip(f"there is no aarch64 machine in {BOX}: build it as root with tests/aarch64_box.sh")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "user"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.rmtree(BOX / "root/.cache/edgemm-remote", ignore_errors=True)
    for name in ("root/.ssh", "run/sshd", "usr/local/bin"):
        (BOX / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "user.pub", BOX / "root/.ssh/edgemm")
    (BOX / "etc/ssh/sshd_test").write_text(SSHD.format(port=port))
    pretend(BOX)
    mounts = [("--bind", "/proc", "proc"), ("--bind", "/dev", "dev")]
    try:
        for how, what, where in mounts:
            subprocess.run(["mount", how, what, BOX / where], check=True)
        subprocess.run(["chroot", BOX, "/usr/sbin/sshd", "-f", "/etc/ssh/sshd_test"], check=True)
        wait(port)
        public = (BOX / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {public}")
        config = tmp_path / "config"
        config.write_text(f"Host *\n  IdentityFile {tmp_path}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {tmp_path}/known\n")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", config
    finally:
        pid = BOX / "run/sshd.pid"
        if pid.is_file():
            os.kill(int(pid.read_text()), 15)
        for _, _, where in reversed(mounts):
            subprocess.run(["umount", "-l", BOX / where], check=False)


def pretend(root):
    """A Jetson's release file, and a tegrastats that replays an Orin Nano's line."""
    (line,) = [line for line in LINES.read_text().splitlines() if "VDD_IN 4654mW" in line]
    place = root / "usr/local/bin/tegrastats"
    place.write_text(f'#!/bin/sh\nwhile :; do echo "{line}"; sleep 0.1; done\n')
    place.chmod(0o755)
    release = "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025\n"
    (root / "etc/nv_tegra_release").write_text(release)


def wait(port):
    for _ in range(200):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the machine's sshd does not answer")


class Cutting(Progress):
    """Cuts every connection to the machine once, when the job there has said that it is at work."""

    def __init__(self):
        super().__init__()
        self.cut = 0

    def update(self, text, fraction=None):
        if ": " in text and not self.cut:
            self.cut = cut()


def cut():
    """Ends the processes that serve a connection; the server itself stays. Returns how many there were."""
    server = (BOX / "run/sshd.pid").read_text().strip()
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    return len(children)


@pytest.fixture(scope="module")
def bundle(own_model, porch, tmp_path_factory):
    """The user's own model in INT8 for ONNX Runtime, with golden samples that it answered here."""
    place = tmp_path_factory.mktemp("aarch64")
    (place / "int8.yaml").write_text("steps:\n  - quantize: {calibration_samples: 24}\ntargets: {onnxruntime: {}}\nfor: size\n")
    return edgemm.compress(own_model, recipe=place / "int8.yaml", data=porch, output=place / "bundle").bundle


def test_a_bundle_is_measured_on_aarch64_although_the_connection_is_cut(box, bundle, porch, tmp_path):
    url, config = box
    cutting = Cutting()
    quick = {"data": porch, "limit": 20, "rounds": 1, "calls": 3, "launches": 0, "roofline": False}
    there = edgemm.benchmark([bundle], remote=url, ssh_config=config, setup=True, output=tmp_path / "out", progress=cutting, **quick)
    here = edgemm.benchmark([bundle], **quick)
    assert cutting.cut
    assert there.details.remote.connection_losses >= 1
    assert there.environment["architecture"] == "aarch64"
    assert there.environment["jetson"]["jetpack"] == "6.2.1"
    scores = [{m.subject: m.value for m in report.measurements if m.name == "accuracy"} for report in (there, here)]
    assert scores[0] == pytest.approx(scores[1], abs=1 / 20), "an INT8 kernel of another processor may round one row otherwise"
    checks = {check["name"]: check for check in there.details.box.verified}
    assert checks["targets/onnxruntime/model.onnx"]["ok"]
    assert "golden samples in int8" in checks["targets/onnxruntime/model.onnx"]["text"]
    energy = {m.subject: m for m in there.measurements if m.name == "energy_mj"}
    times = {m.subject: m for m in there.measurements if m.name == "latency_p50_ms"}
    assert energy["bundle"].value >= 4654 / 1e3 * 0.5 * times["bundle"].value, "the replayed 4.654 W for as long as a call takes"
    assert "as tegrastats prints it" in there.details.energy
    assert (tmp_path / "out" / "report.html").is_file()
    left = {path.name for path in (BOX / "root/.cache/edgemm-remote").iterdir()}
    assert left == {"venv"}, "what --setup made stays, the job does not"
