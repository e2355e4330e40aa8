"""`search` that times on another machine over ssh, and one that runs its trials on a Ray cluster."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from edgemm import search
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.remote import ssh
from edgemm.contracts.report import read
from edgemm.errors import EdgemmError, MeasureError, MissingExtra, RemoteError
from edgemm.pipeline.searching import benches, meters, place

pytest.importorskip("optuna")

RECIPE = {
    "steps": [{"quantize": {"calibration_samples": 16, "ranges": "minmax"}}],
    "targets": {"onnxruntime": {}},
    "for": "size",
    "tune": False,
    "search": {"space": {"quantize.calibration_samples": [8, 16], "quantize.precision.image": [None, "fp32"]}, "batch": 2, "hints": True},
}
HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


@pytest.fixture
def board(sshd, tmp_path, monkeypatch):
    """A server whose python3 is this one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    return sshd(PATH=f"{programs}:/usr/bin:/bin")


@pytest.mark.slow
def test_a_board_times_the_trials_the_front_and_the_bundle(own_model, porch, recipe, board, tmp_path, monkeypatch):
    quick = BenchmarkOptions(rounds=2, calls=3, launches=1, roofline=False)
    monkeypatch.setattr(benches, "OPTIONS", quick)
    monkeypatch.setattr(meters, "OPTIONS", quick)
    found = search(
        own_model, recipe=recipe, data=porch, output=tmp_path / "out", trials=2, budgets={"latency_p50_ms": 500.0}, measure=board.url,
        ssh_config=board.config,
    )  # fmt: skip
    assert all(tried.costs["latency_p50_ms"] > 0 for tried in found.searched.trials)
    assert found.report.details.notes[0] == f"Times were measured on {board.url}."
    there = read(found.folder / place.ON_DEVICE / "report.json")
    assert there.details.remote is not None
    told = {(verdict.name, verdict.verdict, verdict.value) for verdict in found.report.budgets}
    assert told == {(verdict.name, verdict.verdict, verdict.value) for verdict in there.budgets}
    assert {name for name, *_ in told} == {"latency_p50_ms"}
    assert list(board.jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"measure": "orin"}, RemoteError, "'orin' is no address"),
        ({"ray": "auto", "workers": 2}, EdgemmError, "--workers and --ray cannot both say"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(own_model, porch, recipe, tmp_path, options, error, words):
    if "ray" in options and not HAS_RAY:
        error, words = MissingExtra, "edgemm search --ray needs the package 'ray'"
    with pytest.raises(error, match=words):
        search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_board_that_is_not_there_is_told_before_any_trial(own_model, porch, recipe, board, tmp_path):
    board.stop()
    with pytest.raises(RemoteError, match="cannot be reached"):
        search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", measure=board.url, ssh_config=board.config)


def lost_after_a_trial(board, log):
    """The board's network goes once a first trial is done."""
    while not (log.is_file() and "keeps the budgets" in log.read_text()):
        time.sleep(0.1)
    board.drop()
    board.stop()


@pytest.mark.slow
def test_a_board_lost_on_the_way_ends_the_search_which_goes_on_when_it_is_back(own_model, porch, recipe, board, tmp_path, monkeypatch):
    quick = BenchmarkOptions(rounds=2, calls=3, launches=1, roofline=False)
    monkeypatch.setattr(benches, "OPTIONS", quick)
    monkeypatch.setattr(meters, "OPTIONS", quick)
    monkeypatch.setitem(ssh.Remote.__init__.__kwdefaults__, "patience_s", 3.0)
    space = {"quantize.calibration_samples": [8, 12, 16, 20], "quantize.precision.image": [None, "fp32"]}
    recipe.write_text(yaml.safe_dump({**RECIPE, "search": {"space": space, "batch": 1, "hints": False}}, sort_keys=False))
    asked = {
        "recipe": recipe, "data": porch, "output": tmp_path / "out", "trials": 6, "budgets": {"latency_p50_ms": 500.0},
        "measure": board.url, "ssh_config": board.config,
    }  # fmt: skip
    breaker = threading.Thread(target=lost_after_a_trial, args=(board, tmp_path / "out" / place.LOG), daemon=True)
    breaker.start()
    with pytest.raises(MeasureError, match="the device that measures was gone for 3 trials in a row"):
        search(own_model, **asked)
    breaker.join()
    board.start()
    found = search(own_model, **asked)
    failed = [tried for tried in found.searched.trials if tried.state == "failed"]
    assert len(found.searched.trials) == 6
    assert ["cannot be reached" in tried.why for tried in failed] == [True] * 2, "the third, at which it ended, is tried again"
    assert found.searched.trials[-1].costs["latency_p50_ms"] > 0


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'edgemm[ray]'")
def test_an_address_without_a_cluster_is_told_within_seconds(own_model, porch, recipe, tmp_path):
    with pytest.raises(RemoteError, match=r"nobody answers at 127\.0\.0\.1:1\.\n  why: Connection refused"):
        search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", ray="127.0.0.1:1")


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'edgemm[ray]'")
def test_somebody_else_who_answers_there_is_told_within_seconds(own_model, porch, recipe, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(RemoteError, match=f"what answers at {address} is no Ray cluster"):
            search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", ray=address)
    assert time.monotonic() - begin < 15.0, "Ray alone tries for twenty"


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False})
cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'edgemm[ray]'")
def test_a_cluster_tries_what_this_machine_tries(own_model, porch, recipe, tmp_path):
    here = search(own_model, recipe=recipe, data=porch, output=tmp_path / "here", trials=4, budgets={"size_mib": 5.0})
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "EDGEMM_CACHE": str(tmp_path / "cache")}
    cluster = subprocess.Popen([sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = cluster.stdout.readline().strip()
        words = ["search", own_model, "-r", recipe, "-d", porch, "-o", tmp_path / "there", "--trials", "4", "--budget", "size_mib=5"]
        command = [sys.executable, "-m", "edgemm", *map(str, words), "--ray", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
    finally:
        cluster.communicate("\n", timeout=120)
    there = read(tmp_path / "there" / "report.json").details.search
    assert [(tried.name, tried.losses, tried.costs) for tried in there.trials] == [
        (tried.name, tried.losses, tried.costs) for tried in here.searched.trials
    ]
