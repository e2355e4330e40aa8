"""What a target is: a runtime on a kind of box. It compiles ONNX, opens what it compiled, and says what really ran."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgemm.contracts import onnx_file, plugins
from edgemm.contracts.onnx_file import OnnxFile
from edgemm.contracts.specs import TensorSpec
from edgemm.errors import MissingExtra
from edgemm.store import cache
from edgemm.store.artifact import Artifact

TOLD, UNTOLD = "told", "untold"
"""Whether a form of file tells by itself what it takes and what it answers."""
FORMS = {".onnx": TOLD}
"""Ending of a file -> whether it tells of itself. What a target opens when its source has no constant ``FORMS`` of its own at its top."""


@dataclass(frozen=True)
class Numerics:
    """What Q/DQ a target wants.

    Attributes:
        activations: ``int8`` = signed, zero point 0; ``uint8`` = unsigned with zero point (x86 ONNX Runtime);
            ``mixed`` = unsigned after ReLU with zero point 0, else signed (OpenVINO).
        per_channel: Weights with one scale a channel.
        placement: ``everywhere`` the quantizer puts pairs, or ``fusing`` = only where TensorRT takes them into an INT8 kernel.
        floats: Float types a branch may ask for on this target.
        opset: ONNX opset to export.
        weight_bits: Bits in which it keeps weights alone small in memory, activations in float (``method: weights``).
        weight_form: How a graph says so: ``operators`` of com.microsoft, or ``blocks``, a DequantizeLinear with block_size.
        narrow_weights: INT8 weights take 7 of their 8 bits: two products are added in 16 bits here, which overflows in silence.
    """

    activations: str
    per_channel: bool = True
    floats: tuple[str, ...] = ("fp32",)
    opset: int = 18
    placement: str = "everywhere"
    weight_bits: tuple[int, ...] = ()
    weight_form: str = "operators"
    narrow_weights: bool = False


@dataclass(frozen=True)
class LayerRan:
    """One executed layer: its name in the ONNX graph (where the runtime tells), its type, the precision and kernel that ran."""

    name: str
    kind: str
    precision: str
    kernel: str = ""
    time_us: float | None = None


class Session(Protocol):
    """An opened model. A context manager; not for use by two threads at once."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch.

        Args:
            feed: One array per input, keyed by name, as ``inputs`` says; numpy, C-contiguous or not.

        Returns:
            New arrays keyed by output name; the caller may keep them.

        Raises:
            SpecMismatch: Naming the input that does not fit.
            TargetError: The runtime failed.
        """
        ...

    def layers(self) -> list[LayerRan]:
        """What ran, layer by layer, in execution order; [] where the runtime does not tell."""
        return []

    def precision(self) -> str:
        """The precision that really ran, in one word or a mix: ``f32``, ``bf16``, ``int8+bf16``."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Target(Protocol):
    """A runtime. A plugin class may take keyword-only options in ``__init__``: they are what a recipe sets under ``targets.<name>``.

    Constants at the top of a plugin's file, read without importing it: ``PREFERRED``, its rank among the targets that
    measure where nobody names one; ``PACKAGES``, what changes what it computes; ``FORMS``, the files it opens. What pip installs for it is
    the extra of its name.

    ``compile`` and ``open`` take *runtime options* (plain JSON values such as ``{"threads": 1, "precision": "bf16"}``); a missing key
    means the target's own safe choice. They are what ``tune`` chooses among and what ``options.json`` of a bundle holds.
    """

    numerics: Numerics

    def compile(self, onnx: Path, out: Path, **options: Any) -> Artifact:
        """Make ``out`` (a folder, already there) hold what this target loads, from ONNX file ``onnx``: a copy of it, where it opens.

        Raises:
            TargetError: The runtime is missing or refuses the graph; names op, node and what to do.
        """
        main = onnx_file.copy(onnx, out)
        self.open(main, **options).close()
        return Artifact(main, {"target": plugins.name_of(type(self)), **self.versions()})

    def open(self, artifact: Path, **options: Any) -> Session:
        """Open what ``compile`` made (its main file; for ONNX-reading targets an ONNX file itself).

        Raises:
            TargetError: As above.
        """
        ...

    def describe(self, model: Path) -> OnnxFile:
        """What a file of one of the forms that tell of themselves (``FORMS``) says: inputs, outputs, operators, files beside it.

        Raises:
            TargetError: It is missing, broken, or lacks a file beside it.
        """
        return onnx_file.read(model)

    def cannot_run(self) -> str:
        """Why this machine opens nothing for the target, in a sentence; "" where it does.

        Such a target's only choice is ``stand_in: onnxruntime``: what ``open`` then gives computes what the target would, for its
        accuracy; its speed says nothing.
        """
        return ""

    def falls_back(self) -> str:
        """What runs the target's graph where ``cannot_run``, if the recipe's options for it allow that: ``open`` then does, and says so.

        "" = ``open`` fails there. Serving shows what is told here; nobody else's runtime is ever taken in silence.
        """
        return ""

    def wants_float(self) -> bool:
        """Whether it may run a bundle's float graph in the place of its own: a slim bundle for it then brings that along."""
        return False

    def companions(self, onnx: Path, out: Path) -> list[Path]:
        """Write into ``out`` what a bundle shall hold beside the target's graph; []: nothing."""
        return []

    def choices(self, *, forbid: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """The few runtime-option combinations worth timing on this machine, the safe default first.

        Args:
            forbid: Float types that must not run (a branch marked fp32 forbids bf16 and fp16).
        """
        ...

    def unsafe_choices(self, options: Mapping[str, Any], model: Path) -> list[dict[str, Any]]:
        """Faster variations of one choice, with which the target is known to compute some graphs wrongly: only for a proved graph.

        Args:
            options: The choice.
            model: The ONNX file that it would run.
        """
        return []

    def without_unsafe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options`` for what they were not proved for: a part of the graph, another number of threads."""
        return dict(options)

    def float_options(self) -> dict[str, Any]:
        """Runtime options that force every layer to f32: the subject ``float`` of a report."""
        ...

    def default_options(self) -> dict[str, Any]:
        """Runtime options that leave everything to the runtime: the subject ``default`` of a report."""
        return {}

    def profile_options(self) -> dict[str, Any]:
        """Runtime options with which ``Session.layers`` tells times; {} where it does so by itself."""
        return {}

    def versions(self) -> dict[str, str]:
        """Distribution name -> version of what runs here."""
        ...


@runtime_checkable
class BuildsAhead(Protocol):
    """A target that can also build for GPUs that are not here."""

    def ahead(self, onnx: Path, out: Path, capabilities: Sequence[str], **options: Any) -> Artifact:
        """Make ``out`` hold one compiled file for all of ``capabilities``, such as ``["SM86", "SM120"]``.

        Raises:
            TargetError: It knows no such GPU, or refuses the graph.
        """
        ...


def needs_accelerator(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a target with these options computes on more than the processor, told without importing it.

    Its file says ``ACCELERATOR = True``, or its option ``device`` names another than ``CPU``.
    """
    return bool(plugins.constant("targets", name, "ACCELERATOR")) or str(options.get("device", "CPU")).upper() != "CPU"


def preferred() -> list[str]:
    """Targets that may measure where nobody names one, the best first."""
    ranks = {name: rank for name in plugins.names("targets") if (rank := plugins.constant("targets", name, "PREFERRED")) is not None}
    return sorted(ranks, key=lambda name: ranks[name])


def first_here(what: str) -> tuple[str, Target]:
    """The first of ``preferred`` whose runtime is installed.

    Raises:
        MissingExtra: None is; ``what`` needs one.
    """
    for name in preferred():
        try:
            return name, plugins.load(Target, name)
        except MissingExtra:
            continue
    why = f"neither {' nor '.join(preferred())} is installed."
    raise MissingExtra(f"{what} needs a runtime.", why=why, fix=f"pip install 'edgemm[{plugins.extra_of(preferred()[0])}]'")


def forms(name: str) -> Mapping[str, str]:
    """The forms of files that target ``name`` opens, read from its source: ending -> ``TOLD`` or ``UNTOLD``."""
    own = plugins.constant("targets", name, "FORMS")
    return FORMS if own is None else dict(own)


def opening(model: Path) -> dict[str, str]:
    """Names of the targets that open a file of this form -> whether it tells of itself."""
    return {name: word for name in plugins.names("targets") if (word := forms(name).get(model.suffix)) is not None}


def describe(model: Path) -> OnnxFile | None:
    """What a model's file says of itself, asked of a target that opens such; None where no target can tell.

    Raises:
        TargetError: It is missing or broken.
        MissingExtra: The target that knows its form is not installed here.
    """
    if model.suffix == ".onnx":
        return onnx_file.read(model)  # the border: it needs no runtime
    name = next((name for name, word in opening(model).items() if word == TOLD), None)
    return plugins.load(Target, name).describe(model) if name else None


def problem(name: str) -> str:
    """Why target ``name`` does not run here; "" when it does."""
    try:
        return plugins.load(Target, name).cannot_run()
    except MissingExtra as err:
        return err.fix
    except (ImportError, OSError) as err:  # installed, but a system library is missing
        return f"cannot be imported: {err}"


def fingerprint(target: Target) -> dict[str, Any]:
    """What must match for tuned options to apply: processor, cores, runtime version."""
    return {**cache.machine(), "system": platform.system(), **target.versions()}
