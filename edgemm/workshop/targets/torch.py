"""The original model in torch, float32: what everything is compared with. Opened by the benchmark's child process only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts import user_code
from edgemm.contracts.card import Card
from edgemm.contracts.modality import input_specs
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.specs import BATCH, TensorSpec, check_feed, show_shape
from edgemm.contracts.target import Numerics, Session, Target
from edgemm.data.dataset import synthetic
from edgemm.errors import EdgemmError, TargetError
from edgemm.store.artifact import Artifact
from edgemm.store.cache import version
from edgemm.store.machine import usable_cores
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.fused import FusedModel

PACKAGES = ("torch",)
FORMS = {}  # type: ignore[var-annotated]  # cards alone, which are no files of a runtime
OPTIONS = {"threads": "int", "precision": "'f32'", "compile": "'on' | 'off'"}
"""Runtime options. ``compile: on`` = through torch.compile, which needs a C++ compiler; the first call takes long."""


class Torch(Target):
    """Eager torch on the CPU; opens a model card, compiles nothing."""

    numerics = Numerics(activations="int8", floats=("fp32",))

    def compile(self, onnx: Path, out: Path, **options: Any) -> Artifact:
        raise TargetError(
            "torch is not a target to compile for.",
            why="it runs the original model, so that others can be compared with it.",
            fix="choose openvino or onnxruntime.",
        )

    def open(self, artifact: Path, **options: Any) -> Session:
        check_options("torch", options, OPTIONS)
        return TorchSession(artifact, options)

    def choices(self, *, forbid: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        return [{"threads": count} for count in sorted({1, usable_cores()})]

    def float_options(self) -> dict[str, Any]:
        return {"precision": "f32"}

    def versions(self) -> dict[str, str]:
        return {"torch": version("torch")}


class TorchSession(Session):
    """A card's model in eval mode, all in float32.

    Raises:
        EdgemmError: The card or its checkpoint is wrong.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._threads_before = torch.get_num_threads()  # torch has one setting for the whole process
        torch.set_num_threads(int(options.get("threads", usable_cores())))
        torch.set_float32_matmul_precision("highest")  # "medium" would compute in bf16 and still say float32
        card = cards.load(path)
        self._model = load_model(card).float().eval()
        if options.get("compile") == "on":
            _compile(self._model, path)
        self.inputs: list[TensorSpec] = input_specs(card)
        try:
            self.outputs: list[TensorSpec] = self._find_outputs(card)
        except torch._dynamo.exc.TorchDynamoException as err:
            why = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            raise TargetError(f"torch.compile refuses '{path.name}'.", why=why, fix="leave the compiled model out.") from err

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_feed(self.inputs, feed)
        inputs = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in feed.items()}
        try:
            with torch.inference_mode():
                return {name: answer.numpy().copy() for name, answer in self._model(inputs).items()}
        except (EdgemmError, MemoryError, torch._dynamo.exc.TorchDynamoException):
            raise
        except Exception as err:  # the user's own code may raise anything
            shapes = ", ".join(f"'{name}' {show_shape(array.shape)} {array.dtype}" for name, array in feed.items())
            raise TargetError(
                f"the model failed on a sample, at {user_code.line_of(err)}.",
                why=f"{type(err).__name__}: {' '.join(str(err).split())}; the sample: {shapes}.",
                fix="check that forward takes the shapes the card declares.",
            ) from err

    def precision(self) -> str:
        words = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64"}
        kinds = {parameter.dtype for parameter in self._model.parameters()}
        return "+".join(sorted(words[kind] for kind in kinds if kind in words)) or "f32"

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)

    def _find_outputs(self, card: Card) -> list[TensorSpec]:
        """By running one synthetic sample: a torch module does not declare what it returns."""
        answers = self.run(next(synthetic(card, samples=1).batches("train", 1)).inputs)
        return [TensorSpec(name, array.dtype.name, (BATCH, *array.shape[1:])) for name, array in answers.items()]


def _compile(model: FusedModel, path: Path) -> None:
    """Put what computes behind torch.compile, which compiles at the first call; reading the card is between both and stays Python.

    Raises:
        TargetError: There is no C++ compiler, which its CPU backend calls.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise TargetError(
            f"torch cannot compile '{path.name}' here.",
            why="its CPU backend calls a C++ compiler, and this machine has none.",
            fix="install g++, or leave the compiled model out.",
        )
    for part in (model.frontend, model.module):
        part.compile(dynamic=False)
