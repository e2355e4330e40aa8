"""Front-ends in torch: the same fixed operations as in the graph and on the box."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgemm.contracts import frontend_ops
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities


class Frontend(nn.Module):
    """From what the box has to what ``forward`` receives, for every input of a card. Holds no trainable and no saved values."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.names = tuple(card.inputs)
        self.chains = nn.ModuleList(
            Chain(modality.frontend(), steps=card.inputs[name].steps) for name, modality in modalities(card).items()
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """
        Args:
            inputs: Input name -> (batch[, steps], *sample) as the card's modality says: uint8 picture, PCM, ids, sensor window.

        Returns:
            What the user's ``forward`` receives, in card order; a text with a mask yields two.
        """
        features: list[Tensor] = []
        for name, chain in zip(self.names, self.chains, strict=True):
            out = chain(inputs[name])
            features += out if isinstance(out, tuple) else (out,)
        return tuple(features)


class Chain(nn.Module):
    """The operations of one input. With ``steps``, that axis is folded into the batch meanwhile."""

    def __init__(self, ops: list[frontend_ops.Op], *, steps: int | None) -> None:
        super().__init__()
        self.steps = steps if frontend_ops.folds(ops) else None
        self.operations = nn.ModuleList(Operation(op) for op in ops)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        # half precision would ruin the logarithm of small powers
        exact = torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled(x.device.type) else contextlib.nullcontext()
        with exact:
            if self.steps is not None:
                x = x.flatten(0, 1)
            for operation in self.operations:
                x = operation(x)
            return x if self.steps is None else x.unflatten(0, (-1, self.steps))


class Operation(nn.Module):
    """One operation; its arrays are buffers that no checkpoint holds."""

    scale: Tensor
    shift: Tensor
    weight: Tensor
    window: Tensor
    down_real: Tensor
    down_imaginary: Tensor
    turn_cosines: Tensor
    turn_sines: Tensor
    along_cosines: Tensor
    along_sines: Tensor

    def __init__(self, op: frontend_ops.Op) -> None:
        super().__init__()
        self.op = op
        for field in dataclasses.fields(op):
            value = getattr(op, field.name)
            if isinstance(value, np.ndarray):
                self.register_buffer(field.name, torch.from_numpy(np.array(value, np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        match self.op:
            case frontend_ops.Cast(dtype=dtype):
                return x.to(getattr(torch, dtype))
            case frontend_ops.Transpose(axes=axes):
                return x.permute(0, *axes)
            case frontend_ops.Affine():
                return x * self.scale + self.shift
            case frontend_ops.Peak(floor=floor):
                return x / torch.clamp(x.amax(dim=1, keepdim=True), min=floor)
            case frontend_ops.Reflect(width=width):
                return functional.pad(x.unsqueeze(1), (width, width), mode="reflect").squeeze(1)
            case frontend_ops.Frames(hop=hop):  # not conv1d: cuDNN computes that in TF32, with three digits
                return torch.matmul(x.unfold(1, self.weight.shape[-1], hop), self.weight[:, 0].T).transpose(1, 2)
            case frontend_ops.Blocks(window=window, hop=hop, frames=frames, overrun=overrun):
                padded = functional.pad(x, (0, overrun))
                return padded.unfold(1, window.size, hop)[:, :frames].unflatten(2, window.shape) * self.window
            case frontend_ops.Spectrum(exponent=exponent):
                real, imaginary = torch.matmul(self.down_real, x), torch.matmul(self.down_imaginary, x)
                cosines, sines = self.turn_cosines, self.turn_sines
                real, imaginary = real * cosines + imaginary * sines, imaginary * cosines - real * sines
                cosines, sines = self.along_cosines, self.along_sines
                real, imaginary = real @ cosines + imaginary @ sines, imaginary @ cosines - real @ sines
                return _power(torch.cat([real, imaginary], dim=1), exponent).flatten(2)
            case frontend_ops.Bands():
                return torch.matmul(x, self.weight).transpose(1, 2)
            case frontend_ops.Power(exponent=exponent):
                return _power(x, exponent)
            case frontend_ops.MatMul():
                return torch.matmul(self.weight, x)
            case frontend_ops.Log(floor=floor, offset=offset):
                return torch.log(torch.clamp(x + offset if offset else x, min=floor))
            case frontend_ops.Normalize(floor=floor, added=added):
                return _normalize(x, floor, added)
            case frontend_ops.Within(distance=distance):
                return torch.maximum(x, x.amax(dim=tuple(range(1, x.dim())), keepdim=True) - distance)
            case frontend_ops.Extend(more=more):
                return functional.pad(x, (0, more))
            case frontend_ops.Mask(pad=pad):
                return x, (x != pad).to(torch.int64)

    def extra_repr(self) -> str:
        return type(self.op).__name__


def _power(x: Tensor, exponent: float) -> Tensor:
    real, imaginary = x.chunk(2, dim=1)
    power = real * real + imaginary * imaginary
    return power if exponent == 2.0 else torch.sqrt(power) if exponent == 1.0 else power ** (exponent / 2)


def _normalize(x: Tensor, floor: float, added: float) -> Tensor:
    axes = tuple(range(1, x.dim()))
    centred = x - x.mean(dim=axes, keepdim=True)
    variance = (centred * centred).mean(dim=axes, keepdim=True)
    deviation = torch.sqrt(variance + added if added else variance)
    return centred / (deviation + floor if floor else deviation)
