"""`edgemm benchmark --remote` against an emulated aarch64 machine that looks like an Orin Nano: another userland, another Python.

It proves packing, imports, numbers and ssh on aarch64; nothing about speed, CUDA or TensorRT. `tests/aarch64_box.sh` builds the machine.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import edgemm
from edgemm import card as cards
from edgemm.bundle import Golden, TargetOptions, pack
from edgemm.data import find_labels
from edgemm.report import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BOX = Path(os.environ.get("EDGEMM_AARCH64_BOX") or Path.home() / ".cache" / "edgemm-aarch64")
LINES = Path(__file__).parents[1] / "devices" / "tegrastats.txt"
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


def test_a_bundle_is_measured_on_aarch64_with_the_same_answers(box, tmp_path, own_model, porch):
    url, config = box
    exported = edgemm.export(own_model / "model.yaml", data=porch, output=tmp_path / "exported").main
    card = find_labels(porch, cards.load(own_model / "model.yaml"))
    files = {"model.onnx": exported, "targets/onnxruntime/model.onnx": exported}
    golden = Golden({"image": np.zeros((1, 1, 32, 32, 3), np.uint8), "audio": np.zeros((1, 1, 16000), np.float32)})
    options = {"onnxruntime": TargetOptions(safe={"threads": 1})}
    pack(tmp_path / "b", card=card, files=files, report=Report({}), golden=golden, options=options, provenance={}, accuracy={})
    quick = {"data": porch, "limit": 20, "rounds": 1, "calls": 3, "launches": 0, "roofline": False}
    there = edgemm.benchmark([tmp_path / "b"], remote=url, ssh_config=config, **quick)
    here = edgemm.benchmark([tmp_path / "b"], **quick)
    assert there.environment["architecture"] == "aarch64"
    assert there.environment["jetson"]["jetpack"] == "6.2.1"
    scores = [{(m.subject, m.value) for m in report.measurements if m.name == "accuracy"} for report in (there, here)]
    assert scores[0] == scores[1]
    assert any(m.name == "energy_mj" and m.value > 0 for m in there.measurements)
    assert not list((BOX / "root/.cache/edgemm-remote").glob("job-*"))
