"""From ONNX to a TensorRT plan: parse, profiles, limits, build with progress and an end in time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemm.box.devices.environment import memory_gib
from edgemm.box.targets._tensorrt.advice import UNSAID, named, no_operator, refused, skipped
from edgemm.box.targets._tensorrt.api import Api, Messages, logger, monitor, network_flags
from edgemm.contracts import onnx_file
from edgemm.contracts.specs import BATCH, TensorSpec
from edgemm.errors import TargetError
from edgemm.store.artifact import write_bytes

SMALL_BOARD_GIB = 17.0  # boards up to 16 GB share one memory between processor and GPU: a builder that takes it all ends the system
SMALL_WORKSPACE_MIB = 512
CLIPPED = "Defaulting to INT8 instead"
"""What the parser says when it takes uint8 for int8: a warning, and a wrong engine (54 dB become 9 dB)."""


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    Attributes:
        profile: Open axis -> its smallest, usual and largest size.
        workspace_mib: Memory a kernel may take while it runs; None = a limit on small boards only.
        limit_s: After so many seconds the build is stopped.
        capabilities: ``("SM86",)`` = build for these GPUs with no GPU at hand (TensorRT-RTX only); () = for the GPU here.
        detailed: Keep layer names and types in the plan, for ``Session.layers``.
    """

    profile: Mapping[str, Sequence[int]] = field(default_factory=dict)
    workspace_mib: int | None = None
    limit_s: float = 1800.0
    capabilities: tuple[str, ...] = ()
    detailed: bool = True

    def facts(self) -> dict[str, Any]:
        """What of this changes the plan; plain values."""
        plain = asdict(self)
        del plain["limit_s"]
        return plain | {"workspace_mib": self.workspace(), "profile": {key: list(sizes) for key, sizes in self.profile.items()}}

    def workspace(self) -> int | None:
        """The limit in MiB that holds here."""
        small = not self.capabilities and (memory_gib() or SMALL_BOARD_GIB) < SMALL_BOARD_GIB
        return self.workspace_mib or (SMALL_WORKSPACE_MIB if small else None)


@dataclass(frozen=True)
class Plan:
    """A built plan; ``remarks`` are sentences for the user."""

    content: bytes
    seconds: float
    remarks: tuple[str, ...] = ()


def build(
    api: Api,
    path: Path,
    settings: BuildSettings,
    *,
    tell: Callable[[str, float], None] = lambda text, done: None,
    timing_cache: Path | None = None,
    branch_of: Callable[[str], str] = lambda node: "",
) -> Plan:
    """Build an ONNX file.

    Args:
        tell: Progress: the phase, and how much of it is done.
        timing_cache: A file in which timings of kernels are kept from build to build; made if missing, dropped if of another TensorRT.
        branch_of: Node -> branch of the model, for messages.

    Raises:
        TargetError: The parser or the builder refuses it (names op, node, branch), an open axis has no profile, it takes too long, or
            memory is short.
    """
    trt, messages = api.trt, Messages()
    log = logger(trt, messages)
    started = time.monotonic()
    try:
        builder = trt.Builder(log)
    except Exception as err:  # pybind: TypeError or RuntimeError, when the driver is missing
        raise refused(path, [*messages.errors(), str(err)], doing="cannot build") from err
    network = builder.create_network(network_flags(trt))
    _parse(trt.OnnxParser(network, log), path, messages, branch_of)
    config = builder.create_builder_config()
    _configure(api, config, settings)
    _add_profile(builder, config, path, settings)
    over = False

    def is_over() -> bool:
        nonlocal over
        over = over or time.monotonic() - started > settings.limit_s
        return over

    config.progress_monitor = monitor(trt, tell, is_over)
    cache = _load_timings(config, timing_cache)
    with _uncollected():
        plan = builder.build_serialized_network(network, config)
    if over:
        raise _too_slow(path, settings)
    if plan is None:
        raise _failed(path, messages, branch_of)
    if cache is not None and timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    remark = skipped([text for _, text in messages.said])
    return Plan(bytes(plan), time.monotonic() - started, (remark,) if remark else ())


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: a builder's own threads call the progress monitor, and there the collector could destroy what an
    earlier, refused build left in a cycle. One build in some thousands hung; that this was why is likely, not shown.
    """
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _parse(parser: Any, path: Path, messages: Messages, branch_of: Callable[[str], str]) -> None:
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        first = errors[0] if errors else None
        op, node = (first.node_operator() or "", first.node_name() or "") if first is not None else ("", "")
        words = [no_operator(op) if (text := " ".join(error.desc().split())) in UNSAID else text for error in errors]
        raise refused(path, [*words, *messages.errors()], op=op, node=node, branch=branch_of(node))
    if messages.find(CLIPPED):
        raise TargetError(
            f"tensorrt would compute '{path.name}' wrongly: it holds uint8 quantizers.",
            why="TensorRT takes them for int8 and clips every value above 127 steps.",
            fix="quantize with this target's numerics: edgemm quantize -r tensorrt-int8.",
        )


def _configure(api: Api, config: Any, settings: BuildSettings) -> None:
    trt = api.trt
    workspace = settings.workspace()
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    if settings.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not settings.capabilities:
        return
    kinds = getattr(trt, "ComputeCapability", None)
    if kinds is None:
        raise TargetError(
            "only TensorRT-RTX builds for a GPU that is not here.",
            why=f"{api.distribution} {api.version} is installed.",
            fix="pip install 'edgemm[tensorrt-rtx]', or build on the box: edgemm compile BUNDLE --target tensorrt.",
        )
    known = [name for name in kinds.__members__ if name.startswith("SM")]
    unknown = [name for name in settings.capabilities if name not in known]
    if unknown:
        jetson = " Jetson boards (SM87, SM101, SM110) build their engines themselves." if unknown[0] in ("SM87", "SM101", "SM110") else ""
        raise TargetError(
            f"TensorRT-RTX builds nothing for {unknown[0]}.",
            why=f"it knows {', '.join(known)}.{jetson}",
            fix=f"--aot {known[-1]}, or on the board: edgemm compile BUNDLE --target tensorrt.",
        )
    config.num_compute_capabilities = len(settings.capabilities)
    for index, name in enumerate(settings.capabilities):
        config.set_compute_capability(getattr(kinds, name), index)


def _add_profile(builder: Any, config: Any, path: Path, settings: BuildSettings) -> None:
    """One profile for every input with an open axis; fixed inputs need none."""
    specs = [spec for spec in onnx_file.read(path).inputs if any(isinstance(size, str) for size in spec.shape)]
    if not specs:
        return
    optimization = builder.create_optimization_profile()
    for spec in specs:
        smallest, usual, largest = shapes(spec, settings.profile)
        optimization.set_shape(spec.name, smallest, usual, largest)
    config.add_optimization_profile(optimization)


def shapes(spec: TensorSpec, profile: Mapping[str, Sequence[int]]) -> list[tuple[int, ...]]:
    """Smallest, usual and largest shape of an input.

    Raises:
        TargetError: An open axis has no sizes, or they are not in order; names input and axis.
    """
    bounds: list[list[int]] = [[], [], []]
    for axis in spec.shape:
        sizes = [axis] * 3 if isinstance(axis, int) else list(profile.get(axis, [1, 1, 1] if axis == BATCH else []))
        if not sizes:
            raise TargetError(
                f"tensorrt: input '{spec.name}' {spec} has the open axis '{axis}', and no profile says its sizes.",
                why="TensorRT tunes its kernels for stated sizes.",
                fix=f"in a recipe: targets: {{tensorrt: {{profile: {{{axis}: [1, 16, 64]}}}}}} (smallest, usual, largest); or give that "
                "axis one size in the model.",
            )
        if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
            raise TargetError(
                f"tensorrt: profile.{axis} is {list(sizes)}.",
                why="it is the smallest, the usual and the largest size.",
                fix=f"write three whole numbers in order, such as {axis}: [1, 1, 8].",
            )
        for index, size in enumerate(sizes):
            bounds[index].append(int(size))
    return [tuple(shape) for shape in bounds]


def _load_timings(config: Any, path: Path | None) -> Any | None:
    """Timings of earlier builds on this machine; ones that this TensorRT does not take are begun anew."""
    if path is None:
        return None
    kept = path.read_bytes() if path.is_file() else b""
    try:
        cache = config.create_timing_cache(kept)
        if config.set_timing_cache(cache, False):  # False: not with another version's or GPU's
            return cache
    except Exception:  # what pybind makes of a file that is no timing cache
        pass
    cache = config.create_timing_cache(b"")
    return cache if config.set_timing_cache(cache, False) else None


def _too_slow(path: Path, settings: BuildSettings) -> TargetError:
    return TargetError(
        f"tensorrt did not finish '{path.name}' in {settings.limit_s:g} s.",
        why="the first build on a small board takes minutes, a large model more.",
        fix="raise targets.tensorrt.build_timeout_s; timings of kernels tried so far are kept only by a build that ends.",
    )


def _failed(path: Path, messages: Messages, branch_of: Callable[[str], str]) -> TargetError:
    errors = messages.errors() or [text for _, text in messages.said[-3:]]
    node = next((name for text in errors if (name := named(text))), "")
    return refused(path, errors, node=node, branch=branch_of(node), doing="cannot build")
