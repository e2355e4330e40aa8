"""What torch computes: outputs of a fused model, and every tensor on the way, as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind

from edgemm.workshop.models.fused import FusedModel, feature_names


def outputs(model: FusedModel, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's answers to raw inputs."""
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(_tensors(sample)).items()}


def features(model: FusedModel, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the module receives, by feature name."""
    with torch.no_grad():
        return {name: value.numpy() for name, value in zip(feature_names(model.card), model.features(_tensors(sample)), strict=True)}


def on_the_way(program: torch.export.ExportedProgram, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of torch's graph, by node name, when fed ``values`` (features in order)."""
    recorder = _Recorder(program.graph_module)
    tensors = iter(torch.from_numpy(value) for value in values.values())
    arguments = [_argument(program, spec, tensors) for spec in program.graph_signature.input_specs]
    with torch.no_grad():
        recorder.run(*arguments, enable_io_processing=False)
    return recorder.values


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.values[n.name] = value.detach().numpy()
        return value


def _argument(program: torch.export.ExportedProgram, spec: Any, tensors: Any) -> Any:
    if spec.kind is InputKind.USER_INPUT:
        return next(tensors)
    if spec.kind is InputKind.CONSTANT_TENSOR or spec.target not in program.state_dict:
        return program.constants[spec.target]
    return program.state_dict[spec.target]


def _tensors(sample: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in sample.items()}
