"""What each branch of a model says of a row, as one vector: where pretraining listens."""

from __future__ import annotations

import torch
from torch import Tensor

from edgemm.contracts.modality import modalities
from edgemm.workshop.models.feature_taps import Ends, Taps
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import evaluating, sample_inputs


class BranchVectors:
    """The ends of the inputs' branches in the last forward pass of the model.

    Args:
        ends: As ``find_ends`` found them.

    Attributes:
        inputs: Those whose branch can be listened to: of the others no submodule returns the end, or they carry a state.
        widths: Input -> numbers of its vector.
    """

    def __init__(self, model: FusedModel, ends: Ends) -> None:
        self._card = model.card
        parts = modalities(model.card)
        whole = [name for name, part in parts.items() if part.batch_axis() == 0 and part.initial() is None]
        self._taps_of = {name: [tap for tap, part in ends.part.items() if part == name] for name in whole}
        self.inputs = tuple(name for name in whole if self._taps_of[name])
        named = {tap: ends.features[tap] for name in self.inputs for tap in self._taps_of[name]}
        self._taps = Taps(model, named)
        inputs = sample_inputs(model.card)
        with evaluating(model), torch.no_grad():
            model(inputs)
        rows = len(next(iter(inputs.values())))
        self.widths = {name: vector.shape[1] for name, vector in self.read(rows).items()}

    def read(self, rows: int) -> dict[str, Tensor]:
        """Input -> float32 (rows, width), means over steps, tokens and places."""
        heard = self._taps.features(rows)
        return {name: torch.cat([self._pooled(name, heard[tap]) for tap in self._taps_of[name]], 1) for name in self.inputs}

    def close(self) -> None:
        """Stop listening."""
        self._taps.close()

    def _pooled(self, name: str, x: Tensor) -> Tensor:
        x = x.float()
        if self._card.inputs[name].steps and x.dim() > 2:
            x = x.mean(1)
        if x.dim() == 3:  # tokens by width, or channels by time: nothing says which, and either mean is of use
            return torch.cat([x.mean(1), x.mean(2)], 1)
        return x.flatten(2).mean(2) if x.dim() > 3 else x.reshape(len(x), -1)
