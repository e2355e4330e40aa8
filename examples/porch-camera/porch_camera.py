"""A porch camera without a camera: scenes behind a real RTSP server, `edgemm run` on them, events to a real MQTT broker.

python examples/porch-camera/porch_camera.py BUNDLE [SECONDS]
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

import edgemm
from edgemm.verbs._demo import scenes

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's own: the RTSP server's bindings are there
FPS, SCENE_S, SIZE = 15, 4, (640, 480)
SCENES = [("empty", "silence"), ("person", "bell"), ("cat", "bark"), ("parcel", "silence"), ("person", "glass")]
SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[2])
for path, sound in (("/porch", True), ("/silent", False)):
    factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
    line = f'( filesrc location="{sys.argv[1]}" ! qtdemux name=d d.video_0 ! queue ! h264parse ! rtph264pay name=pay0 pt=96 '
    factory.set_launch(line + ("d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )" if sound else ")"))
    server.get_mount_points().add_factory(path, factory)
server.attach(None); print("ready", flush=True); GLib.MainLoop().run()
"""


def main(bundle: Path, seconds: float = 30.0) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_clip(folder / "porch.mp4", rounds=max(1, round(seconds / (SCENE_S * len(SCENES))) + 1))
        (folder / "rtsp.py").write_text(SERVER)
        camera_port, broker_port = free_port(), free_port()
        (folder / "broker.conf").write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        camera = subprocess.Popen([SYSTEM_PYTHON, folder / "rtsp.py", clip, str(camera_port)], stdout=subprocess.PIPE)
        broker = subprocess.Popen(["mosquitto", "-c", folder / "broker.conf"], stderr=subprocess.DEVNULL)
        camera.stdout.readline()
        time.sleep(0.5)
        ear = subprocess.Popen(["mosquitto_sub", "-p", str(broker_port), "-t", "edgemm/porch/event", "-F", "broker: %p"])
        try:
            for path, lasts_s in (("porch", seconds * 2 / 3), ("silent", seconds / 3)):
                print(f"--- the camera {'has sound' if path == 'porch' else 'has lost its sound'}", flush=True)
                source = f"image,audio=rtsp://127.0.0.1:{camera_port}/{path}"
                broker_at = f"mqtt://127.0.0.1:{broker_port}"
                print(
                    edgemm.run(bundle, config=HERE / "run.yaml", source=[source], mqtt=broker_at, web="8099", seconds=lasts_s), flush=True
                )
        finally:
            for process in (camera, broker, ear):
                process.kill()
                process.wait()


def write_clip(path: Path, rounds: int) -> Path:
    """Scenes of four seconds each, with their sounds: H.264 and AAC."""
    rng = np.random.default_rng(5)
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=FPS), file.add_stream("aac", rate=scenes.RATE_HZ, layout="mono")
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS)}
        for number, (picture, sound) in enumerate(SCENES * rounds):
            still = av.VideoFrame.from_ndarray(scenes.draw(picture, rng), format="rgb24").reformat(*SIZE, "yuv420p", interpolation="POINT")
            for place in range(SCENE_S * FPS):
                still.pts = number * SCENE_S * FPS + place
                file.mux(video.encode(still))
            wave = np.concatenate([scenes.synthesise(sound, rng) for _ in range(SCENE_S)])
            for start in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = scenes.RATE_HZ, number * len(wave) + start
                file.mux(audio.encode(piece))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]))
