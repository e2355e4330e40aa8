"""What text encoders share: the embedding table and the mask over padding."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.workshop.models.protocols import Features


def vocabulary_of(features: Features, encoder: str) -> int:
    """Number of token ids.

    Raises:
        CardError: The input is no text.
    """
    if features.vocabulary is None or len(features.shape) != 1:
        raise features.unfit(encoder, "text: token ids of shape (length,)")
    return features.vocabulary


def token_mask(ids: Tensor, mask: Tensor | None, pad: int) -> Tensor:
    """Float (N, length), 1 = token. Without a mask from the card, ids other than ``pad`` count."""
    return (ids.ne(pad) if mask is None else mask).float()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(N, T, width) and (N, T) -> (N, width): mean over the tokens that count; zeros where none does."""
    return (x * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)


def last_token(x: Tensor, mask: Tensor) -> Tensor:
    """(N, T, width) and (N, T) -> (N, width): the state at the last token that counts; zeros where none does.

    A product with a mask that is 1 at the end only, so that the graph holds no index operation.
    """
    ends = mask - nn.functional.pad(mask[:, 1:], (0, 1))
    return (x * ends.unsqueeze(2)).sum(1)
