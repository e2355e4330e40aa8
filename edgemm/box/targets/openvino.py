"""OpenVINO: Intel processors. Every model runs with static shapes and a stated float precision.

Why static: with a free batch axis OpenVINO 2026.4 computes some INT8 graphs wrongly. Why stated: on processors with AMX its own
default runs a float model in bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgemm.box.targets._openvino import ir
from edgemm.box.targets._openvino.session import OpenVINOSession
from edgemm.contracts import onnx_file
from edgemm.contracts.onnx_file import OnnxFile
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import Numerics, Session, Target
from edgemm.errors import TargetError
from edgemm.store.cache import version
from edgemm.store.instructions import onednn_instructions, saturates
from edgemm.store.machine import usable_cores

PACKAGES = ("openvino",)
PREFERRED = 1
FORMS = {".onnx": "told", ".xml": "told"}
OPTIONS = {
    "threads": "int", "precision": "'f32' | 'bf16' | 'f16' | 'default'", "streams": "int", "profile": "'on' | 'off'",
    "snippets": "'on' | 'off' | 'single'",
}  # fmt: skip
"""Runtime options.

``profile: on`` times every layer (``LayerRan.time_us``, an average over the runs so far); it costs some speed.
``snippets``: OpenVINO's just-in-time fusions. In 2026.4 they compute INT8 chains of linear layers wrongly (Linear, Mul per channel, Q/DQ,
Linear: off by 10^9 times its value; Linear, Sigmoid, Mul, Q/DQ, Linear: the process dies while compiling), and INT8 attention in bf16 (8 dB
instead of 40). So they are off for a quantized graph unless asked for; float graphs keep them. ``single``: on for a batch of one alone,
which is what was proved where they were found right on a quantized graph, and faster.
"""
FLOATS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
"""Our word for a runtime precision -> the recipe's word for a branch's."""


class OpenVINO(Target):
    """OpenVINO on the CPU.

    Args:
        device: OpenVINO's name of the device.
        threads: Threads; None = choose by measuring.
        precision: Float precision of what is not INT8; ``auto`` = choose by measuring.
        snippets: OpenVINO's just-in-time fusions; ``auto`` = on for float graphs, and for a quantized graph that they are proved to
            compute rightly and faster. ``on`` is for a version that computes all of them rightly: branches that the parity ladder finds
            wrong are kept in float.
    """

    numerics = Numerics(activations="mixed", floats=("fp32", "bf16", "fp16"), weight_bits=(4, 8), narrow_weights=saturates())

    def __init__(
        self,
        *,
        device: str = "CPU",
        threads: int | None = None,
        precision: Literal["auto", "f32", "bf16", "f16"] = "auto",
        snippets: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        self._device = device
        self._threads = threads
        self._precision = precision
        self._snippets = snippets

    def describe(self, model: Path) -> OnnxFile:
        return ir.read(model) if model.suffix == ".xml" else onnx_file.read(model)

    def open(self, artifact: Path, **options: Any) -> Session:
        check_options("openvino", options, OPTIONS)
        return OpenVINOSession(artifact, self._device, self._fixed() | options)

    def choices(self, *, forbid: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        threads = [self._threads] if self._threads else sorted({1, usable_cores()})
        bf16 = ["bf16"] if onednn_instructions() & {"amx_bf16", "avx512_bf16"} else []
        precisions = [self._precision] if self._precision != "auto" else ["f32", *bf16]
        allowed = [word for word in precisions if FLOATS[word] not in forbid and word not in forbid]
        if not allowed:
            raise TargetError(
                f"openvino: precision '{self._precision}' is asked for, and a branch forbids it.",
                why=f"the recipe keeps a branch in fp32, which forbids {', '.join(sorted(forbid))}.",
                fix="set targets.openvino.precision to f32, or lift the branch's precision.",
            )
        return [{"threads": count, "precision": word} for word in allowed for count in threads]

    def unsafe_choices(self, options: Mapping[str, Any], model: Path) -> list[dict[str, Any]]:
        if self._snippets != "auto" or model.suffix != ".onnx":
            return []
        face = onnx_file.read(model)
        proved_is_all = all(isinstance(size, int) or size == BATCH for spec in face.inputs for size in spec.shape)
        return [{**options, "snippets": "single"}] if face.is_quantized and proved_is_all else []

    def without_unsafe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key != "snippets"}

    def float_options(self) -> dict[str, Any]:
        return {"precision": "f32"}

    def default_options(self) -> dict[str, Any]:
        return {"precision": "default", "snippets": "on"}

    def profile_options(self) -> dict[str, Any]:
        return {"profile": "on"}

    def versions(self) -> dict[str, str]:
        return {"openvino": version("openvino")}

    def _fixed(self) -> dict[str, Any]:
        fixed = {"precision": self._precision, "snippets": self._snippets}
        return ({"threads": self._threads} if self._threads else {}) | {key: word for key, word in fixed.items() if word != "auto"}
