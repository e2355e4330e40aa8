"""run.yaml: every mistake at once, with the nearest right word; no password in an address."""

import dataclasses

import pytest

from edgemm.box.serving import command_line as command_words
from edgemm.box.serving import run_yaml
from edgemm.box.serving.broker import Connection
from edgemm.box.serving.secrets import redact, refuse_password, secret, with_password
from edgemm.contracts import card as cards
from edgemm.contracts import plugins
from edgemm.errors import Mistakes, RunError

CARD = cards.parse(
    {
        "model": "m.onnx",
        "inputs": {"image": {"modality": "image", "height": 8, "width": 8}, "text": {"modality": "text", "length": 4, "vocab": 9}},
        "outputs": {"event": {"task": "classification", "labels": ["quiet", "glass"]}},
    }
)
GOOD = {"sources": [{"stream": {"inputs": "image", "url": "rtsp://camera/live"}}]}


def test_a_whole_file_is_read():
    made = run_yaml.parse(
        {
            "name": "porch",
            "decide_hz": 4,
            "inputs": {"image": {"rate_hz": 2, "stale_s": 3.0}, "text": {"value": "who is there"}},
            **GOOD,
            "sinks": ["console", {"jsonl": {"path": "x.jsonl"}}],
            "decisions": {"event": {"threshold": 0.7, "quiet": ["quiet"], "classes": {"glass": {"debounce": 3}}}},
            "web": {"port": 8100},
        },
        CARD,
    )
    assert (made.name, made.rate_hz("image"), made.rate_hz("text"), made.fed()) == ("porch", 2.0, 4.0, {"image": 0})
    assert [part.kind for part in made.sinks] == ["console", "jsonl"]
    assert made.stale_s("text", CARD) == float("inf")


def test_all_mistakes_are_told_at_once_with_the_nearest_right_word():
    with pytest.raises(Mistakes) as caught:
        run_yaml.parse(
            {
                "nmae": "x",
                "target": "openvin",
                "decide_hz": 0,
                "inputs": {"imgae": {}, "text": {"rate": 2}},
                "sources": [
                    {"steam": {}},
                    {"stream": {"inputs": ["image"], "ulr": "x"}},
                    {"folder": {"path": ".", "inputs": ["pictures"]}},
                ],
                "sinks": [{"jsonl": {}}],
                "decisions": {"event": {"threshold": 2.0, "quiet": ["quite"]}, "evnt": {}},
                "web": {"port": "high"},
            },
            CARD,
        )
    said = str(caught.value)
    for part in (
        "unknown key 'nmae'",
        "did you mean 'name'?",
        "there is no target 'openvin'",
        "decide_hz: 0 is not a number above 0",
        "inputs.imgae is no input of this model",
        "inputs.text: unknown key 'rate'",
        "there is no source 'steam'",
        "unknown key 'ulr'",
        "sources 2 (stream): 'url' is missing",
        "the source 'folder' feeds 'pictures', no input of this model",
        "sinks 1 (jsonl): 'path' is missing",
        "threshold: 2.0 is outside -1 to 1",
        "'quite' is no class of this output",
        "decisions.evnt is no output of this model",
        "web.port: 'high' is not a whole number",
    ):
        assert part in said, part


def test_an_input_is_fed_once():
    with pytest.raises(RunError, match="'image' is fed twice, by stream and by stream"):
        run_yaml.parse({"sources": GOOD["sources"] * 2}, CARD)


def test_something_must_feed_the_model():
    with pytest.raises(RunError, match="nothing feeds this model") as caught:
        run_yaml.parse({}, CARD)
    assert "--source image,text=PLACE" in str(caught.value)


def test_a_release_above_its_threshold_is_refused():
    with pytest.raises(RunError, match="a class would go off at the score that switches it on"):
        run_yaml.parse({**GOOD, "decisions": {"event": {"threshold": 0.5, "classes": {"glass": {"release": 0.8}}}}}, CARD)


def test_a_file_that_is_not_yaml_names_the_place(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("sources: [\n")
    with pytest.raises(RunError, match=r"cannot read .*run.yaml") as caught:
        run_yaml.load(path, CARD)
    assert "line 2" in str(caught.value)


def test_the_command_lines_sources_are_added_and_its_values_win(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: porch\ntarget: openvino\nsinks: [console]\n")
    extra = {"sources": command_words.of_words(["image=rtsp://camera/live"]), "sinks": [{"jsonl": {"path": "x"}}], "target": "onnxruntime"}
    made = run_yaml.load(path, CARD, extra=extra)
    assert (made.name, made.target, [part.kind for part in made.sinks]) == ("porch", "onnxruntime", ["console", "jsonl"])


@pytest.mark.parametrize(
    ("word", "kind", "given"),
    [
        ("image,audio=rtsp://h:8554/live", "stream", {"inputs": ["image", "audio"], "url": "rtsp://h:8554/live"}),
        ("image=/dev/video0", "stream", {"inputs": ["image"], "url": "/dev/video0"}),
        ("audio=microphone:hw:1", "microphone", {"inputs": ["audio"], "device": "hw:1"}),
        ("text=mqtt://h:1884/room/said", "mqtt", {"inputs": ["text"], "host": "h", "port": 1884, "topic": "room/said", "tls": False}),
        ("image=.", "folder", {"inputs": ["image"], "path": "."}),
    ],
)
def test_a_place_on_the_command_line_says_its_kind(word, kind, given):
    assert command_words.of_words([word]) == [{kind: given}]


@pytest.mark.parametrize(
    ("place", "kind", "given"),
    [
        ("events.jsonl", "jsonl", {"path": "events.jsonl"}),
        ("mqtts://broker", "mqtt", {"host": "broker", "tls": True}),
        ("https://host/hook", "webhook", {"url": "https://host/hook"}),
        ("console", "console", {}),
    ],
)
def test_a_place_says_the_kind_of_a_sink(place, kind, given):
    assert command_words.of_sinks([place]) == [{kind: given}]


def test_a_place_that_no_sink_takes_is_refused_with_what_they_look_like():
    with pytest.raises(RunError, match=r"no sink takes 'ftp://host'(.|\n)*console, http://\*"):
        command_words.of_sinks(["ftp://host"])


def test_source_and_sink_share_the_brokers_options():
    source, sink = plugins.options("sources", "mqtt"), plugins.options("sinks", "mqtt")
    shared = {field.name for field in dataclasses.fields(Connection)}
    assert shared <= source.keys() & sink.keys()
    assert source["host"].required
    assert not sink["port"].required


def test_a_source_without_a_place_is_refused():
    with pytest.raises(RunError, match="'rtsp://camera/live' is not INPUTS=PLACE"):
        command_words.of_words(["rtsp://camera/live"])


@pytest.mark.parametrize("read", [lambda url: command_words.of_words([f"image={url}"]), lambda url: refuse_password(url, "--source")])
def test_an_address_with_a_password_is_refused_and_not_repeated(read):
    with pytest.raises(RunError, match="carries a user or password") as caught:
        read("rtsp://admin:hunter22@camera/live")
    assert "hunter22" not in str(caught.value)
    assert "password_env" in str(caught.value)


def test_an_address_with_a_password_in_the_file_is_refused():
    with pytest.raises(RunError, match=r"sources 1 \(stream\).url: the address 'rtsp://\*\*\*@camera/live' carries"):
        run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": "rtsp://a:b@camera/live"}}]}, CARD)


def test_a_secret_comes_from_the_environment_or_a_file_and_is_blotted_out(monkeypatch, tmp_path):
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cr/et")
    assert secret("CAMERA_PASSWORD", None, "camera") == "s3cr/et"
    (tmp_path / "token").write_text("t0ken-in-file\n")
    assert secret(None, str(tmp_path / "token"), "page") == "t0ken-in-file"
    assert with_password("rtsp://camera:554/live", "me", "s3cr/et") == "rtsp://me:s3cr%2Fet@camera:554/live"
    assert redact("s3cr/et s3cr%2Fet t0ken-in-file rtsp://x:y@camera/live") == "*** *** *** rtsp://***@camera/live"


def test_a_secret_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="the environment variable 'NO_SUCH_PASSWORD' is not set"):
        secret("NO_SUCH_PASSWORD", None, "camera")
    with pytest.raises(RunError, match="cannot read"):
        secret(None, str(tmp_path / "missing"), "camera")
    (tmp_path / "empty").write_text("")
    with pytest.raises(RunError, match="is empty"):
        secret(None, str(tmp_path / "empty"), "camera")
