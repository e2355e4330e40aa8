"""The composed reference model: what ``build`` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from edgemm.workshop.models.protocols import Encoder, Fusion, Head


class Composed(nn.Module):
    """encoders -> fusion -> heads.

    Inputs with steps are encoded step by step (steps folded into the batch); the others are repeated for every step. The fusion then
    works on each step alone. A head sees all steps at once if it takes a sequence, one step if its output is ``per_step``, and the
    mean over the steps otherwise. A fusion that keeps space gives maps: a head that takes no maps sees the mean over the coarsest.

    Args:
        masked: Inputs that come as two tensors, ids and mask.
        steps: Input name -> number of steps, the same for all of them.
        per_step: Outputs with one answer a step.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion,
        heads: Mapping[str, Head],
        *,
        masked: Sequence[str] = (),
        steps: Mapping[str, int] | None = None,
        per_step: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.heads = nn.ModuleDict(heads)
        self.masked = frozenset(masked)
        self.stepped = frozenset(steps or {})
        self.steps = next(iter((steps or {}).values()), None)
        self.per_step = frozenset(per_step)

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """The front-ends' tensors in card order -> one tensor per output name; of a head that gives several, those by its names for them.

        Shapes: (N, *feature shape), with steps (N, steps, *feature shape); a text with a mask gives two. Outputs: as their head says,
        per step (N, steps, ...).
        """
        fused = self.fusion(self._encode(list(features)))
        answers: dict[str, Tensor] = {}
        for name in self.heads:
            answer = self._answer(name, fused[name] if isinstance(fused, dict) else fused)
            answers |= answer if isinstance(answer, dict) else {name: answer}
        return answers

    def _encode(self, features: list[Tensor]) -> dict[str, Any]:
        """Input name -> (N, width), or what ``Encoder.tokens`` or ``pyramid`` gives; N counts steps too where there are any."""
        branches: dict[str, Any] = {}
        for name, encoder in self.encoders.items():
            received = [features.pop(0) for _ in range(2 if name in self.masked else 1)]
            if name in self.stepped:
                received = [x.reshape(-1, *x.shape[2:]) for x in received]
            branch = self._encoded(cast(Encoder, encoder), received)
            branches[name] = branch if self.steps is None or name in self.stepped else self._repeated(branch)
        return branches

    def _encoded(self, encoder: Encoder, received: list[Tensor]) -> Any:
        if self.fusion.takes_maps and encoder.maps is not None:
            return encoder.pyramid(*received)
        return encoder.tokens(*received) if self.fusion.takes_tokens else encoder(*received)

    def _repeated(self, branch: Any) -> Any:
        """What does not change over the steps, once for every step."""
        if branch is None or isinstance(branch, tuple):
            return branch and tuple(self._repeated(part) for part in branch)
        every = branch.unsqueeze(1).expand(-1, self.steps, *branch.shape[1:])
        return every.reshape(-1, *branch.shape[1:])

    def _answer(self, name: str, fused: Any) -> Any:
        head = cast(Head, self.heads[name])
        if head.takes_maps:
            return head(fused)
        vector = fused[-1].mean((2, 3)) if self.fusion.takes_maps else fused
        if self.steps is None:
            return head(vector)
        if name in self.per_step and not head.takes_sequence:
            answer = head(vector)
            return answer.reshape(-1, self.steps, *answer.shape[1:])
        sequence = vector.reshape(-1, self.steps, vector.shape[-1])
        return head(sequence if head.takes_sequence else sequence.mean(1))
