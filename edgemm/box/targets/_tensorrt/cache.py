"""Engines on the box that built them: found again by everything that makes them valid, never taken from elsewhere.

An engine holds kernels chosen for one TensorRT build, one GPU and one set of shapes. Loaded elsewhere it fails at best ("expecting compute
8.6 got 7.5") and is slower or wrong at worst, so each lies under a key of all that, with the hash of its own bytes beside it.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.box.devices.environment import device_name
from edgemm.box.targets._tensorrt.api import Api
from edgemm.box.targets._tensorrt.build import BuildSettings
from edgemm.box.targets._tensorrt.cuda import Cuda
from edgemm.contracts import onnx_file
from edgemm.errors import TargetError
from edgemm.store import cache
from edgemm.store.artifact import folder_in_one_step, sha256_file, sha256_of, write_bytes, write_json

PLAN, RECORD = "model.plan", "engine.json"
L4T_RELEASE = Path("/etc/nv_tegra_release")
WORDS = {
    "onnx": "the model", "tensorrt": "TensorRT", "capability": "the GPU's compute capability", "gpu": "the GPU", "board": "the board",
    "l4t": "L4T", "settings": "profile or build settings", "form": "the precision",
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """Everything an engine depends on, as plain values."""

    facts: Mapping[str, Any]

    @property
    def place(self) -> Path:
        """Folder of the engine in the cache; those of one model lie together."""
        return root(str(self.facts["onnx"])) / sha256_of(dict(self.facts))[:32]


def root(onnx_sha: str) -> Path:
    return cache.root() / "engines" / onnx_sha[:32]


def timings(api: Api, cuda: Cuda) -> Path:
    """Timing cache of this TensorRT on this GPU."""
    return cache.root() / "engines" / f"timings-{api.distribution}-{api.version}-sm{cuda.capability().replace('.', '')}.bin"


def key(api: Api, cuda: Cuda | None, path: Path, settings: BuildSettings, form: str) -> Key:
    """The key of the engine of an ONNX file here.

    Args:
        cuda: None where it is built for another machine (``settings.capabilities``).
        form: What the file was turned into first, such as ``int8+f16``.
    """
    facts = {"onnx": onnx_sha(path), **here(api, cuda), "settings": settings.facts(), "form": form}
    return Key(json.loads(json.dumps(facts)))


@contextmanager
def alone() -> Iterator[None]:
    """One build at a time on this machine: two would time each other's kernels, and a small board has memory for one."""
    lock = cache.root() / "engines" / "build.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes, also when the process dies
        yield


def of_record(record: Mapping[str, Any], api: Api, cuda: Cuda) -> Key:
    """The key that a plan's record must have to be opened here: its own model and settings, this machine's everything else.

    A plan built ahead of time names its GPUs instead of a machine: it is right where this GPU is one of them.
    """
    facts, local = dict(record["key"]), here(api, cuda)
    ahead = (facts.get("settings") or {}).get("capabilities") or []
    if f"SM{local['capability'].replace('.', '')}" in ahead:
        local = here(api, None)
    return Key({**facts, **local})


def here(api: Api, cuda: Cuda | None) -> dict[str, str]:
    """What of a key is this machine's; blanks where the engine is for another."""
    facts = {"tensorrt": f"{api.distribution} {api.version}", "capability": "", "gpu": "", "board": "", "l4t": ""}
    if cuda is None:
        return facts
    return facts | {"capability": cuda.capability(), "gpu": cuda.name(), "board": device_name(), "l4t": l4t()}


def onnx_sha(path: Path) -> str:
    """Hash of an ONNX file and its side files."""
    return sha256_of([sha256_file(path), *(sha256_file(path.parent / name) for name in sorted(onnx_file.read(path).external))])


def l4t(release: Path = L4T_RELEASE) -> str:
    """Version of the Jetson's system, such as ``36.4.4``; "" on other machines."""
    try:
        text = release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else text.strip()[:80]


def find(wanted: Key) -> tuple[bytes | None, str]:
    """The plan of ``wanted``, or None and why it must be built, in words."""
    cache.use(wanted.place.parent)
    content, why = read(wanted.place, wanted)
    if content is not None:
        return content, ""
    others = [record for folder in sorted(wanted.place.parent.glob("*/")) if (record := _record(folder)) is not None]
    if why:
        return None, why
    if not others:
        return None, "no engine was built for this model here yet."
    nearest = min(others, key=lambda record: len(differences(record["key"], wanted.facts)))
    return None, f"{' and '.join(differences(nearest['key'], wanted.facts))} changed since the last build."


def read(folder: Path, wanted: Key) -> tuple[bytes | None, str]:
    """The plan in ``folder`` if it is exactly ``wanted``'s and whole; else None and why not ("" where there is nothing)."""
    record = _record(folder)
    if record is None:
        return None, "the engine kept here has no readable record." if (folder / PLAN).exists() else ""
    differ = differences(record["key"], wanted.facts)
    if differ:
        return None, f"it was built for something else: {' and '.join(differ)} differ."
    try:
        if sha256_file(folder / PLAN) != record["sha256"]:
            return None, "the engine kept here is damaged."
        return (folder / PLAN).read_bytes(), ""
    except OSError:
        return None, "the engine kept here cannot be read."


def keep(folder: Path, wanted: Key, content: bytes, facts: Mapping[str, Any]) -> Path:
    """Write an engine with its record, both or none."""
    with folder_in_one_step(folder) as scratch:
        write_plan(scratch, wanted, content, facts)
    return folder / PLAN


def write_plan(folder: Path, wanted: Key, content: bytes, facts: Mapping[str, Any]) -> None:
    """Plan and record into a folder that is there."""
    write_bytes(folder / PLAN, content)
    write_json(folder / RECORD, {"key": dict(wanted.facts), "sha256": sha256_file(folder / PLAN), **facts})


def foreign(path: Path, why: str) -> TargetError:
    """The error for a plan that is not this machine's."""
    return TargetError(
        f"the engine '{path.name}' is not for this machine.",
        why=f"{why} An engine runs where it was built, with the TensorRT that built it.",
        fix="build it here from the model: edgemm compile BUNDLE --target tensorrt -o DIR.",
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two keys, in words, with both values where they are short."""
    changes = []
    for name in WORDS:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        short = name not in ("onnx", "settings") and before is not None
        changes.append(f"{WORDS[name]} ({before or 'none'} to {after or 'none'})" if short else WORDS[name])
    return changes


def record(plan: Path) -> dict[str, Any]:
    """What was written beside a plan.

    Raises:
        TargetError: There is no plan, or nothing says what it is for.
    """
    if not plan.is_file():
        raise TargetError(f"there is no engine '{plan}'.", fix="build it: edgemm compile BUNDLE --target tensorrt -o DIR.")
    entry = _record(plan.parent)
    if entry is None or plan.name != PLAN:
        raise foreign(plan, f"there is no {RECORD} beside it that says what it was built for.")
    return entry


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record["key"], dict) and isinstance(record["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
