"""What Session.run adds to the runtime's own call: the same opened model, one process, one thread, calls interleaved in short blocks.

Launch: python benchmarks/session_overhead.py [BUNDLE]

The raw call is the fastest the runtime offers: OpenVINO's `infer()` on tensors bound beforehand (its `infer([arrays])` is given too), ONNX
Runtime's `run` with named outputs. Without a bundle the model takes a 64x64 picture and a second of sound and does next to nothing.
The figure is the difference of the tenth percentiles of the blocks, which other jobs on the machine disturb least, with a 95%
interval by resampling blocks.
"""

from __future__ import annotations

import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _results import save
from onnx import TensorProto, helper

from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import plugins
from edgemm.contracts.target import Target

BLOCKS, CALLS = 200, 50
LIMIT_US = 30.0


def main(bundle: str | None = None) -> None:
    figures: dict[str, Any] = {"limit_us": LIMIT_US}
    with tempfile.TemporaryDirectory() as folder:
        path, feed = _bundle(bundle) if bundle else _tiny(Path(folder))
        for name in ("openvino", "onnxruntime"):
            with plugins.load(Target, name).open(path, threads=1) as session:
                session.run(feed)
                calls = {"session_run": lambda s=session: s.run(feed), **_raw(name, session, feed)}
                figures[name] = _compare(calls)
    save("session_overhead", figures)
    sys.exit(any(figures[name]["overhead_us"] > LIMIT_US for name in ("openvino", "onnxruntime")))


def _bundle(path: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A bundle's graph for OpenVINO and a golden sample."""
    opened = open_bundle(path)
    golden = opened.golden()
    assert golden is not None
    return opened.target_model("openvino"), golden.sample(0)


def _tiny(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Two inputs, two means, two outputs."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 64, 64, 3])
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", 16000])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in ("seen", "heard")]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["seen"]),
        helper.make_node("ReduceMean", ["audio", "one"], ["heard"], keepdims=1),
    ]
    axes = [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]), helper.make_tensor("one", TensorProto.INT64, [1], [1])]
    graph = helper.make_graph(nodes, "tiny", [image, audio], outputs, axes)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path, {"image": np.zeros((1, 64, 64, 3), np.uint8), "audio": np.zeros((1, 16000), np.float32)}


def _raw(name: str, session: Any, feed: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """The runtime's own calls on what ``session`` has opened."""
    if name == "onnxruntime":
        return {"raw": lambda: session._session.run(session._names, feed)}
    request = session._plan.request
    arrays = [feed[port.get_any_name()] for port in request.model_inputs]
    return {"raw": request.infer, "raw_with_arrays": lambda: request.infer(arrays)}


def _compare(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            times[name].append(timeit.timeit(call, number=CALLS) / CALLS * 1e6)
    drawn = np.random.default_rng(0).integers(0, BLOCKS, (2000, BLOCKS))
    quick = {name: np.percentile(np.asarray(blocks)[drawn], 10, axis=1) for name, blocks in times.items()}
    low, high = np.percentile(quick["session_run"] - quick["raw"], (2.5, 97.5))
    figures = {f"{name}_us": float(np.percentile(blocks, 10)) for name, blocks in times.items()}
    figures |= {"overhead_us": figures["session_run_us"] - figures["raw_us"], "low_us": float(low), "high_us": float(high)}
    return {name: round(value, 2) for name, value in figures.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
