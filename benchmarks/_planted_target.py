"""One more target: OpenVINO, each call of which waits, busily, for a tenth of its own time. `_pairs.planted` adds it to a copy."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.targets._openvino.session import OpenVINOSession
from edgemm.box.targets.openvino import OpenVINO
from edgemm.contracts.target import Session

SHARE = 0.10


class _Slower(OpenVINOSession):
    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        answers = super().run(feed)
        until = time.perf_counter() + SHARE * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return answers


class Planted(OpenVINO):
    """The engine, ``SHARE`` slower."""

    def open(self, artifact: Path, **options: Any) -> Session:
        return _Slower(artifact, "CPU", options)
