"""Writing a bundle: gather what goes in, describe it in a manifest, seal it, and put it in place in one step."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgemm.box.bundle import seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.seal import HASH, MANIFEST, OWN, SIGNATURE, SLIM
from edgemm.contracts import onnx_file
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.gate import Gate
from edgemm.contracts.modality import input_specs
from edgemm.contracts.report import Report
from edgemm.contracts.specs import TensorSpec
from edgemm.contracts.target import fingerprint
from edgemm.errors import BundleError, OutputError
from edgemm.store import json_text, stored_zip
from edgemm.store.artifact import file_in_one_step, folder_in_one_step, pieces, remove_leftovers, require_writable

SUFFIX = ".edgemm"
Files = Mapping[str, Path | bytes]


@dataclass(frozen=True)
class TargetOptions:
    """How a target is opened; ``targets/<t>/options.json``.

    Attributes:
        target: Options of the target itself, as the recipe gave them (``{"device": "CPU"}``).
        safe: Runtime options that always apply: what correctness asks for, such as a float type that branches marked fp32 need.
        tuned: Runtime options that were fastest on the machine of ``fingerprint``; they hold there alone.
        fingerprint: ``contracts.target.fingerprint`` of that machine.
        forbid: Float types that must not run on any machine, since the recipe keeps a branch in fp32.
    """

    target: Mapping[str, Any] = field(default_factory=dict)
    safe: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    forbid: Sequence[str] = ()

    @classmethod
    def of_deployment(cls, deployment: Deployment, *, safe: Mapping[str, Any], forbid: Sequence[str] = ()) -> TargetOptions:
        """Of a deployment whose runtime options were chosen on this machine."""
        return cls(deployment.options, safe, deployment.runtime_options, fingerprint(deployment.plugin()), forbid)

    def to_json(self) -> bytes:
        plain = {key: dict(getattr(self, key)) for key in ("target", "safe", "tuned", "fingerprint")} | {"forbid": list(self.forbid)}
        return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def pack(
    out: Path,
    *,
    card: Card,
    files: Files,
    report: Report,
    page: Callable[[Report], str] | None = None,
    golden: Golden | None = None,
    provenance: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    options: Mapping[str, TargetOptions] | None = None,
    reference: Answers | None = None,
    subsets: Sequence[Mapping[str, Any]] = (),
    thresholds: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
    gates: Mapping[str, Sequence[Gate]] = MappingProxyType({}),
    sign: Path | None = None,
) -> Path:
    """Write a bundle in one step, in the place of an older one.

    Args:
        out: A folder, or a file ending in ``.edgemm`` for the zip form.
        card: The model's card; a tokenizer it names is taken along.
        report: Written as ``report.json``, with the sizes of ``files`` among its details.
        page: Draws the report; what it returns is written as ``report.html``.
        files: Name in the bundle -> content: ``model.onnx``, ``targets/<t>/model.onnx``, external data beside them; what ``Ledger.files``
            names. The targets' order is that in which a box tries them.
        golden: Samples with the outputs of every target.
        provenance: Plain values saying how it was made; nothing that changes from run to run.
        accuracy: Output name -> plain values.
        options: Target -> how it is opened.
        reference: Labels and the original's answers on the test split.
        subsets: ``Ledger.manifest()``: the accuracy to expect of each target and output where inputs are missing.
        thresholds: Target -> output -> label -> the score from which it counts there.
        gates: Target -> branches that run there only where they can change the answer, cheapest first.
        sign: PEM private key (ed25519).

    Returns:
        ``out``.

    Raises:
        OutputError: ``out`` cannot be written, or holds something that is not a bundle.
        BundleError: ``model.onnx`` is missing among ``files``, a name is unsafe, ``sign`` is no key.
        CardError: The tokenizer that the card names cannot be read.
        TargetError: ``model.onnx`` is no ONNX file.
    """
    check_place(out)
    inputs, tokenizers = _describe_inputs(card)
    everything: dict[str, Path | bytes] = {**files, **tokenizers}
    everything |= {f"targets/{name}/options.json": target_options.to_json() for name, target_options in (options or {}).items()}
    everything |= {"golden.npz": stored_zip.npz_bytes(golden.arrays())} if golden else {}
    everything |= {"reference.npz": stored_zip.npz_bytes(reference.arrays())} if reference else {}
    _check_names(everything)
    sizes = {name: content.stat().st_size if isinstance(content, Path) else len(content) for name, content in sorted(everything.items())}
    report = replace(report, details=replace(report.details, files=sizes))
    everything |= {"report.json": report.to_json(), **({"report.html": page(report).encode()} if page else {})}
    manifest = {
        "format": 1,
        "inputs": inputs,
        "outputs": _describe_outputs(card, everything["model.onnx"]),
        "columns": dict(card.columns),
        "targets": [name for name in map(target_of, files) if name],
        "accuracy": dict(accuracy),
        "subsets": [dict(row) for row in subsets],
        **(
            {"thresholds": {target: {o: dict(own) for o, own in each.items()} for target, each in thresholds.items()}} if thresholds else {}
        ),
        **({"gates": {target: [gate.plain() for gate in own] for target, own in gates.items()}} if gates else {}),
        "provenance": dict(provenance),
        "signer": seal.public_hex(sign) if sign else None,
        "files": {name: seal.entry(pieces(everything[name])) for name in sorted(everything)},
    }
    raw = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    line = seal.hash_line(raw)
    everything |= {MANIFEST: raw, HASH: line} | ({SIGNATURE: seal.sign(line, sign)} if sign else {})
    return _write(out, everything)


def copy(folder: Path, out: Path, *, left_out: Collection[str] = ()) -> Path:
    """Write the bundle in ``folder`` again at ``out``, as a folder or as a zip, in one step.

    Args:
        left_out: Files that the copy goes without, by their names in the bundle; it then says so. A slim bundle lacks some already.

    Raises:
        OutputError: As ``pack``.
    """
    check_place(out)
    everything: dict[str, Path | bytes] = {name: path for name, path in entries(folder).items() if isinstance(path, Path)}
    if left_out:
        everything = {name: path for name, path in everything.items() if name not in left_out} | {SLIM: seal.slim_record(left_out)}
    return _write(out, everything)


def target_of(name: str) -> str:
    """The target whose model a file of a bundle is; "" where it is none's."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 and (parts[0], parts[2]) == ("targets", "model.onnx") else ""


def check_place(out: Path) -> None:
    """Find out, before any work, whether a bundle can be written at ``out``.

    Raises:
        OutputError: It is not writable, or holds something that would be lost and is not a bundle.
    """
    holds = _zip_place(out) if out.suffix == SUFFIX else _folder_place(out)
    if holds:
        raise OutputError(f"cannot write a bundle to {out}.", why=holds, fix="choose another place with -o, or clear that one yourself.")
    try:
        require_writable(out.parent)
    except OutputError as err:
        raise OutputError(f"cannot write {out}.", why=err.why, fix=err.fix) from err


def entries(folder: Path) -> dict[str, Path | str]:
    """Every file below ``folder`` by its name in a bundle, or words saying why it can be none (a link, a device)."""
    files: dict[str, Path | str] = {}
    for parent, folders, names in os.walk(folder):
        for name in [*names, *(inner for inner in folders if os.path.islink(os.path.join(parent, inner)))]:
            path = Path(parent, name)
            fits = path.is_file() and not path.is_symlink()
            files[path.relative_to(folder).as_posix()] = path if fits else "it is a link or a device; a bundle holds plain files."
    return dict(sorted(files.items()))


def _zip_place(out: Path) -> str:
    if out.is_dir():
        return "a folder stands there."
    if out.exists():
        with out.open("rb") as file:
            return "" if file.read(4) in (b"PK\3\4", b"") else "a file that is no bundle stands there."
    return ""


def _folder_place(out: Path) -> str:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return ""
    if not out.is_dir():
        return "a file stands there."
    try:
        listed = json_text.loads((out / MANIFEST).read_bytes())["files"]
        foreign = [name for name in entries(out) if name not in listed and name not in OWN]
    except (OSError, ValueError, KeyError, TypeError):
        return "the folder is not empty and is no bundle."
    return f"the bundle there holds files that it does not list: {', '.join(foreign[:3])}." if foreign else ""


def _describe_inputs(card: Card) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The card's inputs with their tensors, options as they are inside the bundle; and the tokenizers to take along."""
    placed, tokenizers = card.with_tokenizers()
    tensors = {spec.name: {"dtype": spec.dtype, "shape": list(spec.shape)} for spec in input_specs(card)}
    return {name: {"card": entry, "tensor": tensors[name]} for name, entry in placed.to_dict()["inputs"].items()}, tokenizers


def _describe_outputs(card: Card, model: Path | bytes) -> dict[str, Any]:
    """The card's outputs with their ``tensor``, or the ``tensors`` that one joins, as the float model declares them."""
    described: dict[str, Any] = {name: {"card": entry} for name, entry in card.to_dict()["outputs"].items()}
    owners = tasks.tensors(card)
    for spec in _outputs_of(model):
        tensor = {"dtype": spec.dtype, "shape": list(spec.shape)}
        if spec.name in described:
            described[spec.name]["tensor"] = tensor
        elif spec.name in owners:
            described[owners[spec.name]].setdefault("tensors", {})[spec.name] = tensor
    return described


def _outputs_of(model: Path | bytes) -> Sequence[TensorSpec]:
    if isinstance(model, Path):
        return onnx_file.read(model).outputs
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        path = Path(scratch) / "model.onnx"
        path.write_bytes(model)
        return onnx_file.read(path).outputs


def _check_names(everything: Files) -> None:
    if "model.onnx" not in everything:
        raise BundleError("a bundle needs 'model.onnx', the float model.", why=f"given were {', '.join(sorted(everything))}.")
    for name in everything:
        if not stored_zip.is_safe(name) or name in OWN:
            raise BundleError(
                f"a file of a bundle cannot be called '{name}'.", why="names are relative, without '..', and not the seal's own."
            )


def _write(out: Path, everything: Files) -> Path:
    if out.suffix == SUFFIX:
        remove_leftovers(out)
        with file_in_one_step(out) as file:
            stored_zip.write(file, everything)
        return out
    with folder_in_one_step(out) as scratch:
        for name, content in everything.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(pieces(content))
    return out
