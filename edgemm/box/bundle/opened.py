"""The bundle: everything a box needs to run a model and to prove that it still does what it did. Written once, never changed.

A folder, or the same files in one ``.edgemm`` zip: ``manifest.json`` (format, card, every other file with size and sha256, accuracy,
provenance), ``manifest.sha256``, ``manifest.sig`` where signed, ``model.onnx`` (float), ``targets/<t>/model.onnx`` and ``options.json``,
``tokenizer.json`` (one text input) or ``<input>.tokenizer.json`` (several), ``golden.npz``, ``reference.npz``, ``standins.npz`` and the
graphs in parts, ``split/`` (float) and ``targets/<t>/split/`` (see ``parts``; large models go without), ``report.json``, ``report.html``.
No pickle, no code.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle import seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import TargetOptions, entries, target_of
from edgemm.box.bundle.parts import SplitFiles
from edgemm.box.bundle.seal import HASH, MANIFEST, Check
from edgemm.box.bundle.verification import Verification, check_files, plain_bytes
from edgemm.contracts import card as cards
from edgemm.contracts import plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report import read as read_report
from edgemm.contracts.target import Target
from edgemm.errors import BundleError, EdgemmError, nearest
from edgemm.store import cache, stored_zip
from edgemm.store.artifact import folder_in_one_step, sha256_of


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: Where its files lie: the bundle itself, or the place in the cache that a zip was unpacked to.
        manifest: ``manifest.json`` as plain values.
        card: The model's card; its ``model`` is the float ONNX.
    """

    folder: Path
    manifest: Mapping[str, Any]
    card: Card

    @property
    def model(self) -> Path:
        """The float ONNX model."""
        return self.folder / "model.onnx"

    def targets(self) -> list[str]:
        """Targets this bundle was made for, in the order of its recipe (sorted where it does not tell)."""
        held = sorted(target for target in map(target_of, self.manifest["files"]) if target)
        order = [str(name) for name in self.manifest.get("targets") or ()]
        return sorted(held, key=lambda name: order.index(name) if name in order else len(order))

    def target_model(self, target: str) -> Path:
        """The Q/DQ graph for ``target``."""
        self._require(target)
        return self.folder / "targets" / target / "model.onnx"

    def target_options(self, target: str) -> TargetOptions:
        """What ``options.json`` of ``target`` says.

        Raises:
            BundleError: The bundle holds nothing for ``target``, or the file is not one of edgemm's.
        """
        self._require(target)
        name = f"targets/{target}/options.json"
        if name not in self.manifest["files"]:
            return TargetOptions()
        try:
            return TargetOptions(**json.loads((self.folder / name).read_bytes()))
        except (OSError, ValueError, TypeError) as err:
            raise BundleError(f"{self.folder}: {name} cannot be read.", why=str(err), fix="pack the bundle again.") from err

    def options_for(self, target: str, machine: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Runtime options for ``target`` on the machine of fingerprint ``machine``.

        Returns:
            The options, and in words why the tuned ones are not among them ("" when they are).
        """
        stored = self.target_options(target)
        try:
            return json.loads(self.tuned_here(target, machine).read_bytes()), ""
        except (OSError, ValueError):
            pass  # nobody compiled this bundle on this machine
        if not stored.tuned:
            return dict(stored.safe), "nothing was tuned for it."
        here = json.loads(json.dumps(dict(machine)))
        differ = sorted(key for key in {*stored.fingerprint, *here} if stored.fingerprint.get(key) != here.get(key))
        if differ:
            return dict(stored.safe), f"it was tuned on a machine that differs in {', '.join(differ)}; `edgemm compile` tunes here."
        return {**stored.safe, **stored.tuned}, ""

    def tuned_here(self, target: str, machine: Mapping[str, Any]) -> Path:
        """Where ``edgemm compile BUNDLE`` keeps the runtime options it chose on the machine of fingerprint ``machine``."""
        return cache.root() / "tuned" / f"{sha256_of([self.manifest, target, dict(machine)])[:32]}.json"

    def load_target(self, target: str) -> Target:
        """The target's plugin with the options of the recipe.

        Raises:
            MissingExtra: Its runtime is not installed here.
        """
        return plugins.find(Target, target)(**self.target_options(target).target)

    def golden(self) -> Golden | None:
        """The golden samples, or None where the bundle holds none."""
        return Golden.of_arrays(self._npz("golden.npz")) if "golden.npz" in self.manifest["files"] else None

    def reference(self) -> Answers | None:
        """Labels and the original's answers, or None where the bundle holds none."""
        return Answers.of_arrays(self._npz("reference.npz")) if "reference.npz" in self.manifest["files"] else None

    def split(self, target: str | None = None) -> SplitFiles:
        """The graphs in parts: ``target``'s own, or the float ones.

        Raises:
            BundleError: The bundle holds none (it was packed without, or its model is too large to be stored twice).
        """
        if target is not None:
            self._require(target)
        subfolder = f"targets/{target}/split" if target else "split"
        if f"{subfolder}/{splits.RECORD}" not in self.manifest["files"]:
            raise BundleError(
                f"{self.folder} holds no split graphs{f' for {target}' if target else ''}.",
                why="it was packed without them: the model cannot be split, or is too large to be stored twice.",
                fix="run it as a whole, with every input there.",
            )
        split_files = splits.read(self.folder / subfolder)
        listed = {self.folder / name for name in self.manifest["files"]}
        if not listed.issuperset({*split_files.branches.values(), split_files.rest}):
            raise BundleError(
                f"{self.folder}: {subfolder}/{splits.RECORD} names files that the bundle does not list.", fix="pack it again."
            )
        return split_files

    def standins(self, target: str | None = None) -> dict[str, np.ndarray] | None:
        """What replaces a missing input: cut tensor -> array for one sample; None where the bundle holds none.

        Args:
            target: Whose split graphs they are for: one whose cuts are not the float graph's has its own.
        """
        own, shared = f"targets/{target}/standins.npz", "standins.npz"
        name = own if own in self.manifest["files"] else shared
        return self._npz(name) if name in self.manifest["files"] else None

    def ledger(self) -> list[Measurement]:
        """The accuracy to expect on every target, output and subset of the inputs (``modalities``); [] where nobody measured it.

        Raises:
            BundleError: The manifest's entry is not one of edgemm's.
        """
        rows = self.manifest.get("subsets") or []
        try:
            return [Measurement(**{**row, "modalities": tuple(row["modalities"])}) for row in rows]
        except (TypeError, KeyError) as err:
            raise BundleError(f"{self.folder}: {MANIFEST} has odd 'subsets'.", why=str(err), fix="pack the bundle again.") from err

    def expected(self, target: str, present: Iterable[str]) -> dict[str, Measurement]:
        """Output -> its accuracy on ``target`` with only the inputs ``present`` there; {} where nobody measured that."""
        modalities = set(present)
        measurements = (m for m in self.ledger() if m.target == target and set(m.modalities or ()) == modalities)
        return {str(m.output): m for m in measurements}

    def report(self) -> Report:
        """The report it was packed with."""
        return read_report(self.folder / "report.json")

    def _require(self, target: str) -> None:
        if target not in self.targets():
            raise BundleError(f"{self.folder} holds nothing for the target '{target}'.", fix=nearest(target, self.targets()))

    def _npz(self, name: str) -> dict[str, np.ndarray]:
        try:
            with np.load(self.folder / name, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
            raise BundleError(f"{self.folder}: {name} cannot be read.", why=str(err), fix="pack the bundle again.") from err


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle: the manifest is compared with its hash, and every listed file must be there with its size (``verify`` does more).

    A zip is unpacked into the cache once, into a place named by its manifest's hash, after every file was compared with its hash.

    Raises:
        BundleError: Not a bundle, or a damaged one; names the files.
    """
    path = Path(path)
    if path.is_dir():
        return open_folder(path, path)
    require_zip(path)
    try:
        with path.open("rb") as file:
            members = {member.name: member for member in stored_zip.members(file)}
            raw, line = (b"".join(stored_zip.content(file, members[name])) if name in members else b"" for name in (MANIFEST, HASH))
            seal.read_manifest(raw, line, path)
    except stored_zip.Damaged as err:
        raise _damaged(path, err) from err
    folder = cache.root() / "bundles" / line[:64].decode()
    cache.use(folder)
    try:
        return open_folder(folder, path)
    except BundleError:  # not unpacked yet, or somebody tidied the cache by hand
        with folder_in_one_step(folder) as scratch:
            unpack(path, scratch)
            Verification(path, tuple(check_files(scratch, path)[1])).raise_if_bad()
        return open_folder(folder, path)


def open_folder(folder: Path, path: Path) -> Bundle:
    """The bundle whose files lie in ``folder``; errors speak of ``path``.

    Raises:
        BundleError: It is none, or a file is missing or of another size.
    """
    raw, line = plain_bytes(folder / MANIFEST), plain_bytes(folder / HASH)
    if raw is None or line is None:
        missing = MANIFEST if raw is None else HASH
        raise BundleError(
            f"{path} is not a bundle.", why=f"there is no {missing} in it.", fix="give the folder that compress wrote with -o."
        )
    manifest = seal.read_manifest(raw, line, path)
    present = {name: file if isinstance(file, str) else {"size": file.stat().st_size} for name, file in entries(folder).items()}
    wrong = []
    for name, want in manifest["files"].items():
        got = present.get(name, "it is missing.")
        if isinstance(got, str) or got["size"] != want["size"]:
            wrong.append(Check(name, False, got if isinstance(got, str) else f"{got['size']} bytes instead of {want['size']}."))
    Verification(path, tuple(wrong)).raise_if_bad()
    return Bundle(folder, manifest, _card(manifest, folder, path))


def _card(manifest: Mapping[str, Any], folder: Path, path: Path) -> Card:
    try:
        plain = {key: {name: value["card"] for name, value in manifest[key].items()} for key in ("inputs", "outputs")}
        return cards.parse({"model": "model.onnx", **plain, "columns": manifest.get("columns") or {}}, path=folder / MANIFEST)
    except (KeyError, TypeError, AttributeError, EdgemmError) as err:
        raise BundleError(f"{path}: {MANIFEST} does not describe a model.", why=str(err), fix="pack the bundle again.") from err


def require_zip(path: Path) -> None:
    """Raises BundleError where ``path`` is no zip file."""
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                return
    except OSError as err:
        raise BundleError(f"cannot open the bundle '{path}'.", why=str(err), fix="check the path.") from err
    raise BundleError(f"{path} is not a bundle.", why="it is neither a folder nor a zip.", fix="give what compress wrote with -o.")


def unpack(path: Path, folder: Path) -> None:
    """Write every member below ``folder``; names were checked by ``stored_zip.members``."""
    with path.open("rb") as file:
        for member in stored_zip.members(file):
            destination = folder / member.name
            destination.parent.mkdir(parents=True, exist_ok=True)
            with destination.open("xb") as out:
                out.writelines(stored_zip.content(file, member))


def _damaged(path: Path, err: stored_zip.Damaged) -> BundleError:
    name = err.member or path.name
    return BundleError(f"{path} fails verification: {name}.", why=f"{name}: {err.reason}", fix="fetch or pack the bundle again.")
