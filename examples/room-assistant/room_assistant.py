"""A room that hears, and does what it was told: sounds from a real RTSP server, sentences and events on a real MQTT broker.

python room_assistant.py BUNDLE [SECONDS]
"""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np

import edgemm
from edgemm.verbs._demo import scenes

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's own: the RTSP server's bindings are there
SOUND_S = 3
SOUNDS = ("silence", "bell", "silence", "bark", "silence", "glass")
SAID = ("tell me when somebody is at the door", "now let me sleep", "sorry I dropped a glass")
SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch(f'( filesrc location="{sys.argv[1]}" ! qtdemux name=d d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay0 pt=97 )')
server.get_mount_points().add_factory("/room", factory)
server.attach(None); print("ready", flush=True); GLib.MainLoop().run()
"""


def main(bundle: Path, seconds: float = 54.0) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_clip(folder / "room.mp4", rounds=int(seconds / (SOUND_S * len(SOUNDS))) + 2)
        (folder / "rtsp.py").write_text(SERVER)
        microphone_port, broker_port = free_port(), free_port()
        (folder / "broker.conf").write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        microphone = subprocess.Popen([SYSTEM_PYTHON, folder / "rtsp.py", clip, str(microphone_port)], stdout=subprocess.PIPE)
        broker = subprocess.Popen(["mosquitto", "-c", folder / "broker.conf"], stderr=subprocess.DEVNULL)
        microphone.stdout.readline()
        time.sleep(0.5)
        ear = subprocess.Popen(["mosquitto_sub", "-p", str(broker_port), "-t", "edgemm/room/event", "-F", "broker: %p"])
        at = f"mqtt://127.0.0.1:{broker_port}"
        try:
            threading.Thread(target=speak, args=(broker_port, seconds / len(SAID)), daemon=True).start()
            source = [f"audio=rtsp://127.0.0.1:{microphone_port}/room", f"text={at}/room/said"]
            print(edgemm.run(bundle, config=HERE / "run.yaml", source=source, mqtt=at, seconds=seconds), flush=True)
        finally:
            for process in (microphone, broker, ear):
                process.kill()
                process.wait()


def speak(port: int, every_s: float) -> None:
    """Say each sentence, as a voice assistant or an automation would: a message on a topic, which the broker keeps for who comes late."""
    for text in SAID:
        time.sleep(every_s / 4)  # at first nobody has said anything
        print(f"--- said: {text}", flush=True)
        subprocess.run(["mosquitto_pub", "-p", str(port), "-t", "room/said", "-r", "-m", text], check=True, timeout=10)
        time.sleep(every_s * 3 / 4)


def write_clip(path: Path, rounds: int) -> Path:
    """Sounds of three seconds each: AAC."""
    rng = np.random.default_rng(5)
    with av.open(str(path), "w") as file:
        audio = file.add_stream("aac", rate=scenes.RATE_HZ, layout="mono")
        at = 0
        for sound in SOUNDS * rounds:
            wave = np.concatenate([scenes.synthesise(sound, rng) for _ in range(SOUND_S)])
            for start in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = scenes.RATE_HZ, at + start
                file.mux(audio.encode(piece))
            at += len(wave)
        file.mux(audio.encode(None))
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]))
