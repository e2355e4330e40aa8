"""Boxes of things in a picture, one answer a cell of each map, without anchors."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.models.layers.c2f import conv_relu
from edgemm.workshop.models.protocols import Head, Maps, labels_of

PRIOR = 0.01  # the score of every label at first: most cells hold nothing (Lin et al. 2017, "Focal Loss for Dense Object Detection")


class Detection(Head):
    """Each cell tells how far the four edges of a box are from its middle, and, by layers of its own, a score a label.

    The answer is decoded: (N, 4 + labels, cells of all maps), the box as middle x, middle y, width, height in pixels of the picture, scores
    as probabilities. The card says of it ``layout: yolo, boxes: {form: cxcywh, unit: pixels}, scores: probability``.

    Args:
        hidden: Channels of the layers in between; None = those of the maps.
        layers: 3x3 convolutions in between.
        scene: The mean over the coarsest map is heard for each label, everywhere alike: what a sound or a question rules in or out need not
            be learned at every place.

    Raises:
        CardError: The card says another form, or the boxes are in another picture.

    Source: head of Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection"; apart as in Ge et al. 2021, "YOLOX".
    """

    takes_maps: ClassVar[bool] = True
    middles: Tensor
    strides: Tensor

    def __init__(self, width: int, output: Output, maps: Maps, *, hidden: int | None = None, layers: int = 2, scene: bool = False) -> None:
        super().__init__(width, output)
        labels, inside = labels_of(output, "detection"), hidden or width
        _require_form(output, maps)
        edges, scores = ([_tower(width, inside, layers, size) for _ in maps.strides] for size in (4, labels))
        for last, bias in [(tower[-1], 1.0) for tower in edges] + [(tower[-1], math.log(PRIOR / (1 - PRIOR))) for tower in scores]:
            nn.init.constant_(cast(Tensor, last.bias), bias)
        self.scene = nn.Linear(width, labels) if scene else None
        self.edges, self.scores = nn.ModuleList(edges), nn.ModuleList(scores)
        self.register_buffer("middles", _middles(maps), persistent=False)
        strides = [torch.full((high * wide,), float(stride)) for stride, (high, wide) in zip(maps.strides, maps.cells, strict=True)]
        self.register_buffer("strides", torch.cat(strides), persistent=False)

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, width, H, W), the finest first -> (N, 4 + labels, cells)."""
        edges = torch.cat([layers(seen).flatten(2) for layers, seen in zip(self.edges, x, strict=True)], 2)
        scores = torch.cat([layers(seen).flatten(2) for layers, seen in zip(self.scores, x, strict=True)], 2)
        if self.scene is not None:
            scores = scores + self.scene(x[-1].mean((2, 3))).unsqueeze(-1)
        away = nn.functional.softplus(edges) * self.strides
        before, behind = away[:, :2], away[:, 2:]
        return torch.cat([self.middles + (behind - before) * 0.5, before + behind, scores.sigmoid()], 1)


def _tower(width: int, hidden: int, layers: int, size: int) -> nn.Sequential:
    sizes = [width, *[hidden] * layers]
    convolutions = [conv_relu(before, after, 3) for before, after in pairwise(sizes)]
    return nn.Sequential(*convolutions, nn.Conv2d(sizes[-1], size, 1))


def _middles(maps: Maps) -> Tensor:
    """(2, cells of all maps): x and y of each cell's middle in pixels, row by row."""
    grids = []
    for stride, (high, wide) in zip(maps.strides, maps.cells, strict=True):
        y, x = torch.meshgrid(torch.arange(high) + 0.5, torch.arange(wide) + 0.5, indexing="ij")
        grids.append(torch.stack([x.flatten(), y.flatten()]) * stride)
    return torch.cat(grids, 1)


def _require_form(output: Output, maps: Maps) -> None:
    boxes = output.options.get("boxes") or {}
    says = {"layout": output.options.get("layout"), "scores": output.options.get("scores")}
    says |= {"boxes.form": boxes.get("form"), "boxes.unit": boxes.get("unit")}
    wants = {"layout": "yolo", "scores": "probability", "boxes.form": "cxcywh", "boxes.unit": "pixels"}
    for key, want in wants.items():
        if says[key] not in (None, want):
            raise CardError(
                f"outputs.{output.name}: head 'detection' answers with {key}: {want}, and the card says {says[key]}.",
                fix=f"write {key.replace('.', ': {')}: {want}{'}' * ('.' in key)}.",
            )
    frame = output.options.get("frame")
    if frame not in (None, maps.input):
        raise CardError(
            f"outputs.{output.name}: frame is '{frame}', and the maps are those of '{maps.input}'.",
            why="boxes are in pixels of the picture whose maps the fusion keeps.",
            fix=f"write frame: {maps.input}, or kwargs.fusion's picture: {frame}.",
        )
