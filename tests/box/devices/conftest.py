"""Folders that stand for the /proc, /sys and /etc of Jetson boards, with the lines that real ones print."""

import shutil
from pathlib import Path

import pytest

PACKAGES = "libnvinfer-bin\t10.3.0.30-1+cuda12.5\nlibnvinfer10\t10.3.0.30-1+cuda12.5\npython3-libnvinfer\t10.3.0.30-1+cuda12.5\n"


def put(folder: Path, **files: object) -> Path:
    """Files of one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    """The root folder of an Orin Nano 8 GB on JetPack 6.2.1 in MAXN_SUPER: warm, with two events of too much current."""
    root = tmp_path / "orin-nano"
    tree = put(root / "proc/device-tree")
    (tree / "model").write_bytes(b"NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0")
    release = "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025"
    put(root / "etc", nv_tegra_release=release)
    put(root / "usr/local/cuda").joinpath("version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}')
    put(
        root / "proc",
        meminfo="MemTotal: 7802880 kB\nMemAvailable: 5242880 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\nNvMapMemUsed: 512000 kB",
    )
    heat = root / "sys/class/thermal"
    put(heat / "thermal_zone0", type="cpu-thermal", temp=47875, trip_point_0_type="critical", trip_point_0_temp=104500)
    put(heat / "thermal_zone1", type="gpu-thermal", temp=50218, trip_point_0_type="passive", trip_point_0_temp=99000)
    put(heat / "thermal_zone2", type="cv0-thermal", temp=-256000)
    put(heat / "cooling_device0", type="pwm-fan", cur_state=2)
    put(heat / "cooling_device1", type="cpu-throttle-alert", cur_state=0)
    put(root / "sys/class/hwmon/hwmon1", name="soctherm_oc", oc1_event_cnt=0, oc2_event_cnt=0, oc3_event_cnt=2)
    whole = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 931}
    parts = {"in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 112, "in3_label": "NC", "in3_input": 5000, "curr3_input": 9}
    put(root / "sys/class/hwmon/hwmon2", name="ina3221", **whole, **parts, in7_label="sum of shunt voltages", in7_input=4)
    put(root / "sys/class/devfreq/17000000.gpu", min_freq=306000000, max_freq=1020000000, cur_freq=306000000)
    return root


@pytest.fixture
def commands():
    """``commands(clocks=..., packages=...)``: what NVIDIA's commands would print; a command that is not named prints nothing."""

    def make(clocks: str = "", packages: str = PACKAGES, mode: str = "NV Power Mode: MAXN_SUPER\n2\n"):
        printed = {"jetson_clocks": clocks, "dpkg-query": packages, "nvpmodel": mode}
        return lambda command: printed.get(command[0], "")

    return make


@pytest.fixture
def replayed(tmp_path: Path) -> str:
    """A program ``tegrastats`` that prints what an Orin Nano printed, every 0.02 s, with a broken line in between."""
    lines = Path(__file__).with_name("tegrastats.txt").read_text().splitlines()
    (line,) = [line for line in lines if "VDD_IN 4654mW" in line]
    script = tmp_path / "tegrastats"
    script.write_text(f'#!{shutil.which("sh")}\nwhile :; do echo "{line}"; echo "RAM 14"; echo "{line[:-20]}"; sleep 0.02; done\n')
    script.chmod(0o755)
    return str(script)
