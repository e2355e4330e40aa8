"""A model that torch compiled ahead of time, for `edgemm benchmark command:...` (docs/measuring.md has the protocol).

Launch: python _torch_program.py MODEL.pt2 INPUT,INPUT OUTPUT,OUTPUT
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch._inductor import aoti_load_package


def main(path: str, inputs: str, outputs: str) -> None:
    run, feed, answers = aoti_load_package(path), [], []
    for line in sys.stdin:
        ask = json.loads(line)
        if "feed" in ask:
            with np.load(ask["feed"]) as arrays:
                feed = [torch.from_numpy(arrays[name]) for name in inputs.split(",")]
        with torch.inference_mode():
            answers = run(*feed)
        if "out" in ask:
            np.savez(ask["out"], **{name: value.numpy() for name, value in zip(outputs.split(","), answers, strict=True)})
        print('{"precision": "int8+f32"}', flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
