"""A camera, recording or other file: RTSP or HTTP address, path, or camera of this machine; pictures and sound on one connection."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemm.box.serving.secrets import credentials, headers_of, refuse_password, with_password, with_secrets
from edgemm.box.serving.sources._av.reading import Reader, require_file
from edgemm.box.serving.sources._av.recorded import fed, is_still, items_of, refuse, told_length_s
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs
from edgemm.redaction import redact

PLACES = ("*",)  # an address, a file or a device: whatever PyAV opens
DEVICE = "/dev/"
SHOWN_S = 1.0  # how long a file without a length, such as a picture, is there
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
        query_env: dict[str, str] | None = None,
        url_env: dict[str, str] | None = None,
        headers_env: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
        read_timeout_s: float = 5.0,
        loop: bool = False,
    ) -> None:
        """
        Args:
            url: ``rtsp://host/path``, ``http://host/stream.mjpg``, a file (recording, picture, .npy, text), or ``/dev/video0``; never with
                a password in it.
            inputs: The model's inputs it feeds; a picture input takes the picture track, a sound input the sound track.
            user_env, password_env, password_file: Where the camera's user and password stand.
            query_env: What stands in the address's query and nobody is to read, such as ``{user: CAM_USER, password: CAM_PASSWORD}``: the
                environment variable of each.
            url_env: What belongs elsewhere in the address, written there as ``{name}``, likewise: ``{password: CAM_PASSWORD}`` for
                ``rtsp://host/user=me_password={password}``.
            headers_env: Headers of an http address, such as ``{Authorization: CAM_HEADER}``: the variable that holds the whole of each.
            options: Options for FFmpeg's demuxer, such as ``{use_wallclock_as_timestamps: "1"}``.
            read_timeout_s: After how long without data the camera is taken for lost; it is noticed within twice that.
            loop: Begin again at the end of a file.

        Raises:
            RunError: The address carries a password, a named secret or the file is not there.
        """
        refuse_password(url, "sources.stream.url")
        self.inputs, self.notes, self.loop = checked_inputs(inputs), [], loop
        self.url, self.length_s = url, 0.0
        self.live = "://" in url.removeprefix("file://") or url.startswith(DEVICE)
        self._file = None if self.live else Path(url.removeprefix("file://"))
        if self._file is not None and not os.path.isfile(self._file):  # a name may be longer than any
            require_file(str(self._file))
        user, password = credentials(user_env, password_env, password_file, "sources.stream")
        own_options = {str(key): str(value) for key, value in (options or {}).items()}
        if headers := headers_of(headers_env, url, "sources.stream"):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            own_options["headers"] = own_options.get("headers", "") + lines
        default_options = RTSP if url.startswith("rtsp") else PROBE if self.live and not url.startswith(DEVICE) else {}
        self._reader = Reader(
            place=with_secrets(with_password(url, user, password), url_env, query_env, "sources.stream"),
            name=redact(url),
            live=self.live,
            form="v4l2" if url.startswith(DEVICE) else None,
            options={**default_options, **own_options},
            read_timeout_s=read_timeout_s,
            notes=self.notes,
            unwatched=lambda: self.unwatched,
        )

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"url": place}

    def told_length_s(self) -> float:
        return told_length_s(self._file) if self._file is not None and not is_still(self._file) else 0.0

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        if self._file is None or not is_still(self._file):
            return self._reader.items(wants)
        self.length_s = SHOWN_S
        if inputs := fed(self._file, wants, alone=True):
            return items_of(self._file, inputs)
        raise refuse(self._file, wants)

    def close(self) -> None:
        self._reader.stop.set()

    def describe(self) -> str:
        return redact(self.url if self.live else Path(self.url).name)
