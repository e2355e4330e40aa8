"""The proof: a pruned model computes what the whole one does with the removed channels set to zero."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from edgemm.contracts.card import Card
from edgemm.errors import PruneError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import evaluating, sample_inputs
from edgemm.workshop.pruning.cutting import Kept, cut_for_now, masked_for_now
from edgemm.workshop.pruning.layers import Layer, Structure

TOLERANCE = 1e-5
"""Largest difference allowed, as a share of the largest number in the output. Float32 sums in another order cost about 1e-7 a layer."""
ALL_SUBSETS = 5
"""Up to so many inputs every subset is tried; beyond, each alone and all but each."""

Features = tuple[Tensor, ...]
Said = Callable[[str, float], None]


def silent(text: str, fraction: float) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Case:
    """Features to compare on, and what they are."""

    name: str
    features: Features


@dataclass(frozen=True)
class Proof:
    """What was compared, and the largest difference as a share of the output's scale."""

    error: float
    cases: int
    worst: str


def cases(model: FusedModel, real: Mapping[str, np.ndarray] | None, *, seed: int = 0) -> list[Case]:
    """Random samples in three batch sizes, real ones where given, and of both every subset of present inputs.

    A missing input's features are zeros; once more they are large random numbers, so that its branch feeds what it never fed.
    """
    card = model.card
    with torch.no_grad(), evaluating(model):
        samples = [("random samples", model.features(sample_inputs(card, batch=size, seed=seed + size))) for size in (2, 3, 1)]
        if real is not None:
            samples.append(
                ("real samples", model.features({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in real.items()}))
            )
    cases = [Case(f"{len(features[0])} {name}", tuple(x.contiguous() for x in features)) for name, features in samples]
    for name, features in (samples[1], samples[-1]):
        for missing in _subsets(list(card.inputs)):
            listing = " and ".join(f"'{one}'" for one in missing)
            cases.append(Case(f"{name} without {listing}", _blanked(card, features, missing, None)))
            if len(missing) == 1:
                cases.append(Case(f"{name} with noise for {listing}", _blanked(card, features, missing, seed)))
    return cases


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Which inputs to leave out; never all of them."""
    if len(names) <= ALL_SUBSETS:
        for count in range(1, len(names)):
            yield from combinations(names, count)
    else:
        yield from ((name,) for name in names)
        yield from (tuple(other for other in names if other != name) for name in names)


def _blanked(card: Card, features: Features, missing: Sequence[str], noise: int | None) -> Features:
    """Zeros, or noise, where inputs are missing; a text's mask keeps its first token, since a mean over nothing is no number."""
    blanked: list[Tensor] = []
    owners = [name for name, spec in card.inputs.items() for _ in range(2 if spec.options.get("mask") else 1)]
    generator = torch.Generator().manual_seed(noise or 0)
    for number, (owner, tensor) in enumerate(zip(owners, features, strict=True)):
        if owner not in missing:
            blanked.append(tensor)
        elif number and owners[number - 1] == owner:
            blanked.append(torch.zeros_like(tensor).index_fill_(1, torch.zeros(1, dtype=torch.int64), 1))
        elif noise is not None and tensor.is_floating_point():
            blanked.append(3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
        else:
            blanked.append(torch.zeros_like(tensor))
    return tuple(blanked)


def answers(model: FusedModel, features: Features) -> dict[str, Tensor]:
    """What the module answers, in eval mode and without gradients."""
    with torch.no_grad(), evaluating(model):
        return model.call_module(features)


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Largest difference of any output, as a share of that output's largest number; infinite where shapes or NaNs differ."""
    worst = 0.0
    for name, one in first.items():
        other = second[name]
        if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
            return float("inf")
        one, other = one.double().nan_to_num(), other.double().nan_to_num()
        scale = float(one.abs().max()) if one.numel() else 0.0
        gap = float((one - other).abs().max()) if one.numel() else 0.0
        worst = max(worst, gap / scale if scale else gap)
    return worst


def failing(
    model: FusedModel, found: Structure, given: Sequence[Features], rng: np.random.Generator, said: Said = silent
) -> dict[str, str]:
    """The layers that do not prove, with the reason, found by trying groups: all at once, and by halves where that fails.

    A group that proves with another share gone of each layer clears all of them, which makes one trial of a large model out of dozens.
    Halves that prove alone and fail together are joined layer by layer.
    """
    gone = {layer.name: rng.choice(layer.roots, _share(layer, rng), replace=False).tolist() for layer in found.layers}
    tried = 0

    def trial(layers: Sequence[Layer]) -> str | None:
        nonlocal tried
        tried += 1
        said(f"trying {layers[0].name}" if len(layers) == 1 else f"trying {len(layers)} layers at once", 1 - 1 / tried)
        return _trial(model, found, [root for layer in layers for root in gone[layer.name]], given)

    def sieve(layers: Sequence[Layer]) -> dict[str, str]:
        reason = trial(layers) if layers else None
        if reason is None:
            return {}
        if len(layers) == 1:
            return {layers[0].name: reason}
        middle = len(layers) // 2
        guilty = sieve(layers[:middle]) | sieve(layers[middle:])
        if guilty:
            return guilty
        together = list(layers[:middle])
        for layer in layers[middle:]:
            reason = trial([*together, layer])
            if reason is None:
                together.append(layer)
            else:
                guilty[layer.name] = f"beside other layers: {reason}"
        return guilty

    reasons: dict[str, str] = {}
    while fresh := sieve([layer for layer in found.layers if layer.name not in reasons]):
        reasons |= fresh
    return reasons


def _share(layer: Layer, rng: np.random.Generator) -> int:
    """How many channels of a layer to try without: a quarter to three quarters, so that no two layers need be alike."""
    least = max(1, layer.width // 4)
    return int(rng.integers(least, max(least, layer.width - least) + 1))


def _trial(model: FusedModel, structure: Structure, removed: Sequence[int], batches: Sequence[Features]) -> str | None:
    """None when the cut model equals the masked one; else why not, in words."""
    kept = structure.kept(removed)
    for features in batches:
        try:
            error = gap(model, kept, features)
        except Exception as err:  # whatever the user's code raises on a narrower layer
            return f"with some of it gone the model fails, so its width is written down somewhere: {_first_line(err)}"
        if not error <= TOLERANCE:
            return f"with some of it gone the outputs change by {error:.1e} of their size, so more than these weights depends on it"
    return None


def prove(model: FusedModel, found: Structure, removed: Sequence[int], given: Sequence[Case]) -> Proof:
    """Compare the pruned with the masked model on every case; the model ends as it was.

    Raises:
        PruneError: They differ; names the layer that differs alone, where one does.
    """
    kept, worst = found.kept(removed), (0.0, "")
    for case in given:
        error = _error(model, kept, case)
        if not error <= TOLERANCE:
            raise _failed(model, found, removed, case, error)
        worst = max(worst, (error, case.name))
    return Proof(worst[0], len(given), worst[1])


def gap(model: FusedModel, kept: Kept, features: Features) -> float:
    """Difference between cut and masked model, as ``difference``; the model ends as it was.

    Where float32 leaves a doubt it is measured again in float64: an output that is a small difference of large numbers, or a single
    number that happens to be near zero, is off by more than the tolerance without any slot being wrong.

    Raises:
        Exception: Whatever the model's code raises on narrower layers.
    """
    error = _gap(model, kept, features)
    if TOLERANCE < error < float("inf"):
        with contextlib.suppress(Exception):  # code that mixes its own float32 constants in does not run in float64
            doubled = tuple(x.double() if x.is_floating_point() else x for x in features)
            error = min(error, _gap(copy.deepcopy(model).double(), kept, doubled))
    return error


def _gap(model: FusedModel, kept: Kept, features: Features) -> float:
    with masked_for_now(model.module, kept):
        masked = answers(model, features)
    with cut_for_now(model.module, kept):
        return difference(masked, answers(model, features))


def _error(model: FusedModel, kept: Kept, case: Case) -> float:
    try:
        return gap(model, kept, case.features)
    except Exception:  # a user's code on a narrower layer; told by ``_failed``
        return float("inf")


def _failed(model: FusedModel, structure: Structure, removed: Sequence[int], case: Case, error: float) -> PruneError:
    gone = set(removed)
    guilty = [
        layer
        for layer in structure.layers
        if gone & set(layer.roots) and not _error(model, structure.kept(gone & set(layer.roots)), case) <= TOLERANCE
    ]
    touched = [layer for layer in structure.layers if gone & set(layer.roots)]
    named = ", ".join(f"'{layer.name}'" for layer in (guilty or touched)[:5])
    return PruneError(
        f"the proof failed: on {case.name} the pruned model differs from the masked one by {error:.1e} of the output's size.",
        why=f"layer group: {named}{'' if guilty else ' (only together)'}; {TOLERANCE:.0e} is allowed.",
        fix="nothing was pruned; leave that branch out with branches: {<branch>: 0}, and please report the model.",
    )


def disturbed(model: FusedModel, *, seed: int = 0) -> FusedModel:
    """A copy in which no parameter or buffer is all alike.

    Fresh batch norms and biases hold ones and zeros, with which a wrong slot passes every comparison.
    """
    duplicate = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*duplicate.module.named_parameters(), *duplicate.module.named_buffers()):
        if not tensor.is_floating_point() or tensor.numel() < 2 or not bool((tensor == tensor.flatten()[0]).all()):
            continue
        noise = torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
        tensor.data = tensor.data * (0.5 + noise) if name.endswith("running_var") else tensor.data + 0.3 * (noise - 0.5)
    return duplicate


def _first_line(err: BaseException) -> str:
    return next((line.strip()[:160] for line in str(err).splitlines() if line.strip()), type(err).__name__)
