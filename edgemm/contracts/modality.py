"""What a modality is: one kind of input, from a dataset cell or a device to what the model's ``forward`` receives."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemm.contracts import plugins, written
from edgemm.contracts.card import Card, Input
from edgemm.contracts.frontend_ops import Op
from edgemm.contracts.specs import BATCH, TensorSpec
from edgemm.contracts.stream import Numbers, Stream
from edgemm.errors import DataError, naming

PICTURE_AXES, BANDS_OVER_TIME, TIME, TOKENS = ("channel", "height", "width"), ("band", "time"), ("time",), ("token",)
"""What the axes of one sample count as ``forward`` receives it: a picture, a spectrogram, a series of single numbers, token ids."""
AXES_BY_RANK: Mapping[int, tuple[str, ...]] = {1: ("value",), 2: ("time", "channel"), 3: PICTURE_AXES}


@dataclass(frozen=True)
class Vocabulary:
    """Token ids from 0 to ``size`` - 1, of which ``pad`` is padding, and ``marks`` are no words: begin, end and the like."""

    size: int
    pad: int = 0
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainSplit:
    """What ``train`` shows a modality of its input, for options that the card leaves open.

    Attributes:
        name: The input's.
        cells: What stands in its column, undecoded and without empty cells.
        samples: Decoded samples in batches (N, ...); those that are missing are left out.
        scratch: A folder for files that an option is to name.
        has_weights: The card names weights, which were trained with what the card says.
    """

    name: str
    cells: Callable[[], Iterable[Any]]
    samples: Callable[[], Iterator[np.ndarray]]
    scratch: Path
    has_weights: bool


@dataclass(frozen=True)
class Learned:
    """Options that the train split told, and a sentence about them for the user ("": nothing to say)."""

    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Form:
    """An input as ``edgemm init`` is told of it: ``16000@16000hz:log_mel=40`` without its name and its kind.

    Attributes:
        words: What stands after a ``+``.
        settings: ``:key=number``.
    """

    sizes: tuple[int, ...]
    rate_hz: float | None = None
    words: tuple[str, ...] = ()
    settings: Mapping[str, int] = field(default_factory=dict)

    def has_only(self, *, words: Sequence[str] = (), settings: Sequence[str] = ()) -> bool:
        """Whether it says nothing that is not among these."""
        return set(self.words) <= set(words) and set(self.settings) <= set(settings)


@dataclass(frozen=True)
class Framing:
    """How a front-end walks along an input: frame t is made of the samples from ``t * hop`` on, whatever stands elsewhere.

    Attributes:
        hop, window: Samples between two frames, and those that one frame reads.
        frames: How many there are in an input.
        pad: Samples that are mirrored at both ends before.
        at_once: Frames that a stream brings from one window to the next, about.
        block: The forms of ``frontend_forms``, by name, for so many frames of samples that are not mirrored, up to ``after``.
        after: The last operations of ``frontend``, of which the first ``alone`` still look at each frame (on the last axis) alone.
    """

    hop: int
    window: int
    frames: int
    pad: int
    at_once: int
    block: Callable[[int], Mapping[str, list[Op]]]
    after: Sequence[Op] = ()
    alone: int = 0


class Modality(Protocol):
    """One input's modality with its options. A plugin is a frozen dataclass whose fields are the options a card may set.

    ``__post_init__`` checks values and raises ``CardError`` without naming the input (``of`` adds the name). All shapes here are
    those of one sample: no batch axis, no ``steps`` axis. The methods below that have a body are defaults a plugin may keep.

    Constants at the top of a plugin's file, read without importing it: ``FORMS``, examples of what ``edgemm init`` understands, and
    ``FORM``, the word for the kind there (the plugin's name without it); ``HUGGING_FACE``, the parameter that Hugging Face's models take
    it by (``""``), and what they call it where an option is set (``mask``, ``features``).
    """

    def dtype(self) -> str:
        """numpy dtype name of what the graph takes."""
        ...

    def shape(self) -> tuple[int | str, ...]:
        """Shape of one sample of what the graph takes; a string names a free axis."""
        ...

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """Turn a dataset cell (a path relative to ``folder``, the text itself, numbers, an array) into one sample.

        Raises:
            DataError: The cell cannot be read; the text does not yet name row and column (``data`` adds them).
        """
        ...

    def frontend(self) -> list[Op]:
        """Fixed operations from a batch of samples to what ``forward`` receives; [] when nothing is to be done."""
        ...

    def frontend_forms(self) -> Mapping[str, list[Op]]:
        """Name -> ``frontend`` in another form, equal but for rounding, itself the first, the smallest last; {} where there is one form.

        A target gets the one that is fastest on it.
        """
        return {}

    def notes(self) -> list[str]:
        """What a reader should know of its options though they are no mistake, a sentence each; does not name the input."""
        return []

    def framing(self) -> Framing | None:
        """How ``frontend`` works frame by frame, so that of a stream only new frames need be computed; None where it does not."""
        return None

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """One plausible sample, for shape checks and for models without data."""
        ...

    def batch_axis(self) -> int | None:
        """Which axis of the graph's tensor counts samples; None where no axis does (only ``tensor`` may differ from 0)."""
        return 0

    def absent(self) -> np.ndarray:
        """The sample that stands in for an empty cell of an ``optional`` input."""
        return np.zeros(_fixed(self.shape()), self.dtype())

    def initial(self) -> np.ndarray | None:
        """The sample used where the dataset has no column for this input; None where a column is needed."""
        return None

    def file_ends(self) -> tuple[str, ...] | None:
        """In what the name of a file in a cell ends: () where no cell names one, None where any may."""
        return () if type(self).file is Modality.file else None

    def file(self, cell: Any) -> str | None:
        """The file a cell names, for the dataset's fingerprint; None where the cell holds the value itself."""
        return None

    def extent(self, cell: Any, folder: Path) -> tuple[int, int]:
        """Height and width of the picture in a cell, upright and before it is fitted, without decoding it; of one that can be looked at.

        Raises:
            DataError: The cell cannot be read.
        """
        raise NotImplementedError

    def whole(self, cell: Any, folder: Path) -> np.ndarray:
        """The picture in a cell as people see it, upright and before it is fitted: uint8 (height, width, 3), red first.

        Raises:
            DataError: The cell cannot be read.
        """
        raise NotImplementedError

    def remark(self, cell: Any, folder: Path) -> str:
        """What is odd about a cell and no error, in words; "" where nothing is."""
        return ""

    def reads_empty(self, cell: Any) -> bool:
        """Whether a cell that holds nothing is a sample all the same."""
        return False

    def stream(self) -> Stream:
        """What feeds it on a box, and what it asks of that; without a word of its own measurements, moment by moment where it can."""
        shape = tuple(size for size in self.shape() if isinstance(size, int))
        return Numbers(shape if len(shape) == len(self.shape()) > 1 else None)

    def received(self, value: Any) -> np.ndarray:
        """One sample of what a source delivered: a ``Frame`` for a stream of pictures, a text, a measurement."""
        return self.decode(value, Path())

    def picture(self, sample: np.ndarray) -> np.ndarray | None:
        """A sample as people see it: uint8 (height, width, 3), red first; None of what cannot be looked at."""
        return None

    def jpeg(self, picture: np.ndarray, width: int) -> bytes:
        """``picture``'s, at most ``width`` pixels wide."""
        raise NotImplementedError

    def axes(self) -> tuple[str, ...]:
        """What each axis of a sample counts as ``forward`` receives it."""
        rank = len(self.shape())
        return AXES_BY_RANK.get(rank, ("value",) * rank)

    def measured(self) -> bool:
        """Whether its numbers are measurements of any size, channels on the last axis, and not bounded ones (pixels, sound) or ids."""
        return False

    def vocabulary(self) -> Vocabulary | None:
        """The token ids it consists of; None where its numbers are no ids.

        Raises:
            CardError: There is no telling; does not name the input.
        """
        return None

    def words(self, sample: np.ndarray) -> str:
        """What a sample says, of one that consists of words; "" of others."""
        return ""

    def encoder(self) -> str:
        """The encoder of a reference model for it, where no card names one."""
        return "mlp"

    def learned(self, train: TrainSplit) -> Learned:
        """Options that the card leaves open and the train split tells.

        Raises:
            DataError: A row cannot be read.
        """
        return Learned()

    @classmethod
    def likeness(cls, form: Form) -> int:
        """How much a form that names no kind looks like this one: 0 not at all; the highest is taken."""
        return 0

    @classmethod
    def drafted(cls, form: Form) -> dict[str, Any] | None:
        """The options of a card's draft; None where the form is of no sense for this kind.

        Raises:
            CardError: It nearly is; does not name the input.
        """
        return None

    @classmethod
    def alternatives(cls, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Other options to try with a model that does not take what ``drafted`` says; the commonest first."""
        return []

    @classmethod
    def draft_lines(cls, options: Mapping[str, Any], *, guessed: bool) -> list[str]:
        """The lines of a card's draft.

        Args:
            guessed: The options are one of ``alternatives``: what is no more than a guess has to be confirmed.
        """
        return [f"{key}: {flow(value)}" for key, value in options.items()]


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    return written.dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()


def of(spec: Input, *, folder: Path | None = None) -> Modality:
    """The modality object of a card's input.

    Args:
        folder: The card's folder; options that are paths (``tokenizer``) are relative to it.

    Raises:
        CardError: A value is out of range; names the input. Mistakes: several are.
    """
    kind = plugins.find(Modality, spec.modality)
    options = dict(spec.options)
    if options.get("tokenizer") and folder is not None:
        options["tokenizer"] = str(folder / options["tokenizer"])
    with naming(f"inputs.{spec.name}"):
        return kind(**options)


def notes(card: Card) -> list[str]:
    """What a reader should know of the inputs' options."""
    return [f"input '{name}': {note}" for name, part in modalities(card).items() for note in part.notes()]


def modalities(card: Card) -> Mapping[str, Modality]:
    """Every input's modality object, in card order."""
    return {name: of(spec, folder=card.folder) for name, spec in card.inputs.items()}


def input_specs(card: Card) -> list[TensorSpec]:
    """What the exported graph takes, in card order: (batch[, steps], *sample).

    A ``tensor`` has its batch axis where its card says, or none.
    """
    return [_spec(name, modality, card.inputs[name].steps) for name, modality in modalities(card).items()]


def _spec(name: str, modality: Modality, steps: int | None) -> TensorSpec:
    shape: list[int | str] = list(modality.shape())
    if steps:
        shape.insert(0, steps)
    axis = modality.batch_axis()
    if axis is not None:
        shape.insert(axis, BATCH)
    return TensorSpec(name, modality.dtype(), tuple(shape))


@contextlib.contextmanager
def needing(what: str) -> Iterator[None]:
    """Around the import of what needs a package of an extra; ``what`` it is needed for stands in the error.

    Raises:
        MissingExtra: The package is not installed; says which extra brings it.
    """
    try:
        yield
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, what) from err


def existing(cell: str, folder: Path) -> Path:
    """The file that a cell names.

    Raises:
        DataError: There is none.
    """
    path = folder / cell.strip()
    if not os.path.isfile(path):  # False for a name that no system takes; Path.is_file raises
        for form in () if cell.isascii() else ("NFC", "NFD"):  # macOS writes a letter and its accent apart, others as one
            if os.path.isfile(other := folder / unicodedata.normalize(form, cell.strip())):
                return other
        why = f"'{path}' is a folder." if os.path.isdir(path) else f"'{path}' does not exist."
        raise DataError(f"'{cell}' is missing.", why=why, fix="add the file, or mend the path; paths are relative to the manifest.")
    return path


def _fixed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(1 if isinstance(size, str) else size for size in shape)
