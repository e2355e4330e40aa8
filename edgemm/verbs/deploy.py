"""`edgemm deploy`: put a bundle on a box; proved there before it serves."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.box.bundle import packing, proving
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.packing import SUFFIX
from edgemm.box.bundle.slimming import unneeded
from edgemm.box.remote.ssh import Remote, parse
from edgemm.errors import BundleError, RemoteError
from edgemm.progress import Progress
from edgemm.store.artifact import show_size

VERIFY_S = 900.0  # unpacking and compiling on a small board
STATUS_S = 120.0  # until the run there has tried the new bundle
POLL_S = 1.0
UNFIT = "compress for what this box has; an edgemm there that is older than slim bundles takes whole ones: --no-slim."


@dataclass(frozen=True)
class Deployed:
    """A bundle that lies on a box.

    Attributes:
        place: Where it lies there; the one before lies beside it as ``<place>.previous``.
        checks: What was looked at there, as ``verify`` tells it.
        serving: Whether the run there was seen to have taken it; None where nobody looked.
        size_bytes: What was copied.
    """

    host: str
    place: str
    checks: tuple[str, ...]
    serving: bool | None
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        state = {True: "and serves", False: "", None: "; a run there takes it at its next start or reload"}[self.serving]
        place = f"{self.host}:{self.place} holds the bundle ({show_size(self.size_bytes)})"
        return "\n".join([*self.checks, f"{place}{' ' if self.serving else ''}{state}"])


def deploy(
    bundle: str | Path,
    *,
    remote: str,
    to: str,
    target: str | None = None,
    slim: bool = True,
    command: str = "edgemm",
    reload: str | None = None,
    status: str | None = None,
    ssh_config: str | Path | None = None,
    progress: Progress | None = None,
) -> Deployed:
    """Copy ``bundle`` to another machine, verify it there, and swap it in.

    Args:
        bundle: A bundle folder or ``.edgemm`` file.
        remote: The box, ``ssh://user@host:port``.
        to: Path of the bundle there: what ``edgemm run`` was started with.
        target: What the box runs; without it any target of the bundle.
        slim: Copy no more than the box needs (see ``edgemm slim``), not the whole bundle.
        command: How edgemm is called there, such as ``/opt/edgemm/bin/edgemm``.
        reload: Line for the shell there that makes the run look, such as ``systemctl reload edgemm-porch``.
        status: Address of the page's status as seen from there, such as ``http://127.0.0.1:8099/status``: the run is asked whether it took
            the bundle, and the old one is put back where it did not.
        ssh_config: ssh's configuration file instead of the user's own.

    Raises:
        BundleError: It holds nothing for ``target``, is damaged, here or there, or fails its golden samples there; nothing was changed.
        RemoteError: The machine cannot be reached, or the run there did not take the bundle; the old one lies there again.
    """
    progress = progress or Progress()
    proving.verify(bundle, run=False).raise_if_bad()
    whole = open_bundle(bundle)
    left_out = unneeded(whole, [target] if target else []) if slim else ()
    config = Path(ssh_config) if ssh_config else None
    with tempfile.TemporaryDirectory(prefix="edgemm-") as folder, Remote(parse(remote), config=config) as there:
        packed = packing.copy(whole.folder, Path(folder) / f"bundle{SUFFIX}", left_out=left_out)
        with progress.stage(f"copy to {there.address.host}"):
            there.put(packed, f"{to}.new")
        with progress.stage("verify there"):
            checks = _verified(there, command, f"{to}.new")
        before = _status(there, status).get("tries", 0) if status else 0
        _swap(there, to)
        try:
            if reload is not None:
                there.check(reload, "the run there could not be reloaded.", fix="try the line after --reload by hand.")
            serving = _await(there, status, before) if reload and status else None
        except RemoteError:
            _put_back(there, to)
            raise
        return Deployed(there.address.host, to, checks, serving, packed.stat().st_size)


def _verified(there: Remote, command: str, path: str) -> tuple[str, ...]:
    """The checks that ``edgemm verify`` made there, golden samples among them.

    Raises:
        BundleError: One failed; the copy is removed.
        RemoteError: edgemm cannot be called there.
    """
    done = there.run([*shlex.split(command), "verify", path, "--json"], limit_s=VERIFY_S)
    try:
        verdict = json.loads(done.out)
    except ValueError:
        verdict = None
    if done.code == 0 and verdict and verdict["ok"]:
        ran = [check for check in verdict["checks"] if check["name"].startswith("targets/") and check["text"]]
        return tuple(f"{check['name']}: {check['text']}" for check in ran)
    there.run(["rm", "-f", path])
    words = " ".join((done.err or done.out).strip().splitlines()[-6:])
    host = there.address.host
    if "fails verification" not in words and not verdict:
        raise RemoteError(f"'{command}' cannot verify on {host}.", why=words, fix="pip install 'edgemm[run]' there, or set --command.")
    raise BundleError(f"the bundle does not pass on {host}; nothing was changed there.", why=words, fix=UNFIT)


def _swap(there: Remote, to: str) -> None:
    """Put the new bundle in place; the one before stays beside it. Done twice it changes nothing more."""
    new, old = shlex.quote(f"{to}.new"), shlex.quote(f"{to}.previous")
    current = shlex.quote(to)
    line = f"if [ -e {new} ]; then if [ -e {current} ]; then rm -rf {old} && mv {current} {old}; fi; mv {new} {current}; fi"
    there.check(line, f"'{to}' could not be replaced.")


def _put_back(there: Remote, to: str) -> None:
    current, old = shlex.quote(to), shlex.quote(f"{to}.previous")
    there.run(f"if [ -e {old} ]; then rm -rf {current} && mv {old} {current}; fi")


def _status(there: Remote, address: str) -> dict[str, Any]:
    """What the run there says about swapping bundles; {} where it says nothing."""
    url = shlex.quote(address)
    fetch = f"import sys,urllib.request as u; sys.stdout.write(u.urlopen({address!r}, timeout=5).read().decode())"
    done = there.run(f"curl -fsS -m 5 {url} 2>/dev/null || wget -qO- -T 5 {url} 2>/dev/null || python3 -c {shlex.quote(fetch)}")
    try:
        return dict(json.loads(done.out).get("swap", {}))
    except ValueError:
        return {}


def _await(there: Remote, status: str, before: int) -> bool:
    """Wait until the run there has tried the bundle, and has taken it.

    Raises:
        RemoteError: It refused, or said nothing in time.
    """
    end = time.monotonic() + STATUS_S
    while time.monotonic() < end:
        swap = _status(there, status)
        if int(swap.get("tries", 0)) > before:
            if swap.get("error"):
                raise RemoteError("the run there did not take the bundle; the old one serves on.", why=str(swap["error"]))
            return True
        time.sleep(POLL_S)
    why = f"nothing new at {status} for {STATUS_S:.0f} s."
    raise RemoteError("the run there did not say whether it took the bundle.", why=why, fix="is it running, and is that its page?")
