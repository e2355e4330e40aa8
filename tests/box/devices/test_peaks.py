"""The box's peaks: measured in a process of its own, kept only when nothing disturbed them."""

import dataclasses

import pytest

from edgemm.box.devices import peaks as module
from edgemm.box.devices.peaks import Peaks, peaks
from edgemm.store.instructions import onednn_instructions

pytest.importorskip("openvino")
QUIET = Peaks(1, {"int8": 1000.0, "bf16": 500.0, "f32": 100.0}, 10.0, 0.2, "openvino")


@pytest.mark.slow
def test_they_are_measured_with_the_runtime_at_hand():
    found = module.measure(1)
    assert found.threads == 1
    assert found.gops["f32"] > 1
    assert found.bandwidth_gbs > 0.1
    assert found.layer_us is not None
    if "amx_int8" in onednn_instructions():
        assert found.gops["int8"] > found.gops["f32"]


@pytest.mark.parametrize(("disturbed", "times"), [((), 1), (("other processes used 50 % of the cores",), 2)])
def test_they_are_measured_once_and_anew_where_they_were_disturbed(empty_cache, monkeypatch, disturbed, times):
    calls = []

    def measure(threads):
        calls.append(threads)
        return dataclasses.replace(QUIET, disturbed=disturbed)

    monkeypatch.setattr(module, "measure", measure)
    assert peaks(1) == peaks(1) == dataclasses.replace(QUIET, disturbed=disturbed)
    assert len(calls) == times
