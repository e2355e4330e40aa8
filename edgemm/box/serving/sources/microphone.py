"""A microphone of this machine, through ALSA."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemm.box.serving.sources._av.reading import Reader
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs

PLACES = ("microphone", "microphone:*")
ALSA = Path("/usr/share/alsa/alsa.conf")


class Microphone(Source):
    """Sound as ALSA delivers it."""

    def __init__(self, *, inputs: list[str] | str, device: str = "default", channels: int = 1, read_timeout_s: float = 5.0) -> None:
        """
        Args:
            inputs: The model's sound inputs it feeds.
            device: ALSA's name, such as ``hw:1`` (see ``arecord -L``).
            channels: How many the device records; the model gets their mean.
            read_timeout_s: After how long without data it is taken for lost.
        """
        self.inputs, self.live, self.notes = checked_inputs(inputs), True, []
        self._device = device
        self._reader = Reader(device, True, "alsa", {"channels": str(channels)}, read_timeout_s, self.notes)

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"device": device} if (device := place.partition(":")[2]) else {}

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        if ALSA.is_file():
            os.environ.setdefault("ALSA_CONFIG_PATH", str(ALSA))  # PyAV's wheel looks for it where its build machine had it
        return self._reader.items(wants)

    def close(self) -> None:
        self._reader.stop.set()

    def describe(self) -> str:
        return f"microphone {self._device}"
