"""Every form in which a model says where things are, small: reference heads on their fusions, and modules of one's own in other forms."""

import torch
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.workshop.models.build import build
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import sample_inputs
from tests import dense_models
from tests.dense_models import BINS, LABELS, WIDTH, Block, Trunk

NAMES = ["a", "b", "c"]
STRIDES = [8, 16]
NIGHT = {**dense_models.INPUTS["image"]}
C2F = {"c2f": {"channels": [8, 16, 16], "levels": 2}}
MOTION = {"mlp": {"hidden": [16], "width": 16}}
ONE, TWO = {"image": C2F, "motion": MOTION}, {"image": C2F, "night": C2F, "motion": MOTION}
BOXES = {"task": "detection", "labels": NAMES, "frame": "image"}
POINTS = {"task": "keypoints", "labels": ["a"], "points": ["top", "left", "right"], "frame": "image"}
SET = {
    **BOXES, "layout": "set", "boxes": {"unit": "ratio"}, "scores": "softmax_with_nothing", "from": {"scores": "logits", "boxes": "edges"},
}  # fmt: skip


class Levels(nn.Module):
    """Maps of two strides as convolutions leave them, without any decoding: ``sizes`` of channels each, under ``names``.

    Args:
        layout: ``maps`` as they are, each a tensor; ``rows``: all in one (N, places, channels); ``columns``: (N, channels, places).
    """

    def __init__(self, names, sizes, layout="maps"):
        super().__init__()
        self.trunk, self.layout, self.names = Trunk(), layout, names
        self.parts = nn.ModuleList(
            nn.ModuleList(nn.Sequential(Block(WIDTH, WIDTH), nn.Conv2d(WIDTH, size, 1)) for size in sizes) for _ in STRIDES
        )

    def forward(self, image, motion):
        levels = [[part(x) for part in parts] for x, parts in zip(self.trunk(image, motion), self.parts, strict=True)]
        if self.layout == "maps":
            return {
                f"{name}{stride}": x
                for stride, parts in zip(STRIDES, levels, strict=True)
                for name, x in zip(self.names, parts, strict=True)
            }
        joined = torch.cat([torch.cat(parts, 1).flatten(2) for parts in levels], 2)
        return {"found": joined.transpose(1, 2) if self.layout == "rows" else joined}


def _of_levels(*parts):
    return {part: [f"{part}{stride}" for stride in STRIDES] for part in parts}


def _own(module, output):
    return lambda: (module(), dense_models.INPUTS, output)


REFERENCE = {
    "boxes, film": (ONE, {"film": {"width": 16}}, BOXES, "detection"),
    "boxes, two cameras gated": (TWO, {"gated_maps": {"width": 16}}, BOXES, "detection"),
    "boxes, two cameras attended": (TWO, {"attended_maps": {"width": 16}}, BOXES, "detection"),
    "set": (ONE, {"film": {"width": 16}}, SET, {"queries": {"queries": 6}}),
    "mask": (ONE, {"film": {"width": 16}}, {"task": "segmentation", "labels": NAMES, "frame": "image"}, "segmentation"),
    "points, heat maps": (ONE, {"film": {"width": 16}}, POINTS, "keypoints"),
    "points, centres": (ONE, {"film": {"width": 16}}, {**POINTS, "layout": "centres"}, "keypoints"),
}
GRID = {"form": "grid", "strides": STRIDES}
OWN = {
    "boxes, distributions decoded": _own(lambda: dense_models.Boxes("conv"), BOXES),
    "boxes, levels of distributions": _own(
        lambda: Levels(["boxes", "scores"], [4 * BINS, LABELS]),
        {
            **BOXES, "layout": "levels", "boxes": {"form": "dfl", "bins": BINS, "strides": STRIDES}, "scores": "sigmoid",
            "from": _of_levels("boxes", "scores"),
        },
    ),
    "boxes, levels and objectness": _own(
        lambda: Levels(["boxes", "scores", "objectness"], [4, LABELS, 1]),
        {**BOXES, "layout": "levels", "boxes": GRID, "scores": "sigmoid", "from": _of_levels("boxes", "scores", "objectness")},
    ),
    "boxes, objectness in one": _own(
        lambda: Levels(["found"], [5 + LABELS], "rows"), {**BOXES, "layout": "objectness", "boxes": GRID, "scores": "sigmoid"}
    ),
    "boxes, distances and softmax": _own(
        lambda: Levels(["found"], [4 + LABELS + 1], "columns"),
        {**BOXES, "boxes": {"form": "ltrb", "unit": "stride", "strides": STRIDES}, "scores": "softmax_with_nothing"},
    ),
    "set of learned queries": _own(
        lambda: dense_models.Rows(chosen=False),
        {**SET, "scores": "sigmoid", "from": {"scores": "scores", "boxes": "boxes"}},
    ),
}  # fmt: skip
FORMS = [*REFERENCE, *OWN]


def make(name: str) -> FusedModel:
    """The model of this form, seeded, in eval mode, its batch norms with statistics of their own; its one output is ``found``."""
    torch.manual_seed(0)
    if name in OWN:
        module, inputs, output = OWN[name]()
        card = cards.parse({"factory": "a:b", "inputs": inputs, "outputs": {"found": output}})
        if getattr(module, "expectation", None):
            plain = module.forward
            module.forward = lambda image, motion: {"found": plain(image, motion)["objects"]}
        model = FusedModel(card, module)
    else:
        encoders, fusion, output, head = REFERENCE[name]
        inputs = {key: {"night": NIGHT}.get(key) or dense_models.INPUTS[key] for key in encoders}
        plain = {"encoders": encoders, "fusion": fusion, "heads": {"found": head}}
        card = cards.parse({"factory": "models:digits", "kwargs": plain, "inputs": inputs, "outputs": {"found": output}})
        model = FusedModel(card, build(card))
    model.train()
    with torch.no_grad():
        for seed in range(4):
            model(sample_inputs(card, batch=8, seed=seed))
    return model.eval()
