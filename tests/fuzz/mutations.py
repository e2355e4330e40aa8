"""Mutations of good inputs, as hypothesis draws them: the fewer and the earlier in the lists, the simpler, so that findings shrink."""

import copy
import datetime
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import reject
from hypothesis import strategies as st

from edgemm.box.bundle import seal
from edgemm.box.bundle.packing import SUFFIX
from tests.fuzz import good

Draw = Callable[[st.SearchStrategy[Any]], Any]
NAMES = ["", "a" * 300, "ünï", "名前", "../up", "/", "a/b", "a.b", ".", " ", "split", "batch", "head", "fusion", "a\nb", "%s{}", "-", "0"]
NUMBERS = [0, 1, -1, 2, 3, 7, 1000, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1.5, 1e-9, 1e300, float("nan"), float("inf"), float("-inf")]
OTHERS = [None, True, False, [], {}, [[]], [{}], {"a": 1}, {1: 2}, [None], ["a", "a"], [1, 2, 3], {"a": {"b": [1]}}]
ONLY_YAML = [datetime.date(2020, 1, 1), b"bytes", {None: 1}, {True: 2}]
PIECES = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b",", b"'", b"{", b"]", b":", b"\t", b"- ", b"&a ", b"*a ", b"!!set ", b"!!int x ",
    b"2020-13-45 ", b"9" * 5000, b"[" * 9999, b"{a: " * 3000, b"\x80\x81" * 8,
]  # fmt: skip
INTEGERS = [0, 1, -1, 2, 3, 5, 13, 18, 21, 99, 2**31 - 1, -(2**31), 2**40]
EDITS = st.sampled_from([1, 1, 1, 2, 3])


def mutated(draw: Draw, kind: str, folder: Path) -> str:
    """Change what lies in ``folder``, a copy of a good input of ``kind``; returns in words what was changed."""
    return "; ".join(_CHANGES[kind](draw, folder) for _ in range(draw(EDITS)))


# Plain values: what YAML and JSON hold.


def plain(draw: Draw, tree: Any, *, yaml: bool = False) -> tuple[Any, str]:
    """``tree`` with one thing changed, and what."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree, ""))
    if not places or draw(st.integers(0, 29)) == 29:
        return draw(_values(tree, yaml)), "everything replaced"
    where, key, path = draw(st.sampled_from(places))
    change = draw(st.sampled_from([_drop, _replace, _rename, _double, _swap, _wrap]))
    return tree, f"{path}: {change(draw, where, key, tree, yaml)}"


def _places(tree: Any, path: str) -> Any:
    """Every (container, key, path) of a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key, f"{path}/{key}"
        yield from _places(tree[key], f"{path}/{key}")


def _values(tree: Any, yaml: bool) -> st.SearchStrategy[Any]:
    words = sorted({str(word) for where, key, _ in _places(tree, "") for word in (key, where[key]) if isinstance(word, str)})
    lists = [NUMBERS, OTHERS, NAMES, words or [""], *([ONLY_YAML] if yaml else [])]
    return st.sampled_from(lists).flatmap(st.sampled_from).map(copy.deepcopy)


def _drop(_: Draw, where: Any, key: Any, *__: Any) -> str:
    del where[key]
    return "dropped"


def _replace(draw: Draw, where: Any, key: Any, tree: Any, yaml: bool) -> str:
    where[key] = draw(_values(tree, yaml))
    return f"replaced by {where[key]!r:.60}"


def _rename(draw: Draw, where: Any, key: Any, tree: Any, yaml: bool) -> str:
    if isinstance(where, list):
        return _replace(draw, where, key, tree, yaml)
    name = draw(_values(tree, yaml).filter(lambda value: isinstance(value, str) or (yaml and isinstance(value, (int, float, type(None))))))
    entries = [(name if k == key else k, v) for k, v in where.items()]
    where.clear()
    where.update(entries)
    return f"renamed {name!r:.60}"


def _double(draw: Draw, where: Any, key: Any, tree: Any, yaml: bool) -> str:
    if isinstance(where, list):
        where.insert(key, copy.deepcopy(where[key]))
        return "doubled"
    name = draw(_values(tree, yaml).filter(lambda value: isinstance(value, str)))
    where[name] = copy.deepcopy(where[key])
    return f"doubled as {name!r:.60}"


def _swap(draw: Draw, where: Any, key: Any, tree: Any, _: bool) -> str:
    other, name, path = draw(st.sampled_from(list(_places(tree, ""))))
    taken, given = copy.deepcopy(where[key]), copy.deepcopy(other[name])
    other[name], where[key] = taken, given
    return f"swapped with {path}"


def _wrap(draw: Draw, where: Any, key: Any, *_: Any) -> str:
    where[key] = draw(st.sampled_from([[where[key]], {"a": where[key]}, str(where[key]), [where[key]] * 9]))
    return "wrapped"


# Bytes.


def raw(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """``content`` with one thing changed, and what."""
    place = draw(st.integers(0, max(0, len(content) - 1)))
    match draw(st.sampled_from(["flip", "remove", "insert", "cut", "empty", "double", "swap lines", "double line", "drop line"])):
        case "flip":
            bit = draw(st.integers(0, 7))
            return content[:place] + bytes([content[place] ^ 1 << bit] if content else b"\0") + content[
                place + 1 :
            ], f"bit {bit} of byte {place}"
        case "remove":
            return content[:place] + content[place + 1 :], f"byte {place} removed"
        case "insert":
            piece = draw(st.sampled_from(PIECES))
            return content[:place] + piece + content[place:], f"{piece[:8]!r} inserted at {place}"
        case "cut":
            return content[:place], f"cut at {place}"
        case "empty":
            return b"", "emptied"
        case "double":
            return content + content[place:], f"repeated from {place}"
        case words:
            return _lines(draw, content, words)


def _lines(draw: Draw, content: bytes, words: str) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True) or [b"\n"]
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    if words == "swap lines":
        lines[one], lines[other] = lines[other], lines[one]
    elif words == "double line":
        lines.insert(other, lines[one])
    else:
        del lines[one]
    return b"".join(lines), f"{words} {one} {other}"


# ONNX: any field of any message.


def proto(draw: Draw, model: onnx.ModelProto) -> str:
    """Change one field of the model, in place; returns what."""
    message, descriptor, path = draw(st.sampled_from(list(_fields(model, ""))))
    if _repeats(descriptor):
        return f"{path}: {_repeated(draw, getattr(message, descriptor.name), descriptor, model)}"
    if descriptor.message_type is not None or draw(st.integers(0, 3)) == 3:
        message.ClearField(descriptor.name)
        return f"{path} cleared"
    value = draw(_scalars(descriptor, getattr(message, descriptor.name), model))
    setattr(message, descriptor.name, value)
    return f"{path} = {value!r:.60}"


def _repeats(descriptor: Any) -> bool:
    return descriptor.is_repeated if hasattr(descriptor, "is_repeated") else descriptor.label == descriptor.LABEL_REPEATED


def _fields(message: Any, path: str) -> Any:
    for descriptor, value in message.ListFields():
        here = f"{path}.{descriptor.name}".lstrip(".")
        yield message, descriptor, here
        if descriptor.message_type is not None:
            for number, entry in enumerate(value if _repeats(descriptor) else [value]):
                yield from _fields(entry, f"{here}[{number}]" if _repeats(descriptor) else here)


def _repeated(draw: Draw, entries: Any, descriptor: Any, model: onnx.ModelProto) -> str:
    number = draw(st.integers(0, len(entries) - 1))
    change = draw(st.sampled_from(["removed", "doubled", "moved", "changed", "cleared"]))
    if change == "removed":
        del entries[number]
    elif change == "doubled":
        entries.extend([entries[number]])
    elif change == "moved":
        entry = copy.deepcopy(entries[number])
        del entries[number]
        entries.extend([entry])
    elif change == "cleared":
        del entries[:]
    elif descriptor.message_type is None:
        entries[number] = draw(_scalars(descriptor, entries[number], model))
        change = f"= {entries[number]!r:.60}"
    else:
        entries[number].CopyFrom(entries[draw(st.integers(0, len(entries) - 1))])
        change = "copied over"
    return f"[{number}] {change}"


def _scalars(descriptor: Any, value: Any, model: onnx.ModelProto) -> st.SearchStrategy[Any]:
    if isinstance(value, bytes):
        return st.sampled_from([value[:-1], value * 2, b"", value[:1], b"\0" * len(value), b"\xff" * len(value), b"NOTSET"])
    if isinstance(value, str):
        names = sorted({name for node in model.graph.node for name in (*node.input, *node.output, node.op_type, node.name)})
        return st.sampled_from([*names, *NAMES, "Loop", "If", "ai.onnx.ml", "Attention", "QuantizeLinear", "NonZero"])
    if isinstance(value, float):
        return st.sampled_from([float(number) for number in NUMBERS if abs(number) < 1e30 or number != number])
    if isinstance(value, bool):
        return st.just(not value)
    if descriptor.enum_type is not None:
        return st.sampled_from([entry.number for entry in descriptor.enum_type.values])
    wide = descriptor.cpp_type in (descriptor.CPPTYPE_INT64, descriptor.CPPTYPE_UINT64)
    signed = descriptor.cpp_type in (descriptor.CPPTYPE_INT64, descriptor.CPPTYPE_INT32)
    return st.sampled_from([number for number in INTEGERS if (wide or abs(number) <= 2**31 - 1) and (signed or number >= 0)])


# Files of each kind of input.


def _yaml_file(name: str) -> Callable[[Draw, Path], str]:
    def change(draw: Draw, folder: Path) -> str:
        path = folder / name
        try:
            tree = None if draw(st.integers(0, 3)) == 3 else good.read_yaml(path)
        except Exception:  # an earlier change left no YAML
            tree = None
        if isinstance(tree, (dict, list)):
            tree, words = plain(draw, tree, yaml=True)
            path.write_text(good.as_yaml(tree), encoding="utf-8")
        else:
            content, words = raw(draw, path.read_bytes())
            path.write_bytes(content)
        return f"{name} {words}"

    return change


def _any_file(draw: Draw, folder: Path, names: list[str] | None = None) -> str:
    """One file damaged, gone, a folder, or another's."""
    files = names or sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing left"
    name, how = draw(st.sampled_from(files)), draw(st.sampled_from(["damaged", "removed", "a folder", "a link to another", "another's"]))
    path, other = folder / name, folder / draw(st.sampled_from(files))
    if not path.is_file():
        return f"{name} is gone"
    if how == "damaged":
        content, words = raw(draw, path.read_bytes())
        path.write_bytes(content)
        return f"{name} {words}"
    content = other.read_bytes() if other.is_file() else b""
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a link to another":
        path.symlink_to(other)
    elif how == "another's":
        path.write_bytes(content)
    return f"{name} {how} {other.name}"


def _card(draw: Draw, folder: Path) -> str:
    if draw(st.integers(0, 7)) == 7:
        return _any_file(draw, folder, ["weights.safetensors", "tokenizer.json", "small.py"])
    return _yaml_file("model.yaml")(draw, folder)


def _manifest(draw: Draw, folder: Path) -> str:
    path = next(folder.glob("manifest.*"), folder)
    if not path.is_file():
        return "no manifest is left"
    how = draw(st.sampled_from(["cells", "cells", "cells", "bytes", "files"]))
    if how == "files":
        return _any_file(draw, folder, ["0.png", "1.png", "0.wav", "imu.npy", path.name])
    if how == "cells" and path.suffix == ".csv":
        table, words = plain(draw, good.read_csv(path))
        path.write_bytes(good.as_csv(table if isinstance(table, list) else [table]))
    elif how == "cells":
        rows, words = plain(draw, good.read_lines(path))
        path.write_bytes(good.as_lines(rows if isinstance(rows, list) else [rows]))
    else:
        content, words = raw(draw, path.read_bytes())
        path.write_bytes(content)
    return f"{path.name} {words}"


def _damaged_bundle(draw: Draw, folder: Path) -> str:
    zipped = folder / f"bundle{SUFFIX}"
    return _any_file(draw, folder, [zipped.name]) if zipped.exists() else _any_file(draw, folder / "bundle")


def _sealed_bundle(draw: Draw, folder: Path) -> str:
    """A bundle that is wrong inside and whose seal fits: what a fault of a writer, or a forger, would leave."""
    bundle = folder / "bundle"
    try:
        manifest = json.loads((bundle / seal.MANIFEST).read_bytes())
    except ValueError:  # an earlier change left no JSON
        return "left as it is"
    if draw(st.booleans()):
        manifest, words = plain(draw, manifest)
        words = f"{seal.MANIFEST} {words}"
    else:
        name = draw(st.sampled_from(sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())))
        words = f"{name} {_inside(draw, bundle / name)}"
        if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and name in manifest["files"]:
            content = (bundle / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    raw_manifest = json.dumps(manifest).encode()
    (bundle / seal.MANIFEST).write_bytes(raw_manifest)
    (bundle / seal.HASH).write_bytes(seal.hash_line(raw_manifest))
    return words


def _inside(draw: Draw, path: Path) -> str:
    if path.suffix == ".onnx":
        return _onnx_file(draw, path)
    if path.suffix == ".json" and path.name != seal.MANIFEST:
        try:
            tree, words = plain(draw, json.loads(path.read_bytes()))
        except ValueError:  # an earlier change left no JSON
            return "left as it is"
        path.write_bytes(json.dumps(tree).encode())
        return words
    if path.suffix == ".npz" and draw(st.booleans()):
        return _arrays(draw, path)
    content, words = raw(draw, path.read_bytes())
    path.write_bytes(content)
    return words


def _arrays(draw: Draw, path: Path) -> str:
    arrays = good.read_npz(path)
    if not arrays or any(array.dtype.kind not in "fiub" for array in arrays.values()):
        return "left as it is"
    name = draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    with np.errstate(invalid="ignore"):  # what is not finite becomes some whole number
        whole = array.astype("int64")
    changes = {
        "dropped": None, "renamed": array, "cut": array[:1] if array.ndim else None, "empty": array.reshape(-1)[:0],
        "flat": array.reshape(-1), "int": whole, "text": array.astype("U8"), "NaN": array * float("nan"),
        "wide": array[None],
    }  # fmt: skip
    how = draw(st.sampled_from(sorted(changes)))
    del arrays[name]
    if changes[how] is not None:
        arrays[draw(st.sampled_from(NAMES[1:])) if how == "renamed" else name] = changes[how]
    good.write_npz(path, arrays)
    return f"{name} {how}"


def _onnx_file(draw: Draw, path: Path) -> str:
    if draw(st.integers(0, 7)) == 7:
        content, words = raw(draw, path.read_bytes())
        path.write_bytes(content)
        return words
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        words = proto(draw, model)
    except Exception:  # an earlier change left no ONNX, or an empty one
        return "left as it is"
    path.write_bytes(model.SerializeToString())
    return words


def _run(draw: Draw, folder: Path) -> str:
    return _yaml_file("run.yaml")(draw, folder)


def _onnx(draw: Draw, folder: Path) -> str:
    return _onnx_file(draw, folder / "model.onnx")


def _valid_onnx(draw: Draw, folder: Path) -> str:
    """For ways that take seconds: what the checker refuses is refused at their beginning, and tried by ``_onnx``."""
    words = _onnx(draw, folder)
    try:
        onnx.checker.check_model((folder / "model.onnx").read_bytes())
    except Exception:  # protobuf's and the checker's errors have no common base
        reject()
    return words


_CHANGES: dict[str, Callable[[Draw, Path], str]] = {
    "card": _card, "recipe": _yaml_file("recipe.yaml"), "manifest": _manifest, "run": _run, "played": _run, "bundle": _damaged_bundle,
    "sealed": _sealed_bundle, "onnx": _onnx, "onnx_way": _valid_onnx, "whole_way": _valid_onnx,
}  # fmt: skip


def copied(source: Path, folder: Path) -> None:
    """``folder`` anew as a copy of ``source``."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
