"""Parts of a model that stand still in a stage of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemm.contracts.training import Stage
from edgemm.errors import TrainError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import find_parts, selected


class Freezing:
    """Which parameters the stages of a training leave alone, and the modules that are in eval mode meanwhile.

    A parameter that the factory froze stays frozen in all stages.

    Raises:
        ExportError: The model's parts cannot be told apart.
        TrainError: A stage freezes everything that there is, or the model has nothing to train.
    """

    def __init__(self, model: FusedModel, stages: Sequence[Stage]) -> None:
        self._trainable = {name: parameter for name, parameter in model.module.named_parameters() if parameter.requires_grad}
        if not self._trainable:
            raise TrainError("the model has no trainable parameters.", fix="check what the factory builds, and its requires_grad.")
        self._model = model
        self._of_stage = _frozen(model, stages) if any(stage.freeze for stage in stages) else [frozenset[str]() for _ in stages]
        for number, (stage, frozen) in enumerate(zip(stages, self._of_stage, strict=True), 1):
            if frozen >= self._trainable.keys():
                why = f"the other parts of this model have nothing to train; it has {len(self._trainable)} parameters in all."
                what = f"stages.{number} freezes everything: {', '.join(stage.freeze)}."
                raise TrainError(what, why=why, fix="freeze less in this stage, or leave it out.")

    def begin(self, stage: int) -> None:
        """Set what is trained in a stage."""
        for name, parameter in self._trainable.items():
            parameter.requires_grad = name not in self._of_stage[stage]
            parameter.grad = None  # one left of the stage before would count in the norm that is clipped

    def end(self) -> None:
        """Everything can be trained again."""
        for parameter in self._trainable.values():
            parameter.requires_grad = True

    def settle(self, stage: int) -> None:
        """After ``model.train()``: layers that stand still keep their statistics too."""
        frozen = self._of_stage[stage]
        for path, module in self._model.module.named_modules() if frozen else ():
            own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
            if own and frozen.issuperset(own) and any(True for _ in module.buffers(recurse=False)):
                module.training = False  # of this layer alone; in eval mode as a whole cuDNN's recurrent layers pass no gradient on


def _frozen(model: FusedModel, stages: Sequence[Stage]) -> list[frozenset[str]]:
    """Of each stage the names of the parameters that it freezes."""
    parts = find_parts(model)
    of_parameter: Mapping[str, str] = parts.of_parameter
    frozen = []
    for stage in stages:
        branches = {branch for selector in stage.freeze for branch in selected(parts, selector, model.card)}
        frozen.append(frozenset(name for name, branch in of_parameter.items() if branch in branches))
    return frozen
