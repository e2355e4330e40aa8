"""What ``verify`` looks at: every file against the manifest, and every target against its golden samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemm.box.bundle import golden, seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import entries
from edgemm.box.bundle.seal import HASH, MANIFEST, OWN, SIGNATURE, Check
from edgemm.contracts import plugins
from edgemm.contracts.target import fingerprint
from edgemm.errors import BundleError, EdgemmError, MissingExtra

if TYPE_CHECKING:
    from edgemm.box.bundle.opened import Bundle


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
    """The manifest, None where that itself is damaged, and a check for every file."""
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
    found = {name: place for name, place in entries(folder).items() if name not in OWN}
    if manifest.get("signer") is None and (folder / SIGNATURE).exists():
        found[SIGNATURE] = folder / SIGNATURE
    hashed = {name: place if isinstance(place, str) else seal.entry(seal.pieces(place)) for name, place in found.items()}
    whole = Check(MANIFEST, True, f"sha256 {(line or b'')[:12].decode()}…")
    return manifest, [whole, *seal.compare(manifest["files"], hashed)]


def check_golden(bundle: Bundle) -> list[Check]:
    samples = bundle.golden()
    if samples is None:
        return [Check("golden.npz", None, "the bundle holds no golden samples.")]
    return [_run_golden(bundle, samples, target) for target in bundle.targets()]


def _run_golden(bundle: Bundle, samples: Golden, name: str) -> Check:
    where = f"targets/{name}/model.onnx"
    if name not in samples.outputs or name not in plugins.names("targets"):
        missing = "golden.npz holds no outputs for it" if name not in samples.outputs else "this edgemm has no such target"
        return Check(where, None, f"golden samples not run: {missing}.")
    try:
        target = bundle.load_target(name)
        options, reason = bundle.options_for(name, fingerprint(target))
        if why := target.cannot_run():
            options, reason = {**options, "stand_in": "onnxruntime"}, f"computed by ONNX Runtime: {why.rstrip('.')}"
        with target.open(bundle.target_model(name), **options) as session:
            answers = golden.run(session, samples)
            ran = session.precision()
    except MissingExtra as err:
        return Check(where, None, f"golden samples not run: {err.what} {err.fix}")
    except EdgemmError as err:
        return Check(where, False, f"golden samples cannot run here: {err.what} {err.why}")
    off = golden.compare(answers, samples.outputs[name], samples.tolerance.get(name, {}))
    how = f"{len(samples)} golden samples in {ran}" + (f"; {reason}" if reason else ", tuned options")
    wrong = [f"'{output}' is off by {gap:.3g} where {allowed:.3g} is allowed" for output, (gap, allowed) in off.items() if gap > allowed]
    return Check(where, not wrong, f"{'; '.join(wrong)} ({how})" if wrong else how)


def plain_bytes(path: Path) -> bytes | None:
    """A file's content; None where there is no plain file (a link is none)."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None
