"""A program for `edgemm benchmark command:...`: OpenVINO on one thread, as fast as it can, or slower by a share of each call's own time.

Launch: python benchmarks/_engine.py MODEL.onnx [SHARE]
"""

import json
import sys
import time

import numpy as np
import openvino as ov

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def main(path: str, share: float = 0.0) -> None:
    core, request = ov.Core(), None
    for line in sys.stdin:
        ask = json.loads(line)
        if "feed" in ask:
            with np.load(ask["feed"]) as arrays:
                feed = dict(arrays)
            model = core.read_model(path)
            model.reshape({name: array.shape for name, array in feed.items()})
            request = core.compile_model(model, "CPU", SETTINGS).create_infer_request()
            for name, array in feed.items():
                request.set_tensor(name, ov.Tensor(array))
        assert request is not None
        began = time.perf_counter()
        request.infer()
        until = time.perf_counter() + share * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        if "out" in ask:
            np.savez(ask["out"], **{port.get_any_name(): request.get_tensor(port).data for port in request.model_outputs})
        print('{"precision": "f32"}', flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]))
