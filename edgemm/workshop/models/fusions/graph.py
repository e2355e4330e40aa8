"""Message passing between modality nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.errors import CardError, nearest
from edgemm.workshop.models.layers.fusion import Mapped
from edgemm.workshop.models.protocols import Fusion


class Graph(Fusion):
    """Every input is a node. In each round a node takes in the weighted mean of its neighbours' messages.

    How strongly a node listens to each neighbour is learned; to itself it always does, by a layer of its own.

    Args:
        edges: Pairs of input names that talk to each other, both ways; None = everyone with everyone.
        rounds: Rounds of message passing.
        width: Size of a node, and of the vector it gives.
        dropout: Share of the values blanked in training.

    Raises:
        CardError: An edge is no pair of two inputs.

    Source: Gilmer et al. 2017, "Neural Message Passing for Quantum Chemistry", with a dense learned adjacency.
    """

    apart: Tensor

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        *,
        edges: list[list[str]] | None = None,
        rounds: int = 2,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, width, "graph")
        self.width = width
        apart = torch.where(_adjacency(list(widths), edges), 0.0, -1e4)
        self.register_buffer("apart", apart, persistent=False)
        self.strength = nn.Parameter(torch.zeros(rounds, len(widths), len(widths)))
        self.messages = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.activation = nn.ReLU()
        self.finish = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        nodes = self.activation(torch.stack(list(self.mapped(branches).values()), dim=1))
        for number, (message, own) in enumerate(zip(self.messages, self.own, strict=True)):
            shares = (self.strength[number] + self.apart).softmax(-1)
            nodes = nodes + self.activation(own(nodes) + torch.matmul(shares, message(nodes)))
        return self.finish(nodes.mean(1))


def _adjacency(names: list[str], edges: list[list[str]] | None) -> Tensor:
    """Boolean (inputs, inputs): row listens to column. A node without neighbours listens to itself."""
    size = len(names)
    if edges is None:
        listens = ~torch.eye(size, dtype=torch.bool)
    else:
        listens = torch.zeros(size, size, dtype=torch.bool)
        for edge in edges:
            if len(edge) != 2 or edge[0] == edge[1]:
                raise CardError(f"fusion 'graph': edges holds {edge!r}, no pair of two inputs.", fix="write edges: [[first, second]].")
            for name in edge:
                if name not in names:
                    raise CardError(f"fusion 'graph': edges names '{name}', no input of this model.", fix=nearest(name, names))
            first, second = (names.index(name) for name in edge)
            listens[first, second] = listens[second, first] = True
    alone = ~listens.any(1)
    return listens | torch.diag(alone)
