"""TensorRT: Jetson boards and NVIDIA cards. Ships ONNX, builds its engine on the box, keeps it there under everything it depends on.

Networks are strongly typed: types stand in the graph (Q/DQ pairs and Cast nodes), no builder flag chooses them, so that one way serves
TensorRT 10.3 to 11 and TensorRT-RTX. A graph has up to four forms (INT8 or not, f16 or f32 around it), and ``tune`` picks by measuring:
INT8 often loses to FP16 on transformers.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edgemm.box.targets._tensorrt import api as _tensorrt_api
from edgemm.box.targets._tensorrt import cache as plan_cache
from edgemm.box.targets._tensorrt import cuda as _tensorrt_cuda
from edgemm.box.targets._tensorrt.build import BuildSettings, Plan, build
from edgemm.box.targets._tensorrt.forms import companion, form_of, has_onnx, quantized_form
from edgemm.box.targets._tensorrt.session import TensorRTSession
from edgemm.box.targets._tensorrt.stand_in import StandIn
from edgemm.contracts import onnx_file
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.target import Numerics, Session, Target
from edgemm.errors import EdgemmError, MissingExtra, TargetError
from edgemm.store.artifact import Artifact

PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx")
"""From apt the first; from pip any of them, the first being an empty one that brings the second or the third."""
ACCELERATOR = True
FORMS = {".onnx": "told", ".plan": "untold", ".engine": "untold"}
OPTIONS = {"precision": "'f32' | 'f16'", "int8": "'on' | 'off'", "cuda_graph": "'on' | 'off'", "profile": "'on' | 'off'",
           "stand_in": "'onnxruntime'"}  # fmt: skip
"""Runtime options.

``precision``: float type of what is not INT8 (f32 where it is not given). ``int8: off``: without quantizers (in a bundle its float graph).
``cuda_graph``: launch a call as one graph (on). ``profile: on`` times every layer. ``stand_in``: ONNX Runtime computes the graph instead,
for its accuracy on a machine without a GPU.
"""
FLOATS = {"f32": "fp32", "f16": "fp16"}
SPOKEN_S = 10.0  # how often a long build says how far it is
NO_GPU_FIX = (
    "run it on the box (edgemm compile BUNDLE --target tensorrt), build for a card ahead of time with --aot SM86, or set "
    "targets.tensorrt.fallback to onnxruntime."
)


class TensorRT(Target):
    """TensorRT 10.3 to 11, or TensorRT-RTX, on the first NVIDIA GPU.

    Args:
        precision: Float type of what is not INT8; ``auto`` = choose by measuring.
        int8: Whether the quantizers are used; ``auto`` = choose by measuring.
        profile: Open axis -> its smallest, usual and largest size, such as ``{batch: [1, 1, 8]}``; batch is 1 without it.
        workspace_mib: Memory a kernel may take; None = 512 on boards up to 16 GB, no limit elsewhere.
        build_timeout_s: After so many seconds a build is stopped.
        fallback: ``onnxruntime`` = where TensorRT cannot run, ONNX Runtime does, and says so on stderr; ``never`` = that is an error.
    """

    numerics = Numerics(activations="int8", floats=("fp32", "fp16"), placement="fusing", weight_bits=(4, 8), weight_form="blocks")

    def __init__(
        self, *, precision: Literal["auto", "f32", "f16"] = "auto", int8: Literal["auto", "on", "off"] = "auto",
        profile: dict[str, list[int]] | None = None, workspace_mib: int | None = None, build_timeout_s: int = 1800,
        fallback: Literal["never", "onnxruntime"] = "never",
    ) -> None:  # fmt: skip
        self._precision, self._int8, self._fallback = precision, int8, fallback
        self._settings = BuildSettings(dict(profile or {}), workspace_mib, float(build_timeout_s))

    def compile(self, onnx: Path, out: Path, **options: Any) -> Artifact:
        check_options("tensorrt", options, OPTIONS)
        onnx_file.read(onnx)
        if self.cannot_run():
            raise self._nowhere(onnx)
        api, cuda = _tensorrt_api.require(), _cuda()
        graph, form = form_of(onnx, self._fixed() | options)
        key = plan_cache.key(api, cuda, graph, self._settings, form)
        plan = self._plan(api, cuda, graph, key)
        plan_cache.write_plan(out, key, plan, {"form": form})
        return Artifact(out / plan_cache.PLAN, {"target": "tensorrt", "form": form, **self.versions()})

    def open(self, artifact: Path, **options: Any) -> Session:
        check_options("tensorrt", options, OPTIONS)
        chosen = self._fixed() | options
        if artifact.suffix in (".plan", ".engine"):
            return self._open_plan(artifact, chosen)
        face = onnx_file.read(artifact)
        if "stand_in" in chosen:
            return StandIn(*form_of(artifact, chosen))
        if why := self.cannot_run():
            if self._fallback != "onnxruntime":
                raise self._nowhere(artifact)
            _say(f"tensorrt cannot run '{artifact.name}': {why} ONNX Runtime runs it instead, slower (targets.tensorrt.fallback).")
            return StandIn(artifact, quantized_form(artifact, "f32"), optimise=True)
        api, cuda = _tensorrt_api.require(), _cuda()
        graph, form = form_of(artifact, chosen)
        plan = self._plan(api, cuda, graph, plan_cache.key(api, cuda, graph, self._settings, form))
        return _session(api, cuda, plan, artifact, (list(face.inputs), list(face.outputs)), form, chosen)

    def cannot_run(self) -> str:
        """Why this machine runs no engine, in a sentence; "" where it does."""
        if _tensorrt_api.installed() is None:
            return "TensorRT's Python package is not installed here."
        return _tensorrt_cuda.why_none()

    def falls_back(self) -> str:
        return "" if self._fallback == "never" else self._fallback

    def choices(self, *, forbid: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        precisions = [self._precision] if self._precision != "auto" else ["f16", "f32"]
        allowed = [word for word in precisions if FLOATS[word] not in forbid and word not in forbid]
        if not allowed:
            raise TargetError(
                f"tensorrt: precision '{self._precision}' is asked for, and a branch forbids it.",
                why=f"the recipe keeps a branch in fp32, which forbids {', '.join(sorted(forbid))}.",
                fix="set targets.tensorrt.precision to f32, or lift the branch's precision.",
            )
        eights = [self._int8] if self._int8 != "auto" else ["on", "off"]
        eights = [word for word in eights if word == "on" or has_onnx()] or ["on"]
        if self.cannot_run():
            return [{"precision": allowed[0], "int8": eights[0], "stand_in": "onnxruntime"}]
        return [{"precision": precision, "int8": eight} for eight in eights for precision in allowed]

    def float_options(self) -> dict[str, Any]:
        return {"precision": "f32", "int8": "off"}

    def profile_options(self) -> dict[str, Any]:
        return {"profile": "on"}

    def versions(self) -> dict[str, str]:
        api = _tensorrt_api.installed()
        versions = {api.distribution: api.version} if api else {"tensorrt": "absent"}
        return versions if self.cannot_run() else versions | {"compute-capability": _cuda().capability()}

    def wants_float(self) -> bool:
        return self._int8 != "on"  # see forms._floats_of

    def companions(self, onnx: Path, out: Path) -> list[Path]:
        """The form with a float16 body, beside the graph in a bundle: a box without the onnx package cannot make it."""
        if not onnx_file.read(onnx).is_quantized:
            return []
        graph, _ = form_of(onnx, {"precision": "f16"})
        if onnx_file.read(graph).external:  # above 2 GB: a box that runs it makes the form itself
            return []
        copied = out / companion(onnx, quantized_form(onnx, "f16")).name
        shutil.copyfile(graph, copied)
        return [copied]

    def ahead(self, onnx: Path, out: Path, capabilities: Sequence[str], **options: Any) -> Artifact:
        """Build for GPUs that are not here, such as ``["SM86", "SM120"]``: one plan for all of them, TensorRT-RTX only.

        Raises:
            TargetError: TensorRT-RTX is not installed or knows no such GPU, or the graph is refused.
        """
        check_options("tensorrt", options, OPTIONS)
        api = _tensorrt_api.require()
        graph, form = form_of(onnx, self._fixed() | options)
        _check(graph)
        settings = BuildSettings(self._settings.profile, self._settings.workspace_mib, self._settings.limit_s, tuple(capabilities))
        key = plan_cache.key(api, None, graph, settings, form)
        built = build(api, graph, settings, tell=_teller(graph), branch_of=_branches(graph))
        plan_cache.write_plan(out, key, built.content, {"form": form, "seconds": round(built.seconds, 1)})
        return Artifact(out / plan_cache.PLAN, {"target": "tensorrt", "form": form, "ahead": list(capabilities), **self.versions()})

    def _fixed(self) -> dict[str, Any]:
        fixed = {} if self._precision == "auto" else {"precision": self._precision}
        return fixed | ({} if self._int8 == "auto" else {"int8": self._int8})

    def _plan(self, api: _tensorrt_api.Api, cuda: _tensorrt_cuda.Cuda, graph: Path, key: plan_cache.Key) -> bytes:
        """The engine of ``key``: found here, or built, saying why."""
        content, why = plan_cache.find(key)
        if content is not None:
            return content
        _check(graph)
        with plan_cache.alone():
            content, why = plan_cache.find(key)  # another process may have built it meanwhile
            return content if content is not None else self._built(api, cuda, graph, key, why)

    def _built(self, api: _tensorrt_api.Api, cuda: _tensorrt_cuda.Cuda, graph: Path, key: plan_cache.Key, why: str) -> bytes:
        _say(f"tensorrt builds an engine ({key.facts['form']}): {why}")
        timings = None if api.is_rtx else plan_cache.timings(api, cuda)  # RTX times nothing while building
        built: Plan = build(api, graph, self._settings, tell=_teller(graph), timing_cache=timings, branch_of=_branches(graph))
        for remark in built.remarks:
            _say(remark)
        plan_cache.keep(key.place, key, built.content, {"seconds": round(built.seconds, 1)})
        return built.content

    def _open_plan(self, plan: Path, chosen: Mapping[str, Any]) -> Session:
        """Open what ``compile`` wrote, if it was written here."""
        record = plan_cache.record(plan)
        if self.cannot_run():
            raise self._nowhere(plan)
        api, cuda = _tensorrt_api.require(), _cuda()
        key = plan_cache.of_record(record, api, cuda)
        content, why = plan_cache.read(plan.parent, key)
        if content is None:
            raise plan_cache.foreign(plan, why or "its record is missing.")
        return _session(api, cuda, content, plan, None, str(record["key"]["form"]), chosen)

    def _nowhere(self, path: Path) -> EdgemmError:
        if _tensorrt_api.installed() is None:
            return MissingExtra(f"tensorrt cannot run '{path.name}' here.", why=self.cannot_run(), fix=_tensorrt_api.INSTALL)
        return TargetError(f"tensorrt cannot run '{path.name}' here.", why=self.cannot_run(), fix=NO_GPU_FIX)


def _session(
    api: _tensorrt_api.Api, cuda: _tensorrt_cuda.Cuda, plan: bytes, path: Path, face: Any, form: str, chosen: Mapping[str, Any]
) -> Session:
    profiled = chosen.get("profile") == "on"
    graph = chosen.get("cuda_graph", "on") == "on"
    return TensorRTSession(api, cuda, plan, path, face, precision=form, graph=graph, profiled=profiled)


def _cuda() -> _tensorrt_cuda.Cuda:
    cuda = _tensorrt_cuda.load()
    assert cuda is not None  # cannot_run() told otherwise
    return cuda


def _check(path: Path) -> None:
    """Every rule of ``graph.checks``, where the onnx package is; the parser and its warnings are watched everywhere."""
    if has_onnx():
        from edgemm.graph import checks, files

        checks.require(files.load(path))


def _branches(path: Path) -> Callable[[str], str]:
    """Node -> branch, looked up when somebody asks."""

    @cache
    def owners() -> Mapping[str, str]:
        if not has_onnx():
            return {}
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches

        try:
            return find_branches(files.load(path)).of_node
        except EdgemmError:
            return {}

    return lambda node: owners().get(node, "")


def _teller(path: Path) -> Callable[[str, float], None]:
    """Says on stderr how far a long build is, every ``SPOKEN_S`` seconds."""
    started = spoken = time.monotonic()

    def tell(text: str, done: float) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= SPOKEN_S:
            spoken = time.monotonic()
            _say(f"tensorrt still builds '{path.name}': {text}, {done:.0%} of it, {spoken - started:.0f} s so far.")

    return tell


def _say(text: str) -> None:
    sys.stderr.write(f"edgemm: {text}\n")
