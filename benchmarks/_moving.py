"""A clip of things that move, and what it costs to follow some."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np

from edgemm.box.serving.tracking.following import Follower
from edgemm.box.serving.tracking.settings import TrackSettings, ZoneSettings
from edgemm.contracts.decision import Box

RATE_HZ = 16000
COLOURS = ((230, 30, 30), (30, 30, 230))
PICTURES = 300


def write_clip(path: Path, seconds: float, size: tuple[int, int], fps: int) -> Path:
    """Two coloured things that go to and fro over a noisy picture, and a hum."""
    rng = np.random.default_rng(5)
    width, height = size
    noise = rng.integers(40, 80, (8, height, width, 1), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=fps), file.add_stream("aac", rate=RATE_HZ, layout="mono")
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(2 * fps), "b": "2M"}
        for number in range(round(seconds * fps)):
            picture = np.repeat(noise[number % 8], 3, axis=2)
            for index, colour in enumerate(COLOURS):
                x = round((width - 120) * abs((number / fps / (8 + 2 * index) + 0.3 * index) % 2 - 1))
                picture[150 + 250 * index : 350 + 250 * index, x : x + 120] = colour
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        wave = (0.3 * np.sin(np.arange(round(seconds * RATE_HZ)) / 5)).astype(np.float32)
        for start in range(0, len(wave), 1024):
            piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = RATE_HZ, start
            file.mux(audio.encode(piece))
        file.mux(audio.encode(None))
    return path


def cost_ms(number: int) -> float:
    """Processor milliseconds a picture to follow so many things through two zones, jittery and one in ten missed."""
    rng = np.random.default_rng(number)
    zone = ZoneSettings([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]], loitering_s=5.0)
    follower = Follower("objects", "image", TrackSettings(), lost_s=1.0, zones={"one": zone, "other": zone})
    corners = np.array([(60 + 120 * (n % 10), 40 + 140 * (n // 10)) for n in range(number)], np.float64)
    pictures = []
    for picture in range(PICTURES):
        corners += (0.4, 0.0)
        seen = [corner + rng.normal(0, 1, 2) for corner in corners if rng.random() > 0.1]
        pictures.append((picture / 15, [Box("person", rng.uniform(0.3, 0.9), x, y, x + 50, y + 100) for x, y in seen]))
    began = time.process_time()
    for at_s, boxes in pictures:
        follower.update(boxes, (1280, 720), at_s, at_s, begun_s=float("-inf"))
    return round((time.process_time() - began) * 1000 / PICTURES, 3)
