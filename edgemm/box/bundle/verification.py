"""What ``verify`` says, and its first half: every file against the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.box.bundle import seal
from edgemm.box.bundle.packing import entries
from edgemm.box.bundle.seal import HASH, MANIFEST, OWN, SIGNATURE, SLIM, Check
from edgemm.errors import BundleError
from edgemm.store.artifact import pieces, show_size


@dataclass(frozen=True)
class Verification:
    """What ``verify`` looked at and found."""

    path: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.ok is False]

    def to_dict(self) -> dict[str, Any]:
        return {"bundle": str(self.path), "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        words = {True: "ok", False: "BAD", None: "not checked"}
        width = max(len(check.name) for check in self.checks)
        lines = [f"{words[check.ok]:<12}{check.name:<{width}}  {check.text}" for check in self.checks]
        return "\n".join([*lines, f"{self.path}: {'everything that could be checked is right' if self.ok else 'damaged'}"])

    def raise_if_bad(self) -> None:
        """Raise a BundleError that names every bad file."""
        if self.ok:
            return
        raise BundleError(
            f"{self.path} fails verification: {', '.join(dict.fromkeys(check.name for check in self.failed))}.",
            why="\n       ".join(f"{check.name}: {check.text}" for check in self.failed),
            fix="fetch or pack the bundle again; do not run this one.",
        )


def check_files(folder: Path, path: Path) -> tuple[dict[str, Any] | None, list[Check]]:
    """The manifest, None where that itself is damaged, and a check for every file.

    Raises:
        BundleError: There is no manifest at all.
    """
    raw, line = plain_bytes(folder / MANIFEST), plain_bytes(folder / HASH)
    if raw is None and line is None:
        raise BundleError(
            f"{path} is not a bundle.", why=f"there is no {MANIFEST} in it.", fix="give the folder that compress wrote with -o."
        )
    for name, content in ((MANIFEST, raw), (HASH, line)):
        if content is None:
            return None, [Check(name, False, "it is missing.")]
    try:
        manifest = seal.read_manifest(raw or b"", line or b"", path)
    except BundleError as err:
        return None, [Check(seal.blame(raw or b"", line or b""), False, err.why)]
    files = {name: file for name, file in entries(folder).items() if name not in OWN}
    if manifest.get("signer") is None and (folder / SIGNATURE).exists():
        files[SIGNATURE] = folder / SIGNATURE
    hashed = {name: file if isinstance(file, str) else seal.entry(pieces(file)) for name, file in files.items()}
    checks, listed = [Check(MANIFEST, True, f"sha256 {(line or b'')[:12].decode()}…")], manifest["files"]
    try:
        left_out = seal.read_slim(plain_bytes(folder / SLIM), listed, path) - hashed.keys()
    except BundleError as err:
        checks, left_out = [*checks, Check(SLIM, False, err.why)], frozenset()
    if left_out:
        size = show_size(sum(listed[name]["size"] for name in left_out))
        checks.append(Check(SLIM, True, f"{len(left_out)} files that the manifest lists were left out, {size}."))
    return manifest, [*checks, *seal.compare({name: listed[name] for name in listed if name not in left_out}, hashed)]


def plain_bytes(path: Path) -> bytes | None:
    """A file's content; None where there is no plain file (a link is none)."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None
