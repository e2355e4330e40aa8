"""`edgemm slim`: a bundle with what a box needs and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.box.bundle import packing, proving
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.slimming import unneeded
from edgemm.report.terminal import Ending
from edgemm.store.artifact import show_size


@dataclass(frozen=True)
class Slim:
    """A slim bundle that was written.

    Attributes:
        left_out: Files of the whole bundle that it goes without.
        left_out_bytes: Their size.
    """

    bundle: Path
    targets: tuple[str, ...]
    left_out: tuple[str, ...]
    left_out_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"for {', '.join(self.targets)}; {len(self.left_out)} files ({show_size(self.left_out_bytes)}) were left out"


def slim(bundle: str | Path, *, output: str | Path, targets: Sequence[str] = ()) -> Slim:
    """Write a bundle again with what a box needs: graphs (whole and in parts), tokenizers, stand-ins, golden samples and the manifest.

    The float graph, the report and other targets stay behind. Every hash and the signature can still be checked, it verifies and runs as
    the whole bundle does, and what needs a file that was left out says so. TensorRT takes the float graph along, unless its recipe says
    ``int8: on``: it may run that in the place of its INT8.

    Args:
        bundle: A bundle folder or ``.edgemm`` file.
        output: A folder, or a file ending in ``.edgemm``.
        targets: What the box runs; without it any target of the bundle.

    Raises:
        BundleError: The bundle is damaged, or holds nothing for a target.
        OutputError: ``output`` cannot be written, or holds something that is not a bundle.
    """
    proving.verify(bundle, run=False).raise_if_bad()
    whole = open_bundle(bundle)
    left_out = unneeded(whole, targets)
    written = packing.copy(whole.folder, Path(output), left_out=left_out)
    size = sum(whole.manifest["files"][name]["size"] for name in left_out)
    return Slim(written, tuple(targets or whole.targets()), tuple(sorted(left_out)), size)


def ending(slimmed: Slim, **_: Any) -> Ending:
    """What the command line says at the end."""
    return Ending(slimmed, (slimmed.bundle,), f"edgemm verify {slimmed.bundle}")
