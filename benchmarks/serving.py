"""`edgemm run` on a real RTSP server and a real broker; the model branch by branch beside the whole at the camera's rate; frames of sound
kept beside windows computed anew. Of a bundle that finds boxes: from frame to broker, each picture of 15 a second decided and followed.

python benchmarks/serving.py BUNDLE [SECONDS]

BUNDLE is one of the porch model (`edgemm demo` makes one), or one with boxes whose inputs are pictures and sound. Needs what `make system`
installs. The camera: 720p15 H.264 and 16 kHz AAC.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import _moving
import av
import numpy as np
import paho.mqtt.client as mqtt
import yaml
from _process import EDGEMM
from _results import save

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.places import frames_of
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.contracts.decision import Decision
from edgemm.verbs._demo import scenes

SIZE, FPS, SCENE_S = (1280, 720), 15, 4
SCENES = [
    ("empty", "silence"),
    ("person", "bell"),
    ("cat", "bark"),
    ("parcel", "glass"),
    ("empty", "steps"),
    ("person", "glass"),
    ("parcel", "silence"),
]
TICK = os.sysconf("SC_CLK_TCK")
SETTLED_S = 5.0  # of the live run: connecting and compiling are told apart, as the start
SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch(f'( filesrc location="{sys.argv[1]}" ! qtdemux name=d '
    'd.video_0 ! queue ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 '
    'd.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )')
server.get_mount_points().add_factory("/cam", factory); server.attach(None); print("ready", flush=True); GLib.MainLoop().run()
"""


def main() -> None:
    bundle, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 40.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if frames_of(open_bundle(bundle).card):
            save("serving_boxes", {"camera": "1280x720 15/s H.264, 16 kHz AAC", **measure_boxes(bundle, folder, seconds)})
            return
        clip = write_clip(folder / "porch.mp4", max(seconds + 10, 60))
        live, recorded, frames = measure_live(bundle, clip, folder, seconds), compare(bundle, clip), keep_frames(bundle, clip)
    save("serving", {"camera": "1280x720 15/s H.264, 16 kHz AAC", "live": live, "recorded": recorded, "frames": frames})


def write_clip(path: Path, seconds: float) -> Path:
    """Porch scenes of four seconds each, enlarged to 720p with some noise, and their sounds."""
    rng = np.random.default_rng(5)
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=FPS), file.add_stream("aac", rate=scenes.RATE_HZ, layout="mono")
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(2 * FPS), "b": "2M"}
        number = 0
        while number < seconds * FPS:
            picture, sound = SCENES[(number // FPS // SCENE_S) % len(SCENES)]
            still = (
                av.VideoFrame.from_ndarray(scenes.draw(picture, rng), format="rgb24").reformat(*SIZE, interpolation="BICUBIC").to_ndarray()
            )
            wave = np.concatenate([scenes.synthesise(sound, rng) for _ in range(SCENE_S)])
            for place in range(SCENE_S * FPS):
                noisy = np.clip(still.astype(np.int16) + rng.integers(-4, 5, (SIZE[1], SIZE[0], 1), dtype=np.int16), 0, 255)
                frame = av.VideoFrame.from_ndarray(noisy.astype(np.uint8), format="rgb24")
                frame.pts = number + place
                file.mux(video.encode(frame))
            for start in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = scenes.RATE_HZ, number // FPS * scenes.RATE_HZ + start
                file.mux(audio.encode(piece))
            number += SCENE_S * FPS
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    return path


def measure_boxes(bundle: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """A picture's way to the broker with every picture decided, its boxes followed through a zone; what following costs by itself."""
    clip = _moving.write_clip(folder / "things.mp4", max(seconds + 10, 60), SIZE, FPS)
    zones = {"middle": [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]}
    live = measure_live(bundle, clip, folder, seconds, {"decide_hz": float(FPS), "zones": zones}, list(open_bundle(bundle).card.inputs))
    return {"live": live, "following_ms": {str(number): _moving.cost_ms(number) for number in (5, 20, 50)}}


def measure_live(
    bundle: Path,
    clip: Path,
    folder: Path,
    seconds: float,
    settings: Mapping[str, Any] = MappingProxyType({}),
    inputs: Sequence[str] = ("image", "audio"),
) -> dict[str, Any]:
    """Camera to broker: latency of every decision, processor time, memory, and the start."""
    camera_port, broker_port = free_port(), free_port()
    (folder / "rtsp.py").write_text(SERVER)
    (folder / "m.conf").write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    camera = subprocess.Popen(["/usr/bin/python3", folder / "rtsp.py", clip, str(camera_port)], stdout=subprocess.PIPE)
    broker = subprocess.Popen(["mosquitto", "-c", folder / "m.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        camera.stdout.readline()
        time.sleep(0.5)
        heard: list[tuple[float, dict[str, Any]]] = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = lambda _c, _d, message: heard.append((time.time(), json.loads(message.payload)))
        client.connect("127.0.0.1", broker_port)
        client.subscribe("edgemm/edgemm/decision")
        client.loop_start()
        settings = {**settings, "sinks": [{"mqtt": {"host": "127.0.0.1", "port": broker_port, "scores": True}}]}
        (folder / "live.yaml").write_text(yaml.safe_dump(settings))
        source = f"{','.join(inputs)}=rtsp://127.0.0.1:{camera_port}/cam"
        began = time.time()
        child = subprocess.Popen(
            [*EDGEMM, "run", bundle, "-c", folder / "live.yaml", "--source", source, "--quiet"], stdout=subprocess.DEVNULL
        )
        time.sleep(SETTLED_S)
        cpu, at = cpu_s(child.pid), time.time()
        time.sleep(seconds)
        spent, lasted = cpu_s(child.pid) - cpu, time.time() - at
        peak_mib = status_mib(child.pid, "VmHWM")
        child.send_signal(signal.SIGTERM)
        child.wait(15)
        client.loop_stop()
    finally:
        camera.kill()
        broker.kill()
        camera.wait()
        broker.wait()
    steady = [(when, decision) for when, decision in heard if when > at]
    delays = [d["latency_ms"] + (when - stamp_s(d["time"])) * 1000 for when, d in steady]
    return {
        "start_to_first_decision_s": round(heard[0][0] - began, 2),
        "arrival_to_mqtt_p50_ms": round(float(np.percentile(delays, 50)), 1),
        "arrival_to_mqtt_p95_ms": round(float(np.percentile(delays, 95)), 1),
        "decisions": len(steady),
        "cpu_of_one_core": round(spent / lasted, 3),
        "peak_rss_mib": round(peak_mib, 1),
    }


def compare(bundle: Path, clip: Path) -> dict[str, Any]:
    """Branch by branch at 5 decisions a second, beside the whole model at the camera's 15, on the same recording, taking turns.

    ``cpu_s`` is processor time of scaling, inference and decision; ``cpu_with_decoding_s`` is that of the whole run: both ways decode the
    same pictures and sound.
    """
    ways = {"branches": {"decide_hz": 5.0}, "whole": {"decide_hz": 15.0, "whole": True}}
    rounds = [{name: play(bundle, clip, settings) for name, settings in ways.items()} for _ in range(3)]
    cost, in_all = (
        {name: float(np.median([getattr(one[name], figure) for one in rounds])) for name in ways}
        for figure in ("cpu_s", "cpu_with_decoding_s")
    )
    decisions = {name: rounds[-1][name].decisions for name in ways}
    return {
        "cpu_s": {name: round(value, 3) for name, value in cost.items()},
        "cpu_ratio": round(cost["branches"] / cost["whole"], 3),
        "cpu_with_decoding_s": {name: round(value, 3) for name, value in in_all.items()},
        "cpu_with_decoding_ratio": round(in_all["branches"] / in_all["whole"], 3),
        "cpu_ratio_each_round": [round(one["branches"].cpu_s / one["whole"].cpu_s, 3) for one in rounds],
        "agreement": round(agreement(decisions["branches"], decisions["whole"]), 4),
        "decisions": {name: len(found) for name, found in decisions.items()},
    }


def keep_frames(bundle: Path, clip: Path) -> dict[str, Any]:
    """Frames kept (``reuse: on``) beside windows computed anew (``off``), on the same recording, taking turns: processor time as above.

    ``sound_ratio`` is that of the sound's branch alone.
    """
    rounds = [{word: play(bundle, clip, {"reuse": word}) for word in ("on", "off")} for _ in range(3)]
    last = {word: played.decisions for word, played in rounds[-1].items()}
    pairs = [(scores(one), scores(other)) for one, other in zip(last["on"], last["off"], strict=True)]
    return {
        "cpu_s": {word: round(float(np.median([one[word].cpu_s for one in rounds])), 3) for word in ("on", "off")},
        "cpu_ratio": ratio(rounds, "cpu_s"),
        "cpu_with_decoding_ratio": ratio(rounds, "cpu_with_decoding_s"),
        "sound_ms_a_window": {word: round(float(np.median([one[word].sound_ms for one in rounds])), 3) for word in ("on", "off")},
        "sound_ratio": ratio(rounds, "sound_ms"),
        "frames_computed_and_kept": dict(rounds[-1]["on"].frames),
        "largest_difference_of_a_score": max(abs(one[label] - other[label]) for one, other in pairs for label in one),
        "decisions": len(pairs),
    }


def ratio(rounds: list[dict[str, Played]], figure: str) -> float:
    return round(float(np.median([getattr(one["on"], figure) / getattr(one["off"], figure) for one in rounds])), 3)


@dataclass(frozen=True)
class Played:
    """A recording played.

    Attributes:
        cpu_s: Processor seconds in the loop's steps.
        cpu_with_decoding_s: Those of the whole run.
        sound_ms: Processor milliseconds in the sound's branch, a window.
        decisions: Those in which both inputs voted.
        frames: Input -> frames computed, and kept.
    """

    cpu_s: float
    cpu_with_decoding_s: float
    sound_ms: float
    decisions: list[Decision]
    frames: Mapping[str, tuple[int, int]]


def play(bundle: Path, clip: Path, settings: dict[str, Any]) -> Played:
    opened = open_bundle(bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(clip)}}
    runner = Runner(opened, parse({**settings, "sources": [source]}, opened.card), fast=True)
    spent: dict[str, list[float]] = {"step": [], "audio": [], "image": []}
    step, embed = runner.engine.step, runner.model.embed

    def stepped(now: float) -> Decision | None:
        began = time.process_time()
        decision = step(now)
        spent["step"].append(time.process_time() - began)
        return decision

    def embedded(name: str, *more: Any) -> Any:
        began = time.process_time()
        made = embed(name, *more)
        spent[name].append(time.process_time() - began)
        return made

    runner.engine.step, runner.model.embed = stepped, embedded
    found: list[Decision] = []
    runner.on_decision.append(lambda decision: found.append(decision) if len(decision.voted) == 2 else None)
    began = time.process_time()
    summary = runner.run(threading.Event())
    return Played(sum(spent["step"]), time.process_time() - began, 1000 * float(np.mean(spent["audio"])), found, dict(summary.frames))


def agreement(some: list[Decision], all_: list[Decision]) -> float:
    """Share of ``some`` whose best class is that of the decision of ``all_`` nearest in the recording's time."""
    times = np.array([decision.at_s for decision in all_])
    return float(np.mean([best(one) == best(all_[int(np.argmin(np.abs(times - one.at_s)))]) for one in some]))


def best(decision: Decision) -> str:
    seen = scores(decision)
    return max(seen, key=lambda label: seen[label])


def scores(decision: Decision) -> Mapping[str, float]:
    return next(iter(decision.readings.values())).scores or {}


def stamp_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def status_mib(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
