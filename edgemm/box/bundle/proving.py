"""``verify``: a bundle's files against its manifest, its signature, and every target against the golden samples."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgemm.box.bundle import golden, seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.opened import Bundle, open_folder, require_zip, unpack
from edgemm.box.bundle.seal import HASH, SIGNATURE, Check
from edgemm.box.bundle.verification import Verification, check_files, plain_bytes
from edgemm.contracts import plugins
from edgemm.errors import EdgemmError, MissingExtra
from edgemm.store import stored_zip
from edgemm.store.instructions import saturates

OVERFLOWS = "This processor has no VNNI or AMX, where sums of INT8 with 8-bit weights overflow: compress the model here."


def verify(path: str | Path, *, key: Path | None = None, run: bool = True) -> Verification:
    """Look at everything a bundle says about itself; damage is reported in the result, not raised.

    Args:
        key: PEM public key that must have signed it.
        run: Also run the golden samples on every target that can run here.

    Raises:
        BundleError: ``path`` is no bundle at all, or ``key`` is no key.
        MissingExtra: The bundle is signed (or ``key`` given) and the package cryptography is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _verify_folder(path, path, key, run)
    require_zip(path)
    with tempfile.TemporaryDirectory(prefix="edgemm-verify-") as scratch:
        try:
            unpack(path, Path(scratch))
        except stored_zip.Damaged as err:
            return Verification(path, (Check(err.member or path.name, False, err.reason),))
        return _verify_folder(Path(scratch), path, key, run)


def _verify_folder(folder: Path, path: Path, key: Path | None, run: bool) -> Verification:
    manifest, checks = check_files(folder, path)
    if manifest is not None:
        line, signature = (plain_bytes(folder / name) for name in (HASH, SIGNATURE))
        checks += seal.check_signature(manifest.get("signer"), line or b"", signature, key)
    if run and all(check.ok for check in checks):
        checks += _check_golden(open_folder(folder, path))
    return Verification(path, tuple(checks))


def _check_golden(bundle: Bundle) -> list[Check]:
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
        deployment, reason = bundle.deployment_here(name)
        stand_in = {}
        if why := deployment.plugin().cannot_run():
            stand_in, reason = {"stand_in": "onnxruntime"}, f"computed by ONNX Runtime: {why.rstrip('.')}"
        with deployment.open(**stand_in) as session:
            answers = golden.run(session, samples)
            ran = session.precision()
    except MissingExtra as err:
        return Check(where, None, f"golden samples not run: {err.what} {err.fix}")
    except EdgemmError as err:
        return Check(where, False, f"golden samples cannot run here: {err.what} {err.why}")
    off = golden.compare(answers, samples.outputs[name], samples.tolerance.get(name, {}), card=bundle.card)
    how = f"{len(samples)} golden samples in {ran}" + (f"; {reason}" if reason else ", tuned options")
    wrong = [f"'{output}' is off by {gap:.3g} where {allowed:.3g} is allowed" for output, (gap, allowed) in off.items() if gap > allowed]
    told = f". {OVERFLOWS}" if "int8" in ran and not stand_in and saturates() else ""
    return Check(where, not wrong, f"{'; '.join(wrong)} ({how}){told}" if wrong else how)
