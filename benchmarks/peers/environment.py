"""A virtual environment for one peer, with pinned packages, so that no peer's wishes bend another's.

Launch: python benchmarks/peers/environment.py [PEER ...] [--to FOLDER]      (downloads packages; without PEER: all of them)
FOLDER: `peers` in edgemm's cache unless told.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"  # from 2.14 on the default wheels bring gigabytes of CUDA
OURS = [
    TORCH,
    "numpy",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "onnxscript==0.7.2",
    "pyyaml",
    "safetensors",
    "pillow",
    "soundfile",
    "tokenizers",
    "pyarrow",
]
"""What edgemm's model zoo and dataset reader need: to a peer on torch they are the user's own training code."""

PACKAGES = {
    "modelopt_onnx": [
        "nvidia-modelopt==0.47.0", TORCH, "onnx==1.21.0", "onnxscript==0.7.2", "onnx-graphsurgeon==0.6.1", "onnxconverter-common==1.16.0",
        "onnxslim==0.1.98", "polygraphy==0.53.6", "lief", "cppimport", "ml_dtypes",
        "onnxruntime==1.24.4",  # its extra `onnx` asks for onnxruntime-gpu and cupy of the same version: no use without a GPU
    ],
    "nncf_openvino": ["nncf==3.4.0", "openvino==2026.4.1", "numpy"],
    "olive_passes": [
        "olive-ai==0.13.0", TORCH, "onnxruntime==1.31.1", "nncf==3.4.0", "openvino==2026.4.1",
        "requests",  # it imports this without asking for it
    ],
    "optimum_intel": [
        "optimum-intel[openvino]==2.2.0", *OURS,
        "datasets", "huggingface-hub<1.22",  # its quantizer asks for datasets, its extra does not
    ],
    "ort_static": ["onnxruntime==1.31.1", "onnx", "sympy", "numpy"],
    "torch_pruning_nncf": ["torch-pruning==1.6.1", "nncf==3.4.0", "openvino==2026.4.1", *OURS],
    "torchao_pt2e": ["torchao==0.18.0", *OURS],
}  # fmt: skip
"""Peer -> what is installed: the versions of the day on which the figures were taken."""

UNWANTED = {"optimum_intel": ["torchvision"]}
"""What comes along and breaks a peer: torchvision's wheel is for a torch with CUDA, and transformers imports it if it is there."""


def python_of(peer: str, folder: Path) -> Path:
    return folder / peer / "bin" / "python"


def make(peer: str, folder: Path) -> Path:
    """Create it anew; returns its Python. Raises CalledProcessError where pip fails."""
    venv.create(folder / peer, with_pip=True, clear=True)
    python = python_of(peer, folder)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", *PACKAGES[peer]], check=True)
    if peer in UNWANTED:
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED[peer]], check=True)
    return python


def folder_of(given: Path | None) -> Path:
    """Where the environments are: as told, or in edgemm's cache."""
    if given:
        return given
    sys.path.insert(0, str(HERE.parents[1]))
    from edgemm.store.cache import root

    return root() / "peers"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peers", nargs="*")
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    if wrong := sorted({*given.peers} - {*PACKAGES}):
        parser.error(f"no peer '{wrong[0]}'; there are {', '.join(PACKAGES)}")
    for peer in given.peers or PACKAGES:
        print(make(peer, folder_of(given.to)))


if __name__ == "__main__":
    main()
