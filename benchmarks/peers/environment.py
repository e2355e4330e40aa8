"""A virtual environment for one peer, with pinned packages, so that no peer's wishes bend another's.

Launch: python benchmarks/peers/environment.py PEER FOLDER        (downloads packages)
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "nncf_openvino": ["nncf==3.4.0", "openvino==2026.4.1", "numpy"],
    "ort_static": ["onnxruntime==1.31.1", "onnx", "sympy", "numpy"],
}
"""Peer -> what is installed: the versions of the day on which the figures were taken."""


def main(peer: str, folder: str) -> None:
    place = Path(folder) / peer
    venv.create(place, with_pip=True, clear=True)
    subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES[peer]], check=True)
    print(place / "bin" / "python")


if __name__ == "__main__":
    main(*sys.argv[1:3])
