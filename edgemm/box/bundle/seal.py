"""The seal of a bundle: the hash of every file in its manifest, the manifest's own hash, and an ed25519 signature over that.

A slim bundle goes without some of the files that its manifest lists, and ``slim.json`` names them. So the manifest, its hash and its
signature stay those of the whole bundle, and what is there is still held to them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.contracts import plugins
from edgemm.errors import BundleError
from edgemm.store import json_text

MANIFEST, HASH, SIGNATURE, SLIM = "manifest.json", "manifest.sha256", "manifest.sig", "slim.json"
LINE = re.compile(rb"[0-9a-f]{64}  manifest\.json\n")
OWN = (MANIFEST, HASH, SIGNATURE, SLIM)
"""Files of a bundle that its manifest cannot list."""
MAY_GO = re.compile(r"[^/]+\.onnx(\.data)?|split/.+|targets/.+|reference\.npz|report\.(json|html)")
"""What a slim bundle may go without: never what its answers are proved with, nor a tokenizer."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: A file of the bundle, ``signature``, or ``golden <target>``.
        ok: True fine, False wrong, None could not be looked at here.
        text: What was found, in words.
    """

    name: str
    ok: bool | None
    text: str


def hash_line(manifest: bytes) -> bytes:
    """Content of ``manifest.sha256``, as ``sha256sum -c`` reads it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def entry(pieces: Iterable[bytes]) -> dict[str, Any]:
    """A file's entry in the manifest: ``sha256`` and ``size``."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return {"sha256": digest.hexdigest(), "size": size}


def read_manifest(raw: bytes, line: bytes, where: object) -> dict[str, Any]:
    """The manifest as plain values, once its hash has been compared.

    Raises:
        BundleError: The hash differs, or it is no manifest of this format.
    """
    if line != hash_line(raw):
        raise BundleError(
            f"{where} is damaged: {MANIFEST} does not match {HASH}.",
            why=f"{MANIFEST} has sha256 {hashlib.sha256(raw).hexdigest()}; {HASH} says {line[:64].decode('ascii', 'replace')!r}.",
            fix="fetch or pack the bundle again.",
        )
    try:
        plain: dict[str, Any] = json_text.loads(raw)
        form, listed = plain["format"], plain["files"]
        if form != 1:
            raise BundleError(
                f"{where} is a bundle of format {form!r}.", why="this edgemm reads format 1.", fix="open it with the edgemm that wrote it."
            )
        if not all(isinstance(value["sha256"], str) and isinstance(value["size"], int) for value in listed.values()):
            raise ValueError("a file's entry lacks its sha256 or size")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(f"{where}: {MANIFEST} is not one of edgemm's.", why=str(err), fix="pack the bundle again.") from err
    return plain


def slim_record(left_out: Iterable[str]) -> bytes:
    """Content of ``slim.json``."""
    return (json.dumps({"left_out": sorted(left_out)}, indent=1, ensure_ascii=False) + "\n").encode()


def read_slim(raw: bytes | None, listed: Mapping[str, Any], where: object) -> frozenset[str]:
    """The files that a slim bundle goes without; none where ``raw`` is None: a whole bundle has no such record.

    Args:
        listed: The manifest's ``files``.

    Raises:
        BundleError: It is not one of edgemm's, or it excuses what no box can do without.
    """
    if raw is None:
        return frozenset()
    try:
        names = frozenset(json_text.loads(raw)["left_out"])
        if raw != slim_record(names):
            raise ValueError("it is not byte for byte what edgemm writes.")
        if odd := next((name for name in sorted(names) if name not in listed or not MAY_GO.fullmatch(name)), None):
            raise ValueError(f"'{odd}' cannot be left out of this bundle.")
        there, gone = ({_target(name) for name in group} - {""} for group in (listed.keys() - names, names))
        if there & gone or not there:
            raise ValueError("no target is there whole.")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(f"{where}: {SLIM} is not one of edgemm's.", why=str(err), fix="make the slim bundle again.") from err
    return names


def _target(name: str) -> str:
    """The target that a file belongs to; "" where it is none's."""
    return name.split("/")[1] if name.startswith("targets/") else ""


def blame(manifest: bytes, line: bytes) -> str:
    """Which of the two is the damaged one; both, where that cannot be told."""
    if line == hash_line(manifest):
        return MANIFEST
    return f"{MANIFEST} or {HASH}" if LINE.fullmatch(line) else HASH


def compare(listed: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any] | str]) -> list[Check]:
    """One check for every file that is listed or there.

    Args:
        listed: The manifest's ``files``.
        found: Every file there, ``OWN`` left out -> its ``entry``, or words saying why it cannot be one.
    """
    checks = []
    for name, want in listed.items():
        got = found.get(name, "it is missing.")
        if isinstance(got, str):
            checks.append(Check(name, False, got))
        elif got["size"] != want["size"]:
            checks.append(Check(name, False, f"it has {got['size']} bytes, the manifest says {want['size']}."))
        elif got["sha256"] != want["sha256"]:
            checks.append(
                Check(name, False, f"its content changed: sha256 {got['sha256'][:12]}…, the manifest says {want['sha256'][:12]}….")
            )
        else:
            checks.append(Check(name, True, f"{want['size']} bytes, sha256 {want['sha256'][:12]}…"))
    for name, got in found.items():
        if name not in listed:
            checks.append(Check(name, False, got if isinstance(got, str) else "the manifest does not list it."))
    return checks


def sign(line: bytes, key: Path) -> bytes:
    """The ed25519 signature (64 bytes) of ``manifest.sha256``, made with a PEM private key.

    Raises:
        BundleError: Not an ed25519 private key.
        MissingExtra: The package cryptography is not installed.
    """
    signature: bytes = _private(key).sign(line)
    return signature


def public_hex(key: Path) -> str:
    """The public half of a private PEM key, 64 hex digits; it stands in the manifest as ``signer``."""
    raw: bytes = _private(key).public_key().public_bytes_raw()
    return raw.hex()


def check_signature(signer: str | None, line: bytes, signature: bytes | None, key: Path | None) -> list[Check]:
    """What can be said about the signature.

    Args:
        signer: Public key the manifest names, or None where the bundle is not signed.
        key: Public PEM key that the caller trusts; without it only damage can be found, not forgery.

    Raises:
        BundleError: ``key`` is not a public ed25519 key.
        MissingExtra: The package cryptography is not installed.
    """
    if signer is None:
        unsigned = Check(SIGNATURE, False, "the bundle is not signed, so nothing can be said with --key.")
        return [unsigned] if key else []
    if signature is None:
        return [Check(SIGNATURE, False, "it is missing, and the manifest names a signer.")]
    trusted = _public(key) if key else _public_of_hex(signer)
    if trusted is None:
        return [Check(MANIFEST, False, f"its signer {signer[:16]!r} is not an ed25519 key.")]
    if key and trusted.public_bytes_raw().hex() != signer:
        return [Check(SIGNATURE, False, f"it was signed by {signer[:16]}…, not by the key given.")]
    if not _holds(trusted, signature, line):
        return [Check(SIGNATURE, False, f"it is not the signature of this {HASH}.")]
    return [Check(SIGNATURE, True, f"signed by {signer[:16]}…" + ("" if key else "; give --key to find out whether that is who you trust"))]


def _crypto() -> Any:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "signing a bundle, or checking a signed one,") from err
    return exceptions, serialization, ed25519


def _private(path: Path) -> Any:
    _, serialization, ed25519 = _crypto()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as err:
        raise _no_key(path, "private", err) from err
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _no_key(path, "private", f"it is a {type(key).__name__}.")
    return key


def _public(path: Path) -> Any:
    _, serialization, ed25519 = _crypto()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as err:
        raise _no_key(path, "public", err) from err
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _no_key(path, "public", f"it is a {type(key).__name__}.")
    return key


def _public_of_hex(signer: str) -> Any:
    ed25519 = _crypto()[2]
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
    except ValueError:
        return None


def _holds(key: Any, signature: bytes, line: bytes) -> bool:
    try:
        key.verify(signature, line)
    except _crypto()[0].InvalidSignature:
        return False
    return True


def _no_key(path: Path, kind: str, reason: object) -> BundleError:
    make = "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub"
    return BundleError(f"'{path}' is not a {kind} ed25519 key in PEM form.", why=str(reason), fix=f"make a pair with: {make}")
