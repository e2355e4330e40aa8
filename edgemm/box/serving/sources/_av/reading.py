"""Pictures and sound with PyAV: files, network cameras, cameras and microphones of this machine. One connection serves all their inputs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from edgemm.box.serving.sources._av.undecoded import PictureDecoder, Undecoded
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Paint, Region, fed_by
from edgemm.contracts.stream import Pictures, Sound
from edgemm.errors import DataError, RunError
from edgemm.redaction import redact

KERNELS = {
    "bilinear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "lanczos": Interpolation.LANCZOS,
    "box": Interpolation.AREA,
    "nearest": Interpolation.POINT,
}
SCALING = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
"""Beside the kernel, which is widened by the factor of reduction as training's pillow does it: at most 3 of 255 apart on a photograph."""
FORMATS = {(1, "rgb"): "gray", (3, "rgb"): "rgb24", (3, "bgr"): "bgr24", (4, "rgb"): "rgba", (4, "bgr"): "bgra"}
DEEP = {"gray9": (1, "u"), "gray10": (1, "u"), "gray12": (1, "u"), "gray14": (1, "u"), "gray16": (1, "u"), "grayf32": (1, "f"),
        "rgb48": (3, "u"), "rgba64": (4, "u")}  # fmt: skip
"""Pixel formats whose values have more than 8 bits, in one plane: channels, and what a value is."""
JUMP_S = 1.0  # between two neighbouring items of one track: something was lost, or the camera's clock was set
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # FFmpeg draws the letters of a text as pictures
BROKEN_PACKETS = 100  # one after the other: seven seconds of pictures; then the stream is taken for lost


@dataclass
class AvFrame:
    """One picture, in the camera's own pixel format until somebody wants it, and undecoded where nobody was about to.

    Attributes:
        came: As it came.
    """

    came: av.VideoFrame | Undecoded
    scaler: VideoReformatter

    @property
    def frame(self) -> av.VideoFrame:
        """Decoded."""
        return self.came.decoded() if isinstance(self.came, Undecoded) else self.came

    @property
    def cost(self) -> int:
        return self.came.cost() if isinstance(self.came, Undecoded) else 0

    def fitted(self, wanted: Pictures) -> np.ndarray:
        width, height = inner_size(self.frame.width, self.frame.height, wanted)
        array = self._scaled(width, height, wanted).reshape(height, width, wanted.channels)
        if wanted.fit == "crop":
            top, left = (height - wanted.height) // 2, (width - wanted.width) // 2
            array = array[top : top + wanted.height, left : left + wanted.width]
        elif wanted.fit == "letterbox":
            canvas = np.empty(wanted.shape, np.uint8)
            canvas[:] = wanted.swap(wanted.bar)  # it is told red first
            top, left = (wanted.height - height) // 2, (wanted.width - width) // 2
            canvas[top : top + height, left : left + width] = array
            array = canvas
        return np.ascontiguousarray(array)

    def deep(self) -> np.ndarray:
        name = self.frame.format.name
        kind = next((kind for kind in DEEP if name.startswith(kind)), None)
        if kind is None or (self.frame.format.components[0].bits <= 8):
            raise DataError(
                f"the camera's or file's pictures are {name}, the card says more than 8 bits.",
                why=f"values of more bits are read from {', '.join(sorted(DEEP))} pictures.",
                fix="set the camera so, or train with bits: 8.",
            )
        channels, letter = DEEP[kind]
        size = 4 if letter == "f" else 2
        plane = self.frame.planes[0]
        rows = np.frombuffer(bytes(plane), f"{'>' if name.endswith('be') else '<'}{letter}{size}").reshape(-1, plane.line_size // size)
        values: np.ndarray = rows[: self.frame.height, : self.frame.width * channels].astype(f"{letter}{size}")
        return values.reshape(self.frame.height, self.frame.width, channels)

    @property
    def extent(self) -> tuple[int, int]:
        return self.frame.height, self.frame.width

    def jpeg(self, width: int, *, region: Region | None = None, paint: Paint | None = None) -> bytes:
        frame = self.frame if region is None else _part(self.frame, region)
        width = max(2, min(width, frame.width) // 2 * 2)
        height = max(2, round(frame.height * width / frame.width) // 2 * 2)
        if paint is not None:
            array = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1).to_ndarray()
            paint(array)
            frame = _of_array(array)
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuvj420p", Fraction(1, 25)
        encoder.options = {"qmin": "4", "qmax": "6"}
        picture = frame.reformat(width, height, "yuvj420p", interpolation=Interpolation.BILINEAR, threads=1)
        picture.pts = 0
        packets = [*encoder.encode(picture), *encoder.encode(None)]
        return b"".join(bytes(packet) for packet in packets)

    def _scaled(self, width: int, height: int, wanted: Pictures) -> np.ndarray:
        pixels, how = FORMATS[wanted.channels, wanted.order], KERNELS[wanted.resample] | SCALING
        return self.scaler.reformat(self.frame, width, height, pixels, interpolation=how, threads=1).to_ndarray()


def _part(frame: av.VideoFrame, region: Region) -> av.VideoFrame:
    x0, y0, x1, y1 = region
    return _of_array(frame.to_ndarray(format="rgb24")[y0:y1, x0:x1])


def _of_array(array: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(array, np.uint8), format="rgb24")


def inner_size(width: int, height: int, spec: Pictures) -> tuple[int, int]:
    """To what size a picture is scaled before it is cropped or framed: (width, height)."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    if spec.short is not None:
        return spec.before_crop(width, height)
    choose = max if spec.fit == "crop" else min
    factor = choose(spec.width / width, spec.height / height)
    scaled = max(1, round(width * factor)), max(1, round(height * factor))
    return (max(scaled[0], spec.width), max(scaled[1], spec.height)) if spec.fit == "crop" else scaled


def require_file(path: str) -> None:
    """Raises RunError where a path names no file that could be read."""
    if os.path.isdir(path):
        raise RunError(f"'{path}' is a folder.", fix="name a file in it, or write it as a folder source.")
    if not os.path.exists(path):
        fix = (
            f"a camera of this machine is /dev/video{path}."
            if path.isdigit()
            else "check the path; an address begins with rtsp:// or http://."
        )
        raise RunError(f"'{redact(path)}' does not exist.", why="there is no such file.", fix=fix)


@dataclass
class Reader:
    """Reads one place.

    Attributes:
        place: What PyAV opens; may hold a password.
        name: How messages call it; "" = by its place, without any password.
        form: Its demuxer where the place does not tell (``v4l2``, ``alsa``).
        live: Its end is a loss.
        read_timeout_s: After how long without data reading fails; PyAV takes up to twice as long.
        notes: Filled with what is missing.
        unwatched: Tells the inputs whose pictures nobody is about to look at: they wait undecoded.
    """

    place: str
    live: bool
    form: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    read_timeout_s: float = 5.0
    notes: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    name: str = ""
    unwatched: Callable[[], Collection[str]] = tuple

    def __post_init__(self) -> None:
        self.name = self.name or redact(self.place)

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        """See ``Source.items``; times are the stream's own."""
        self.stop.clear()
        av.logging.set_level(None)  # its own log would print addresses with passwords
        try:
            timeout = (self.read_timeout_s * 2, self.read_timeout_s) if self.live else None
            with av.open(self.place, format=self.form, options=dict(self.options), timeout=timeout) as container:
                if container.format.name in TEXT_ART:
                    raise ValueError("it is a text")
                yield from self._read(container, wants)
        except (av.error.FFmpegError, OSError, ValueError) as err:
            raise self._lost(err) from None  # the library's own error holds the whole address
        if self.live and not self.stop.is_set():
            raise RunError(f"'{self.name}' ended.", why="the camera or its server closed the stream.", fix="it is opened again.")

    def _read(self, container: Any, wants: Mapping[str, Modality]) -> Iterator[Item]:
        tracks = [_Track(stream, inputs) for stream, inputs in self._tracks(container, wants)]
        broken = lost = count = 0
        of_stream = {track.stream.index: track for track in tracks}
        for packet in container.demux([track.stream for track in tracks]):
            if self.stop.is_set():
                return
            try:
                items = list(of_stream[packet.stream.index].items(packet, self.unwatched()))
            except av.error.InvalidDataError:
                broken, lost = broken + 1, lost + 1
                if broken > BROKEN_PACKETS:
                    raise
                continue
            broken, count = 0 if items else broken, count + len(items)
            yield from items
        if not self.live and not count:
            raise ValueError(f"none of its {lost} packets can be decoded" if lost else "there is nothing in it")
        if not self.live and lost:
            self.notes.append(f"'{self.name}': {lost} packets could not be decoded")

    def _tracks(self, container: Any, wants: Mapping[str, Modality]) -> Iterator[tuple[Any, dict[str, Modality]]]:
        """The streams to read, each with the inputs it feeds; notes what the place has not."""
        self.notes.clear()
        track_count = 0
        for kind, word, streams in ((Pictures, "picture", container.streams.video), (Sound, "sound", container.streams.audio)):
            inputs = fed_by(wants, kind)
            if inputs and streams:
                track_count += 1
                yield streams[0], inputs
            elif inputs:
                self.notes.append(f"'{self.name}' has no {word} track: {', '.join(inputs)} stays missing")
        if others := [name for name in wants if name not in {**fed_by(wants, Pictures), **fed_by(wants, Sound)}]:
            self.notes.append(f"'{self.name}' carries pictures and sound: {', '.join(others)} stays missing")
        if not track_count:
            fix = "give these inputs another source" + ("; texts and numbers come from .txt and .npy files, or mqtt." if others else ".")
            raise RunError(f"'{self.name}' has nothing to offer.", why="; ".join(self.notes) + ".", fix=fix)

    def _lost(self, err: Exception) -> RunError:
        reason = redact(getattr(err, "strerror", None) or str(err) or type(err).__name__)
        if isinstance(err, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)) or "401" in reason:
            return RunError(
                f"'{self.name}' refuses the user or password.",
                why=f"{reason}.",
                fix="check user_env and password_env of this source, or query_env, url_env, headers_env.",
            )
        if isinstance(err, FileNotFoundError):
            return RunError(f"'{self.name}' does not exist.", fix="check the path, or the camera's address.")
        if not self.live:
            what = "is empty" if Path(self.place).is_file() and not Path(self.place).stat().st_size else "cannot be read"
            return RunError(f"'{self.name}' {what}.", why=f"{reason}.", fix="mend the file, or give another.")
        if isinstance(err, av.error.ExitError):
            return RunError(
                f"'{self.name}' sends nothing.", why=f"no data for {self.read_timeout_s:g} s and more.", fix="is the camera on?"
            )
        return RunError(f"'{self.name}' cannot be read.", why=f"{reason}.", fix="is the camera on, and the address right?")


class _Track:
    """One stream of a container, and the inputs it feeds."""

    def __init__(self, stream: Any, inputs: Mapping[str, Modality]) -> None:
        self.stream, self._inputs = stream, inputs
        if stream.type == "video":
            stream.thread_count = 1  # frame threads would delay every picture by their number, and cost more in all
        self._scaler, self._decoder = VideoReformatter(), PictureDecoder(stream.codec_context)
        self._resamplers: dict[str, av.AudioResampler] = {}
        self._last_s: float | None = None
        self._format: tuple[Any, ...] = ()

    def items(self, packet: Any, unwatched: Collection[str]) -> Iterator[Item]:
        if self.stream.type == "audio":
            for frame in packet.decode():
                at_s, jumped = self._time(frame.time, frame.samples / frame.sample_rate)
                for name, modality in self._inputs.items():
                    stream = modality.stream()
                    assert isinstance(stream, Sound)
                    yield from self._sound(name, stream, frame, at_s, jumped)
            return
        lasts_s = 1 / float(self.stream.average_rate or 25)
        pictures: list[tuple[float | None, av.VideoFrame | Undecoded]]
        if self._inputs.keys() <= {*unwatched} and self._decoder.may_wait(packet):
            pictures = [(float(packet.pts * packet.time_base), self._decoder.put_off(packet))]
        else:
            pictures = [(frame.time, frame) for frame in self._decoder.decode(packet)]
        for start_s, picture in pictures:
            at_s, jumped = self._time(start_s, lasts_s)
            for name in self._inputs:
                yield Item(name, AvFrame(picture, self._scaler), at_s, jumped)

    def _time(self, start_s: float | None, lasts_s: float) -> tuple[float, bool]:
        """When a frame ends in the stream's own time, and whether something is missing before it."""
        if start_s is None:  # first pictures of some cameras
            start_s = (self._last_s or 0.0) + (lasts_s if self.stream.type == "video" else 0.0)
        end_s = start_s + (lasts_s if self.stream.type == "audio" else 0.0)
        jumped = self._last_s is not None and not -0.001 <= end_s - self._last_s <= JUMP_S + lasts_s
        self._last_s = end_s
        return end_s, jumped

    def _sound(self, name: str, sound: Sound, frame: Any, at_s: float, jumped: bool) -> Iterator[Item]:
        sound.check_rate(frame.sample_rate, "the sound track")
        now = (frame.sample_rate, frame.format.name, frame.layout.name)
        if jumped or now != self._format:
            self._resamplers.clear()
            self._format = now
        resampler = self._resamplers.setdefault(name, av.AudioResampler(format="flt", layout="mono", rate=sound.rate_hz))
        for piece in resampler.resample(frame):
            yield Item(name, piece.to_ndarray().reshape(-1), at_s, jumped)
            jumped = False
