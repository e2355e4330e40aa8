"""`edgemm verify`: check a bundle's files, signature and answers."""

from __future__ import annotations

from pathlib import Path

from edgemm.box.bundle import proving
from edgemm.box.bundle.verification import Verification


def verify(bundle: str | Path, *, key: str | Path | None = None) -> Verification:
    """Check every hash of a bundle, its signature, and its golden samples on every target that can run here.

    Args:
        bundle: A folder or an ``.edgemm`` file.
        key: ed25519 public key (PEM) the bundle must be signed with. Without it a signature is checked for damage only.

    Returns:
        Every check; those whose ``ok`` is None could not be made here, and say why.

    Raises:
        BundleError: Not a bundle, or something in it is wrong: names every bad file.
        MissingExtra: The bundle is signed, or ``key`` is given, and the package cryptography is not installed.
    """
    result = proving.verify(bundle, key=Path(key) if key else None)
    result.raise_if_bad()
    return result
