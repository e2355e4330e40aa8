"""edgemm: make a trained multimodal model small and fast, prove what it cost, and run it on the box.

Every command is a function here: ``edgemm.compress(...)`` does what ``edgemm compress ...`` does. Nothing heavy is imported until
one is called.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
__all__ = [
    "benchmark", "cache", "compile", "compress", "demo", "deploy", "doctor", "explain", "export", "fit", "fuse", "index", "init", "inspect",
    "list", "pretrain", "quantize", "run", "search", "slim", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(f"edgemm.verbs.{name}"), name)
    raise AttributeError(f"module 'edgemm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
