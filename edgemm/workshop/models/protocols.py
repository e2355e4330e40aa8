"""What a reference model is made of: encoders x fusion x heads. One class a file; its keyword-only options are its schema.

Shapes leave nothing out: N is the batch, T the tokens of one sample (picture patches, sound frames, words, time steps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.contracts.specs import show_shape
from edgemm.errors import CardError


@dataclass(frozen=True)
class Features:
    """What one encoder receives, as the card's front-end delivers it.

    Attributes:
        name: The input's name, for errors.
        shape: One sample, without batch and steps: (C, H, W) image, (mels, frames) or (samples,) audio, (length,) text ids,
            anything for a sensor.
        folder: The card's folder, to which paths in options are relative.
        vocabulary, pad: Number of token ids, and the one that is padding; text only.
        axes: What each axis of ``shape`` counts, as ``Modality.axes`` says.
    """

    name: str
    modality: str
    shape: tuple[int, ...]
    folder: Path | None = None
    vocabulary: int | None = None
    pad: int = 0
    axes: tuple[str, ...] = ()

    def unfit(self, encoder: str, wants: str) -> CardError:
        """The error of an encoder that cannot take this input."""
        return CardError(
            f"inputs.{self.name}: encoder '{encoder}' cannot take {self.modality} of shape {show_shape(self.shape)}.",
            why=f"it wants {wants}.",
            fix=f"choose another encoder for '{self.name}' under kwargs.encoders, or change the input.",
        )


@dataclass(frozen=True)
class Maps:
    """Feature maps of one picture, the finest first: what keeps where things are.

    Attributes:
        input: The picture's input.
        size: (height, width) of the picture in pixels, as the model receives it.
        strides: Pixels that a cell of each map spans, each way.
        channels: Of each map.
    """

    input: str
    size: tuple[int, int]
    strides: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each map."""
        high, wide = self.size
        return tuple((-(-high // stride), -(-wide // stride)) for stride in self.strides)


class Encoder(nn.Module):
    """One input -> one vector of ``width`` numbers, or a sequence of them.

    A plugin takes ``features`` and keyword-only options, and sets ``width``.

    Attributes:
        maps: What ``pyramid`` gives; None where there is no such thing.
    """

    width: int
    maps: Maps | None = None

    def __init__(self, features: Features, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, *features.shape), and for text an int64 mask (N, length) with 1 = token -> (N, width)."""
        raise NotImplementedError

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The same as a sequence for attention: (N, T, width), and a float mask (N, T) with 1 = token, or None where all count.

        An encoder without a natural sequence has one token.
        """
        return self(x, mask).unsqueeze(1), None

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same as maps (N, channels, height, width), as ``maps`` says. Each ends in a submodule of its own."""
        raise NotImplementedError


class Fusion(nn.Module):
    """The branches' vectors -> one vector of ``width`` numbers.

    Attributes:
        takes_tokens: The fusion wants each branch as (tokens (N, T, width), mask (N, T) or None) instead of one vector.
        takes_maps: It wants the branches of encoders with ``maps`` as ``pyramid`` gives them, and the others as vectors. It is built with
            ``maps`` beside ``widths``: input name -> its maps, of the encoders that have some. Its ``forward`` gives maps, a tuple.
        maps: What it gives; with ``takes_maps`` alone. All maps have ``width`` channels.
    """

    takes_tokens: ClassVar[bool] = False
    takes_maps: ClassVar[bool] = False
    width: int
    maps: Maps | None = None

    def __init__(self, widths: Mapping[str, int], outputs: Sequence[str], **options: Any) -> None:
        """``widths``: input name -> width of its branch, in card order; ``outputs``: output names, in card order."""
        super().__init__()

    def forward(self, branches: dict[str, Any]) -> Any:
        """Input name -> (N, width of the branch) -> (N, width); or output name -> its own vector, as ``width_for`` says."""
        raise NotImplementedError

    def width_for(self, output: str) -> int:
        """Width of the vector that the head of ``output`` receives."""
        return self.width


class Head(nn.Module):
    """The fused vector -> one output.

    Attributes:
        takes_sequence: The head wants all steps at once, (N, steps, width), instead of one vector.
        takes_maps: It wants the maps of a fusion that gives some, a tuple, and is built with ``maps`` beside ``width`` and ``output``. A
            head that does not gets the mean over the coarsest of them.
        paths: Options that are paths relative to the card's folder.
    """

    takes_sequence: ClassVar[bool] = False
    takes_maps: ClassVar[bool] = False
    paths: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, output: Output, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """(N, width) -> (N, labels), (N,) for one number, (N, size) for several or for an embedding; or tensor name -> tensor, of an output
        that joins several.
        """
        raise NotImplementedError


def labels_of(output: Output, head: str) -> int:
    """How many labels the head has to tell apart.

    Raises:
        CardError: The card does not list them.
    """
    if output.labels is None:
        raise CardError(
            f"outputs.{output.name}: '{head}' needs labels, and the card lists none.",
            why="the size of the head is the number of labels.",
            fix=f"write outputs.{output.name}.labels: [first, second], or let `edgemm train` read them from the data.",
        )
    return len(output.labels)
