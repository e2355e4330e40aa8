"""Variants of somebody's own, one of each kind, written into a folder that EDGEMM_PLUGINS names."""

from pathlib import Path

TARGET = '''
"""A runtime of one's own: ONNX Runtime behind another name."""

from edgemm.contracts import plugins
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.target import Numerics, Target

OPTIONS = {"threads": "int"}


class Quartz(Target):
    """Counts what it opened.

    Args:
        brand: Stands in what it says of itself.
        fallback: Target that may run its graphs where it cannot.
    """

    numerics = Numerics(activations="uint8")

    def __init__(self, *, brand: str = "quartz", fallback: str = "") -> None:
        self._inner, self._brand, self._fallback = plugins.load(Target, "onnxruntime"), brand, fallback

    def falls_back(self):
        return self._fallback

    def compile(self, onnx, out, **options):
        return self._inner.compile(onnx, out, **options)

    def open(self, artifact, **options):
        check_options("quartz", options, OPTIONS)
        return self._inner.open(artifact, **options)

    def choices(self, *, forbid=frozenset()):
        return [{"threads": 1}]

    def float_options(self):
        return {}

    def default_options(self):
        return {}

    def versions(self):
        return {self._brand: "1.0", **self._inner.versions()}
'''

TARGET_FOR_ANOTHER_BOX = TARGET.replace(
    "    def choices", '    def cannot_run(self):\n        return "this box has no quartz in it."\n\n    def choices'
)


def write(folder: Path, kind: str, name: str, text: str) -> Path:
    """Lay a plugin below ``folder``; returns ``folder``, which EDGEMM_PLUGINS is to name."""
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.py").write_text(text.lstrip(), encoding="utf-8")
    return folder
