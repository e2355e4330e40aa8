"""Reading a card: from a file, a folder or the name of a shipped one, checked whole."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import joint as joints
from edgemm.contracts import options, plugins, train_section, written
from edgemm.contracts.card import FILL_IN, Card, Input, Output, fed_by
from edgemm.errors import CardError, Collector, EdgemmError, nearest
from edgemm.store import utf8

KEYS = ("factory", "kwargs", "weights", "model", "source", "inputs", "outputs", "columns", "applied", "joint", "train")
STRINGS = ("factory", "model", "source")
INPUT_KEYS = ("modality", "optional", "steps")
OUTPUT_KEYS = ("task", "auxiliary")
TORCHSCRIPT = (".ts", ".torchscript", ".jit", ".ptl")
PICKLED = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".pkl", *TORCHSCRIPT)
"""How files end that hold weights, or a program of TorchScript."""
TENSORFLOW = {
    ".tflite": "--tflite {name}", ".h5": "--keras {name}", ".hdf5": "--keras {name}", ".keras": "--keras {name}",
    ".pb": "--graphdef {name} --inputs ... --outputs ...",
}  # fmt: skip
"""Endings of models of TensorFlow, and how tf2onnx is told of them."""
BUILT = {
    ".xml": "OpenVINO", ".engine": "TensorRT", ".plan": "TensorRT", ".mlmodel": "Core ML", ".mlpackage": "Core ML", ".ort": "ONNX Runtime",
    ".dlc": "SNPE", ".ncnn": "ncnn", ".pte": "ExecuTorch",
}  # fmt: skip
"""Endings of models in the form of one runtime, from which no way leads back to ONNX."""
SHIPPED = Path(__file__).parents[1] / "workshop" / "models" / "cards"


def locate(name_or_path: str | Path) -> Path:
    """The file of a card: a path, a folder holding ``model.yaml``, or the name of a shipped card.

    Raises:
        CardError: There is no such file and no such shipped card.
    """
    path = Path(name_or_path)
    if path.is_dir() and (path / "model.yaml").is_file():
        return path / "model.yaml"
    if (path / "config.json").is_file():
        raise CardError(
            f"'{path}' is a Hugging Face folder without a card.",
            why="what the model takes and what its labels mean stands in a model card.",
            fix=f"draft one: edgemm init {path} -o model.yaml",
        )
    refuse_weights(path)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name_or_path}.yaml"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    raise CardError(
        f"no model card at '{name_or_path}'.",
        why="neither a file, nor a folder with a model.yaml in it, nor the name of a shipped card.",
        fix=nearest(str(name_or_path), [file.stem for file in SHIPPED.glob("*.yaml")]),
    )


def refuse_weights(path: Path) -> None:
    """Refuse a file of weights, a program of TorchScript or another runtime's model, where a card or a factory is asked for.

    Raises:
        CardError: It is one.
    """
    _refuse_other_forms(path)
    if not path.is_file() or not (path.name.endswith((*PICKLED, ".safetensors")) or _is_torchscript(path)):
        return
    fix = f"draft one: edgemm init module:build --input image=3x64x64; then write `weights: {path.name}` in it."
    if not path.name.endswith(TORCHSCRIPT) and not _is_torchscript(path):
        why = "what builds the model, what it takes and what its answers mean stands in a card; such a file holds weights at most."
        raise CardError(f"'{path}' is no model card.", why=why, fix=fix)
    raise CardError(
        f"'{path}' is a TorchScript program, no model card.",
        why="opening it could run code.",
        fix=f"if you trust it, write it as ONNX, in Python: torch.onnx.export(torch.jit.load('{path.name}', 'cpu'), (example,), "
        "'model.onnx', dynamo=False), and give model.onnx. To prune it or train it on, name the code that builds it as a factory, and its "
        f"weights: torch.save(torch.jit.load('{path.name}', 'cpu').state_dict(), 'weights.pt').",
    )


def _refuse_other_forms(path: Path) -> None:
    ending = path.suffix.lower()
    if not path.exists() or ending not in (*TENSORFLOW, *BUILT):
        return
    if ending in TENSORFLOW:
        told = TENSORFLOW[ending].format(name=path.name)
        why, fix = "models are read as ONNX.", f"convert it: python -m tf2onnx.convert {told} --output model.onnx; then"
    else:
        why, fix = (
            f"it is in the form of {BUILT[ending]}, from which no way leads back; models are ONNX.",
            "export it as ONNX; then",
        )
    raise CardError(f"'{path}' is no model card.", why=why, fix=f"{fix} draft a card of that: edgemm init model.onnx -o model.yaml")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load(name_or_path: str | Path) -> Card:
    """Read and check a card.

    Raises:
        CardError: One mistake in it.
        Mistakes: Several.
    """
    path = locate(name_or_path)
    text = _read(path)
    try:
        plain = written.load(text, _means_text)
    except yaml.YAMLError as err:
        raise CardError(f"{path} is not YAML.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    if isinstance(plain, dict):
        _refuse_unfilled(path, text)
    return parse(plain, path=path)


def beside(model: Path) -> Card | None:
    """The ``model.yaml`` beside a model's file where it is about that file.

    Raises:
        CardError, Mistakes: As ``load``.
    """
    path = model.parent / "model.yaml"
    card = load(path) if path.is_file() else None
    return card if card and card.model_path and card.model_path.resolve() == model.resolve() else None


def parse(plain: Any, *, path: Path | None = None) -> Card:
    """Make a Card of plain values, checking all of it.

    Raises:
        CardError, Mistakes: As ``load``.
    """
    where = str(path) if path else "the card"
    if not isinstance(plain, dict):
        raise CardError(f"{where} is not a mapping.", fix="a card has the keys factory or model, inputs and outputs.")
    mistakes = Collector()
    for key in plain:
        if key not in KEYS:
            mistakes.add(CardError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    for key in ("inputs", "outputs"):
        if not isinstance(plain.get(key), dict) or not plain[key]:
            mistakes.add(CardError(f"{where}: '{key}' is missing or empty.", fix=f"list at least one entry under {key}:."))
    if bool(plain.get("factory")) == bool(plain.get("model")):
        mistakes.add(
            CardError(
                f"{where}: it needs either 'factory' or 'model'.",
                why="both are given." if plain.get("factory") else "neither is given.",
                fix="factory: module:callable for a PyTorch model, model: file.onnx for an ONNX file.",
            )
        )
    for key, kind in {"kwargs": dict, "columns": dict, "applied": list, **dict.fromkeys(STRINGS, str)}.items():
        if plain.get(key) is not None and not isinstance(plain[key], kind):
            mistakes.add(CardError(f"{where}: '{key}' must be a {kind.__name__}, not {plain[key]!r}."))
    if str(plain.get("model")).endswith(PICKLED):
        mistakes.add(
            CardError(
                f"{where}: 'model: {plain['model']}' is neither an ONNX file nor a .pt2 program.",
                why="a pickle or a TorchScript program can run code when it is opened.",
                fix="name what builds the model (factory: module:callable) and its weights (weights: FILE); or write it with "
                "torch.onnx.export or torch.export.save, and name that file.",
            )
        )
    with mistakes.catch():
        weights, weights_key, branch_weights = _weights(plain.get("weights"), where)
    mistakes.raise_if_any()
    inputs = {str(name): _input(str(name), value, where, mistakes) for name, value in plain["inputs"].items()}
    outputs = {str(name): _output(str(name), value, where, mistakes) for name, value in plain["outputs"].items()}
    _check_names(inputs, outputs, plain.get("columns") or {}, where, mistakes)
    joint = plain.get("joint")
    with mistakes.catch():
        joint = joints.parse(joint, inputs, {name: spec.task for name, spec in outputs.items() if spec}, where) if joint else None
    train = _train(plain.get("train"), inputs, outputs, path, where, mistakes)
    mistakes.raise_if_any()
    plain_values: dict[str, Any] = {key: plain.get(key) for key in STRINGS} | {key: plain.get(key) or {} for key in ("kwargs", "columns")}
    return Card(
        inputs={name: spec for name, spec in inputs.items() if spec},
        outputs={name: spec for name, spec in outputs.items() if spec},
        path=path.resolve() if path else None,
        weights=weights,
        weights_key=weights_key,
        branch_weights=branch_weights,
        applied=tuple(plain.get("applied") or ()),
        joint=joint,
        train=train,
        **plain_values,
    )


def _train(
    plain: Any, inputs: Mapping[str, Input | None], outputs: Mapping[str, Output | None], path: Path | None, where: str, mistakes: Collector
) -> dict[str, Any]:
    """The section ``train``, where what it speaks of is right."""
    known = {name: spec for name, spec in inputs.items() if spec}, {name: spec for name, spec in outputs.items() if spec}
    if not plain or (len(known[0]), len(known[1])) != (len(inputs), len(outputs)):
        return {}
    folder = path.resolve().parent if path else Path.cwd()
    return train_section.parse(plain, f"{where}: {train_section.NAME}", *known, mistakes, folder=folder)


def _means_text(plain: Any, path: written.Path) -> bool:
    """Where a card means a word: labels, names, units, paths."""
    if path[0] in ("factory", "weights", "model", "source", "columns"):
        return True
    if path[0] == train_section.NAME:
        return train_section.means_text(path[1:])
    kind, word = {"inputs": ("modalities", "modality"), "outputs": ("tasks", "task")}.get(str(path[0]), ("", ""))
    if not kind or len(path) < 3:
        return False
    entry = plain[path[0]][path[1]]
    return path[2] == word or (
        isinstance(entry, dict)
        and entry.get(word) in plugins.names(kind)
        and options.means_text(plugins.options(kind, entry[word]), path[2:])
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise CardError(f"cannot read the card {path}.", why=utf8.why(err), fix=utf8.fix(path, err)) from err
    except OSError as err:
        raise CardError(f"cannot read the card {path}.", why=str(err), fix="check the path and its permissions.") from err


def _refuse_unfilled(path: Path, text: str) -> None:
    mistakes = Collector()
    for number, line in enumerate(text.splitlines(), 1):
        if line.rstrip().endswith(FILL_IN):
            name = line.split(":")[0].strip(" -{")
            mistakes.add(CardError(f"{path}, line {number}: '{name}' is not filled in.", fix=f"write its value and remove '{FILL_IN}'."))
    mistakes.raise_if_any()


def _weights(plain: Any, where: str) -> tuple[str | None, str | None, dict[str, str]]:
    """The file, and the key in it where one is named; or files of single branches."""
    if plain is None or isinstance(plain, str):
        return plain, None, {}
    if isinstance(plain, dict) and plain and all(isinstance(value, str) and value for value in plain.values()):
        if set(plain) == {"file", "key"}:
            return plain["file"], plain["key"], {}
        if not set(plain) & {"file", "key"}:
            return None, None, {str(name): file for name, file in plain.items()}
    raise CardError(
        f"{where}: 'weights' must be a file, or a file and a key in it, not {plain!r}.",
        fix="write `weights: best.pt`, or `weights: {file: best.pt, key: ema_state_dict}`; "
        "of single branches: `weights: {image: a.safetensors}`.",
    )


def _input(name: str, plain: Any, where: str, mistakes: Collector) -> Input | None:
    here = f"{where}: inputs.{name}"
    modality, chosen = _variant("modalities", plain, INPUT_KEYS, here, mistakes)
    if modality and not isinstance(plain.get("optional", False), bool):
        mistakes.add(CardError(f"{here}.optional: {plain['optional']!r} is not true or false.", fix="write true or false."))
        return None
    steps = plain.get("steps") if modality else None
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        mistakes.add(CardError(f"{here}.steps: {steps!r} is not a number of steps.", fix="write a whole number of at least 1."))
        return None
    return Input(name, modality, chosen, bool(plain.get("optional", False)), steps) if chosen is not None else None


def _output(name: str, plain: Any, where: str, mistakes: Collector) -> Output | None:
    here, errors = f"{where}: outputs.{name}", list[EdgemmError]()
    task, chosen = _variant("tasks", plain, OUTPUT_KEYS, here, mistakes)
    auxiliary = _auxiliary((plain.get("auxiliary") if chosen is not None else None) or {}, f"{here}.auxiliary", errors)
    for error in errors:
        mistakes.add(error)
    return Output(name, task, chosen, auxiliary) if chosen is not None and not errors else None


def _auxiliary(plain: Any, where: str, errors: list[EdgemmError]) -> dict[int | str, float]:
    """Weights by place or name; a place may have become text on its way through JSON."""
    weights: dict[int | str, float] = {}
    for key, weight in plain.items() if isinstance(plain, dict) else [(plain, None)]:
        if isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight < float("inf"):
            weights[int(key) if str(key).isdigit() else str(key)] = float(weight)
        else:
            fix = "write {1: 0.4}: the second value of the tuple at 0.4 of the loss, or {aux: 0.4} where forward returns names."
            errors.append(CardError(f"{where}: {key if weight is None else weight!r} is no weight above 0.", fix=fix))
    return weights


def _variant(kind: str, plain: Any, own: tuple[str, ...], here: str, mistakes: Collector) -> tuple[str, dict[str, Any] | None]:
    """The modality or task that an entry names, "" where it names none that is known; and its options, None where one is wrong."""
    key, known = plugins.singular(kind), plugins.names(kind)
    if not isinstance(plain, dict) or key not in plain:
        mistakes.add(CardError(f"{here}: '{key}' is missing.", fix=f"one of: {', '.join(known)}."))
        return "", None
    name = plain[key]
    if name not in known:
        mistakes.add(CardError(f"{here}: unknown {key} '{name}'.", fix=nearest(str(name), known)))
        return "", None
    declared = plugins.options(kind, name)
    errors = options.check(plain, declared, here, CardError, skip=own)
    chosen = {option: value for option, value in plain.items() if option not in own}
    for option, declaration in declared.items():
        if options.mentions(declaration.annotation, "Labels") and chosen.get(option) is not None:
            chosen[option] = _labels(chosen[option], f"{here}.{option}", errors)
    for error in errors:
        mistakes.add(error)
    return name, None if errors else chosen


def _labels(names: Any, where: str, errors: list[EdgemmError]) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        errors.append(CardError(f"{where}: {names!r} is not a list of names.", fix="labels: [first, second]"))
        return ()
    if None in names:
        errors.append(CardError(f"{where}: the entry at {names.index(None)} is empty.", fix="write its name; 'null' in quotes is a word."))
    words = {True: "yes", False: "no"}  # of a card made in Python; one in YAML has every label as it was written
    labels = tuple(words[value] if isinstance(value, bool) else str(value) for value in names)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        errors.append(CardError(f"{where}: '{twice[0]}' stands there twice.", fix="give every class one name of its own."))
    return labels


def _check_names(
    inputs: Mapping[str, Input | None], outputs: Mapping[str, Output | None], columns: Mapping[str, Any], where: str, mistakes: Collector
) -> None:
    for name in sorted(set(inputs) & set(outputs)):
        mistakes.add(CardError(f"{where}: '{name}' is both an input and an output.", fix="give the two different names."))
    for name in inputs:
        if name in ("fusion", "head") or name.startswith("head:"):
            mistakes.add(CardError(f"{where}: an input cannot be called '{name}'.", why="recipes use that word for a part of the model."))
    names = [*inputs, *outputs]
    for column, ours in ((column, ours) for column, entry in columns.items() for ours in fed_by(entry)):
        if ours not in names:
            mistakes.add(
                CardError(f"{where}: columns.{column} names '{ours}', which is no input or output.", fix=nearest(str(ours), names))
            )
    for spec in outputs.values():
        if spec:
            _check_references(spec, inputs, outputs, where, mistakes)


def _check_references(spec: Output, inputs: Mapping[str, Any], outputs: Mapping[str, Any], where: str, mistakes: Collector) -> None:
    """An option that names an input or output of the card has to name one that is there."""
    for key, option in plugins.options("tasks", spec.task).items():
        for annotation, what, there in (("OutputName", "output", outputs), ("InputName", "input", inputs)):
            value = spec.options.get(key) if options.mentions(option.annotation, annotation) else None
            for name in [value] if isinstance(value, str) else value or ():
                if name not in there:
                    mistakes.add(CardError(f"{where}: outputs.{spec.name}.{key} names '{name}', no {what}.", fix=nearest(str(name), there)))
