"""A model that is told by hand: brightness of a picture and loudness of a sound decide. Bundled with its parts, in a second."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

LABELS = ["quiet", "visitor", "intruder"]
DARK, BRIGHT = 20, 230
RATE_HZ = 16000
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's own: python3-gi is there and in no venv


def _graph():
    """event = [0, 8 seen - 4, 8 seen + 40 heard - 16], where seen is the mean pixel / 255 and heard the mean magnitude of the sound."""
    import onnx
    from onnx import TensorProto, helper

    from tests.onnx_models import model as onnx_model

    weight = np.array([[0, 8, 8], [0, 0, 40]], np.float32)
    bias = np.array([0, -4, -16], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], "see_cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes3"], ["mean"], "see_mean", keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["bright"], "see_scale"),
        helper.make_node("Unsqueeze", ["bright", "one"], ["seen"], "see_row"),
        helper.make_node("Abs", ["audio"], ["loud"], "hear_abs"),
        helper.make_node("ReduceMean", ["loud", "one"], ["heard"], "hear_mean", keepdims=1),
        helper.make_node("Concat", ["seen", "heard"], ["both"], "join", axis=1),
        helper.make_node("Gemm", ["both", "weight", "bias"], ["event"], "decide"),
    ]
    inputs = {"image": (TensorProto.UINT8, ["batch", 32, 32, 3]), "audio": ["batch", RATE_HZ // 2]}
    constants = {"axes3": np.array([1, 2, 3]), "one": np.array([1]), "scale": np.float32(1 / 255), "weight": weight, "bias": bias}
    return onnx.shape_inference.infer_shapes(onnx_model(nodes, inputs, {"event": ["batch", 3]}, constants))


def make_bundle(
    folder: Path, *, in_parts: bool = True, optional: bool = False, targets=("onnxruntime",), target_options=None, gates=()
) -> Path:
    """Pack the model above; its stand-ins are a picture of middle brightness and a little noise."""
    import json

    from edgemm.box.bundle import golden
    from edgemm.box.bundle.golden import Golden
    from edgemm.box.bundle.packing import TargetOptions, pack
    from edgemm.contracts import card_file as cards
    from edgemm.contracts import plugins
    from edgemm.contracts.report import Report
    from edgemm.contracts.target import Target
    from edgemm.graph import files
    from edgemm.graph.split import split

    folder.mkdir(parents=True, exist_ok=True)
    card = cards.parse(
        {
            "model": "model.onnx",
            "inputs": {
                "image": {"modality": "image", "height": 32, "width": 32},
                "audio": {"modality": "audio", "rate_hz": RATE_HZ, "seconds": 0.5} | ({"optional": True} if optional else {}),
            },
            "outputs": {"event": {"task": "classification", "labels": LABELS}},
        },
        path=folder / "model.yaml",
    )
    model = _graph()
    files.save(model, folder / "model.onnx")
    content: dict[str, Path | bytes] = {"model.onnx": folder / "model.onnx"}
    content |= {f"targets/{target}/model.onnx": folder / "model.onnx" for target in targets}
    subsets = []
    if in_parts:
        parts = split(model, card)
        for name, part in [*parts.branches.items(), ("rest", parts.rest)]:
            files.save(part, folder / f"{name}.onnx")
        record = {"branches": {name: f"{name}.onnx" for name in parts.branches}, "rest": "rest.onnx", "cuts": parts.cuts, "macs": 0}
        (folder / "split.json").write_text(json.dumps(record))
        for place in ["split", *(f"targets/{target}/split" for target in targets)]:
            content |= {f"{place}/{name}": folder / name for name in ("split.json", "rest.onnx", "image.onnx", "audio.onnx")}
        means = {"image": np.array([[0.5]], np.float32), "audio": np.array([[0.01]], np.float32)}
        np.savez(folder / "standins.npz", **{parts.cuts[name][0]: mean for name, mean in means.items()})
        content["standins.npz"] = folder / "standins.npz"
        for given, value in ((["image", "audio"], 0.97), (["image"], 0.7), (["audio"], 0.6)):
            about = {"name": "accuracy", "output": "event", "modalities": given, "value": value, "unit": "ratio", "better": "higher"}
            subsets += [{**about, "target": target, "low": None, "high": None, "n": 100, "precision_ran": "f32"} for target in targets]
    rng = np.random.default_rng(0)
    shades, noises, louds = np.linspace(80, 180, 8), np.linspace(0, 20, 8), np.geomspace(0.005, 0.5, 8)
    pictures = [rng.normal(shade, noise, (1, 32, 32, 3)) for shade, noise in zip(shades, rng.permutation(noises), strict=True)]
    inputs = {
        "image": np.stack(pictures).clip(0, 255).astype(np.uint8),
        "audio": np.stack([rng.normal(0, loud, (1, RATE_HZ // 2)) for loud in louds]).astype(np.float32),
    }
    with plugins.load(Target, "onnxruntime").open(folder / "model.onnx") as session:
        outputs = golden.run(session, Golden(inputs))
    allowed = golden.tolerance(outputs, outputs, "f32+bf16")
    samples = Golden(inputs, dict.fromkeys(targets, outputs), dict.fromkeys(targets, allowed))
    return pack(
        folder / "bundle",
        card=card,
        files=content,
        report=Report({"device": "a box"}),
        golden=samples,
        provenance={"recipe": "by hand"},
        accuracy={},
        options={target: TargetOptions(target_options or {}) for target in targets},
        subsets=subsets,
        gates=dict.fromkeys(targets, gates) if gates else {},
    )


@pytest.fixture(scope="session")
def bundle(shared) -> Path:
    return shared("run-bundle", make_bundle) / "bundle"


@pytest.fixture(scope="session")
def whole_bundle(shared) -> Path:
    """The same without its parts."""
    return shared("run-bundle-whole", lambda folder: make_bundle(folder, in_parts=False)) / "bundle"


SCENES = [(DARK, 0.0), (BRIGHT, 0.0), (BRIGHT, 0.6), (DARK, 0.0)]
"""Brightness and loudness of each scene of the clip: nothing, a visitor, an intruder, nothing."""


def write_clip(path: Path, scenes=SCENES, *, seconds=2.0, size=(320, 240), fps=15, sound=True) -> Path:
    """A clip of plain pictures and a buzz: H.264 and AAC in MP4."""
    import av

    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(fps)}
        audio = file.add_stream("aac", rate=RATE_HZ, layout="mono") if sound else None
        for number in range(int(len(scenes) * seconds * fps)):
            light = scenes[int(number / fps / seconds)][0]
            picture = np.full((size[1], size[0], 3), light, np.uint8)
            picture[number % size[1]] = 128  # a line that moves: no two pictures are alike
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None:
            wave = np.concatenate([np.sign(np.sin(np.arange(int(seconds * RATE_HZ)) / 5)) * loud for _, loud in scenes]).astype(np.float32)
            for start in range(0, len(wave), 1024):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = RATE_HZ, start
                file.mux(audio.encode(piece))
            file.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session")
def clip(shared) -> Path:
    return shared("run-clip", lambda folder: write_clip(folder / "clip.mp4")) / "clip.mp4"


SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
file, port, user, password, sound = sys.argv[1:]
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
line = f'( filesrc location="{file}" ! qtdemux name=d d.video_0 ! queue ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 '
if sound == "1":
    line += 'd.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 '
factory.set_launch(line + ')')
if user:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken(); token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    role = Gst.Structure.new_empty("user")
    role.set_value("media.factory.access", True); role.set_value("media.factory.construct", True)
    factory.add_role_from_structure(role)
server.get_mount_points().add_factory("/cam", factory); server.attach(None); print("ready", flush=True); GLib.MainLoop().run()
"""


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Camera:
    """A real RTSP server on this machine that plays a clip; may be killed, frozen and brought back."""

    def __init__(self, script: Path, clip: Path, *, user="", password="", sound=True) -> None:
        self._command = [SYSTEM_PYTHON, str(script), str(clip), str(free_port()), user, password, str(int(sound))]
        self.url = f"rtsp://127.0.0.1:{self._command[3]}/cam"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "Camera":
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            reason = self.process.stderr.read() if self.process.stderr else ""
            self.stop()
            pytest.skip(f"no RTSP server here (make system installs it): {reason.strip().splitlines()[-1:]}")
        return self

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=10)
            self.process = None


@pytest.fixture
def camera(tmp_path, shared):
    """``camera(clip, user=..., password=..., sound=...)``: a started Camera; all are stopped at the end."""
    if not os.path.exists(SYSTEM_PYTHON):
        pytest.skip("no system Python for the RTSP server (make system installs it)")
    script = tmp_path / "rtsp.py"
    script.write_text(textwrap.dedent(SERVER))
    started: list[Camera] = []

    def start(clip: Path, **options) -> Camera:
        started.append(Camera(script, clip, **options).start())
        return started[-1]

    yield start
    for one in started:
        one.stop()


class Broker:
    """A real mosquitto on this machine."""

    def __init__(self, folder: Path, user="edgemm", password="broker-pass-123", tls: tuple[Path, Path] | None = None) -> None:
        self.port, self.user, self.password = free_port(), user, password
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, password], check=True, capture_output=True, timeout=30)
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous false", f"password_file {passwords}", "persistence false"]
        lines += ["user root"] if os.getuid() == 0 else []
        self._log = folder / "mosquitto.log"
        lines += ["log_type all", f"log_dest file {self._log}"]
        lines += [f"certfile {tls[0]}", f"keyfile {tls[1]}"] if tls else []
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def received(self, topic: str) -> int:
        """How many messages below ``topic`` clients have handed over, by its own log."""
        return sum("Received PUBLISH" in line and f"'{topic}'" in line for line in self._log.read_text().splitlines())

    def start(self) -> "Broker":
        import socket

        self.process = subprocess.Popen(["mosquitto", "-c", self._config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def broker(tmp_path):
    """A started Broker with a user and a password."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here (make system installs it)")
    one = Broker(tmp_path).start()
    yield one
    one.stop()


class Listener:
    """Another MQTT client, which keeps every message of ``topics``."""

    def __init__(self, broker: Broker, topics="#") -> None:
        import paho.mqtt.client as mqtt

        self.messages: list[tuple[str, bytes, bool]] = []
        self.times: list[float] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(broker.user, broker.password)
        self.client.on_connect = lambda client, *_: client.subscribe(topics, 1)
        self.client.on_message = self._keep
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert ready.wait(10), "the broker takes no subscription"

    def _keep(self, client, userdata, message) -> None:
        self.messages.append((message.topic, message.payload, message.retain))
        self.times.append(time.monotonic())

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(true, seconds=15.0, what="it"):
    """Poll until ``true()`` gives something true; fails the test after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def cli(*words: object, **more) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    more = {"timeout": 300, **more}
    return subprocess.run([sys.executable, "-m", "edgemm", *map(str, words)], capture_output=True, text=True, check=False, **more)


@pytest.fixture
def paged():
    """``paged(opened, plain)``: a run of a bundle with its page, in a thread; runner and port."""
    from edgemm.box.serving.run_yaml import parse
    from edgemm.box.serving.runner import Runner
    from edgemm.box.serving.settings import WebSettings
    from edgemm.box.serving.web import Page

    stops = []

    def start(opened, plain):
        runner, stop = Runner(opened, parse(plain, opened.card)), threading.Event()
        page = Page(runner, WebSettings(port=0))
        runner.add_sink("web", page)
        thread = threading.Thread(target=runner.run, args=(stop,))
        thread.start()
        stops.append((stop, thread))
        return runner, int(page.address.rstrip("/").rpartition(":")[2])

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(10)
