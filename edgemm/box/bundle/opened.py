"""The bundle: everything a box needs to run a model and to prove that it still does what it did. Written once, never changed.

A folder, or the same files in one ``.edgemm`` zip: ``manifest.json`` (format, card, every other file with size and sha256, accuracy,
provenance), ``manifest.sha256``, ``manifest.sig`` where signed, ``model.onnx`` (float), ``targets/<t>/model.onnx`` and ``options.json``,
``tokenizer.json`` (one text input) or ``<input>.tokenizer.json`` (several), ``golden.npz``, ``reference.npz``, ``standins.npz`` and the
graphs in parts, ``split/`` (float) and ``targets/<t>/split/`` (see ``parts``; large models go without), ``report.json``, ``report.html``.
A slim one names in ``slim.json`` what it goes without. No pickle, no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle import seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import TargetOptions, entries, target_of
from edgemm.box.bundle.parts import SplitFiles
from edgemm.box.bundle.seal import HASH, MANIFEST, SLIM, Check
from edgemm.box.bundle.verification import Verification, check_files, plain_bytes
from edgemm.contracts import card_file as cards
from edgemm.contracts import gate as gating
from edgemm.contracts import options, plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.gate import Gate
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report import read as read_report
from edgemm.contracts.target import fingerprint
from edgemm.errors import BundleError, Collector, EdgemmError, nearest
from edgemm.store import cache, json_text, stored_zip
from edgemm.store.artifact import folder_in_one_step, sha256_of

Made = TypeVar("Made")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: Where its files lie: the bundle itself, or the place in the cache that a zip was unpacked to.
        path: What was opened, for errors to name.
        manifest: ``manifest.json`` as plain values.
        card: The model's card; its ``model`` is the float ONNX.
        left_out: Files that the manifest lists and a slim bundle goes without.
    """

    folder: Path
    path: Path
    manifest: Mapping[str, Any]
    card: Card
    left_out: frozenset[str] = frozenset()

    @property
    def model(self) -> Path:
        """The float ONNX model.

        Raises:
            BundleError: This slim bundle goes without.
        """
        return self.there("model.onnx")

    @property
    def files(self) -> set[str]:
        """What of the manifest's files is there."""
        return set(self.manifest["files"]) - self.left_out

    def targets(self) -> list[str]:
        """Targets this bundle was made for and still holds, in the order of its recipe (sorted where it does not tell)."""
        held = sorted(target for target in map(target_of, self.files) if target)
        order = [str(name) for name in self.manifest.get("targets") or ()]
        return sorted(held, key=lambda name: order.index(name) if name in order else len(order))

    def target_model(self, target: str) -> Path:
        """The Q/DQ graph for ``target``."""
        self.require(target)
        return self.folder / "targets" / target / "model.onnx"

    def target_options(self, target: str) -> TargetOptions:
        """What ``options.json`` of ``target`` says.

        Raises:
            BundleError: The bundle holds nothing for ``target``, the file is not one of edgemm's, or the target has no such option.
        """
        self.require(target)
        name = f"targets/{target}/options.json"
        if name not in self.files:
            return TargetOptions()
        try:
            stored = TargetOptions(**json_text.loads((self.folder / name).read_bytes()))
            for key in ("target", "safe", "tuned", "fingerprint"):
                if not isinstance(getattr(stored, key), dict):
                    raise ValueError(f"'{key}' is no mapping.")
        except (OSError, ValueError, TypeError) as err:
            raise BundleError(f"{self.folder}: {name} cannot be read.", why=str(err), fix="pack the bundle again.") from err
        mistakes = Collector()
        if target in plugins.names("targets"):
            declared = plugins.options("targets", target)
            mistakes.errors += options.check(stored.target, declared, f"{self.folder}: {name}: target", BundleError)
        mistakes.raise_if_any()
        return stored

    def options_for(self, target: str, machine: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Runtime options for ``target`` on the machine of fingerprint ``machine``.

        Returns:
            The options, and in words why the tuned ones are not among them ("" when they are).
        """
        stored = self.target_options(target)
        try:
            return json_text.loads(self.tuned_here(target, machine).read_bytes()), ""
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

    def deployment(self, target: str) -> Deployment:
        """The Q/DQ graph on ``target`` as the recipe sets it, with the runtime options that are safe on any machine.

        Raises:
            BundleError: The bundle holds nothing for ``target``.
        """
        stored = self.target_options(target)
        return Deployment(target, self.target_model(target), stored.target, stored.safe)

    def deployment_here(self, target: str) -> tuple[Deployment, str]:
        """The same with the runtime options that hold on this machine, and as ``options_for`` why not the tuned ones.

        Raises:
            MissingExtra: Its runtime is not installed here.
        """
        deployment = self.deployment(target)
        options, reason = self.options_for(target, fingerprint(deployment.plugin()))
        return deployment.running(options), reason

    def golden(self) -> Golden | None:
        """The golden samples, or None where the bundle holds none."""
        return self._of_npz("golden.npz", Golden.of_arrays) if "golden.npz" in self.files else None

    def reference(self) -> Answers | None:
        """Labels and the original's answers, or None where the bundle holds none."""
        return self._of_npz("reference.npz", Answers.of_arrays) if "reference.npz" in self.files else None

    def split(self, target: str | None = None) -> SplitFiles:
        """The graphs in parts: ``target``'s own, or the float ones.

        Raises:
            BundleError: The bundle holds none (it was packed without, or its model is too large to be stored twice).
        """
        if target is not None:
            self.require(target)
        subfolder = f"targets/{target}/split" if target else "split"
        record = self.there(f"{subfolder}/{splits.RECORD}")
        if f"{subfolder}/{splits.RECORD}" not in self.files:
            raise BundleError(
                f"{self.folder} holds no split graphs{f' for {target}' if target else ''}.",
                why="it was packed without them: the model cannot be split, or is too large to be stored twice.",
                fix="run it as a whole, with every input there.",
            )
        split_files = splits.read(record.parent)
        listed = {self.folder / name for name in self.files}
        if not listed.issuperset(split_files.paths()):
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
        name = own if own in self.files else shared
        return self._of_npz(name, dict) if name in self.files else None

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

    def thresholds(self, target: str) -> dict[str, dict[str, float]]:
        """Output -> label -> the score from which it counts on ``target``, of outputs that have such; as the float graph's elsewhere: {}.

        Raises:
            BundleError: The manifest's entry is not one of edgemm's.
        """
        try:
            own = (self.manifest.get("thresholds") or {}).get(target) or {}
            return {str(output): {str(label): float(score) for label, score in labels.items()} for output, labels in own.items()}
        except (AttributeError, TypeError, ValueError) as err:
            raise BundleError(f"{self.folder}: {MANIFEST} has odd 'thresholds'.", why=str(err), fix="pack the bundle again.") from err

    def gates(self, target: str) -> list[Gate]:
        """Branches that run on ``target`` only where they can change the answer, cheapest first; [] where all run always.

        Raises:
            BundleError: The manifest's entry is not one of edgemm's.
        """
        try:
            own = gating.read((self.manifest.get("gates") or {}).get(target) or [])
            inputs = set(self.card.inputs)
            if not all({gate.run, *gate.after} <= inputs for gate in own):
                raise ValueError("a gate names no input of the model")
            return own
        except (AttributeError, TypeError, ValueError) as err:
            raise BundleError(f"{self.folder}: {MANIFEST} has odd 'gates'.", why=str(err), fix="pack the bundle again.") from err

    def expected(self, target: str, present: Iterable[str]) -> dict[str, Measurement]:
        """Output -> its accuracy on ``target`` with only the inputs ``present`` there; {} where nobody measured that."""
        modalities = set(present)
        measurements = (m for m in self.ledger() if m.target == target and set(m.modalities or ()) == modalities)
        return {str(m.output): m for m in measurements}

    def report(self) -> Report:
        """The report it was packed with.

        Raises:
            BundleError: This slim bundle goes without.
        """
        return read_report(self.there("report.json"))

    def require(self, target: str) -> None:
        """Raises BundleError where it holds nothing for ``target``."""
        self.there(f"targets/{target}/model.onnx")
        if target not in self.targets():
            raise BundleError(f"{self.path} holds nothing for the target '{target}'.", fix=nearest(target, self.targets()))

    def there(self, name: str) -> Path:
        """A file's place. Raises BundleError where this slim bundle goes without it."""
        if name in self.left_out:
            raise BundleError(
                f"{self.path} goes without {name}.",
                why=f"it is a slim bundle with what a box needs for {', '.join(self.targets())}.",
                fix="take the whole bundle that it was made of.",
            )
        return self.folder / name

    def _of_npz(self, name: str, make: Callable[[dict[str, np.ndarray]], Made]) -> Made:
        try:
            with np.load(self.folder / name, allow_pickle=False) as file:
                return make(dict(file))
        except Exception as err:  # numpy's, zipfile's and zlib's errors have no common base
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
            raw, line, slim = (
                b"".join(stored_zip.content(file, members[name])) if name in members else b"" for name in (MANIFEST, HASH, SLIM)
            )
            seal.read_manifest(raw, line, path)
    except stored_zip.Damaged as err:
        raise _damaged(path, err) from err
    folder = cache.root() / "bundles" / (sha256_of([line.decode(), slim.decode(errors="replace")]) if slim else line[:64].decode())
    cache.use(folder)
    try:
        return open_folder(folder, path)
    except BundleError:  # not unpacked yet, or somebody tidied the cache by hand
        with folder_in_one_step(folder, keep=lambda: _opens(folder)) as scratch:
            try:
                unpack(path, scratch)
            except stored_zip.Damaged as err:
                raise _damaged(path, err) from err
            Verification(path, tuple(check_files(scratch, path)[1])).raise_if_bad()
        return open_folder(folder, path)


def _opens(folder: Path) -> bool:
    try:
        open_folder(folder, folder)
    except BundleError:
        return False
    return True


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
    left_out = seal.read_slim(plain_bytes(folder / SLIM), manifest["files"], path)
    present = {name: file if isinstance(file, str) else {"size": file.stat().st_size} for name, file in entries(folder).items()}
    wrong = []
    for name, want in manifest["files"].items():
        got = present.get(name, "it is missing.")
        if name in left_out and name not in present:
            continue
        if isinstance(got, str) or got["size"] != want["size"]:
            wrong.append(Check(name, False, got if isinstance(got, str) else f"{got['size']} bytes instead of {want['size']}."))
    Verification(path, tuple(wrong)).raise_if_bad()
    return Bundle(folder, path, manifest, _card(manifest, folder, path), left_out - present.keys())


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
