"""`edgemm doctor`: say what this machine can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.box.devices import advice, memory, thermals
from edgemm.box.devices.jetson import Jetson, identify
from edgemm.box.devices.power import open_meter
from edgemm.box.devices.thermals import Thermals
from edgemm.contracts import plugins
from edgemm.contracts.target import problem
from edgemm.store import cache
from edgemm.store.instructions import saturates

CPU_FEATURES = ("amx_int8", "amx_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "i8mm")
WORKSHOP_MIB = 8 * 1024  # quantizing a two-tower of 151 million parameters peaks at 6.4 GiB
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,-]+)\])?(?P<range>[^;]*)(;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")


@dataclass(frozen=True)
class Package:
    """One package an extra brings; ``version`` is None where it is missing."""

    name: str
    wanted: str
    version: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What ``doctor`` found.

    Attributes:
        extras: Extra -> its packages.
        runtimes: Target -> "" when its runtime can be imported, else the reason in words.
        jetson: Board, JetPack, TensorRT, power mode and clocks, on a Jetson.
        thermals: Temperatures, throttling, events of too much current.
        energy: What the energy meter covers, or why there is none.
        memory_mib: What this process may use: the machine's memory, or the container's limit.
        advice: What to do, one sentence each; empty when nothing is to be done.
    """

    edgemm: str
    python: str
    system: str
    processor: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_mib: int
    cache: str
    extras: dict[str, tuple[Package, ...]]
    runtimes: dict[str, str]
    browser: str | None
    jetson: Jetson | None
    thermals: Thermals
    energy: str
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"thermals": self.thermals.to_dict()}

    def __str__(self) -> str:
        lines = [
            f"edgemm     {self.edgemm}",
            f"python     {self.python}",
            f"system     {self.system}",
            f"processor  {self.processor}, {self.cores} cores, {' '.join(self.cpu_features) or 'none of the instructions that matter'}",
            f"memory     {self.memory_mib} MiB",
            *(_jetson_lines(self.jetson) if self.jetson else ()),
            *_thermal_lines(self.thermals),
            f"energy     {self.energy.removeprefix('energy is ').removeprefix('energy of ').rstrip('.')}",
            f"cache      {self.cache}",
            f"browser    {self.browser or 'none'} (only tests of the report's looks need one)",
        ]
        for target, reason in self.runtimes.items():
            lines.append(f"target     {target}: {reason or 'runs here'}")
        for extra, packages in self.extras.items():
            lines.append(f"[{extra}]")
            lines += [f"  {package.name:14} {package.version or 'missing'}  (wants {package.wanted or 'any'})" for package in packages]
        return "\n".join([*lines, "", *(f"advice: {line}" for line in self.advice)]).rstrip()


def doctor() -> Diagnosis:
    """Look at this machine: versions, processor, memory, which targets run here. Changes nothing."""
    extras = _extras()
    runtimes = {name: problem(name) for name in plugins.names("targets")}
    features, memory_mib = _cpu_features(), _memory_mib()
    board, heat = identify(), thermals.look()
    more = [*(advice.on_jetson(board) if board else ()), *advice.on_heat(heat), *advice.on_memory(memory.look())]
    return Diagnosis(
        edgemm=cache.version("edgemm"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=str(cache.machine()["processor"]),
        cores=int(cache.machine()["cores"]),
        cpu_features=features,
        memory_mib=memory_mib,
        cache=str(cache.root()),
        extras=extras,
        runtimes=runtimes,
        browser=next((path for name in BROWSERS if (path := shutil.which(name))), None),
        jetson=board,
        thermals=heat,
        energy=open_meter()[1],
        advice=(*_advice(extras, runtimes, features, memory_mib), *more),
    )


def _jetson_lines(board: Jetson) -> list[str]:
    clocks = {True: "locked", False: "not locked", None: "locked or not only root can tell"}[board.clocks.locked]
    return [
        f"board      {board.model} ({board.module or 'unknown module'}, {board.soc})",
        f"jetpack    {board.jetpack or 'unknown'} (L4T {board.l4t or 'unknown'}), CUDA {board.cuda or 'unknown'}, "
        f"TensorRT {board.tensorrt or 'missing'}",
        f"power      mode {board.power_mode or 'unknown'}, clocks {clocks}",
    ]


def _thermal_lines(seen: Thermals) -> list[str]:
    shown = ", ".join(f"{zone} {value:.0f}" for zone, value in seen.celsius.items())
    return [f"celsius    {shown}"] if shown else []


def _extras() -> dict[str, tuple[Package, ...]]:
    """Extra -> packages with the ranges edgemm's own metadata states; an extra named by another is not repeated there."""
    by_extra: dict[str, list[Package]] = {}
    for requirement in importlib.metadata.requires("edgemm") or []:
        match = REQUIREMENT.match(requirement)
        if match and match["name"] != "edgemm":
            version = cache.version(match["name"])
            package = Package(match["name"], match["range"].strip(), None if version == "absent" else version)
            by_extra.setdefault(match["extra"] or "always", []).append(package)
    return {extra: tuple(packages) for extra, packages in by_extra.items() if extra != "dev"}


def _cpu_features() -> tuple[str, ...]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    return tuple(name for name in CPU_FEATURES if name in flags)


def _memory_mib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total >> 20


def _advice(extras: dict[str, tuple[Package, ...]], runtimes: dict[str, str], features: tuple[str, ...], memory_mib: int) -> list[str]:
    advice = []
    for extra, packages in extras.items():
        missing = [package.name for package in packages if package.version is None]
        if missing and extra in ("compress", "data", "always"):
            command = "pip install edgemm" if extra == "always" else f"pip install 'edgemm[{extra}]'"
            advice.append(f"{command}: {', '.join(missing)} missing.")
    if runtimes and all(runtimes.values()):
        advice.append("no target runs here: pip install 'edgemm[openvino]' for an Intel CPU.")
    if saturates(features):
        advice.append("this processor has no int8 instructions (VNNI, AMX): INT8 is smaller here, hardly faster, and has to be made here.")
    if memory_mib < WORKSHOP_MIB:
        advice.append(f"{memory_mib} MiB of memory is enough to run models; compressing large ones wants {WORKSHOP_MIB} MiB.")
    return advice
