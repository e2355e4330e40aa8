"""A camera or recording: RTSP or HTTP address, file, or camera of this machine; its pictures and its sound on one connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemm.box.serving.secrets import redact, refuse_password, secret, with_password
from edgemm.box.serving.sources._av.reading import Reader
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs

PLACES = ("*",)  # an address, a file or a device: whatever PyAV opens
DEVICE = "/dev/"
PROBE = {"analyzeduration": "1000000", "probesize": "500000"}  # the first picture after 1.1 s instead of 2.1 s
RTSP = {**PROBE, "rtsp_transport": "tcp"}  # lost UDP packets are torn pictures


class Stream(Source):
    """What PyAV opens, from its address or path."""

    def __init__(
        self,
        *,
        url: str,
        inputs: list[str] | str,
        user_env: str | None = None,
        password_env: str | None = None,
        password_file: str | None = None,
        options: dict[str, str] | None = None,
        read_timeout_s: float = 5.0,
        loop: bool = False,
    ) -> None:
        """
        Args:
            url: ``rtsp://host/path``, ``http://host/stream.mjpg``, a file, or ``/dev/video0``; never with a password in it.
            inputs: The model's inputs it feeds; a picture input takes the picture track, a sound input the sound track.
            user_env, password_env, password_file: Where the camera's user and password stand.
            options: Options for FFmpeg's demuxer, such as ``{use_wallclock_as_timestamps: "1"}``.
            read_timeout_s: After how long without data the camera is taken for lost; it is noticed within twice that.
            loop: Begin again at the end of a file.

        Raises:
            RunError: The address carries a password, or a named secret is not there.
        """
        refuse_password(url, "sources.stream.url")
        self.inputs, self.notes, self.loop = checked_inputs(inputs), [], loop
        self.url = url
        self.live = "://" in url.removeprefix("file://") or url.startswith(DEVICE)
        user = secret(user_env, None, "sources.stream: user", hide=False)
        password = secret(password_env, password_file, "sources.stream: password")
        own_options = {str(key): str(value) for key, value in (options or {}).items()}
        default_options = RTSP if url.startswith("rtsp") else PROBE if self.live and not url.startswith(DEVICE) else {}
        self._reader = Reader(
            place=with_password(url, user, password),
            live=self.live,
            form="v4l2" if url.startswith(DEVICE) else None,
            options={**default_options, **own_options},
            read_timeout_s=read_timeout_s,
            notes=self.notes,
        )

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"url": place}

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        return self._reader.items(wants)

    def close(self) -> None:
        self._reader.stop.set()

    def describe(self) -> str:
        return redact(self.url if self.live else Path(self.url).name)
