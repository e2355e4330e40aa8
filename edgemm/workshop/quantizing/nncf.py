"""NNCF on the ONNX graph: symmetric activations, unsigned where nothing is negative; what OpenVINO wants."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx

from edgemm.contracts.libraries import quiet_calls, quiet_imports
from edgemm.contracts.step import Context
from edgemm.graph import files

TRACKED = ("common.tensor_statistics.aggregator",)
"""NNCF's modules that draw a bar."""
WORDS = {"Statistics collection": "taking ranges"}


def quantize(
    model: onnx.ModelProto,
    samples: Sequence[dict[str, np.ndarray]],
    untouched: list[str],
    ctx: Context,
    ranges: str = "minmax",
    *,
    correct_biases: bool = False,
) -> onnx.ModelProto:
    """Q/DQ by NNCF. Its weights lie in a file beside the graph meanwhile: NNCF copies the graph often, and a large one would not fit."""
    nncf = _import()
    parameters = importlib.import_module("nncf.onnx.quantization.backend_parameters").BackendParameters
    ctx.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ctx.scratch) as folder, quiet_calls(), _bars(ctx.progress):
        path = files.save(model, Path(folder).resolve() / "model.onnx", limit_bytes=0)
        return nncf.quantize(
            onnx.load(str(path), load_external_data=False),
            nncf.Dataset(samples),
            # symmetric: OpenVINO does not compile MIXED's asymmetric activations; left out, a transformer would get them
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER if has_attention(model) else None,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=untouched, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Tried only where ranges alone are far off: it compares layers on one constant picture of channel means, whose rounding
                # error real pictures do not have, and moves biases by that. Digits: 21 dB at the output and 2.0 points lost on test with
                # it, 37 dB and 0.2 without; easyVQA: 37 and 49 dB. In OpenVINO's numerics: 21 and 38 dB, 37 and 41.
                disable_bias_correction=not correct_biases,
                activations_range_estimator_params=_estimator(ranges),
                overflow_fix=nncf.quantization.advanced_parameters.OverflowFix.ENABLE if ctx.numerics.narrow_weights else None,
                # SmoothQuant puts a Mul per channel before a quantizer. Between two linear layers OpenVINO 2026.4 then computes
                # garbage: Linear -> Mul -> Q/DQ -> Linear, (1, 64) -> 128 -> 3, is off by 10^9 times its value, static or not.
                # graph.smoothing has its scales in layer norms instead.
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
                backend_params={parameters.EXTERNAL_DATA_DIR: str(path.parent)},
            ),
        )


def _estimator(ranges: str) -> Any:
    estimators = importlib.import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet
    return {"mean": estimators.MEAN_MINMAX, "histogram": estimators.HISTOGRAM}.get(ranges, estimators.MINMAX)


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether a MatMul reads the result of a Softmax, as attention's does."""
    weights = {name for node in model.graph.node if node.op_type == "Softmax" for name in node.output}
    return any(node.op_type == "MatMul" and weights & set(node.input) for node in model.graph.node)


def _import() -> Any:
    """NNCF without its telemetry, which it starts on import."""
    with mock.patch.dict(os.environ, {"NNCF_CI": "1"}), quiet_imports():
        return importlib.import_module("nncf")


@contextlib.contextmanager
def _bars(progress: Callable[[str, float], None]) -> Iterator[None]:
    """Instead of drawing its own bars, NNCF reports to ``progress``."""

    class Track:
        def __init__(self, sequence: Iterable[Any], description: str = "", total: float | None = None, **_: Any) -> None:
            self.sequence, self.text = sequence, WORDS.get(description, description)
            self.total = total or (len(sequence) if isinstance(sequence, Sized) else 0)

        def __iter__(self) -> Iterator[Any]:
            for done, item in enumerate(self.sequence):
                progress(self.text, done / self.total if self.total else 0.0)
                yield item

    with contextlib.ExitStack() as stack:
        for name in TRACKED:
            stack.enter_context(mock.patch.object(importlib.import_module(f"nncf.{name}"), "track", Track))
        yield
