"""Variants of somebody's own, one of each kind, written into a folder that EDGEMM_PLUGINS names."""

from pathlib import Path

TARGET = '''
"""A runtime of one's own: ONNX Runtime behind another name."""

from edgemm.contracts import plugins
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.target import Numerics, Target

OPTIONS = {"threads": "int"}


class Quartz(Target):
    """Counts what it opened.

    Args:
        brand: Stands in what it says of itself.
        fallback: Target that may run its graphs where it cannot.
    """

    numerics = Numerics(activations="uint8")

    def __init__(self, *, brand: str = "quartz", fallback: str = "") -> None:
        self._inner, self._brand, self._fallback = plugins.load(Target, "onnxruntime"), brand, fallback

    def falls_back(self):
        return self._fallback

    def compile(self, onnx, out, **options):
        return self._inner.compile(onnx, out, **options)

    def open(self, artifact, **options):
        check_options("quartz", options, OPTIONS)
        return self._inner.open(artifact, **options)

    def choices(self, *, forbid=frozenset()):
        return [{"threads": 1}]

    def float_options(self):
        return {}

    def default_options(self):
        return {}

    def versions(self):
        return {self._brand: "1.0", **self._inner.versions()}
'''

TARGET_FOR_ANOTHER_BOX = TARGET.replace(
    "    def choices", '    def cannot_run(self):\n        return "this box has no quartz in it."\n\n    def choices'
)

MODALITY = '''
"""A plate of temperatures: float32 (size, size) in degrees into the graph, 0 to 1 into ``forward``."""

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.frontend_ops import Affine
from edgemm.contracts.modality import Modality
from edgemm.contracts.number_cells import finite, numbers, shaped
from edgemm.errors import CardError

FORMS = ("plate=thermal:4x4",)


@dataclass(frozen=True)
class Thermal(Modality):
    """A square plate.

    Attributes:
        size: Measurements a side.
        hottest: What counts as 1.
    """

    size: int
    hottest: float = 100.0

    def dtype(self):
        return "float32"

    def shape(self):
        return (self.size, self.size)

    def decode(self, cell, folder):
        return finite(shaped(numbers(cell, folder).astype(np.float32), self.shape()))

    def frontend(self):
        return [Affine(np.array([1 / self.hottest], np.float32), np.zeros(1, np.float32))]

    def synthetic(self, rng):
        return rng.uniform(0, self.hottest, self.shape()).astype(np.float32)

    def axes(self):
        return ("row", "column")

    def encoder(self):
        return "patches"

    @classmethod
    def drafted(cls, form):
        if len(form.sizes) != 2 or form.sizes[0] != form.sizes[1]:
            raise CardError("a plate is as wide as high.", fix="write plate=thermal:4x4.")
        return {"size": form.sizes[0]}
'''

ENCODER = '''
"""All cells of a plate through one layer."""

import math

from torch import nn

from edgemm.workshop.models.protocols import Encoder


class Patches(Encoder):
    """Flat.

    Args:
        width: Size of the vector it gives.
    """

    def __init__(self, features, *, width: int = 16):
        super().__init__(features)
        if features.axes != ("row", "column"):
            raise features.unfit("patches", "a plate")
        self.width = width
        self.layers = nn.Sequential(nn.Flatten(1), nn.Linear(math.prod(features.shape), width), nn.ReLU())

    def forward(self, x, mask=None):
        return self.layers(x)
'''

FUSION = '''
"""The branches side by side through one layer."""

import torch
from torch import nn

from edgemm.workshop.models.protocols import Fusion


class Brew(Fusion):
    """Mixed.

    Args:
        width: Size of what comes out.
    """

    def __init__(self, widths, outputs, *, width: int = 12):
        super().__init__(widths, outputs)
        self.width, self.mix = width, nn.Linear(sum(widths.values()), width)

    def forward(self, branches):
        return torch.relu(self.mix(torch.cat(list(branches.values()), 1)))
'''

HEAD = '''
"""Logits of two layers."""

from torch import nn

from edgemm.workshop.models.protocols import Head, labels_of


class Deep(Head):
    """A layer before the last.

    Args:
        hidden: Its width.
    """

    def __init__(self, width, output, *, hidden: int = 8):
        super().__init__(width, output)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, labels_of(output, "deep")))

    def forward(self, x):
        return self.layers(x)
'''

STEP = '''
"""Round weights to half precision and back."""

import numpy as np
import onnx
from onnx import numpy_helper

from edgemm.contracts.step import Context

STAGE = "graph"


def halve(model: onnx.ModelProto, ctx: Context, *, keep_below: int = 0) -> onnx.ModelProto:
    """Every float32 weight rounded to fp16.

    Args:
        keep_below: Weights with fewer numbers than this stay as they are.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    for weight in halved.graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.dtype == np.float32 and value.size >= keep_below:
            weight.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), weight.name))
    return halved
'''

PROBE = '''
"""How many calls were made."""

from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement


class Tally(Probe):
    """Counts."""

    def start(self):
        self._calls = 0

    def observe(self, answers, targets):
        self._calls += 1

    def stop(self):
        return self._calls

    def summarise(self, samples):
        return [Measurement("calls", float(sum(samples)), "", n=len(samples))]
'''

SOURCE = '''
"""Plates that get hotter, ten a second."""

import numpy as np

from edgemm.contracts.source import Item, Source, checked_inputs

PLACES = ("oven:*",)


class Oven(Source):
    """From cold to hot and back."""

    def __init__(self, *, inputs: list[str] | str, plates: int = 20) -> None:
        """
        Args:
            inputs: The model's inputs it feeds.
            plates: How many it gives.
        """
        self.inputs, self.live, self.notes, self._plates = checked_inputs(inputs), False, [], plates

    @classmethod
    def options_at(cls, place):
        return {"plates": int(place.partition(":")[2])}

    def items(self, wants):
        for number in range(self._plates):
            heat = 90.0 if number >= self._plates // 2 else 10.0
            for name, modality in wants.items():
                yield Item(name, np.full(modality.shape(), heat, np.float32), number / 10)

    def close(self):
        pass

    def describe(self):
        return f"an oven with {self._plates} plates"
'''

SINK = '''
"""A file with a line for every event."""

from pathlib import Path

from edgemm.contracts.sink import Sink

PLACES = ("log:*",)


class Ledger(Sink):
    """Appends."""

    def __init__(self, *, path: str) -> None:
        """
        Args:
            path: The file.
        """
        self._path = Path(path)

    @classmethod
    def options_at(cls, place):
        return {"path": place.partition(":")[2]}

    def start(self, about):
        self._path.write_text(f"{', '.join(about.inputs)} begins\\n")

    def decision(self, decision):
        pass

    def event(self, event):
        with self._path.open("a") as file:
            file.write(f"{event.label}\\n")

    def status(self, status):
        pass

    def stop(self):
        with self._path.open("a") as file:
            file.write("end\\n")
'''

AUGMENTATION = '''
"""A plate that is warmer or colder as a whole."""

from dataclasses import dataclass

from edgemm.contracts.augmentation import Augmentation, Changed

MODALITIES = ("thermal",)


@dataclass(frozen=True)
class Warmth(Augmentation):
    """By some degrees.

    Attributes:
        degrees: At most, either way.
    """

    degrees: float = 2.0

    def change(self, samples, rng, part):
        return Changed((samples + rng.uniform(-self.degrees, self.degrees, (len(samples), 1, 1))).astype(samples.dtype))
'''

TRACKER = '''
"""A file with a line for every epoch: diary:FILE."""

from pathlib import Path

from edgemm.contracts.tracker import Tracker, numbers_of


class Diary(Tracker):
    """Appends."""

    def __init__(self, place):
        self._file = Path(place)

    def _write(self, line):
        with self._file.open("a") as file:
            file.write(f"{line}\\n")

    def begin(self, name, options):
        self._write(f"{name} begins, {options['batch_size']} rows a step")

    def epoch(self, epoch, values):
        self._write(f"{epoch}: {', '.join(sorted(values))}")

    def end(self, metrics, files):
        self._write(f"ends: {', '.join(sorted(numbers_of(metrics)))[:200]}, {', '.join(file.name for file in files)}")

    def fail(self):
        self._write("broke off")
'''

ALL = {
    "targets": ("quartz", TARGET),
    "modalities": ("thermal", MODALITY),
    "encoders": ("patches", ENCODER),
    "fusions": ("brew", FUSION),
    "heads": ("deep", HEAD),
    "steps": ("halve", STEP),
    "probes": ("tally", PROBE),
    "sources": ("oven", SOURCE),
    "sinks": ("ledger", SINK),
    "augmentations": ("warmth", AUGMENTATION),
    "trackers": ("diary", TRACKER),
}
"""Kind -> name and text of the newcomer."""


def write(folder: Path, kind: str, name: str, text: str) -> Path:
    """Lay a plugin below ``folder``; returns ``folder``, which EDGEMM_PLUGINS is to name."""
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.py").write_text(text.lstrip(), encoding="utf-8")
    return folder
