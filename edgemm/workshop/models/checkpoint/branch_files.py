"""Weights of branches alone, as files that a card's ``weights: {image: branches/image.safetensors}`` names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edgemm.contracts.slugs import slugs
from edgemm.errors import CheckpointError
from edgemm.workshop.models.checkpoint import files
from edgemm.workshop.models.checkpoint.branches import branch_of
from edgemm.workshop.models.checkpoint.weights import write_state
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import TorchBranches

FOLDER = "branches"


def own_modules(model: FusedModel, parts: TorchBranches, inputs: Collection[str]) -> dict[str, str]:
    """What a card calls each submodule that belongs to the branches of these inputs alone -> its name in ``model.module``.

    An input's name where that leads to it, else the submodule's own.

    Raises:
        CheckpointError: A weight of a branch lies in no submodule that is of this branch alone.
    """
    branch = {name: part for name, part in parts.of_parameter.items() if part in inputs}
    found: dict[str, str] = {}
    for path, module in model.module.named_modules():
        held = [f"{path}.{name}" for name, _ in module.named_parameters()]
        of = {parts.of_parameter[name] for name in held if name in parts.of_parameter}
        if path and len(of) == 1 and of <= set(inputs) and not any(path.startswith(f"{taken}.") for taken in found):
            found[path] = next(iter(of))
    lost = [name for name in branch if not any(name.startswith(f"{path}.") for path in found)]
    if lost:
        raise CheckpointError(
            f"'{lost[0]}' of the branch '{branch[lost[0]]}' lies in no submodule of this branch alone.",
            why="weights of branches are written, and read, submodule by submodule.",
            fix="build each branch as a submodule of its own, such as self.image = ImageEncoder().",
        )
    return {_called(model, path, name): path for path, name in found.items()}


def write(model: FusedModel, modules: dict[str, str], scratch: Path, final: Path) -> None:
    """Write a card that names the weights of these submodules, and their files, into ``scratch``, a folder that will be ``final``.

    Args:
        modules: As ``own_modules`` returns them.

    Raises:
        CheckpointError: A submodule's state holds something else than tensors.
    """
    (scratch / FOLDER).mkdir()
    named = {name: f"{FOLDER}/{file}.safetensors" for name, file in slugs(modules).items()}
    for name, path in modules.items():
        write_state(model.module.get_submodule(path), scratch / named[name])
    files.write(model.card, scratch, final, branch_weights=named)


def _called(model: FusedModel, path: str, name: str) -> str:
    try:
        return name if branch_of(model.module, name) is model.module.get_submodule(path) else path
    except CheckpointError:
        return path
