"""How threads wait: asleep by default, as the user says where the user says so, and told in the report either way."""

import os
import subprocess
import sys

import pytest

from edgemm.box.devices import threads
from edgemm.box.devices.environment import environment

WAITS = """
import sys
from edgemm.box.devices import threads
{first}
print(threads.wait_passively())
import torch
"""


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_users_own_setting_wins_over_ours(monkeypatch):
    assert threads.waiting() == threads.PASSIVE
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert threads.waiting() == {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert threads.waiting() == {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "1000"}


def test_a_report_says_how_threads_waited(monkeypatch):
    assert environment()["thread_waiting"] == "OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000 KMP_BLOCKTIME=0"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment()["thread_waiting"] == "OMP_WAIT_POLICY=ACTIVE"


@pytest.mark.parametrize(("own", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_torchs_openmp_has_heard_it(own, policy):
    """GNU's OpenMP prints what it goes by where it is asked to."""
    pytest.importorskip("torch")
    ran = run(WAITS.format(first=""), {"OMP_DISPLAY_ENV": "TRUE", **own})
    assert ran.stdout.strip() == "True"
    if "OMP_DISPLAY_ENV" not in ran.stderr and "OPENMP DISPLAY ENVIRONMENT" not in ran.stderr:
        pytest.skip("this torch brings no OpenMP that tells")
    assert f"OMP_WAIT_POLICY = '{policy}'" in ran.stderr


def test_after_torch_was_imported_it_is_too_late_and_said_so():
    pytest.importorskip("torch")
    ran = run(WAITS.format(first="import torch"), {})
    assert ran.stdout.strip() == "False"


def run(code: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True)
