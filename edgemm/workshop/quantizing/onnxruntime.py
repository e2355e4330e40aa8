"""ONNX Runtime's own static quantizer: unsigned activations with a zero point, signed weights; what its x86 kernels want.

NNCF's graph runs slower than float there: most of its pairs fuse into no integer kernel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgemm.contracts.libraries import quiet_calls
from edgemm.contracts.step import Context
from edgemm.graph import back_to_float, files
from edgemm.graph.float_tail import float_tail
from edgemm.workshop.quantizing.nncf import has_attention

ROW = 2  # axes: batch and numbers
OPTIONS = {
    "ActivationSymmetric": False,
    "WeightSymmetric": True,
    "QDQKeepRemovableActivations": True,  # else a tensor called like a ReLU's result is what went into it; the runtime removes it itself
}


def quantize(model: onnx.ModelProto, samples: Sequence[dict[str, np.ndarray]], untouched: list[str], ctx: Context) -> onnx.ModelProto:
    """Q/DQ by ONNX Runtime; ranges are smallest and largest value seen."""
    ctx.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ctx.scratch) as folder, quiet_calls():
        source, target = files.save(model, Path(folder) / "float.onnx"), Path(folder) / "quantized.onnx"
        quantize_static(
            str(source),
            str(target),
            _Reader(samples, ctx),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_operators(model),
            per_channel=ctx.numerics.per_channel,
            reduce_range=ctx.numerics.narrow_weights,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=untouched,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=files.weight_bytes(model) > files.LIMIT_BYTES,
            extra_options=OPTIONS,
        )
        quantized = files.load(target)
    return back_to_float.revert(quantized, model, float_tail(model)) if _answers_in_rows(model) else quantized


def _answers_in_rows(model: onnx.ModelProto) -> bool:
    """Whether an answer is more than one row of numbers: boxes, a map, a label for every step.

    There what follows the last layers reads their sums as they are, not in 8 bits. ONNX Runtime then computes these convolutions in float,
    which took no longer on a small detector, and scores were off by a fourth. Of one row the layer before a pooling may be a large one.
    """
    return any(len(value.type.tensor_type.shape.dim) > ROW for value in model.graph.output)


def _operators(model: onnx.ModelProto) -> list[str] | None:
    """Operators to quantize; None = all the quantizer knows, so that a row of convolutions passes integers on.

    In transformers only products and tables: two-tower ViT-B/32, 2 threads, 95 ms and 34 dB instead of 110 ms and 14 dB (float: 325 ms),
    since LayerNorm, GELU and the residual sums do not survive 8 bits.
    """
    return ["Conv", "MatMul", "Gemm", "Gather"] if has_attention(model) else None


class _Reader(CalibrationDataReader):
    def __init__(self, samples: Sequence[dict[str, np.ndarray]], ctx: Context) -> None:
        self._feeds = self._told(samples, ctx)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)

    @staticmethod
    def _told(samples: Sequence[dict[str, np.ndarray]], ctx: Context) -> Iterator[dict[str, np.ndarray]]:
        for done, sample in enumerate(samples):
            ctx.progress("taking ranges", done / len(samples))
            yield sample
