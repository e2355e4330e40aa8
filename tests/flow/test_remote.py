"""`edgemm benchmark --remote` end to end against a real ssh server: packed, shipped, measured there, brought back, cleaned up.

The server is on this machine; its sessions see a `tegrastats` that replays an Orin Nano, and neither torch nor onnx nor anything else
that a box does not have.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.golden import Golden, tolerance
from edgemm.box.bundle.golden import run as run_golden
from edgemm.box.bundle.packing import TargetOptions, pack
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.remote.benchmark import RemoteOptions
from edgemm.box.remote.device import RemoteDevice
from edgemm.cli import main
from edgemm.contracts import card_file as cards
from edgemm.contracts import fleet as fleets
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Report
from edgemm.contracts.target import Target
from edgemm.errors import RemoteError
from edgemm.progress import Progress

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)

CARD = """
model: model.onnx
inputs:
  image: {modality: image, height: 16, width: 16}
  imu: {modality: sensor, shape: [20], rate_hz: 50}
outputs:
  event: {task: classification, labels: [quiet, glass, person]}
"""
BOX = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
ABSENT = ("torch", "onnx", "nncf", "typer", "rich", "tokenizers", "PIL", "soundfile", "pyarrow", "transformers", "scipy", "tensorrt_rtx")
TEGRASTATS = Path(__file__).parents[1] / "box" / "devices" / "tegrastats.txt"
QUICK = {"rounds": 2, "calls": 3, "launches": 1, "roofline": False}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder with a bundle for ONNX Runtime, one for TensorRT, and data."""
    place = tmp_path_factory.mktemp("shipped")
    onnx.save(graph(), place / "model.onnx")
    (place / "model.yaml").write_text(CARD)
    exported = edgemm.export(place, output=place / "exported").main
    golden = proved(exported)
    for target in ("onnxruntime", "tensorrt"):
        files = {"model.onnx": exported, f"targets/{target}/model.onnx": exported}
        options = {target: TargetOptions(safe={"threads": 1} if target == "onnxruntime" else {})}
        card = cards.load(place)
        pack(place / target, card=card, files=files, report=Report({}), golden=golden, options=options, provenance={}, accuracy={})
    draw = np.random.default_rng(0)
    arrays = {"image": draw.integers(0, 255, (40, 16, 16, 3), np.uint8), "imu": draw.normal(size=(40, 20)).astype(np.float32)}
    (place / "data").mkdir()
    for split in ("train", "test"):
        np.savez(place / "data" / f"{split}.npz", **arrays, event=draw.integers(0, 3, 40))
    return place


@pytest.fixture
def box(sshd, tmp_path, monkeypatch):
    """``box(absent=...)``: a server whose Python lacks those packages."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def start(absent=ABSENT, **variables):
        place = tmp_path / "box"
        place.mkdir(exist_ok=True)
        (line,) = [line for line in TEGRASTATS.read_text().splitlines() if "VDD_IN 4654mW" in line]
        programs = {
            "tegrastats": f'#!/bin/sh\nwhile :; do echo "{line}"; sleep 0.02; done\n',
            "python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        }
        for name, text in programs.items():
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        (place / "sitecustomize.py").write_text(BOX.format(absent=tuple(absent)))
        return sshd(**{"PATH": f"{place}:/usr/bin:/bin", "PYTHONPATH": str(place), **variables})

    return start


class Cutting(Progress):
    """Cuts every connection of a server once, when the box has said that it is timing."""

    def __init__(self, server):
        super().__init__()
        self.server, self.cut, self.said = server, 0, []

    def update(self, text, fraction=None):
        if ": " in text and not self.cut:  # "stage: what it does": the job is at work
            self.cut = self.server.drop()

    def note(self, text):
        self.said.append(text)


def proved(exported):
    """Two samples, and what ONNX Runtime says to them here."""
    samples = Golden({"image": np.full((2, 1, 16, 16, 3), 99, np.uint8), "imu": np.ones((2, 1, 20), np.float32)})
    with plugins.load(Target, "onnxruntime").open(exported) as session:
        outputs = run_golden(session, samples)
    return Golden(samples.inputs, {"onnxruntime": outputs}, {"onnxruntime": tolerance(outputs, outputs, "f32")})


def graph():
    """Features of image (convolution) and imu (matrix product) -> event."""
    draw = np.random.default_rng(0)
    constants = {"k": (4, 3, 3, 3), "w": (20, 4), "h": (8, 3)}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["seen"], "flat"),
        helper.make_node("MatMul", ["imu", "w"], ["felt"], "feel"),
        helper.make_node("Concat", ["seen", "felt"], ["both"], "both", axis=1),
        helper.make_node("MatMul", ["both", "h"], ["event"], "head"),
    ]
    weights = {name: draw.normal(size=size).astype(np.float32) for name, size in constants.items()}
    return onnx_model(nodes, {"image": ["batch", 3, 16, 16], "imu": ["batch", 20]}, {"event": ["batch", 3]}, weights)


def test_a_bundle_is_measured_there_although_the_connection_is_cut_and_nothing_is_left(shipped, box, tmp_path, monkeypatch):
    from edgemm.box.remote import sent

    monkeypatch.setattr(sent, "POLL_S", 0.05)  # a fast box would be done before the first look at it
    server = box()
    cutting = Cutting(server)
    report = edgemm.benchmark(
        [shipped / "onnxruntime"], data=shipped / "data", remote=server.url, ssh_config=server.config, output=tmp_path / "out",
        progress=cutting, **{**QUICK, "rounds": 10},
    )  # fmt: skip
    assert cutting.cut
    assert report.details.remote.connection_losses == 1
    assert cutting.said[-2:] == ["the connection to 127.0.0.1 was lost; trying again.", "the connection to 127.0.0.1 is back."]
    found = {(m.name, m.subject): m for m in report.measurements}
    assert found["latency_p50_ms", "bundle"].value > 0
    assert found["accuracy", "bundle"].n == 40
    assert found["peak_rss_mib", "bundle"].value > 10
    least_mj = 4654 / 1e3 * found["latency_p50_ms", "bundle"].value  # a round is a little longer than its calls
    assert least_mj <= found["energy_mj", "bundle"].value < 4654 * 10 / 3
    assert "as tegrastats prints it" in report.details.energy
    assert report.details.box.memory["taken_mib"] >= 0
    checks = {check["name"]: check for check in report.details.box.verified}
    assert checks["targets/onnxruntime/model.onnx"]["ok"]
    assert "2 golden samples in f32" in checks["targets/onnxruntime/model.onnx"]["text"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["measurements"]
    assert "latency" in (tmp_path / "out" / "report.html").read_text()
    assert list(server.jobs.iterdir()) == []


def test_the_report_is_that_of_a_local_run(shipped, box):
    server = box()
    there = edgemm.benchmark(
        [shipped / "onnxruntime"], data=shipped / "data", remote=server.url, ssh_config=server.config, limit=20, **QUICK
    )
    here = edgemm.benchmark([shipped / "onnxruntime"], data=shipped / "data", limit=20, **QUICK)
    assert {(m.name, m.subject, m.output, m.n) for m in there.measurements if m.name == "accuracy"} == {
        (m.name, m.subject, m.output, m.n) for m in here.measurements if m.name == "accuracy"
    }
    same = [{(m.subject, m.value) for m in report.measurements if m.name == "accuracy"} for report in (there, here)]
    assert same[0] == same[1]
    may_be_empty = {"warnings"}  # one of the two runs was disturbed, perhaps
    assert {*here.details.to_dict()} - may_be_empty <= {*there.details.to_dict()}


def test_a_command_that_was_stopped_finds_its_job_again(shipped, box, monkeypatch):
    from edgemm.box.remote import sent

    monkeypatch.setattr(sent, "POLL_S", 0.05)  # the job may be done within a second
    server = box()

    class Stopping(Progress):
        def update(self, text, fraction=None):
            if text.startswith("timing"):
                raise KeyboardInterrupt

    wanted = {"remote": server.url, "ssh_config": server.config, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        edgemm.benchmark([shipped / "onnxruntime"], progress=Stopping(), **wanted)
    assert len(list(server.jobs.iterdir())) == 1
    finished = Progress()
    report = edgemm.benchmark([shipped / "onnxruntime"], progress=finished, **wanted)
    assert [stage.name for stage in finished.finished] == ["connect", "pack", "measure there"]
    assert report.measurements
    assert list(server.jobs.iterdir()) == []


def test_a_box_that_is_slow_to_start_is_waited_for_and_a_dead_job_is_told_with_its_last_words(shipped, box, monkeypatch, tmp_path):
    from edgemm.box.remote import sent

    monkeypatch.setattr(sent, "POLL_S", 0.05)
    server = box()
    program = tmp_path / "box" / "python3"
    slow = f'#!/bin/sh\ncase "$*" in *" run "*) sleep 1.5;; esac\nexec {sys.executable} "$@"\n'
    program.write_text(slow)
    wanted = {"remote": server.url, "ssh_config": server.config, **QUICK}
    assert edgemm.benchmark([shipped / "onnxruntime"], **wanted).measurements
    program.write_text(slow.replace("sleep 1.5", "echo Bus error; exit 7"))
    with pytest.raises(RemoteError, match=r"the benchmark ended there without a result\.\n  why: Bus error"):
        edgemm.benchmark([shipped / "onnxruntime"], **wanted)
    program.write_text(slow)
    assert edgemm.benchmark([shipped / "onnxruntime"], **wanted).measurements


def test_setup_makes_an_environment_that_sees_the_systems_packages_and_stays(shipped, box):
    packages = str(Path(np.__file__).parents[1])
    server = box(PYTHONPATH=f"{packages}")
    wanted = {"remote": server.url, "ssh_config": server.config, **QUICK}
    assert edgemm.benchmark([shipped / "onnxruntime"], setup=True, **wanted).measurements
    (left,) = server.jobs.iterdir()
    assert (left / "bin" / "python").exists()
    assert "include-system-site-packages = true" in (left / "pyvenv.cfg").read_text()


def test_what_has_no_runtime_there_is_refused_with_the_line_that_brings_tensorrt(shipped, box):
    server = box()
    with pytest.raises(RemoteError) as caught:
        edgemm.benchmark([shipped / "tensorrt"], remote=server.url, ssh_config=server.config, **QUICK)
    assert "none of the bundle's targets can run on 127.0.0.1" in str(caught.value)
    assert "sudo apt-get install -y tensorrt python3-libnvinfer" in str(caught.value)
    assert "--fallback measures the same graph in ONNX Runtime" in str(caught.value)


def test_the_fallback_measures_the_graph_in_onnx_runtime_and_says_so(shipped, box):
    server = box()
    report = edgemm.benchmark(
        [shipped / "tensorrt"], data=shipped / "data", remote=server.url, ssh_config=server.config, fallback=True, **QUICK
    )
    assert {m.target for m in report.measurements} == {"onnxruntime"}
    assert report.details.notes[0].startswith("tensorrt cannot run on this box: its graph was measured in ONNX Runtime, as asked.")
    assert {m.name for m in report.measurements} >= {"accuracy", "latency_p50_ms"}


def test_a_box_without_numpy_is_told_what_to_install(shipped, box):
    server = box(absent=(*ABSENT, "numpy"))
    with pytest.raises(
        RemoteError, match=r"numpy is missing there\.\n.*\n  fix: sudo apt-get install -y python3-numpy there, or add --setup"
    ):
        edgemm.benchmark([shipped / "onnxruntime"], remote=server.url, ssh_config=server.config, **QUICK)


def test_a_disk_without_room_is_told_before_anything_is_sent(shipped, box, monkeypatch):
    from edgemm.box.remote import sent

    monkeypatch.setattr(sent, "SPARE", 1 << 60)
    server = box()
    with pytest.raises(RemoteError, match=r"of room, and .* are needed\.\n.*\n  fix: make room there, or set EDGEMM_REMOTE there"):
        edgemm.benchmark([shipped / "onnxruntime"], remote=server.url, ssh_config=server.config, **QUICK)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB; skips where nothing can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place, left):
    """Leave ``left`` bytes of room."""
    room = os.statvfs(place)
    with (place / "filler").open("wb") as file:
        file.write(b"x" * (room.f_bavail * room.f_frsize - left))


def test_a_disk_that_is_nearly_full_is_told_before_anything_is_sent(shipped, box, small_disk):
    server = box(EDGEMM_REMOTE=str(small_disk))
    fill(small_disk, 1 << 20)
    with pytest.raises(RemoteError, match=r"has 1\.0 MiB of room, and .* MiB are needed"):
        edgemm.benchmark([shipped / "onnxruntime"], remote=server.url, ssh_config=server.config, **QUICK)
    assert not list(small_disk.glob("job-*/*.pyz"))


def test_a_disk_that_runs_full_meanwhile_is_told_and_what_was_copied_is_removed(shipped, box, small_disk, monkeypatch):
    from edgemm.box.remote import sent

    monkeypatch.setattr(sent, "SPARE", 1 << 20)
    server = box(EDGEMM_REMOTE=str(small_disk))

    class Filling(Progress):
        def _begin(self, name):
            if name == "measure there":
                fill(small_disk, 96 << 10)

    with pytest.raises(edgemm.errors.EdgemmError, match="No space left on device") as caught:
        edgemm.benchmark([shipped / "onnxruntime"], progress=Filling(), remote=server.url, ssh_config=server.config, **QUICK)
    assert "make room" in caught.value.fix or "free some" in caught.value.fix
    assert not list(small_disk.glob("job-*"))


def test_an_error_there_is_the_same_error_here_and_the_job_is_removed(shipped, box):
    server = box()
    with pytest.raises(edgemm.errors.EdgemmError, match="holds nothing for the target 'openvino'"):
        edgemm.benchmark([shipped / "onnxruntime"], target="openvino", remote=server.url, ssh_config=server.config, **QUICK)
    assert list(server.jobs.iterdir()) == []


def test_graphs_are_timed_there_and_nothing_is_left(shipped, box):
    server = box()
    model = shipped / "onnxruntime" / "targets" / "onnxruntime" / "model.onnx"
    one = Candidate("one", "bundle", Deployment("onnxruntime", model, runtime_options={"threads": 1}), "f32")
    wrong = Candidate("wrong", "bundle", Deployment("onnxruntime", shipped / "model.yaml"), "f32")
    feed = {"image": np.zeros((1, 16, 16, 3), np.uint8), "imu": np.zeros((1, 20), np.float32)}
    quick = {"rounds": 2, "calls": 3, "seconds": 1.0, "warmup_s": 0.1, "launches": 1}
    with RemoteDevice(RemoteOptions(server.url, config=server.config), "onnxruntime", Progress()) as device:
        assert device.facts["cores"] > 0
        timed, errors = device.timed([one, wrong], feed, **quick)
    assert list(timed.forms) == ["one"]
    measured = {m.name: m.value for m in timed.forms["one"].measurements}
    assert measured["latency_p50_ms"] > 0
    assert list(errors) == ["wrong"]
    assert list(server.jobs.iterdir()) == []
    server.stop()
    with pytest.raises(RemoteError, match="cannot be reached"), RemoteDevice(device._remote, "onnxruntime", Progress()):
        pass


def test_a_fleet_is_one_report_boards_of_one_machine_wait_and_one_that_is_down_costs_its_column(shipped, box, tmp_path, capsys):
    porch, down = box(EDGEMM_DEVICE_LOCK=str(tmp_path / "device")), box()
    desk = box(EDGEMM_DEVICE_LOCK=str(tmp_path / "device"))
    down.stop()
    knows_all = tmp_path / "config"
    known = "".join(server.config.read_text().split("UserKnownHostsFile ")[1].split("\n")[0] + " " for server in (porch, desk, down))
    keys = "".join(f"  IdentityFile {server.config.parent / 'user'}\n" for server in (porch, desk))
    knows_all.write_text(f"Host *\n{keys}  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n")
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(f"boards: {{porch: '{porch.url}', desk: '{desk.url}', yard: '{down.url}'}}")
    command = [
        "benchmark",
        str(shipped / "onnxruntime"),
        "-d",
        str(shipped / "data"),
        "--fleet",
        str(fleet),
        "--ssh-config",
        str(knows_all),
    ]
    quick = ["--rounds", "2", "--calls", "3", "--launches", "1", "--no-roofline"]
    with pytest.raises(SystemExit) as end:
        main([*command, *quick, "-o", str(tmp_path / "out")])
    assert end.value.code == 3
    said = capsys.readouterr()
    assert re.search(r"^ +porch +desk +yard$", said.out, re.MULTILINE)
    assert re.search(r"^latency_p50_ms +[\d.]+ .* +-$", said.out, re.MULTILINE)
    assert "yard: nothing was measured:" in said.out
    assert re.search(r"(porch|desk): .*has this device; waiting for it", said.err)
    fleet_report = fleets.read(tmp_path / "out" / "report.json")
    assert [board.name for board in fleet_report.answered] == ["porch", "desk"]
    assert fleet_report.boards[0].shown.get("accuracy", "event").n == 40
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 of 3 boards measured it." in page
    assert "boards/porch/report.html" in page
    assert (tmp_path / "out" / "boards" / "desk" / "report.html").is_file()
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--compare", *[str(tmp_path / "out" / "report.json")] * 2, "--markdown"])
    assert end.value.code == 0
    assert "yard: the old report has nothing of it." in capsys.readouterr().out


def test_a_fleet_of_which_no_board_answers_says_what_each_said(shipped, box, tmp_path):
    server = box()
    server.stop()
    (tmp_path / "fleet.yaml").write_text(f"boards: {{a: '{server.url}', b: '{server.url}'}}")
    with pytest.raises(RemoteError, match=r"none of the 2 boards measured anything\.\n  why: a: .*cannot be reached(.|\n)*b: "):
        edgemm.benchmark([shipped / "onnxruntime"], fleet=tmp_path / "fleet.yaml", ssh_config=server.config, **QUICK)


def test_two_candidates_are_not_measured_there(shipped):
    with pytest.raises(RemoteError, match="--remote measures one bundle"):
        edgemm.benchmark([shipped / "onnxruntime", shipped / "tensorrt"], remote="ssh://orin")


def test_the_command_refuses_an_unknown_host(shipped, box, capsys):
    server = box()
    config = server.write_config("stranger", known=False)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", str(shipped / "onnxruntime"), "--remote", server.url, "--ssh-config", str(config)])
    assert end.value.code == 1
    assert "the host key of 127.0.0.1 is not known here" in capsys.readouterr().err
