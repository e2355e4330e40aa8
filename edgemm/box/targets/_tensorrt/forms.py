"""The forms of a graph, as files: with INT8 or without, f16 or f32 around it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm.box.targets._tensorrt.cache import onnx_sha, root
from edgemm.contracts import onnx_file, stage_code
from edgemm.errors import MissingExtra
from edgemm.store import cache
from edgemm.store.artifact import folder_in_one_step


@functools.cache
def has_onnx() -> bool:
    return importlib.util.find_spec("onnx") is not None


def companion(path: Path, form: str) -> Path:
    return path.with_name(f"{path.stem}.{form.replace('+', '-')}.onnx")


def quantized_form(path: Path, precision: str) -> str:
    """What a graph with quantizers computes in: ``int8+f16``; ``w4+f16`` where weights alone are in few bits."""
    return "+".join([*onnx_file.read(path).precision_words, precision])


def form_of(path: Path, options: Mapping[str, Any]) -> tuple[Path, str]:
    """The file to build from, and what it computes in: ``int8+f16``.

    Made with the onnx package, kept in the cache; or found beside the graph where a bundle brought it.

    Raises:
        MissingExtra: The form must be made, and the onnx package is not installed.
    """
    precision = str(options.get("precision", "f32"))
    quantized = onnx_file.read(path).is_quantized
    int8 = quantized and options.get("int8", "on") == "on"
    form = quantized_form(path, precision) if int8 else precision
    if companion(path, form).is_file():
        return companion(path, form), form
    if quantized and not int8 and (floats := _floats_of(path)) is not None:
        path, quantized = floats, False
    as_it_is = precision == "f32" and int8 == quantized
    if not has_onnx():
        if as_it_is:
            return path, form
        raise MissingExtra(
            f"tensorrt: '{path.name}' in {form} must be made from the graph, and the package 'onnx' is not installed.",
            why="a strongly typed network has its types in the graph.",
            fix=f"pip install onnx, or run it as {'int8+f32' if quantized else 'f32'}: precision f32{', int8 on' if quantized else ''}.",
        )
    code = stage_code.of("edgemm.graph.tensorrt").digest
    folder = root(onnx_sha(path)) / "forms" / f"{form.replace('+', '-')}-{code[:16]}"
    cache.use(folder.parents[1])
    if not (folder / "model.onnx").is_file():
        from edgemm.graph import files
        from edgemm.graph.tensorrt import form as make

        with folder_in_one_step(folder, keep=(folder / "model.onnx").is_file) as scratch:
            files.save(make(files.load(path), precision=precision, int8=int8), scratch / "model.onnx")
    return folder / "model.onnx", form


def _floats_of(path: Path) -> Path | None:
    """A bundle's float graph, for its graph with quantizers: better weights than those that were rounded."""
    if path.absolute().parts[-3:-1] != ("targets", "tensorrt"):
        return None
    floats = path.absolute().parents[2] / "model.onnx"
    return floats if floats.is_file() and not onnx_file.read(floats).is_quantized else None
