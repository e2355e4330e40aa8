"""`edgemm run` as people type it, and on a box without the workshop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import edgemm
from edgemm.cli import main
from edgemm.errors import Mistakes, RunError
from tests.borders.test_absent_packages import without
from tests.box.serving.conftest import *  # noqa: F403  # the told-by-hand bundle, the clip, camera and broker
from tests.box.serving.conftest import Listener, cli, free_port, wait_for

BOX = (
    "torch",
    "torchao",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "nncf",
    "transformers",
    "safetensors",
    "PIL",
    "soundfile",
    "pyarrow",
    "tokenizers",
)


def test_a_recording_becomes_decisions_and_events(bundle, clip, tmp_path):
    done = cli("run", bundle, "--source", f"image,audio={clip}", "--fast", "--jsonl", tmp_path / "events.jsonl")
    assert done.returncode == 0, done.stderr
    assert "visitor" in done.stdout
    assert "branch by branch" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["quiet", "visitor", "intruder"]
    assert len({row["id"] for row in rows}) == 3
    assert rows[-1]["voted"] == ["image", "audio"]
    assert rows[-1]["expected_accuracy"] == 0.97


def test_the_summary_comes_as_json(bundle, clip):
    done = cli("run", bundle, "--source", f"image={clip}", "--fast", "--json")
    summary = json.loads(done.stdout)
    assert summary["in_parts"]
    assert summary["decisions"] > 30
    assert summary["ran"]["audio"] == 0


def test_a_recording_played_fast_gives_the_same_every_time(bundle, clip):
    first, again = (edgemm.run(bundle, source=[f"image,audio={clip}"], fast=True, quiet=True) for _ in range(2))
    assert (first.decisions, first.events, first.ran) == (again.decisions, again.events, again.ran)


def test_played_as_in_life_it_ends_with_the_recording(bundle, clip, tmp_path):
    began = time.monotonic()
    done = edgemm.run(bundle, source=[f"image,audio={clip}"], quiet=True, jsonl=tmp_path / "e.jsonl")
    assert time.monotonic() - began > 7
    assert done.decisions > 25
    labels = [json.loads(line)["label"] for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert labels[-2:] == ["visitor", "intruder"]


def test_a_run_without_any_source_names_the_option(bundle):
    done = cli("run", bundle)
    assert done.returncode == 1
    assert "nothing feeds this model" in done.stderr
    assert "--source image,audio=PLACE" in done.stderr


def test_a_password_in_an_address_is_refused_and_not_repeated(bundle):
    done = cli("run", bundle, "--source", "image,audio=rtsp://admin:hunter22@camera/live")
    assert done.returncode == 1
    assert "carries a user or password" in done.stderr
    assert "hunter22" not in done.stdout + done.stderr


def test_every_mistake_in_the_file_is_told_at_once(bundle, tmp_path):
    (tmp_path / "run.yaml").write_text("decide: 5\nsources:\n  - stream: {inputs: imgae, url: clip.mp4}\n")
    with pytest.raises(Mistakes) as caught:
        edgemm.run(bundle, config=tmp_path / "run.yaml")
    assert "unknown key 'decide'" in str(caught.value)
    assert "feeds 'imgae', no input of this model" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nofile.mp4", None, r"nofile\.mp4' does not exist"),
        ("0", None, "a camera of this machine is /dev/video0"),
        ("empty.mp4", b"", r"empty\.mp4' is empty"),
        ("notes.txt", b"hello there\n", r"notes\.txt' cannot be read"),
        ("broken.mp4", bytes(range(256)) * 12, r"broken\.mp4' cannot be read"),
        ("folder/", {}, "holds no pictures"),
        ("words/", {"a.txt": b"hello"}, "holds nothing for image, audio"),
        ("torn/", {"a.png": b"\x89PNG torn"}, r"a\.png' cannot be read"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_a_recording_that_is_not_there_or_cannot_be_read_ends_the_run(bundle, tmp_path, name, content, words, fast):
    path = tmp_path / name
    if isinstance(content, dict):
        path.mkdir()
        for file, inside in content.items():
            (path / file).write_bytes(inside)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=words):
        edgemm.run(bundle, source=[f"image,audio={'0' if name == '0' else path}"], fast=fast, quiet=True, seconds=20)


def test_what_was_away_is_told_once_and_counted_at_the_end(bundle, clip, tmp_path, capsys):
    sinks = [{"mqtt": {"host": "127.0.0.1", "port": free_port()}}, {"webhook": {"url": f"http://127.0.0.1:{free_port()}/hook"}}]
    camera = {"stream": {"inputs": "image", "url": f"http://127.0.0.1:{free_port()}/live?channel=1"}}
    (tmp_path / "run.yaml").write_text(json.dumps({"sources": [camera, {"stream": {"inputs": "audio", "url": str(clip)}}], "sinks": sinks}))
    summary = edgemm.run(bundle, config=tmp_path / "run.yaml", seconds=4.5)
    said = capsys.readouterr().out
    for words in ("channel=1 is down: ", "mqtt is down: mqtt://127.0.0.1:", "webhook is down: 127.0.0.1: "):
        assert said.count(words) == 1
        assert words.split(" is")[0] in " ".join(summary.lost)
    assert "channel=1 was never there" in str(summary)
    assert "mqtt was never there" in str(summary)


def test_what_never_came_ends_with_another_code_than_success(bundle, clip, tmp_path, capsys):
    away = f"http://127.0.0.1:{free_port()}"
    lines = ["run", str(bundle), "--seconds", "1.2", "--source"]
    silent = socket.create_server(("127.0.0.1", 0))  # takes a call and says nothing
    for words, never in (
        ([*lines, f"image={away}/live"], f"{away}/live"),
        ([*lines, f"audio=mqtt://{away[7:]}/room"], f"mqtt://{away[7:]}/room"),
        ([*lines, f"image,audio={clip}", "--sink", f"mqtt://{away[7:]}"], "mqtt"),
        ([*lines, f"image,audio={clip}", "--sink", f"{away}/hook"], "webhook"),
        ([*lines, f"image,audio={clip}", "--sink", f"mqtt://127.0.0.1:{silent.getsockname()[1]}"], "mqtt"),
        ([*lines, f"image,audio={clip}"], ""),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--json"])
        assert ended.value.code == (3 if never else 0), words
        done = json.loads(capsys.readouterr().out)
        assert done["never_came"] == ([never] if never else [])
        if never:
            (told,) = (line for line in done["lost"] if line.startswith(f"{never} was never there"))
            assert told.count(away[7:]) <= 1, "its address stands there once"
    silent.close()
    assert cli(*lines, f"image={away}/live", "--supervise").returncode == 3


def test_a_topic_on_which_nobody_speaks_is_no_loss(bundle, clip, broker, tmp_path, monkeypatch):
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    where = {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD"}
    sources = [{"mqtt": {"inputs": "audio", "topic": "room", **where}}, {"stream": {"inputs": "image", "url": str(clip)}}]
    (tmp_path / "run.yaml").write_text(json.dumps({"sources": sources}))
    done = edgemm.run(bundle, config=tmp_path / "run.yaml", seconds=3, quiet=True)
    assert done.never_came == ()
    assert "mqtt" not in " ".join(done.lost)


def test_a_box_without_pillow_says_that_it_scales_pictures_otherwise(bundle, tmp_path, fresh_python):
    from PIL import Image

    Image.new("RGB", (40, 40), "white").save(tmp_path / "a.png")
    printed = fresh_python(f"""{without("PIL")}
import contextlib, io
import edgemm
with contextlib.redirect_stderr(io.StringIO()) as said:
    done = edgemm.run({str(bundle)!r}, source=[{f"image={tmp_path}/a.png"!r}], fast=True, quiet=True)
print(done.decisions, "a.png is scaled otherwise than in training" in said.getvalue(), "pip install" in said.getvalue())
""")
    assert printed.strip() == "1 True True"


def test_a_live_source_cannot_be_played_fast(bundle):
    with pytest.raises(RunError, match="cannot be played fast"):
        edgemm.run(bundle, source=["image=rtsp://127.0.0.1:1/x"], fast=True)


def test_it_runs_where_neither_torch_nor_pillow_nor_the_page_is_installed(bundle, clip, fresh_python):
    printed = fresh_python(f"""{without(*BOX, "starlette", "uvicorn", "paho", "prometheus_client")}
import edgemm
done = edgemm.run({str(bundle)!r}, source=[{f"image,audio={clip}"!r}], fast=True, quiet=True)
print(done.decisions > 30)
""")
    assert printed.strip() == "True"


def test_a_missing_package_names_the_extra(bundle, clip, fresh_python):
    printed = fresh_python(f"""{without("av")}
import edgemm
from edgemm.errors import MissingExtra
try:
    edgemm.run({str(bundle)!r}, source=[{f"image,audio={clip}"!r}], fast=True)
except MissingExtra as err:
    print(err)
""")
    assert "needs the package 'av'" in printed
    assert "pip install 'edgemm[run]'" in printed


def test_a_full_disk_stops_nothing(bundle, clip):
    summary = edgemm.run(bundle, source=[f"image,audio={clip}"], jsonl="/dev/full", quiet=True, seconds=5)
    assert summary.events >= 1
    assert summary.decisions > 10


def test_it_ends_in_good_order_when_asked_to(bundle, clip, tmp_path):
    (tmp_path / "run.yaml").write_text(f"sources:\n  - stream: {{inputs: [image, audio], url: {clip}, loop: true}}\n")
    command = [sys.executable, "-m", "edgemm", "run", str(bundle), "-c", str(tmp_path / "run.yaml"), "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(6)
    child.send_signal(signal.SIGTERM)
    printed, _ = child.communicate(timeout=15)
    assert child.returncode == 0
    assert json.loads(printed)["decisions"] > 0


def test_install_service_writes_a_unit_for_this_very_command(bundle, clip, tmp_path):
    done = cli("run", bundle, "--source", f"image,audio={clip}", "--install-service", env={**os.environ, "HOME": str(tmp_path)})
    path = tmp_path / ".config/systemd/user/edgemm-edgemm.service"
    if os.geteuid() == 0:
        path = edgemm_unit()
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    path.unlink()
    assert f"run {bundle} --source image,audio={clip}" in text


def edgemm_unit():
    from edgemm.box.serving.systemd import SYSTEM

    return SYSTEM / "edgemm-edgemm.service"


def test_a_crash_tells_no_secret_either(bundle, clip, tmp_path, monkeypatch):
    """What a library raises deep down may hold the whole address; so may its traceback, and that of a thread."""
    script = tmp_path / "crash.py"
    script.write_text(f"""
import sys, threading
from edgemm import cli
from edgemm.box.serving import runner as running
from edgemm.box.serving.secrets import secret

def torn(*_):
    threading.Thread(target=lambda: 1 / len(""), name="x").start()
    def fails():
        raise KeyError("thread: " + secret("CAM_PASSWORD", None, "camera"))
    one = threading.Thread(target=fails)
    one.start()
    one.join()
    raise ValueError("cannot read rtsp://cam:" + secret("CAM_PASSWORD", None, "camera") + "@camera/live")

running.Runner._play = torn
cli.main(["run", {str(bundle)!r}, "--source", {f"image,audio={clip}"!r}, "--fast", *sys.argv[1:]])
""")
    monkeypatch.setenv("CAM_PASSWORD", "camera-secret-1")
    for words in ([], ["--debug"]):
        done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 1
        assert "ValueError: cannot read rtsp://***@camera/live" in done.stderr
        assert ("in torn" in done.stderr.rpartition("KeyError")[2]) is bool(words), "the traceback is there, and only where asked for"
        assert "KeyError: 'thread: ***'" in done.stderr
        assert "camera-secret-1" not in done.stdout + done.stderr


def test_nothing_that_leaves_the_process_holds_a_secret(bundle, clip, camera, broker, tmp_path, monkeypatch):
    """Camera, broker and page with passwords; logs, status, MQTT, files and output are searched for them."""
    secrets = {"CAM_PASSWORD": "camera-secret-1", "BROKER_PASSWORD": broker.password, "EDGEMM_WEB_TOKEN": "page-secret-3"}
    for name, value in {**secrets, "CAM_USER": "cam", "BROKER_USER": broker.user}.items():
        monkeypatch.setenv(name, value)
    real = camera(clip, user="cam", password=secrets["CAM_PASSWORD"])
    (tmp_path / "run.yaml").write_text(f"""
name: porch
sources:
  - stream: {{inputs: [image, audio], url: "{real.url}", user_env: CAM_USER, password_env: CAM_PASSWORD, read_timeout_s: 1.0}}
sinks:
  - console: {{every: true}}
  - jsonl: {{path: {tmp_path / "run.jsonl"}, decisions: true}}
  - mqtt: {{host: 127.0.0.1, port: {broker.port}, user_env: BROKER_USER, password_env: BROKER_PASSWORD, scores: true}}
decisions: {{event: {{quiet: [quiet]}}}}
web: {{port: 0, token_env: EDGEMM_WEB_TOKEN}}
""")
    listener = Listener(broker)
    command = [sys.executable, "-m", "edgemm", "--debug", "run", str(bundle), "-c", str(tmp_path / "run.yaml")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kill_later = threading.Timer(60, child.kill)
    kill_later.start()
    wait_for(lambda: listener.payloads("edgemm/porch/event"), 40)
    real.stop()
    wait_for(lambda: any(b'"down"' in payload for payload in listener.payloads("edgemm/porch/status")), 20)
    child.send_signal(signal.SIGINT)
    printed, _ = child.communicate(timeout=20)
    kill_later.cancel()
    listener.stop()
    said = (
        printed + (tmp_path / "run.jsonl").read_text() + " ".join(payload.decode(errors="replace") for _, payload, _ in listener.messages)
    )
    assert "is down" in printed
    for value in secrets.values():
        assert value not in said
