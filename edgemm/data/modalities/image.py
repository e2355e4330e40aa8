"""Pictures: uint8 (height, width, channels) into the graph, float32 (channels, height, width) into ``forward``."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemm.contracts.card import FILL_IN
from edgemm.contracts.frontend_ops import Affine, Cast, Op, Transpose
from edgemm.contracts.modality import PICTURE_AXES, Form, Modality, existing, needing
from edgemm.contracts.stream import Pictures
from edgemm.errors import CardError

PACKAGES = ("pillow",)
FORMS = ("image=3x64x64", "image=64x64x3")
HUGGING_FACE = {"": "pixel_values"}
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Image(Modality):
    """A picture of ``height`` x ``width`` pixels.

    Attributes:
        channels: 1 = grey, 3 = colour, 4 = colour and opacity.
        mean, std: Per channel (or one for all), in the units left after ``scale``: forward gets ``(pixel * scale - mean) / std``.
        fit: How another aspect is met: ``stretch`` it, ``crop`` the centre, or ``letterbox`` between bars of the mean colour.
        order: Channel order of the uint8 array and so of what forward gets; decoding and ``prepare`` deliver it.
        scale: Factor on the 0-255 values.
    """

    height: int
    width: int
    channels: int = 3
    mean: list[float] | float = 0.0
    std: list[float] | float = 1.0
    fit: Literal["stretch", "crop", "letterbox"] = "stretch"
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255

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
        if not self.scale > 0 or not math.isfinite(self.scale):
            raise CardError(f"scale is {self.scale}.", fix="write a number above 0, or remove it (1/255).")
        if not np.all(np.asarray(self.std) > 0):
            raise CardError(f"std is {self.std}.", why="forward gets (x - mean) / std.", fix="write numbers above 0.")

    def dtype(self) -> str:
        return "uint8"

    def shape(self) -> tuple[int | str, ...]:
        return (self.height, self.width, self.channels)

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A path (any format pillow reads), the encoded bytes, or a uint8 array -> uint8 (height, width, channels)."""
        if isinstance(cell, dict):  # as Hugging Face datasets store pictures in parquet
            cell = cell.get("bytes") or cell.get("path") or cell
        if isinstance(cell, str):
            cell = existing(cell, folder)
        if isinstance(cell, (bytes, Path)):
            with needing("reading pictures"):
                from edgemm.data.modalities._image import pictures
            return pictures.read(cell, self.stream())
        return self.prepare(cell)

    def prepare(self, picture: Any) -> np.ndarray:
        """A uint8 array (H, W) or (H, W, 1 | 3 | 4), red first, as cameras' decoders give it -> what the graph takes.

        The same conversion and the same resize as for files.

        Raises:
            DataError: Another dtype or shape.
        """
        with needing("resizing pictures"):
            from edgemm.data.modalities._image import pictures
        return pictures.prepare(picture, self.stream())

    def stream(self) -> Pictures:
        return self._pictures

    @functools.cached_property
    def _pictures(self) -> Pictures:
        """Bars have the mean's colour, so that they are 0 for ``forward``."""
        mean = np.broadcast_to(np.asarray(self.mean, np.float64) / self.scale, (self.channels,))
        geometry = Pictures(self.height, self.width, self.channels, self.fit, self.order)
        return replace(geometry, bar=geometry.swap(tuple(int(value) for value in np.clip(np.rint(mean), 0, 255))))

    def received(self, value: Any) -> np.ndarray:
        return value.fitted(self.stream()) if hasattr(value, "fitted") else self.decode(value, Path())

    def axes(self) -> tuple[str, ...]:
        return PICTURE_AXES

    def encoder(self) -> str:
        return "cnn"

    def frontend(self) -> list[Op]:
        mean, std = (np.broadcast_to(np.asarray(value, np.float64), (self.channels,)).reshape(-1, 1, 1) for value in (self.mean, self.std))
        affine = Affine((self.scale / std).astype(np.float32), (-mean / std).astype(np.float32))
        return [Cast("float32"), Transpose((3, 1, 2)), affine]  # cast first: TensorRT has no uint8 Transpose

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """A smooth random picture with some noise, so that its values are spread and neighbours alike."""
        y, x = np.mgrid[0 : self.height, 0 : self.width] / max(self.height, self.width)
        waves = [np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + rng.uniform())) for _ in range(self.channels)]
        picture = 127.5 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 12, (self.height, self.width, self.channels))
        return np.clip(picture, 0, 255).astype(np.uint8)

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
