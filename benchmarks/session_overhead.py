"""What Session.run adds to OpenVINO's own call, on the same compiled model, calls interleaved one by one.

Launch: python benchmarks/session_overhead.py BUNDLE
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np
from _results import save

from edgemm.bundle import open_bundle

CALLS = 4000


def main(path: str) -> None:
    bundle = open_bundle(path)
    golden = bundle.golden()
    assert golden is not None
    feed = golden.sample(0)
    with bundle.load_target("openvino").open(bundle.target_model("openvino"), threads=1, precision="f32") as session:
        ours: list[float] = []
        raw: list[float] = []
        session.run(feed)
        request = session.raw_request(feed)
        values = list(feed.values())
        for _ in range(CALLS):
            began = time.perf_counter_ns()
            session.run(feed)
            between = time.perf_counter_ns()
            request.infer(values)
            ours.append((between - began) / 1e3)
            raw.append((time.perf_counter_ns() - between) / 1e3)
    half = slice(CALLS // 10, None)
    differences = np.array(ours[half]) - np.array(raw[half])
    figures = {
        "session_run_us_p50": median(ours[half]),
        "raw_infer_us_p50": median(raw[half]),
        "overhead_us_p50": float(np.median(differences)),
        "calls": CALLS,
    }
    save("session_overhead", figures)


if __name__ == "__main__":
    main(sys.argv[1])
