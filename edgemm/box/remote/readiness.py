"""Whether another machine can do a job: its Python, numpy and the runtimes; what is missing is installed where that was asked for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.box.devices.advice import APT_TENSORRT
from edgemm.box.remote import FALLBACK
from edgemm.box.remote.ssh import Remote, SshAddress
from edgemm.contracts import plugins
from edgemm.errors import RemoteError
from edgemm.progress import Progress

OLDEST_PYTHON = (3, 10)
SETUP_S = 1800.0


def ready(
    there: Remote, base: str, runner: str, targets: Sequence[str], progress: Progress, *, setup: bool = False, fallback: bool = False
) -> tuple[str, bool]:  # fmt: skip
    """The Python to use there, and whether ONNX Runtime has to stand in for the runtimes of what is measured.

    Args:
        base: Where jobs lie there.
        runner: The runner's place there.
        targets: One of them must be able to run.
        setup: Install what is missing, in a virtual environment that stays.
        fallback: Whether ONNX Runtime may stand in.

    Raises:
        RemoteError: Something is missing there; says how to get it.
    """
    own = f"{base}/venv/bin/python"
    python = own if there.run(["test", "-x", own]).code == 0 else "python3"
    _require_python(there, python)
    if setup:
        python = _set_up(there, base, runner, targets, fallback, progress)
    facts = probe(there, python, runner, targets)
    if facts["numpy"] is None:
        raise RemoteError(
            "numpy is missing there.", why=f"{python} cannot import it.", fix="sudo apt-get install -y python3-numpy there, or add --setup."
        )
    reasons = {name: facts["targets"].get(name, "this edgemm does not know it.") for name in targets}
    if any(reason == "" for reason in reasons.values()):
        return python, False
    if fallback and facts["targets"].get(FALLBACK) == "":
        progress.note(f"none of {', '.join(reasons)} can run on {there.address.host}: ONNX Runtime measures in their place.")
        return python, True
    raise _missing(there.address, reasons, facts, fallback)


def _require_python(there: Remote, python: str) -> None:
    done = there.run([python, "-c", "import sys; print(*sys.version_info[:2])"])
    words = done.out.split()
    if done.code or len(words) != 2 or tuple(map(int, words)) < OLDEST_PYTHON:
        why = f"there is Python {'.'.join(words)}." if len(words) == 2 else f"there is no {python}."
        raise RemoteError("edgemm needs Python 3.10 or later there.", why=why, fix="on a Jetson that is JetPack 6 or later.")


def probe(there: Remote, python: str, runner: str, targets: Sequence[str]) -> dict[str, Any]:
    """What is there, as the runner's ``probe`` tells it.

    Raises:
        RemoteError: The runner does not start.
    """
    output = there.check([python, runner, "probe", *dict.fromkeys([*targets, FALLBACK])], "the runner does not start there.")
    facts: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return facts


def _set_up(there: Remote, base: str, runner: str, targets: Sequence[str], fallback: bool, progress: Progress) -> str:
    """A virtual environment that sees the system's packages (TensorRT comes from apt), with what is missing installed."""
    own = f"{base}/venv/bin/python"
    apt = "sudo apt-get install -y python3-venv there."
    making = f"test -x {shlex.quote(own)} || python3 -m venv --system-site-packages {shlex.quote(base + '/venv')}"
    progress.update("virtual environment")
    there.check(making, "no virtual environment could be made there.", fix=apt, limit_s=SETUP_S)
    facts = probe(there, own, runner, targets)
    packages = [] if facts["numpy"] else ["numpy"]
    names = [*targets, *([FALLBACK] if fallback else [])]
    packages += [package for name in dict.fromkeys(names) if facts["targets"].get(name) != "" for package in _packages(name)]
    if packages:
        progress.update(f"installing {', '.join(packages)}")
        installing = [own, "-m", "pip", "install", "--quiet", *packages]
        there.check(
            installing, f"{', '.join(packages)} could not be installed there.", fix="see whether that box has a way out.", limit_s=SETUP_S
        )
    return own


def _packages(target: str) -> Sequence[str]:
    """What pip brings for a target; nothing for TensorRT, which comes from apt, and for one that nobody here knows."""
    if target not in plugins.names("targets"):
        return ()
    return plugins.packages("targets", target) if plugins.is_own("targets", target) else plugins.requirements(target)


def _missing(address: SshAddress, reasons: Mapping[str, str], facts: Mapping[str, Any], fallback: bool) -> RemoteError:
    why = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in reasons.items())
    fixes = []
    if "tensorrt" in reasons:
        fixes.append(f"TensorRT comes with JetPack, there: {APT_TENSORRT}")
    if any(map(_packages, reasons)) or fallback:
        fixes.append("--setup installs what pip brings")
    if not fallback:
        fixes.append("--fallback measures the same graph in ONNX Runtime")
    return RemoteError(
        f"none of the bundle's targets can run on {address.host} ({facts['machine']}).", why=f"{why}.", fix="; or ".join(fixes) + "."
    )
