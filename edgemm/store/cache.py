"""The cache of finished stages: same key, same artifact, nothing is done twice.

A key is the hash of everything a stage's result depends on: the code it runs, the versions of the packages it calls, options, the
keys of what went in, and, for stages that measure or compile, the machine.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgemm.errors import CheckpointError
from edgemm.store import in_use, tidying
from edgemm.store.artifact import RECORD, Artifact, Maker, folder_in_one_step, sha256_file, sha256_of, write_bytes, write_json

SLACK = 20  # the cache is measured again when this process has added a twentieth of the limit: measuring it takes 0.1 s in 5 GiB
_added: dict[Path, int] = {}
"""Of this process: cache -> bytes put into it since it was last measured."""


def root() -> Path:
    """``$EDGEMM_CACHE``, or ``~/.cache/edgemm``."""
    return Path(os.environ.get("EDGEMM_CACHE") or Path.home() / ".cache" / "edgemm")


def stage(
    name: str,
    inputs: Mapping[str, Any],
    make: Maker,
    *,
    code: str = "",
    packages: Iterable[str] = (),
    on_this_machine: bool = False,
    timed: bool = False,
    accelerated: bool = False,
    waiting: Callable[[str], None] | None = None,
) -> Artifact:
    """The artifact of stage ``name`` for ``inputs``: found in the cache, or made there by ``make`` in one step.

    It stays there while this process runs. Of two processes that ask for the same at once, one makes it and the other waits; where the file
    system has no locks both make it, and what is there first stays.

    Args:
        inputs: Plain values that, with ``code`` and ``packages``, determine the result.
        make: Called with an empty scratch folder; returns the main file in it.
        code: Digest of the code that ``make`` runs.
        packages: Distributions whose version matters.
        on_this_machine: True where the result depends on the kind of machine: what its processor computes.
        timed: True where it depends on how fast that is too: on how many cores may be used.
        accelerated: True where either is a matter of graphics processors too.
        waiting: Called with a sentence where another process makes it already.

    Raises:
        EdgemmError: ``$EDGEMM_CACHE_LIMIT`` is no size.
    """
    facts = key_facts(inputs, code=code, packages=packages, on_this_machine=on_this_machine, timed=timed, accelerated=accelerated)
    folder, most_bytes = root() / name / sha256_of(facts)[:32], tidying.limit()
    use(folder)
    cached = lookup(folder)
    if cached is not None:
        return cached
    with in_use.making(root(), folder, waiting):
        cached = lookup(folder)  # made while this process waited
        if cached is not None:
            return cached
        with folder_in_one_step(folder, keep=lambda: lookup(folder) is not None) as scratch:
            main = make(scratch)
            write_json(scratch / RECORD, {"stage": name, "main": str(main.relative_to(scratch)), "key": facts})
    artifact = lookup(folder)
    assert artifact is not None  # just written, and in use
    _keep_within(most_bytes, artifact.size_bytes)
    return artifact


def use(place: Path) -> None:
    """Say that this process uses something in the cache, so that it stays until the process ends, and that it was used now."""
    in_use.mark(root(), place)
    with suppress(OSError):
        os.utime(place)


def _keep_within(most_bytes: int, added: int) -> None:
    """Tidy the cache after something was added: the first time, and whenever much was."""
    _added[root()] = _added.get(root(), most_bytes) + added
    if _added[root()] > most_bytes / SLACK:
        _added[root()] = 0
        with suppress(OSError):  # the stage is there; what cannot be removed is no reason to lose it
            tidying.tidy(root(), most_bytes)


def lookup(place: Path) -> Artifact | None:
    """The artifact in folder ``place``, or None when there is none (or an unreadable one, which is then removed)."""
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        main = place / record["main"]
        if main.exists():
            return Artifact(main, record["key"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(place, ignore_errors=True)
    return None


def key_facts(
    inputs: Mapping[str, Any], *, code: str = "", packages: Iterable[str] = (), on_this_machine: bool = False, timed: bool = False,
    accelerated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What a key is the hash of; arguments as in ``stage``."""
    here = {key: value for key, value in machine().items() if timed or key != "cores"} if timed or on_this_machine else None
    return {
        "code": code,
        "versions": {name: version(name) for name in sorted(packages)},
        "inputs": dict(inputs),
        "machine": here if here is None or not accelerated else {**here, "accelerators": accelerators()},
    }


def version(package: str) -> str:
    """Installed version of a distribution, or ``absent``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@functools.cache
def machine() -> dict[str, Any]:
    """What makes two machines different to a compiler: processor, cores, its instruction sets."""
    flags, model = "", platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags = value.strip()
            elif key.strip() == "model name":
                model = value.strip()
            if flags and model and not line.strip():
                break
    except OSError:
        pass
    return {"processor": model, "architecture": platform.machine(), "cores": len(os.sched_getaffinity(0)), "flags": sha256_of(flags)[:16]}


@functools.cache
def accelerators() -> dict[str, Any]:
    """The graphics and neural processors of this machine, their driver, and which of them a program may see."""
    devices = []
    for device in Path("/sys/bus/pci/devices").glob("*"):
        kind, vendor, model = (_line(device / name) for name in ("class", "vendor", "device"))
        devices += [f"{vendor}:{model}"] if kind.startswith(("0x03", "0x12")) else []
    return {
        "devices": sorted(devices),
        "board": _line(Path("/proc/device-tree/model")),
        "driver": _line(Path("/proc/driver/nvidia/version")),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip("\0 ")
    except OSError:
        return ""


def file_facts(path: Path) -> dict[str, Any]:
    """A file's identity for a key: the hash of its content, remembered by size and time so that big files are read once.

    Raises:
        CheckpointError: The file is missing or unreadable.
    """
    try:
        status = path.stat()
        known_by = [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino]
        return {"sha256": remembered(known_by, lambda: sha256_file(path))}
    except OSError as err:
        raise CheckpointError(f"cannot read '{path}'.", why=str(err), fix="check the path in the card and its permissions.") from err


def remembered(known_by: Any, digest: Callable[[], str]) -> str:
    """What ``digest`` returns, remembered under plain values that change whenever it would: what is costly to read is read once."""
    memory = root() / "sha256" / sha256_of(known_by)[:32]
    with suppress(FileNotFoundError):
        return memory.read_text().strip()
    value = digest()
    write_bytes(memory, value.encode())
    return value
