"""Late fusion in torch: whole models as members of one, so that pruning and training reach into them, and the joints behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from edgemm.contracts import joint_ops
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.joint import JointHead
from edgemm.contracts.member_cards import member_cards
from edgemm.workshop.models.fused import FusedModel, feature_names

CONSTANT = "constant_"


class Torch:
    """``joint_ops.Ops`` on tensors."""

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return torch.clamp(x, low, high)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(axis, keepdim=True)

    def max(self, x: Tensor, axis: int) -> Tensor:
        return x.amax(axis, keepdim=True)

    def min(self, x: Tensor, axis: int) -> Tensor:
        return x.amin(axis, keepdim=True)

    def log_softmax(self, x: Tensor) -> Tensor:
        return torch.log_softmax(x, -1)

    def above(self, x: Tensor, limit: float) -> Tensor:
        return (x > limit).to(x.dtype)

    def reshape(self, x: Tensor, *sizes: int) -> Tensor:
        return x.reshape(-1, *sizes)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), 1)


class HeadJoint(nn.Module):
    """One head's joint. Its parameters are buffers: they are fitted on val, and no training changes them."""

    def __init__(self, head: JointHead, task: str, width: int, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.head, self.task, self.width = head, task, width
        self.names: dict[str, str] = {}
        for key, value in joint_ops.parameters(head, task, width, widths).items():
            self._hold(key, key.replace(".", "_"), value, saved=True)
        for key, value in joint_ops.constants(head, task, width).items():
            self._hold(key, CONSTANT + key.replace(".", "_"), value, saved=False)

    def _hold(self, key: str, name: str, value: np.ndarray, *, saved: bool) -> None:
        self.names[key] = name
        self.register_buffer(name, torch.from_numpy(value.copy()), persistent=saved)

    def set(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Take what was fitted."""
        for key, value in parameters.items():
            self.get_buffer(self.names[key]).copy_(torch.from_numpy(value))

    def forward(self, answers: list[Tensor]) -> Tensor:
        """Each member's answer, in order -> (rows, width)."""
        ops, k = Torch(), {key: getattr(self, name) for key, name in self.names.items()}
        parts = [
            joint_ops.evidence(ops, self.task, answer, k, self.head, member, self.width)
            for member, answer in zip(self.head.members, answers, strict=True)
        ]
        answer: Tensor = joint_ops.joined(ops, self.task, parts, k, self.head, self.width)
        return answer


class LateFusion(nn.Module):
    """Members, each a model by itself, and a joint a head.

    Args:
        features: Names of what ``forward`` receives, in order.
        members: Member -> its model and, for each of its features, the name it has here.
        joints: Head -> its joint.
    """

    def __init__(
        self, features: Sequence[str], members: Mapping[str, tuple[FusedModel, Sequence[str]]], joints: Mapping[str, HeadJoint]
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.members = nn.ModuleDict({name: model for name, (model, _) in members.items()})
        self.taken = {name: tuple(names) for name, (_, names) in members.items()}
        self.joint = nn.ModuleDict(joints)

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """The front-ends' tensors in card order -> each head's answer."""
        named = dict(zip(self.features, features, strict=True))
        answers = {}
        for name, taken in self.taken.items():
            answers[name] = cast(FusedModel, self.members[name]).call_module(tuple(named[feature] for feature in taken))
        joints = {head: self.joint_of(head) for head in self.joint}
        return {head: joint([answers[name][output] for name, output in joint.head.members.items()]) for head, joint in joints.items()}

    def joint_of(self, head: str) -> HeadJoint:
        """The joint of a head."""
        return cast(HeadJoint, self.joint[head])


def build(card: Card, make: Callable[[str, Card], FusedModel]) -> LateFusion:
    """The model that a card with ``joint`` and members among its kwargs describes; its joints are at their start.

    Args:
        make: Builds the member of a name from its own card.

    Raises:
        CardError: A member cannot be read or built.
    """
    assert card.joint is not None  # what makes it such a card
    own_cards = member_cards(card)
    members = {name: (make(name, own), _fused_names(own, inputs)) for name, (own, inputs) in own_cards.items()}
    joints = {}
    for name, head in card.joint.heads.items():
        width = _width(card, name)
        widths = {member: _width(own_cards[member][0], output) or width for member, output in head.members.items()}
        joints[name] = HeadJoint(head, card.outputs[name].task, width, widths)
    return LateFusion(feature_names(card), members, joints)


def _fused_names(own: Card, inputs: Mapping[str, str]) -> list[str]:
    names = []
    for name, spec in own.inputs.items():
        names += [inputs[name], *([f"{inputs[name]}_mask"] if spec.options.get("mask") else [])]
    return names


def _width(card: Card, output: str) -> int:
    """How many values an output answers with; of a regression or an embedding of a fused card what stands under ``kwargs.widths``."""
    spec = card.outputs[output]
    return tasks.of(spec).answer_width or int(card.kwargs.get("widths", {}).get(output, 0))
