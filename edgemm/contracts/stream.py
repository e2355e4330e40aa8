"""What kinds of stream feed a model's inputs, and what an input asks of its stream. A modality says which is its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgemm.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
"""In what the names of files end that hold one picture, or sound."""


@dataclass(frozen=True)
class Pictures:
    """Pictures, one a sample; sources deliver them as ``Frame``.

    Attributes:
        fit: How another aspect is met: ``stretch`` it, ``crop`` the centre, or ``letterbox`` between bars.
        order: Channel order of the array that is made.
        bar: Colour of the bars, red first.
        resample: How a picture is made smaller or larger.
        short: With ``crop``: to how many pixels the shorter side is brought before the centre is cut out; None = as few as will do.
        bits: Of a value. 8: the array that is made is uint8; more: float32 in the picture's own values, and 32 takes floats as they are.
        homography: How the fitted picture is warped to what another camera sees, row by row; None: not at all.
    """

    height: int
    width: int
    channels: int = 3
    fit: Literal["stretch", "crop", "letterbox"] = "stretch"
    order: Literal["rgb", "bgr"] = "rgb"
    bar: tuple[float, ...] = (0, 0, 0)
    bits: int = 8
    homography: tuple[float, ...] | None = None
    resample: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] = "bilinear"
    short: int | None = None

    def before_crop(self, width: int, height: int) -> tuple[int, int]:
        """With ``short``: (width, height) to which a picture is brought before its centre is cut out, as torchvision does."""
        assert self.short is not None  # whoever asks has looked
        longer = int(self.short * max(width, height) / min(width, height))
        return (longer, self.short) if width >= height else (self.short, longer)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def swap(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Channel values between ``order`` and red first."""
        return values if self.order == "rgb" else (*values[2::-1], *values[3:])


@dataclass(frozen=True)
class Sound:
    """Mono sound, the newest ``samples`` of it a sample.

    Attributes:
        resample: Whether sound of another rate is converted; if not, it is an error.
        hop: A sample begins at a multiple of so many samples of the stream, so that it ends up to a hop before the newest one: then the
            frames of its front-end are those of the sample before, but for the new ones.
    """

    rate_hz: int
    samples: int
    resample: bool = True
    hop: int = 1

    def shortage(self, samples: int, whose: str, name: str) -> str:
        """What to say of a recording that holds fewer samples than input ``name`` hears at once."""
        heard, wanted = (f"{count / self.rate_hz:.2g} s" for count in (samples, self.samples))
        return f"{whose} holds {heard} of sound, '{name}' needs {wanted}"

    def check_rate(self, rate_hz: int, name: str) -> None:
        """Raises DataError where ``rate_hz`` is not the wanted one and resampling is off."""
        if rate_hz != self.rate_hz and not self.resample:
            raise DataError(
                f"{name} has {rate_hz} Hz, the card says {self.rate_hz} Hz.",
                why="the card says resample: false.",
                fix=f"convert the file to {self.rate_hz} Hz, or remove resample: false.",
            )


@dataclass(frozen=True)
class Texts:
    """Texts, one a sample; what was said last holds until something else is said."""


@dataclass(frozen=True)
class Numbers:
    """Measurements.

    Attributes:
        window: Shape of a sample whose first axis counts moments, so that moments may come one by one; None = they come as whole samples.
    """

    window: tuple[int, ...] | None = None


Stream = Pictures | Sound | Texts | Numbers
