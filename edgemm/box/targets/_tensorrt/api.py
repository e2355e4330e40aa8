"""TensorRT's Python module, whichever generation is installed: 10.3 (JetPack 6), 10.13 to 10.16 (JetPack 7), 11.x, TensorRT-RTX 1.x.

Their enums have other members and other numbers (STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11), so everything is asked for by name.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemm.errors import MissingExtra

MODULES = ("tensorrt", "tensorrt_rtx")
"""In the order they are looked for: on a Jetson the first comes from apt, on desktops the second from its wheel."""
INSTALL = (
    "on a Jetson: sudo apt install python3-libnvinfer, and a virtual environment made with --system-site-packages; "
    "on a desktop with an RTX card: pip install 'edgemm[tensorrt-rtx]'."
)
NEEDS: Mapping[str, tuple[str, ...]] = {
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "IBuilderConfig": (
        "add_optimization_profile", "set_memory_pool_limit", "set_flag", "create_timing_cache", "set_timing_cache", "get_timing_cache",
        "progress_monitor", "profiling_verbosity",
    ),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "IOptimizationProfile": ("set_shape",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "ILogger": ("log",),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape", "create_execution_context",
        "create_engine_inspector", "device_memory_size_v2",
    ),
    "IExecutionContext": (
        "set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3", "profiler", "report_to_profiler",
        "enqueue_emits_profile",
    ),
    "EngineInspector": ("get_engine_information", "execution_context"),
    "IProfiler": ("report_layer_time",),
    "ITimingCache": ("serialize",),
}  # fmt: skip
"""Class -> what of it is called here; all of it is in every generation (tests hold it against tables read from the bindings)."""


@dataclass(frozen=True)
class Api:
    """One installed TensorRT.

    Attributes:
        distribution: Name of what is installed, for fingerprints.
        version: Full version, as the module tells it.
        generation: 10 or 11; TensorRT-RTX 1.x has the interface of 11.
    """

    trt: Any
    distribution: str
    version: str
    generation: int

    @property
    def is_rtx(self) -> bool:
        return self.distribution == "tensorrt-rtx"


@functools.cache
def installed() -> Api | None:
    """The TensorRT of this machine, or None."""
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: the wheel is there, a system library is not
            continue
        if hasattr(module, "Builder"):
            return of_module(module)
    return None


def require() -> Api:
    """The TensorRT of this machine.

    Raises:
        MissingExtra: There is none.
    """
    api = installed()
    if api is None:
        raise MissingExtra("target 'tensorrt' needs TensorRT's Python package.", why="it is not installed here.", fix=INSTALL)
    return api


def of_module(module: Any) -> Api:
    """``module``'s version and generation."""
    version = str(module.__version__)
    is_rtx = module.__name__.endswith("_rtx")
    return Api(module, "tensorrt-rtx" if is_rtx else "tensorrt", version, 11 if is_rtx else int(version.split(".")[0]))


def network_flags(trt: Any) -> int:
    """Flags of ``create_network`` for a strongly typed network.

    TensorRT 11 makes no other and calls the flag deprecated; 10 wants it.
    """
    kinds = trt.NetworkDefinitionCreationFlag
    deprecated = not hasattr(kinds, "EXPLICIT_BATCH")  # gone with 11, as were networks of any other kind
    return 0 if deprecated else 1 << int(kinds.STRONGLY_TYPED)


@dataclass
class Messages:
    """What TensorRT said, worst last; (severity, text), 0 = internal error, 1 = error, 2 = warning, 3 = information."""

    said: list[tuple[int, str]] = field(default_factory=list)

    def errors(self) -> list[str]:
        return [text for severity, text in self.said if severity <= 1]

    def find(self, *words: str) -> str:
        """The first message that holds one of ``words``, "" where none does."""
        return next((text for _, text in self.said if any(word in text for word in words)), "")


KEPT = 400  # messages; a build in verbose mode says thousands


def logger(trt: Any, messages: Messages) -> Any:
    """A logger of TensorRT that keeps what it is told."""

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()  # pybind wants its own called

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= 2 or "actic" in text:
                messages.said.append((int(severity), " ".join(text.split())))
                del messages.said[:-KEPT]

    return Kept()


def monitor(trt: Any, tell: Callable[[str, float], None], over: Callable[[], bool]) -> Any:
    """A progress monitor of TensorRT.

    Args:
        tell: Called with the phase and how much of it is done.
        over: Asked after each step; True stops the build.
    """

    class Watch(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, count: int) -> None:
            self.steps[name] = max(1, count)

        def step_complete(self, name: str, step: int) -> bool:
            tell(name, min(1.0, (step + 1) / self.steps.get(name, 1)))
            return not over()

        def phase_finish(self, name: str) -> None:
            self.steps.pop(name, None)

    return Watch()
