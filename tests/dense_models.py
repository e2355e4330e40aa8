"""Small dense models as people write them: C2f blocks (Split and Concat), a feature pyramid, heads that answer in boxes, sets and masks."""

import torch
from torch import nn
from torch.nn import functional

from edgemm.contracts import card_file as cards
from edgemm.workshop.models.fused import FusedModel

SIDE, LABELS, BINS, QUERIES, WIDTH = 64, 3, 8, 6, 16
INPUTS = {
    "image": {"modality": "image", "height": SIDE, "width": SIDE, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
    "motion": {"modality": "sensor", "shape": [6], "rate_hz": 1},
}
TENSOR = {"task": "tensor"}


class Block(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, read, made, kernel=3, stride=1):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(read, made, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(made)

    def forward(self, x):
        return functional.silu(self.norm(self.conv(x)))


class C2f(nn.Module):
    """Two halves, one worked on twice, all four pieces joined."""

    def __init__(self, read, made):
        super().__init__()
        self.first, self.last = Block(read, made, 1), Block(2 * made, made, 1)
        self.inner = nn.ModuleList(nn.Sequential(Block(made // 2, made // 2), Block(made // 2, made // 2)) for _ in range(2))

    def forward(self, x):
        pieces = list(self.first(x).chunk(2, 1))
        for inner in self.inner:
            pieces.append(pieces[-1] + inner(pieces[-1]))
        return self.last(torch.cat(pieces, 1))


class Trunk(nn.Module):
    """Maps of two strides (8, 16) through a pyramid up and down again, the wide one turned by a measurement (FiLM)."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.stem = nn.Sequential(
            Block(3, width, stride=2), Block(width, width, stride=2), Block(width, width, stride=2), C2f(width, width)
        )
        self.deep = nn.Sequential(Block(width, width, stride=2), C2f(width, width))
        self.turn = nn.Linear(6, 2 * width)
        self.up, self.down, self.stride, self.pool = (
            C2f(2 * width, width),
            C2f(2 * width, width),
            Block(width, width, stride=2),
            nn.MaxPool2d(5, 1, 2),
        )

    def forward(self, image, motion):
        wide = self.stem(image)
        factor, offset = self.turn(motion)[:, :, None, None].chunk(2, 1)
        wide = wide * (1 + factor) + offset
        deep = self.deep(wide)
        deep = deep + self.pool(deep)
        wide = self.up(torch.cat([functional.interpolate(deep, scale_factor=2.0), wide], 1))
        return wide, self.down(torch.cat([self.stride(wide), deep], 1))


class Boxes(nn.Module):
    """Anchor-free, decoupled, distances as distributions; boxes in pixels and scores in one tensor, as YOLOv8 exports them.

    Args:
        expectation: How the mean over bins is written: ``conv``, ``sum`` or ``matmul``.
    """

    def __init__(self, expectation, width=WIDTH):
        super().__init__()
        self.trunk, self.expectation = Trunk(width), expectation
        self.box = nn.ModuleList(nn.Sequential(Block(width, width), nn.Conv2d(width, 4 * BINS, 1)) for _ in range(2))
        self.score = nn.ModuleList(nn.Sequential(Block(width, width), nn.Conv2d(width, LABELS, 1)) for _ in range(2))
        for layer in self.score:
            nn.init.constant_(layer[-1].bias, -3.0)
        self.bins = nn.Conv2d(BINS, 1, 1, bias=False)
        self.bins.weight.data[:] = torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1)
        self.bins.requires_grad_(False)
        places, strides = [], []
        for stride in (8, 16):
            steps = torch.arange(SIDE // stride) + 0.5
            places.append(torch.stack(torch.meshgrid(steps, steps, indexing="xy")).reshape(2, -1))
            strides.append(torch.full((1, places[-1].shape[1]), float(stride)))
        self.register_buffer("places", torch.cat(places, 1))
        self.register_buffer("strides", torch.cat(strides, 1))

    def forward(self, image, motion):
        levels = [
            torch.cat([box(x), score(x)], 1).flatten(2)
            for box, score, x in zip(self.box, self.score, self.trunk(image, motion), strict=True)
        ]
        raw, scores = torch.cat(levels, 2).split([4 * BINS, LABELS], 1)
        shares = raw.reshape(raw.shape[0], 4, BINS, -1).transpose(1, 2).softmax(1)
        if self.expectation == "conv":
            distances = self.bins(shares).squeeze(1)
        elif self.expectation == "sum":
            distances = (shares * torch.arange(BINS, dtype=torch.float32)[:, None, None]).sum(1)
        else:
            distances = (shares.permute(0, 2, 3, 1) @ self.bins.weight.reshape(BINS)).reshape(raw.shape[0], 4, -1)
        low, high = distances.chunk(2, 1)
        x0y0, x1y1 = self.places - low, self.places + high
        boxes = torch.cat([(x0y0 + x1y1) / 2, x1y1 - x0y0], 1) * self.strides
        return {"objects": torch.cat([boxes, scores.sigmoid()], 1)}


class Rows(nn.Module):
    """A set: rows chosen by score (``chosen``), or learned queries, looked up in the map by one decoder layer; no suppression."""

    def __init__(self, chosen, width=WIDTH):
        super().__init__()
        self.trunk, self.chosen = Trunk(width), chosen
        self.encoder = nn.MultiheadAttention(width, 2, batch_first=True)
        self.first_score, self.first_box = nn.Linear(width, LABELS), nn.Linear(width, 4)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, width))
        self.decoder = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.score, self.box = nn.Linear(width, LABELS), nn.Linear(width, 4)

    def forward(self, image, motion):
        memory = self.trunk(image, motion)[1].flatten(2).transpose(1, 2)
        memory = memory + self.encoder(memory, memory, memory, need_weights=False)[0]
        if self.chosen:
            best = self.first_score(memory).amax(2).topk(QUERIES, 1).indices[:, :, None]
            rows = memory.gather(1, best.expand(-1, -1, memory.shape[2]))
            places = self.first_box(memory).gather(1, best.expand(-1, -1, 4)).sigmoid()
        else:
            rows, places = self.queries.expand(memory.shape[0], -1, -1), torch.full((1, 1, 4), 0.5)
        rows = rows + self.decoder(rows, memory, memory, need_weights=False)[0]
        rows = rows + self.mlp(rows)
        boxes = (self.box(rows) + torch.logit(places.clamp(0.01, 0.99))).sigmoid()
        return {"scores": self.score(rows), "boxes": boxes}


class Mask(nn.Module):
    """A label for every pixel: logits at a fourth of the picture, enlarged, the largest one's number."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.trunk, self.last = Trunk(width), nn.Conv2d(width, LABELS, 1)

    def forward(self, image, motion):
        logits = functional.interpolate(self.last(self.trunk(image, motion)[0]), scale_factor=8.0, mode="bilinear")
        return {"area": logits, "labels": logits.argmax(1)}


def dense(module, *outputs):
    """The module with a card, seeded, ready to export."""
    card = cards.parse({"factory": "a:b", "inputs": INPUTS, "outputs": dict.fromkeys(outputs, TENSOR)})
    return FusedModel(card, module).eval()
