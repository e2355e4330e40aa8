"""``python -m edgemm.box.devices._peaks_worker THREADS`` measures the machine's peaks and prints them as one JSON object."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgemm.box.devices.disturbance import Watch, reasons

SIZE = {"int8": 2048, "bf16": 2048, "f32": 1024}  # of a square matrix: 17 and 2 10^9 operations, some milliseconds each
SECONDS = 1.0  # for each figure
LEAST_RUNS = 5
COPIED = 256 << 20  # bytes: larger than the caches of the boxes we know
CHAIN = (8, 72)  # layers of two chains, whose difference is what 64 layers take
WIDTH = 16


def main(threads: int) -> None:
    watch = Watch()
    try:
        import openvino as ov

        speeds = _with_openvino(ov, threads)
    except ModuleNotFoundError:
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
        speeds = {"gops": {"int8": None, "bf16": None, "f32": _numpy_gops()}, "layer_us": None, "runtime": f"numpy {np.__version__}"}
    bandwidth = _bandwidth_gbs(threads)
    disturbed = [reason for reason in reasons(watch.stop()) if "clock" not in reason]
    print(json.dumps({"threads": threads, "bandwidth_gbs": bandwidth, **speeds, "disturbed": disturbed}))


def best_seconds(run: Callable[[], Any]) -> float:
    """The quickest of the runs that fit into ``SECONDS``: what the machine can do when nothing is in the way."""
    run()
    best, runs, end = float("inf"), 0, time.perf_counter() + SECONDS
    while runs < LEAST_RUNS or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best, runs = min(best, time.perf_counter() - began), runs + 1
    return best


def _with_openvino(ov: Any, threads: int) -> dict[str, Any]:
    core = ov.Core()

    def runner(model: Any, precision: str) -> tuple[Any, Any]:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})
        return compiled, compiled.create_infer_request().infer

    gops: dict[str, float | None] = {}
    for kind, size in SIZE.items():
        compiled, run = runner(_product(ov, size, quantized=kind == "int8"), "bf16" if kind == "bf16" else "f32")
        gops[kind] = 2 * size**3 / best_seconds(run) / 1e9 if _ran(compiled) == kind else None
    short, long = (best_seconds(runner(_chain(ov, layers), "f32")[1]) for layers in CHAIN)
    return {"gops": gops, "layer_us": (long - short) * 1e6 / (CHAIN[1] - CHAIN[0]), "runtime": f"openvino {ov.__version__.split('-')[0]}"}


def _product(ov: Any, size: int, *, quantized: bool) -> Any:
    """One matrix product of two squares, the second one constant."""
    ops, random = ov.opset13, np.random.default_rng(0)
    x = ops.parameter([size, size], np.float32)
    w = ops.constant(random.uniform(-1, 1, (size, size)).astype(np.float32))
    sides = [ops.fake_quantize(side, *map(np.float32, (-1, 1, -1, 1)), 255) if quantized else side for side in (x, w)]
    return ov.Model([ops.result(ops.matmul(*sides, False, True))], [x])


def _chain(ov: Any, layers: int) -> Any:
    """Small products one after the other, which no runtime merges."""
    ops, random = ov.opset13, np.random.default_rng(0)
    x = value = ops.parameter([1, WIDTH], np.float32)
    for _ in range(layers):
        value = ops.matmul(ops.tanh(value), ops.constant(random.uniform(-1, 1, (WIDTH, WIDTH)).astype(np.float32)), False, False)
    return ov.Model([ops.result(value)], [x])


def _ran(compiled: Any) -> str:
    """The precision of the product that ran."""
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            word = str(facts["runtimePrecision"].astype(str))
            return "int8" if word in ("i8", "u8") else word
    return ""


def _numpy_gops() -> float:
    size = SIZE["f32"]
    a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    return 2 * size**3 / best_seconds(lambda: a @ b) / 1e9


def _bandwidth_gbs(threads: int) -> float:
    """Copying, a part in each thread; numpy lets go of the interpreter's lock meanwhile."""
    source, sink = (np.ones(COPIED // 8, np.float64) for _ in range(2))
    pieces = list(zip(np.array_split(source, threads), np.array_split(sink, threads), strict=True))

    def run() -> None:
        workers = [threading.Thread(target=np.copyto, args=(out, into)) for into, out in pieces]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return 2 * COPIED / best_seconds(run) / 1e9


if __name__ == "__main__":
    main(int(sys.argv[1]))
