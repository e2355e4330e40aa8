"""What the box is: enough to read a number by, nothing that names the box or its owner."""

import json
import os
import socket

import pytest

from edgemm.box.devices import environment as box
from edgemm.box.devices.environment import environment
from edgemm.store import instructions, machine
from edgemm.store.machine import usable_cores


def test_it_is_plain_values_that_name_processor_cores_memory_and_versions():
    facts = environment({"openvino": "2026.4.1"})
    assert json.loads(json.dumps(facts)) == facts
    assert facts["device"]
    assert facts["cores"] >= 1
    assert facts["memory_gib"] is None or facts["memory_gib"] > 0
    assert facts["versions"]["openvino"] == "2026.4.1"
    assert {"edgemm", "numpy"} <= set(facts["versions"])


def test_it_names_neither_the_host_nor_a_path_nor_the_user():
    text = json.dumps({key: value for key, value in environment().items() if key != "device"})
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text


def test_a_board_is_named_by_its_device_tree(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    monkeypatch.setattr(box, "DEVICE_TREE", tmp_path / "model")
    assert box.device_name() == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_container_with_a_quota_has_so_many_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for text, cores in (("100000 100000", 1), ("max 100000", None), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(text)
        usable_cores.cache_clear()
        found = usable_cores()
        assert found == cores if cores else found >= 1
    usable_cores.cache_clear()


def test_two_threads_of_one_core_count_once(tmp_path, monkeypatch):
    for index, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{index}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(machine, "CPU", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    usable_cores.cache_clear()
    assert usable_cores() == 2
    usable_cores.cache_clear()


def test_governor_and_power_mode_are_read_where_the_kernel_tells(tmp_path, monkeypatch):
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    (tmp_path / "intel_pstate").mkdir()
    (tmp_path / "intel_pstate" / "no_turbo").write_text("0\n")
    monkeypatch.setattr(box, "CPU", tmp_path)
    assert box.governor() == "powersave"
    assert "turbo on" in box.power_mode()


def test_a_board_that_does_not_tell_its_power_mode_is_described_all_the_same(monkeypatch):
    monkeypatch.setattr(box, "jetson_facts", lambda: {"module": "Orin Nano"})
    assert environment()["power_mode"] is None


def test_the_processor_is_named_with_its_instructions_and_no_limit_where_none_is_set(monkeypatch):
    for name in instructions.ONEDNN_LIMITS:
        monkeypatch.delenv(name, raising=False)
    facts = environment()
    assert facts["device"] == box.device_name()
    assert facts["instructions"] == sorted(instructions.instructions())
    assert facts["instruction_limit"] is None
    assert instructions.onednn_instructions() == instructions.instructions()


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_on_the_instructions_is_told_and_holds(monkeypatch, name):
    for other in instructions.ONEDNN_LIMITS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(instructions, "instructions", lambda: frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}))
    for limit, left in (
        ("avx2", {"avx2"}),
        ("AVX512_CORE_VNNI", {"avx2", "avx512f", "avx512_vnni"}),
        ("ALL", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}),
    ):
        monkeypatch.setenv(name, limit)
        assert environment()["instruction_limit"] == f"{name}={limit}"
        assert instructions.onednn_instructions() == left
