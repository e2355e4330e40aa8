"""Pictures: uint8 (height, width, channels) into the graph, of more bits float32; float32 (channels, height, width) into ``forward``."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemm.contracts.card import FILL_IN
from edgemm.contracts.frontend_ops import Cast, Op, Transpose, standardizing
from edgemm.contracts.modality import PICTURE_AXES, Form, Modality, existing, needing
from edgemm.contracts.number_cells import is_npy, numbers
from edgemm.contracts.stream import Pictures
from edgemm.data.modalities._image import deep, warping
from edgemm.errors import CardError, DataError

PACKAGES = ("pillow",)
FORMS = ("image=3x64x64", "image=64x64x3")
HUGGING_FACE = {"": "pixel_values"}
CHANNELS = (1, 3, 4)
MOST_SHORT = 8  # times the picture that is cut out
BITS = (8, *range(9, 17), deep.FLOAT)


def picture_size(picture: Any) -> tuple[int, int]:
    """Height and width of a picture that is an array.

    Raises:
        DataError: It has another number of axes.
    """
    shape = np.shape(picture)
    if len(shape) not in (2, 3):
        raise DataError(f"a picture has shape {shape}.", fix="give (height, width) or (height, width, channels).")
    return shape[0], shape[1]


@dataclass(frozen=True)
class Image(Modality):
    """A picture of ``height`` x ``width`` pixels.

    Attributes:
        channels: 1 = grey, 3 = colour, 4 = colour and opacity.
        mean, std: Per channel (or one for all), in the units left after ``scale``: forward gets ``(pixel * scale - mean) / std``.
        fit: How another aspect is met: ``stretch`` it, ``crop`` the centre, or ``letterbox`` between bars of the mean colour.
        short: With ``crop``: to how many pixels the shorter side is brought first; None = as few as will do.
        resample: How pictures are brought to another size; antialiased, but for ``nearest``.
        order: Channel order of the array and so of what forward gets; decoding and ``prepare`` deliver it.
        scale: Factor on the values; None = 1 / 255, with more bits 1 / (2 ** bits - 1), with bits: 32 none.
        bits: Of a value: 8; 9 to 16 for depth in mm, thermal cameras and the like (16-bit PNG and TIFF, .npy), each value as it is;
            32 for floats and whatever else, as they are.
        homography: Where two fixed cameras see one scene differently: nine numbers, row by row, that take places of this picture to places
            of the other input's, both as shares of the width and height that the model gets; the picture is warped so, and what it does
            not show has the bars' colour.
    """

    height: int
    width: int
    channels: int = 3
    mean: list[float] | float = 0.0
    std: list[float] | float = 1.0
    fit: Literal["stretch", "crop", "letterbox"] = "stretch"
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float | None = None
    bits: int = 8
    homography: list[float] | None = None
    short: int | None = None
    resample: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        for key in ("height", "width"):
            if getattr(self, key) < 1:
                raise CardError(f"{key} is {getattr(self, key)}.", fix="write a number of pixels, at least 1.")
        if self.channels not in CHANNELS:
            raise CardError(f"channels is {self.channels}.", fix="write 1 (grey), 3 (colour) or 4 (colour and opacity).")
        if self.order == "bgr" and self.channels == 1:
            raise CardError("order is 'bgr' with 1 channel.", fix="remove order, or set channels: 3.")
        for key in ("mean", "std"):
            values = getattr(self, key)
            if isinstance(values, (list, tuple)) and len(values) != self.channels:
                raise CardError(
                    f"{key} has {len(values)} numbers, the picture has {self.channels} channels.", fix="write one number a channel."
                )
        if self.bits not in BITS:
            raise CardError(f"bits is {self.bits}.", fix="write 8, 9 to 16 for deeper pictures, or 32 for floats as they are.")
        self._check_short()
        if self.bits > 8 and (self.short is not None or self.resample != "bilinear"):
            what = f"short and resample do not go with bits: {self.bits}."
            raise CardError(what, fix="remove them; such pictures are resized bilinearly.")
        if not self.factor > 0 or not math.isfinite(self.factor):
            raise CardError(f"scale is {self.scale}.", fix="write a number above 0, or remove it (1/255).")
        if not np.all(np.asarray(self.std) > 0):
            raise CardError(f"std is {self.std}.", why="forward gets (x - mean) / std.", fix="write numbers above 0.")
        if self.homography is not None:
            warping.check(self.homography)
        self.frontend()

    def _check_short(self) -> None:
        longest = max(self.height, self.width)
        if self.short is not None and (self.fit != "crop" or not longest <= self.short <= MOST_SHORT * longest):
            raise CardError(
                f"short is {self.short} with fit: {self.fit} and {self.height} x {self.width} pixels.",
                why="it is the shorter side of the picture of which the centre is cut out.",
                fix=f"write fit: crop, and short: {longest} to {MOST_SHORT * longest}.",
            )

    @property
    def factor(self) -> float:
        """``scale``, or what stands for it."""
        return self.scale if self.scale is not None else 1.0 if self.bits == BITS[-1] else 1 / ((1 << self.bits) - 1)

    def dtype(self) -> str:
        return "uint8" if self.bits == 8 else "float32"

    def shape(self) -> tuple[int | str, ...]:
        return (self.height, self.width, self.channels)

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A path (any format pillow reads, or .npy), the encoded bytes, or an array -> (height, width, channels)."""
        if isinstance(cell, dict):  # as Hugging Face datasets store pictures in parquet
            cell = cell.get("bytes") or cell.get("path") or cell
        if is_npy(cell):
            return self.prepare(numbers(cell, folder))
        if isinstance(cell, str):
            cell = existing(cell, folder)
        if isinstance(cell, (bytes, Path)):
            with needing("reading pictures"):
                from edgemm.data.modalities._image import pictures
            return self._warped(pictures.read(cell, self.stream()))
        return self.prepare(cell)

    def extent(self, cell: Any, folder: Path) -> tuple[int, int]:
        """Of a file its header is read."""
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path") or cell
        if is_npy(cell):
            return picture_size(numbers(cell, folder))
        if isinstance(cell, str):
            cell = existing(cell, folder)
        if isinstance(cell, (bytes, Path)):
            with needing("reading pictures"):
                from edgemm.data.modalities._image import pictures
            return pictures.extent(cell)
        return picture_size(cell)

    def prepare(self, picture: Any) -> np.ndarray:
        """A uint8 array (H, W) or (H, W, 1 | 3 | 4), red first, as cameras' decoders give it -> what the graph takes.

        The same conversion and the same resize as for files.

        Raises:
            DataError: Another dtype or shape.
        """
        if self.bits > 8:
            return self._warped(deep.fit(picture, self.stream()))
        with needing("resizing pictures"):
            from edgemm.data.modalities._image import pictures
        return self._warped(pictures.prepare(picture, self.stream()))

    def _warped(self, picture: np.ndarray) -> np.ndarray:
        stream = self.stream()
        return picture if stream.homography is None else warping.warped(picture, stream.homography, stream.swap(stream.bar))

    def stream(self) -> Pictures:
        return self._pictures

    @functools.cached_property
    def _pictures(self) -> Pictures:
        """Bars have the mean's colour, so that they are 0 for ``forward``."""
        mean = np.broadcast_to(np.asarray(self.mean, np.float64) / self.factor, (self.channels,))
        warp = None if self.homography is None else tuple(map(float, self.homography))
        geometry = Pictures(
            self.height, self.width, self.channels, self.fit, self.order,
            bits=self.bits, resample=self.resample, short=self.short, homography=warp,
        )  # fmt: skip
        if self.bits > 8:
            return replace(geometry, bar=geometry.swap(tuple(mean.tolist())))
        return replace(geometry, bar=geometry.swap(tuple(int(value) for value in np.clip(np.rint(mean), 0, 255))))

    def received(self, value: Any) -> np.ndarray:
        if not hasattr(value, "fitted"):
            return self.decode(value, Path())
        is_camera = not hasattr(value, "values")  # a file's values are ``decode``'s already
        if self.bits > 8 and is_camera:
            return self.prepare(value.deep())
        return self._warped(value.fitted(self.stream())) if is_camera else value.fitted(self.stream())

    def whole(self, cell: Any, folder: Path) -> np.ndarray:
        """Of a file of 8 bits."""
        with needing("reading pictures"):
            from edgemm.data.modalities._image import pictures
        return pictures.whole(existing(cell, folder))

    def picture(self, sample: np.ndarray) -> np.ndarray | None:
        """Of deeper pictures the lowest value is black and the highest white."""
        values = sample.astype(np.float32)
        if self.bits > 8:
            low, high = float(values.min()), float(values.max())
            values = (values - low) * (255 / max(high - low, 1e-9))
        colours = values[..., [2, 1, 0]] if self.order == "bgr" else values[..., :3]
        return np.ascontiguousarray(np.broadcast_to(np.rint(colours).astype(np.uint8), (*values.shape[:2], 3)))

    def jpeg(self, picture: np.ndarray, width: int) -> bytes:
        with needing("showing pictures"):
            from edgemm.data.modalities._image import pictures
        return pictures.jpeg(picture, width)

    def axes(self) -> tuple[str, ...]:
        return PICTURE_AXES

    def encoder(self) -> str:
        return "cnn"

    def frontend(self) -> list[Op]:
        mean, std = (np.broadcast_to(np.asarray(value, np.float64), (self.channels,)).reshape(-1, 1, 1) for value in (self.mean, self.std))
        cast = [Cast("float32")] if self.bits == 8 else []  # first: TensorRT has no uint8 Transpose
        return [*cast, Transpose((3, 1, 2)), standardizing(mean, std, self.factor)]

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """A smooth random picture with some noise, so that its values are spread and neighbours alike."""
        y, x = np.mgrid[0 : self.height, 0 : self.width] / max(self.height, self.width)
        waves = [np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + rng.uniform())) for _ in range(self.channels)]
        picture = 127.5 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 12, (self.height, self.width, self.channels))
        if self.bits > 8:
            values = np.clip(picture, 0, 255) / 255 * (1 if self.bits == deep.FLOAT else (1 << self.bits) - 1)
            return np.asarray(values if self.bits == deep.FLOAT else np.rint(values), np.float32)
        return np.clip(picture, 0, 255).astype(np.uint8)

    def remark(self, cell: Any, folder: Path) -> str:
        """That a file has more bits than the card says, and is read all the same: what is lost then."""
        path = folder / cell.strip() if isinstance(cell, str) else None
        if self.bits > 8 or path is None or not os.path.isfile(path) or is_npy(cell):
            return ""
        with needing("reading pictures"):
            from edgemm.data.modalities._image import pictures
        bits = pictures.depth(path)
        if not 8 < bits <= 16:  # of 32 it is an error
            return ""
        return f"'{cell.strip()}' has {bits} bits a value, and the upper 8 are used; bits: {bits} in the card keeps all."

    def file(self, cell: Any) -> str | None:
        return cell if isinstance(cell, str) else None

    @classmethod
    def likeness(cls, form: Form) -> int:
        return 2 * (len(form.sizes) == 3 and bool({form.sizes[0], form.sizes[-1]} & set(CHANNELS)) and not form.rate_hz)

    @classmethod
    def drafted(cls, form: Form) -> dict[str, Any] | None:
        sizes = form.sizes
        if len(sizes) != 3 or not {sizes[0], sizes[-1]} & set(CHANNELS):
            raise CardError("a picture has three sizes, one of them 1, 3 or 4 channels.", fix="write image=3x64x64.")
        channels, height, width = sizes if sizes[0] in CHANNELS else (sizes[2], sizes[0], sizes[1])
        return {"height": height, "width": width, "channels": channels}

    @classmethod
    def draft_lines(cls, options: Mapping[str, Any], *, guessed: bool) -> list[str]:
        lines = [f"{key}: {value}" for key, value in options.items()]
        if "mean" in options and "std" in options:
            return lines
        ones = [1] * int(options["channels"])
        return [*lines, "# forward gets (pixel / 255 - mean) / std", f"mean: {[0 for _ in ones]}  {FILL_IN}", f"std: {ones}  {FILL_IN}"]
