"""CUDA by ctypes on libcudart: memory, streams, events, graphs. Nothing to install; on a Jetson the library comes with JetPack."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import glob
from typing import Any

import numpy as np

from edgemm.errors import TargetError

VERSIONS = ("13", "12", "11.0")
FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/usr/local/cuda-*/lib64", "/usr/local/cuda-*/lib", "/usr/lib/*")
H2D, D2H = 1, 2
CAPTURE_MODE_THREAD_LOCAL = 1
HOST_MAPPED = 2
MAJOR, MINOR, INTEGRATED, CAN_MAP = 75, 76, 18, 19
"""cudaDeviceAttr numbers (driver_types.h), the same from CUDA 8 to 13."""
PROPERTIES_BYTES = 1 << 14  # cudaDeviceProp grew from 700 to 1100 bytes; it begins with the name, char[256]


class Cuda:
    """One loaded libcudart.

    Raises:
        TargetError: A call failed; in words, with CUDA's own.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise self.failed(function, code)

    def failed(self, function: str, code: int) -> TargetError:
        text = (self._library.cudaGetErrorString(ctypes.c_int(code)) or b"").decode(errors="replace")
        short = "set targets.tensorrt.workspace_mib to 256, close other programs, and see `edgemm doctor`."
        fix = short if code == 2 else "see `edgemm doctor`; after a failed kernel the process must be started again."
        return TargetError(f"CUDA failed: {text or code}.", why=f"{function} returned {code}.", fix=fix)

    def devices(self) -> int:
        """Usable GPUs; 0 where there is no driver."""
        count = ctypes.c_int()
        return count.value if self._library.cudaGetDeviceCount(ctypes.byref(count)) == 0 else 0

    def why_no_device(self) -> str:
        count = ctypes.c_int()
        code = self._library.cudaGetDeviceCount(ctypes.byref(count))
        return (self._library.cudaGetErrorString(ctypes.c_int(code)) or b"").decode(errors="replace") if code else "there is no device"

    def attribute(self, number: int, device: int = 0) -> int:
        value = ctypes.c_int()
        self.call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), ctypes.c_int(device))
        return value.value

    def capability(self) -> str:
        """Compute capability, such as ``8.7``."""
        return f"{self.attribute(MAJOR)}.{self.attribute(MINOR)}"

    def name(self) -> str:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self.call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        return properties.raw[:256].split(b"\0")[0].decode(errors="replace")

    def shares_memory(self) -> bool:
        """Whether processor and GPU share one memory (all Jetsons) and the GPU may read the processor's pages."""
        return bool(self.attribute(INTEGRATED) and self.attribute(CAN_MAP))

    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU. On a Jetson pages that the system could give up count as taken."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, size)))
        return int(pointer.value or 0)

    def free(self, pointer: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(pointer))

    def allocate_host(self, size: int, *, mapped: bool) -> int:
        """Memory of the processor that the GPU reads without a bounce copy (pinned), or in place (mapped)."""
        pointer = ctypes.c_void_p()
        flags = ctypes.c_uint(HOST_MAPPED if mapped else 0)
        self.call("cudaHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, size)), flags)
        return int(pointer.value or 0)

    def free_host(self, pointer: int) -> None:
        self.call("cudaFreeHost", ctypes.c_void_p(pointer))

    def device_pointer(self, host: int) -> int:
        """Where the GPU sees mapped memory."""
        pointer = ctypes.c_void_p()
        self.call("cudaHostGetDevicePointer", ctypes.byref(pointer), ctypes.c_void_p(host), ctypes.c_uint(0))
        return int(pointer.value or 0)

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        arguments = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), ctypes.c_int(kind), ctypes.c_void_p(stream))
        self.call("cudaMemcpyAsync", *arguments)

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def synchronise(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        self.call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(CAPTURE_MODE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """The captured work as something to launch."""
        graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            # the flags' version is a function of CUDA 11.4 on; the plain one changed its arguments in 12
            self.call("cudaGraphInstantiateWithFlags", ctypes.byref(runnable), graph, ctypes.c_ulonglong(0))
        finally:
            self._library.cudaGraphDestroy(graph)
        return int(runnable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        self.call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self.call("cudaGraphExecDestroy", ctypes.c_void_p(graph))


@functools.cache
def load() -> Cuda | None:
    """CUDA's runtime library, the newest that is here; None where there is none."""
    names = [f"libcudart.so.{version}" for version in VERSIONS]
    names += [path for version in VERSIONS for folder in FOLDERS for path in sorted(glob.glob(f"{folder}/libcudart.so.{version}"))]
    for name in [*names, "libcudart.so"]:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "cudaGraphInstantiateWithFlags"):
            return Cuda(library)
    return None


def why_none() -> str:
    """Why no GPU can be used here, in a sentence; "" where one can."""
    cuda = load()
    if cuda is None:
        return "CUDA's runtime (libcudart) is not installed here."
    return "" if cuda.devices() else f"no NVIDIA GPU can be used here ({cuda.why_no_device()})."


def view(pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Host memory at ``pointer`` as an array; valid until it is freed."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = (ctypes.c_byte * max(1, size)).from_address(pointer)
    return np.frombuffer(memoryview(memory), dtype, count=int(np.prod(shape, dtype=np.int64))).reshape(shape)
