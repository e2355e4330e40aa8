"""Listening at the ends of branches, where they meet the fusion; and doing without one there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils.hooks import RemovableHandle

from edgemm.contracts.modality import modalities
from edgemm.errors import TrainError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import TorchBranches, find_parts, operator
from edgemm.workshop.models.tried import evaluating, sample_inputs

Notes = Callable[[str], None]
KEEPS_WIDTH = frozenset(
    {"relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardswish", "hardtanh", "dropout", "mul", "add", "div", "clone"}
)
"""Operators that change no width: a feature may be taken before them where no module ends after them."""
MOVES = frozenset({"view", "reshape", "_unsafe_view", "transpose", "permute", "unflatten", "flatten", "contiguous", "clone"})
"""Operators that only move numbers: the mean of what they give is what they give of the mean, as it is of a product with a number."""
MOMENTUM = 0.1  # of the running mean that stands in for a missing branch: about the last ten batches


@dataclass(frozen=True)
class Ends:
    """Where parts of a model can be listened to.

    Attributes:
        features: Tap -> submodule that returns a part's last tensor, or the last before an activation. A tap is named like its part,
            ``image``; of several ends of one part the others are ``image.1`` and so on.
        replaceable: Input -> submodules that return all tensors in which its branch ends, but for moves behind them.
        part: Tap -> part.
        parts: What they were found in.
    """

    features: Mapping[str, str]
    replaceable: Mapping[str, list[str]]
    part: Mapping[str, str]
    parts: TorchBranches


def find_ends(model: FusedModel) -> Ends:
    """Where the inputs' branches and the fusion can be listened to.

    Raises:
        ExportError: torch.export refuses the model; names module and line of its code.
    """
    parts = find_parts(model)
    nodes = {node.name: node for node in parts.program.graph.nodes}
    cuts = {**parts.cuts, "fusion": _fusion_ends(parts)}
    features: dict[str, str] = {}
    part: dict[str, str] = {}
    replaceable: dict[str, list[str]] = {}
    for name, ends in cuts.items():
        floating = [end for end in ends if end in nodes and _is_floating(nodes[end])]
        exact = [module for end in floating if (module := _module_moved(parts, nodes[end]))]
        if name != "fusion" and len(exact) == len(ends) > 0:
            replaceable[name] = list(dict.fromkeys(exact))
        modules = [module for end in floating if (module := _module_before(parts, nodes[end]))]
        for number, module in enumerate(dict.fromkeys(modules)):
            tap = f"{name}.{number}" if number else name
            features[tap], part[tap] = module, name
    return Ends(features, replaceable, part, parts)


class Taps:
    """What some submodules returned in the last forward pass of the model, or of a copy made of it since.

    Args:
        modules: Tap -> name in ``model.module``.

    Attributes:
        heard: Tap -> tensor, as it was returned.
    """

    def __init__(self, model: FusedModel, modules: Mapping[str, str]) -> None:
        self.heard: dict[str, Tensor] = {}
        self._handles = [model.module.get_submodule(module).register_forward_hook(self._listener(name)) for name, module in modules.items()]

    def features(self, rows: int) -> dict[str, Tensor]:
        """Tap -> (rows, ...): an axis of steps that was folded into the batch is its second axis."""
        return {name: _by_row(tensor, rows) for name, tensor in self.heard.items()}

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self.heard.clear()

    def _listener(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def listen(_module: nn.Module, _args: Any, returned: Any) -> None:
            self.heard[name] = returned

        return listen


class Deprivation:
    """While training, takes single modalities away from single samples of a model; in eval mode it does nothing.

    A branch that ends in submodules is replaced there by its running mean, as the runtime does it with a missing modality; of another the
    input is replaced by silence (what an empty cell of an optional input decodes to). At least one modality of a sample stays.

    Args:
        share: Chance of each modality of each sample to be taken away, 0 to 1.
        replaceable: As in ``Ends``.

    Raises:
        TrainError: A model of a single input, or one that does not answer silence with numbers.
    """

    def __init__(self, model: FusedModel, share: float, replaceable: Mapping[str, list[str]], note: Notes) -> None:
        parts = modalities(model.card)
        self.names = [name for name, part in parts.items() if part.batch_axis() == 0 and part.initial() is None]
        if len(self.names) < 2:
            raise TrainError(
                f"modality_dropout is {share}, and this model has {len(self.names)} input to take away.",
                why="of a sample at least one modality stays.",
                fix="leave modality_dropout out.",
            )
        self._share, self._model = share, model
        self._silence = {name: torch.from_numpy(parts[name].absent()) for name in self.names if name not in replaceable}
        self._means: dict[str, Tensor] = {}
        self._gone: dict[str, Tensor] = {}
        if self._silence:
            self._check_silence(model)
            listing = ", ".join(f"'{name}'" for name in self._silence)
            note(f"modality_dropout: the branch of {listing} ends in no submodule; a missing one is played as silence at the input.")
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._begin)]
        for name in self.names:
            for module in replaceable.get(name, ()):
                self._handles.append(model.module.get_submodule(module).register_forward_hook(self._replacer(name, module)))

    def close(self) -> None:
        """Let the model be."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Draw what is missing in this batch, and silence the inputs whose branches cannot be replaced."""
        self._gone = {}
        if not model.training:
            return None
        (inputs,) = args
        first = next(iter(inputs.values()))
        drawn = torch.rand(len(first), len(self.names))
        gone = drawn < self._share
        all_gone = gone.all(dim=1)
        gone[all_gone, drawn[all_gone].argmax(dim=1)] = False
        self._gone = {name: gone[:, column].to(first.device) for column, name in enumerate(self.names)}
        return ({name: self._silenced(name, value) for name, value in inputs.items()},)

    def _silenced(self, name: str, value: Tensor) -> Tensor:
        if name not in self._silence:
            return value
        return torch.where(_over(self._gone[name], value), self._silence[name].to(value.device), value)

    def _replacer(self, name: str, key: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def replace(_module: nn.Module, _args: Any, returned: Tensor) -> Tensor | None:
            gone = self._gone.get(name)
            if gone is None:
                return None
            here = returned.detach().float().mean(0)
            before = self._means.get(key)
            self._means[key] = here if before is None else before + MOMENTUM * (here - before)
            gone = gone.repeat_interleave(len(returned) // len(gone))
            return torch.where(_over(gone, returned), self._means[key].to(returned.dtype), returned)

        return replace

    def _check_silence(self, model: FusedModel) -> None:
        inputs = sample_inputs(model.card)
        for name, silence in self._silence.items():
            with evaluating(model), torch.no_grad():
                outputs = model({**inputs, name: silence.expand_as(inputs[name]).clone()})
            if not all(bool(torch.isfinite(value).all()) for value in outputs.values()):
                raise TrainError(
                    f"modality_dropout: the model answers NaN where '{name}' is silent.",
                    why=f"no submodule returns the end of its branch, so '{name}' is played as silence at the input.",
                    fix=f"compute the last layer of '{name}' in a submodule of its own, or leave modality_dropout out.",
                )


def _fusion_ends(parts: TorchBranches) -> list[str]:
    """Nodes of the fusion that a head reads."""
    return [
        node.name
        for node in parts.program.graph.nodes
        if parts.of_node.get(node.name) == "fusion" and any(parts.of_node.get(user.name, "").startswith("head:") for user in node.users)
    ]


def _module_before(parts: TorchBranches, node: Node) -> str | None:
    """The submodule that ends at ``node``, or at the nearest node before it on a way that changes no width."""
    module = parts.module_ending_at(node.name)
    while module is None:
        before = [source for source in node.all_input_nodes if parts.of_node.get(source.name) == parts.of_node[node.name]]
        if operator(node) not in KEEPS_WIDTH or len(before) != 1:
            return None
        node = before[0]
        module = parts.module_ending_at(node.name)
    return module


def _module_moved(parts: TorchBranches, node: Node) -> str | None:
    """The submodule that returns the numbers of ``node``, wherever they lie in it; rows stay rows."""
    module = parts.module_ending_at(node.name)
    while module is None:
        before = node.all_input_nodes
        if not (operator(node) in MOVES or _is_scaled(node)) or len(before) != 1 or not _same_rows(node, before[0]):
            return None
        node = before[0]
        module = parts.module_ending_at(node.name)
    return module


def _is_scaled(node: Node) -> bool:
    return operator(node) in ("mul", "div") and isinstance(node.args[0], Node) and isinstance(node.args[1], (int, float))


def _same_rows(node: Node, before: Node) -> bool:
    after, earlier = node.meta.get("val"), before.meta.get("val")
    return isinstance(after, Tensor) and isinstance(earlier, Tensor) and after.shape[0] == earlier.shape[0]


def _is_floating(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _by_row(tensor: Tensor, rows: int) -> Tensor:
    return tensor if len(tensor) == rows else tensor.reshape(rows, -1, *tensor.shape[1:])


def _over(flags: Tensor, value: Tensor) -> Tensor:
    """(n,) shaped to go with (n, ...)."""
    return flags.reshape(-1, *([1] * (value.dim() - 1)))
