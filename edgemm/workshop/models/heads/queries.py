"""Boxes as a set: a few queries, each of which answers for one thing or says that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.models.attention import Attention, TransformerLayer
from edgemm.workshop.models.protocols import Head, Maps, labels_of

PARTS = ("scores", "boxes")
PROPOSALS = "proposals"


class Queries(Head):
    """Every cell proposes a label and a box; the best ``queries`` of them look at each other and at all cells, and mend both.

    Two tensors, named by the card's ``from``: scores (N, queries, labels + 1), logits of which the last stands for nothing, and boxes (N,
    queries, 4): middle x, middle y, width, height, of the picture's size. The card says of it ``layout: set, boxes: {form: cxcywh, unit:
    ratio}, scores: softmax_with_nothing``, and ``auxiliary: {proposals: 1.0}`` where cells that were not chosen shall learn too.

    Args:
        queries: How many things a picture may hold.
        layers: Times that they look.
        heads: Attention heads; divides the width of the maps.
        scene: The mean over all cells is heard for each label, everywhere alike, as in ``detection``.

    Raises:
        CardError: The card says another form, or names no tensors; more queries than cells.

    Source: Carion et al. 2020, "End-to-End Object Detection with Transformers"; queries from the best cells: Zhu et al. 2020, "Deformable
    DETR", two-stage.
    """

    takes_maps: ClassVar[bool] = True
    middles: Tensor
    numbers: Tensor

    def __init__(
        self, width: int, output: Output, maps: Maps, *, queries: int = 8, layers: int = 1, heads: int = 4, scene: bool = False
    ) -> None:
        super().__init__(width, output)
        labels, cells = labels_of(output, "queries"), sum(high * wide for high, wide in maps.cells)
        self.names = _names(output)
        _require_form(output, maps)
        if queries > cells:
            raise CardError(f"outputs.{output.name}: {queries} queries, and the maps have {cells} cells.", fix=f"write at most {cells}.")
        self.places = nn.Parameter(torch.randn(cells, width) * 0.02)
        self.scores, self.boxes = nn.Linear(width, labels + 1), nn.Linear(width, 4)
        self.scene = nn.Linear(width, labels + 1) if scene else None
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.mend_scores, self.mend_boxes = nn.Linear(width, labels + 1), nn.Linear(width, 4)
        for mend in (self.mend_scores, self.mend_boxes):  # at first the proposals are the answer
            nn.init.zeros_(mend.weight)
            nn.init.zeros_(mend.bias)
        self.count = queries
        self.register_buffer("middles", _middles(maps), persistent=False)
        self.register_buffer("numbers", torch.arange(cells), persistent=False)

    def forward(self, x: tuple[Tensor, ...]) -> dict[str, Any]:
        """Maps (N, width, H, W) -> the two tensors by name; in training mode ``proposals`` too, the same two of every cell."""
        seen = torch.cat([cells.flatten(2) for cells in x], 2).transpose(1, 2)
        tokens = seen + self.places
        scores, boxes = self.scores(tokens), self.boxes(tokens) + self.middles
        if self.scene is not None:
            scores = scores + self.scene(seen.mean(1)).unsqueeze(1)
        best = scores[..., :-1].amax(-1) - scores[..., -1]
        chosen = (best.topk(self.count, 1).indices.unsqueeze(-1) == self.numbers).to(tokens.dtype)  # (N, queries, cells): a product picks
        asking = torch.matmul(chosen, tokens)
        for layer in self.layers:
            asking = layer(asking, tokens)
        answer = self._named(
            torch.matmul(chosen, scores) + self.mend_scores(asking), (torch.matmul(chosen, boxes) + self.mend_boxes(asking)).sigmoid()
        )
        return answer | {PROPOSALS: self._named(scores, boxes.sigmoid())} if self.training else answer

    def _named(self, scores: Tensor, boxes: Tensor) -> dict[str, Any]:
        return {self.names["scores"]: scores, self.names["boxes"]: boxes}


class _Layer(nn.Module):
    """Queries look at each other, then at all cells."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.among = TransformerLayer(width, heads, expand=2)
        self.norm, self.norm_cells = nn.LayerNorm(width), nn.LayerNorm(width)
        self.around = Attention(width, heads)

    def forward(self, asking: Tensor, cells: Tensor) -> Tensor:
        asking = asking + self.around(self.norm(asking), self.norm_cells(cells))
        return self.among(asking)


def _middles(maps: Maps) -> Tensor:
    """(cells, 4): logits of each cell's middle, of the picture's size, and of a box of four cells each way."""
    rows = []
    for high, wide in maps.cells:
        y, x = torch.meshgrid((torch.arange(high) + 0.5) / high, (torch.arange(wide) + 0.5) / wide, indexing="ij")
        sides = [torch.full((high * wide,), min(4 / cells, 0.5)) for cells in (wide, high)]
        rows.append(torch.stack([x.flatten(), y.flatten(), *sides], 1))
    return torch.cat(rows).logit()


def _names(output: Output) -> Mapping[str, str]:
    given = output.options.get("from") or {}
    names = {part: given[part] for part in PARTS if isinstance(given.get(part), str)}
    if len(names) < len(PARTS):
        raise CardError(
            f"outputs.{output.name}: head 'queries' answers with two tensors, and the card does not name them.",
            fix="write from: {scores: logits, boxes: boxes}.",
        )
    return names


def _require_form(output: Output, maps: Maps) -> None:
    boxes = output.options.get("boxes") or {}
    says = {"layout": output.options.get("layout"), "scores": output.options.get("scores"), "frame": output.options.get("frame")}
    says |= {"boxes.form": boxes.get("form", "cxcywh"), "boxes.unit": boxes.get("unit")}
    wants = {"layout": "set", "scores": "softmax_with_nothing", "frame": maps.input, "boxes.form": "cxcywh", "boxes.unit": "ratio"}
    for key, want in wants.items():
        if says[key] != want:
            where, _, inner = key.rpartition(".")
            raise CardError(
                f"outputs.{output.name}: head 'queries' answers with {key}: {want}, and the card says {says[key] or 'nothing'}.",
                fix=f"write {where}: {{{inner}: {want}}}." if where else f"write {key}: {want}.",
            )
