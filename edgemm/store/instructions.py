"""Instruction sets of this processor, and which of them oneDNN, and so torch and OpenVINO, may use."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from pathlib import Path

from edgemm.store.small_files import text

RELEVANT_FLAGS = frozenset(
    {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512f", "avx_vnni", "avx2"}
    | {"asimddp", "asimdhp", "i8mm", "bf16"}
)
"""Flags of /proc/cpuinfo that decide which kernels run."""

ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN (torch, OpenVINO) from the newer instructions of a processor; the first that is set counts."""
_AVX2, _AVX512 = frozenset({"avx2"}), frozenset({"avx2", "avx512f"})
WITHIN_LIMIT = {
    "SSE41": frozenset[str](),
    "AVX": frozenset[str](),
    "AVX2": _AVX2,
    "AVX2_VNNI": _AVX2 | {"avx_vnni"},
    "AVX2_VNNI_2": _AVX2 | {"avx_vnni"},
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _AVX512 | {"avx512_vnni"},
    "AVX512_CORE_BF16": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "AVX512_CORE_FP16": _AVX512 | {"avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"},
}
"""A limit below AMX -> what of ``RELEVANT_FLAGS`` is left (oneDNN's developer guide, "CPU dispatcher control")."""


@functools.cache
def instructions() -> frozenset[str]:
    """Instruction sets that matter to inference, as /proc/cpuinfo names them."""
    for line in text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split()) & RELEVANT_FLAGS
    return frozenset()


def instruction_limit() -> str | None:
    """``ONEDNN_MAX_CPU_ISA=AVX2`` where the user keeps oneDNN from newer instructions than these; else None."""
    return next((f"{name}={os.environ[name]}" for name in ONEDNN_LIMITS if os.environ.get(name)), None)


def onednn_instructions() -> frozenset[str]:
    """What of ``instructions`` torch and OpenVINO use here: all of them, or those within ``instruction_limit``."""
    limit = (instruction_limit() or "").rpartition("=")[2].upper()
    return instructions() & WITHIN_LIMIT.get(limit, instructions())


def saturates(having: Collection[str] | None = None) -> bool:
    """Whether sums of two products of unsigned and signed bytes are cut at 16 bits: on x86 without VNNI and AMX (its ``vpmaddubsw``).

    Args:
        having: Instruction sets; by default those that are used here.

    Measured with OpenVINO 2026.4 and ONNX Runtime 1.32 on an EPYC that has AVX2 alone, 64 inputs: a product of matrices is at 21 dB, a
    convolution in OpenVINO at 20 dB; with weights of 7 bits at 142 and 82 dB.
    """
    here = onednn_instructions() if having is None else frozenset(having)
    return "avx2" in here and not here & {"avx512_vnni", "avx_vnni", "amx_int8"}
