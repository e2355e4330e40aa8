"""Which Jetson this is: board, module, JetPack, TensorRT, power mode, and whether its clocks are locked.

Everything is read from files and from NVIDIA's own commands; what they do not tell is None. The file paths start at a root that tests set.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.store.small_files import ROOT, number, text

Ask = Callable[[Sequence[str]], str]
"""Runs a command and gives what it printed; "" where it is missing, fails or hangs."""

COMMAND_S = 10.0
RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
PACKAGE = re.compile(r"^nvidia-l4t-core[ \t]+(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)
LIBRARY = re.compile(r"^(?:libnvinfer(?:\d+|-bin)|python3-libnvinfer)[ \t]+(\d+(?:\.\d+)+)", re.MULTILINE)
PYTHON_LIBRARY = re.compile(r"^python3-libnvinfer[ \t]+\d", re.MULTILINE)
MODE = re.compile(r"NV Power Mode: *(\S+)(?:\s+(?:NVPM VERB: *)?(\d+))?")
CLOCK = re.compile(r"^(cpu\d+|GPU|EMC)\b:?.*?MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)(?:.*FreqOverride=(\d))?", re.MULTILINE)
CUDA = re.compile(r'"version"\s*:\s*"(\d+\.\d+)')
PART = re.compile(r"p(2888|3668|3701|3767|3834)-(\d{4})")

JETPACK = {
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5", "32.7.6": "4.6.6",
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4",
    "35.6.1": "5.1.5", "35.6.2": "5.1.5", "35.6.3": "5.1.5", "35.6.4": "5.1.6",
    "36.2.0": "6.0 DP", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5.0": "6.2.2",
    "36.5.2": "6.2.3", "38.2.0": "7.0", "38.2.1": "7.0", "38.2.2": "7.0", "38.4.0": "7.1", "39.2.0": "7.2",
}  # fmt: skip
"""L4T -> JetPack; releases that only mend L4T keep the JetPack's name."""
FAMILY = {32: "4.x", 35: "5.x", 36: "6.x", 38: "7.x", 39: "7.x"}
SOCS = {"tegra194": "Xavier", "tegra234": "Orin", "tegra264": "Thor"}
MODULES = {
    "3767-0000": "orin-nx-16gb", "3767-0001": "orin-nx-8gb", "3767-0003": "orin-nano-8gb", "3767-0004": "orin-nano-4gb",
    "3767-0005": "orin-nano-8gb", "3701-0000": "agx-orin-64gb", "3701-0004": "agx-orin-32gb", "3701-0005": "agx-orin-64gb",
    "3701-0008": "agx-orin-64gb", "3668-0000": "xavier-nx-8gb", "3668-0001": "xavier-nx-8gb", "3668-0003": "xavier-nx-16gb",
    "2888-0001": "agx-xavier", "2888-0004": "agx-xavier", "2888-0005": "agx-xavier-64gb", "3834-0008": "thor-t5000",
}  # fmt: skip
"""NVIDIA's part number -> name in ``boards``. 3701-0000 is the first development kit: 32 GB beside the full GPU."""
SUPER_MODES = ("super", "25w", "40w")


@dataclass(frozen=True)
class Clocks:
    """What ``jetson_clocks --show`` or, without root, sysfs tells; None where neither does.

    Attributes:
        locked: Processor and GPU run at one speed only, and the memory clock is held.
    """

    locked: bool | None = None
    gpu_mhz: float | None = None
    gpu_highest_mhz: float | None = None
    memory_mhz: float | None = None
    tpcs: int | None = None


@dataclass(frozen=True)
class Jetson:
    """A Jetson's identity.

    Attributes:
        model: As the device tree says it.
        soc: Xavier, Orin, Thor, or the chip's name.
        module: Name in ``boards``, where the part number is known.
        l4t, jetpack: ``36.4.4`` and ``6.2.1``; an unknown L4T of a known family says ``6.x``.
        tensorrt: Version of the installed library, from the package manager.
        python_tensorrt: Whether its Python binding is installed.
        power_mode: The name; numbers differ between modules and releases.
    """

    model: str
    soc: str
    module: str | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None
    python_tensorrt: bool
    power_mode: str | None
    power_mode_id: int | None
    clocks: Clocks

    def to_dict(self) -> dict[str, Any]:
        """What is known, flat: the clocks' facts stand beside the others."""
        clocks = {"clocks_locked" if name == "locked" else name: value for name, value in asdict(self.clocks).items()}
        plain = {name: value for name, value in asdict(self).items() if name != "clocks"} | clocks
        return {name: value for name, value in plain.items() if value is not None}


def ask(command: Sequence[str]) -> str:
    """What a command printed; "" where it is missing, fails or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def identify(root: Path = ROOT, ask: Ask = ask) -> Jetson | None:
    """The Jetson this is, or None where it is none."""
    compatible = text(root / "proc/device-tree/compatible").replace("\0", " ")
    chip = re.search(r"nvidia,(tegra\d+)", compatible)
    release = text(root / "etc/nv_tegra_release")
    if chip is None and not release:
        return None
    packages = ask(["dpkg-query", "--show", "nvidia-l4t-core", "libnvinfer*", "python3-libnvinfer*"])
    l4t = _l4t(release, packages)
    library = LIBRARY.search(packages)
    mode = MODE.search(ask(["nvpmodel", "-q"]))
    name = mode[1] if mode else None
    return Jetson(
        model=text(root / "proc/device-tree/model").replace("\0", " ") or "NVIDIA Jetson",
        soc=SOCS.get(chip[1], chip[1]) if chip else "unknown",
        module=_module(compatible, name, text(root / "proc/device-tree/model")),
        l4t=l4t,
        jetpack=jetpack(l4t),
        cuda=_cuda(root),
        tensorrt=library[1] if library else None,
        python_tensorrt=bool(PYTHON_LIBRARY.search(packages)),
        power_mode=name,
        power_mode_id=int(mode[2]) if mode and mode[2] else None,
        clocks=_clocks(root, ask),
    )


def jetpack(l4t: str | None) -> str | None:
    """The JetPack an L4T release belongs to; ``6.x`` where only the family is known."""
    if l4t is None:
        return None
    major = l4t.partition(".")[0]
    return JETPACK.get(l4t) or (FAMILY.get(int(major)) if major.isdigit() else None)


def _l4t(release: str, packages: str) -> str | None:
    """``R36 … REVISION: 4.4`` -> ``36.4.4``; the package's version where the file is missing or says something else."""
    match = RELEASE.search(release)
    if match:
        return f"{match[1]}.{match[2]}"
    package = PACKAGE.search(packages)
    return package[1] if package else None


def _module(compatible: str, mode: str | None, model: str) -> str | None:
    """The module by its part number; one that runs in a mode of JetPack 6.2's higher clocks is the ``-super`` one."""
    part = PART.search(compatible)
    module = MODULES.get(f"{part[1]}-{part[2]}") if part else None
    if module and module.startswith(("orin-nano", "orin-nx")):
        raised = mode.lower() if mode else ""
        is_super = any(word in raised for word in SUPER_MODES) if raised else "super" in model.lower()
        if module == "orin-nx-16gb" and raised == "25w":
            is_super = False  # that module has a 25 W mode without the higher clocks
        return f"{module}-super" if is_super else module
    return module


def _cuda(root: Path) -> str | None:
    match = CUDA.search(text(root / "usr/local/cuda/version.json"))
    return match[1] if match else None


def _clocks(root: Path, ask: Ask) -> Clocks:
    """From ``jetson_clocks --show`` (root), else from sysfs, which does not tell whether the memory clock is held."""
    shown = ask(["jetson_clocks", "--show"])
    rows = {match[1]: match for match in CLOCK.finditer(shown)}
    tpcs = re.search(r"Active GPU TPCs: (\d+)", shown)
    if "GPU" in rows:
        cpus = [row for name, row in rows.items() if name.startswith("cpu")]
        fixed = all(row[2] == row[3] for row in (*cpus, rows["GPU"]))
        held = rows["EMC"][5] == "1" if "EMC" in rows else None
        gpu, memory = rows["GPU"], rows.get("EMC")
        return Clocks(
            locked=fixed and held is not False, gpu_mhz=int(gpu[4]) / 1e6, gpu_highest_mhz=int(gpu[3]) / 1e6,
            memory_mhz=int(memory[4]) / 1e6 if memory else None, tpcs=int(tpcs[1]) if tpcs else None,
        )  # fmt: skip
    places = sorted({*(root / "sys/class/devfreq").glob("*gpu*")})
    if not places:
        return Clocks()
    low, high, now = (number(places[0] / f"{word}_freq") for word in ("min", "max", "cur"))
    free = None if low is None or high is None else low != high
    return Clocks(locked=False if free else None, gpu_mhz=now and now / 1e6, gpu_highest_mhz=high and high / 1e6)
