"""What a box needs of a bundle: its targets' graphs, whole and in parts, and what proves them there. The rest may stay at home."""

from __future__ import annotations

from collections.abc import Sequence

from edgemm.box.bundle import seal
from edgemm.box.bundle.opened import Bundle
from edgemm.contracts import task as tasks
from edgemm.errors import BundleError, EdgemmError


def unneeded(bundle: Bundle, targets: Sequence[str] = ()) -> frozenset[str]:
    """The files that a box can do without, for ``packing.copy``; those that this bundle goes without already are among them.

    The float graph is needed where a target may run it in the place of its own, the original's answers where drift is told by how sure
    they were.

    Args:
        targets: What the box runs; none = any target of the bundle.

    Raises:
        BundleError: It holds nothing for one of them, or was made for no target at all.
    """
    kept = list(targets) or bundle.targets()
    if not kept:
        raise BundleError(f"{bundle.path} was made for no target.", why="its float model is all that could run.", fix="keep it whole.")
    for name in kept:
        bundle.require(name)
    runs_float = any(_may_run_float(bundle, name) for name in kept)
    is_judged = any(task.is_one_label for task in tasks.tasks(bundle.card).values())

    def is_needed(name: str) -> bool:
        match name.split("/"):
            case ["targets", target, *_]:
                return target in kept
            case ["split", *_] | ["report.json" | "report.html"]:
                return False
            case ["reference.npz"]:
                return is_judged
        return runs_float or not seal.MAY_GO.fullmatch(name)

    return frozenset(name for name in bundle.manifest["files"] if name in bundle.left_out or not is_needed(name))


def _may_run_float(bundle: Bundle, name: str) -> bool:
    try:
        return bundle.deployment(name).plugin().wants_float()
    except EdgemmError:
        return True  # a runtime that is not installed here cannot be asked
