"""Wall time of `edgemm compress` on the image+audio digits model, beside a bare script that makes the same library calls.

Launch: python benchmarks/compress_time.py RUN DATA    (RUN: what `edgemm train digits` wrote; DATA: the digits folder)
Both start from an empty cache, in processes of their own, one after the other, in turn.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from _process import EDGEMM, run
from _results import save

ROUNDS = 3


def main(model: str, data: str) -> None:
    ours, bare = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as scratch:
            environment = {**os.environ, "EDGEMM_CACHE": f"{scratch}/cache"}
            command = [*EDGEMM, "compress", f"{model}/model.yaml", "-r", "openvino-int8", "-d", data, "-o", f"{scratch}/bundle"]
            ours.append(run(command, environment=environment, allowed=(0, 3)).seconds)
            bare.append(run([sys.executable, Path(__file__).parent / "bare_digits.py", model, data]).seconds)
    save("compress_time", {"edgemm_s": ours, "bare_s": bare, "ratio_of_medians": median(ours) / median(bare)})


if __name__ == "__main__":
    main(*sys.argv[1:3])
