"""Masked reconstruction: pieces of a row's inputs are hidden, and told from what the branches make of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemm.contracts.modality import modalities
from edgemm.workshop.models.fused import FusedModel, feature_names
from edgemm.workshop.training.branch_vectors import BranchVectors
from edgemm.workshop.training.task_losses import Tensors

CELLS = 8  # along each axis: a picture or a spectrogram is hidden in at most 64 pieces
HIDDEN = 0.5  # of the pieces of an input; He et al. 2022 hide 0.75 of finer ones from a larger model
WHOLE = 0.3  # of the rows lose one input entirely: only the others can tell it then
FINEST = 32  # along each axis: what is to be told has no finer detail, else its decoder would outweigh the model
WIDTH = 256  # of the decoders
SMALL = 1e-6  # a variance below it is an input that never changes


@dataclass
class Hidden:
    """What was hidden in the last batch.

    Attributes:
        clean: Feature -> as the front-end made it.
        where: Feature -> bool, its shape but for axes along which all is hidden alike, which are 1.
    """

    clean: dict[str, Tensor] = field(default_factory=dict)
    where: dict[str, Tensor] = field(default_factory=dict)


class HiddenInputs(FusedModel):
    """A fused model that sees its inputs with pieces hidden, always others in training and always the same in eval mode.

    Measurements, pixels and sound become the batch's mean at that place, token ids padding; the first token stays. Whole numbers that are
    no token ids stay as they are.

    Attributes:
        hidden: Of the last batch.
    """

    def __init__(self, model: FusedModel) -> None:
        super().__init__(model.card, model.module)
        self.silenced, self.hidden = model.silenced, Hidden()
        words = {name: part.vocabulary() for name, part in modalities(model.card).items()}
        self._pads = {name: vocabulary.pad for name, vocabulary in words.items() if vocabulary is not None}

    def features(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        named = dict(zip(feature_names(self.card), super().features(inputs), strict=True))
        able = [name for name in self.card.inputs if name in self._pads or named[name].is_floating_point()]
        whole = _drawn_whole(able, len(self.card.inputs) > 1, named, self._generator(named))
        self.hidden = Hidden()
        for number, name in enumerate(able):
            x, rng = named[name], self._generator(named, number + 1)
            where = self._ids_hidden(name, x, whole[name], rng) if name in self._pads else _pieces(x, whole[name], rng)
            self.hidden.clean[name], self.hidden.where[name] = x, where
            if name in self._pads:
                named[name] = x.masked_fill(where, self._pads[name])
                if f"{name}_mask" in named:
                    named[f"{name}_mask"] = named[f"{name}_mask"].masked_fill(where, 0)
            else:
                named[name] = torch.where(where, x.mean(0, keepdim=True), x)
        return tuple(named.values())

    def _generator(self, named: Mapping[str, Tensor], number: int = 0) -> torch.Generator:
        device = next(iter(named.values())).device
        seed = int(torch.randint(2**31, ())) if self.training else number
        return torch.Generator(device).manual_seed(seed)

    def _ids_hidden(self, name: str, ids: Tensor, whole: Tensor, rng: torch.Generator) -> Tensor:
        where = torch.rand(ids.shape, generator=rng, device=ids.device) < HIDDEN
        where |= _over(whole, ids)
        where[..., 0] = False
        return where & (ids != self._pads[name])


class Reconstruction(nn.Module):
    """The loss of telling what is hidden: a ``LossHook`` whose own weights (a decoder for each input) are trained along.

    Every input is told from the vectors of all branches together. Of numbers it is the squared error where they are hidden, in units of
    their variance in the batch: 1 is what their mean would come to; of token ids the cross-entropy of each hidden one, whatever its place.

    Args:
        model: Hides, and remembers what.
        branches: Listens to it.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"; an input told from the others: Bachmann et al. 2022,
    "MultiMAE".
    """

    def __init__(self, model: HiddenInputs, branches: BranchVectors) -> None:
        super().__init__()
        self._model, self._branches = [model], branches  # in a list: its weights are not those of the loss
        words = {name: part.vocabulary() for name, part in modalities(model.card).items()}
        self._ids = frozenset(name for name, vocabulary in words.items() if vocabulary is not None)
        seen, sizes = sum(branches.widths.values()), dict[str, int]()
        for name, clean in model.hidden.clean.items():
            vocabulary = words[name]
            sizes[name] = vocabulary.size if vocabulary else _means(clean.float()).shape[1]
        self.decoders = nn.ModuleDict(
            {f"of {name}": nn.Sequential(nn.Linear(seen, WIDTH), nn.GELU(), nn.Linear(WIDTH, size)) for name, size in sizes.items()}
        )

    def forward(self, outputs: Mapping[str, Tensor], batch: Tensors) -> dict[str, Tensor]:
        """A part for each input, divided by how many they are."""
        seen = torch.cat(list(self._branches.read(len(batch.rows)).values()), 1)
        hidden, parts = self._model[0].hidden, dict[str, Tensor]()
        for name, clean in hidden.clean.items():
            where = hidden.where[name]
            if name in batch.present:
                where = where & _over(batch.present[name], where)
            told = self.decoders[f"of {name}"](seen)
            parts[name] = (_of_ids if name in self._ids else _of_numbers)(told, clean, where) / len(hidden.clean)
        return parts


def _of_ids(told: Tensor, ids: Tensor, where: Tensor) -> Tensor:
    scores = told.log_softmax(-1).gather(1, ids.flatten(1).long())
    chosen = where.flatten(1).float()
    return -(scores * chosen).sum() / chosen.sum().clamp(min=1)


def _of_numbers(told: Tensor, clean: Tensor, where: Tensor) -> Tensor:
    clean = clean.float()
    is_wave = clean.dim() == 2 and clean.shape[1] > FINEST
    wanted = _means((clean - clean.mean(1, keepdim=True)).abs() if is_wave else clean)  # of a wave its envelope
    share, apart = _means(where.expand_as(clean).float()), wanted - wanted.mean(0)
    spread = apart.square().mean().clamp(min=SMALL)
    return (share * (told - apart).square()).sum() / share.sum().clamp(min=1) / spread


def _drawn_whole(able: Sequence[str], several: bool, named: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Input -> bool (rows,): whether all of it is hidden; at most one of a row, and never the only one."""
    first = next(iter(named.values()))
    chosen = torch.randint(max(1, len(able)), (len(first),), generator=rng, device=first.device)
    is_one = torch.rand(len(first), generator=rng, device=first.device) < (WHOLE if several else 0.0)
    return {name: is_one & (chosen == number) for number, name in enumerate(able)}


def _pieces(x: Tensor, whole: Tensor, rng: torch.Generator) -> Tensor:
    """Which pieces along the last two axes (the last, where there is one) are hidden; bool, 1 along the axes before."""
    axes = min(2, x.dim() - 1)
    cells = tuple(min(CELLS, size) for size in x.shape[-axes:])
    drawn = torch.rand((len(x), *cells), generator=rng, device=x.device) < HIDDEN
    for axis, size in enumerate(x.shape[-axes:], 1):
        place = torch.arange(size, device=x.device) * cells[axis - 1] // size
        drawn = drawn.index_select(axis, place)
    where = drawn.reshape(len(x), *([1] * (x.dim() - 1 - axes)), *x.shape[-axes:])
    return where | _over(whole, where)


def _means(x: Tensor) -> Tensor:
    """(N, ...) -> (N, numbers): means over pieces, at most ``FINEST`` along each of the last two axes, or along the only one."""
    if x.dim() == 2:
        return F.adaptive_avg_pool1d(x.unsqueeze(1), min(FINEST, x.shape[1])).flatten(1)
    size = (min(FINEST, x.shape[-2]), min(FINEST, x.shape[-1]))
    return F.adaptive_avg_pool2d(x.reshape(len(x), -1, *x.shape[-2:]), size).flatten(1)


def _over(flags: Tensor, like: Tensor) -> Tensor:
    """(n,) shaped to go with (n, ...)."""
    return flags.reshape(-1, *([1] * (like.dim() - 1)))
