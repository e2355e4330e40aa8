"""run.yaml: every mistake at once, with the nearest right word; no password in an address."""

import dataclasses

import pytest

from edgemm.box.serving import command_line as command_words
from edgemm.box.serving import run_yaml
from edgemm.box.serving.broker import Connection
from edgemm.box.serving.secrets import headers_of, refuse_password, secret, with_password, with_secrets
from edgemm.box.serving.sources.stream import Stream
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.errors import Mistakes, RunError
from edgemm.redaction import redact

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


def test_a_recording_beside_run_yaml_is_found_there(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "scenes").mkdir()
    (tmp_path / "run.yaml").write_text("sources: [{folder: {inputs: image, path: scenes}}, {stream: {inputs: text, url: no.mp4}}]")
    monkeypatch.chdir(tmp_path / "far")
    folder, clip = run_yaml.load(tmp_path / "run.yaml", CARD).sources
    assert folder.options["path"] == str(tmp_path / "scenes")
    assert clip.options["url"] == "no.mp4"
    (tmp_path / "far" / "scenes").mkdir()
    assert run_yaml.load(tmp_path / "run.yaml", CARD).sources[0].options["path"] == "scenes"


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


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:hunter22/x@camera/live",
        "rtsp://admin:hunter22?x@camera/live",
        "rtsp://admin:'hunter22'@camera/live",
        "rtsp://admin:hunter22#1@camera",
        "rtsp://hunter22@camera",
        "admin:hunter22@camera/live",
        "rtsp://camera/user=admin_password=hunter22_channel=1_stream=0.sdp",
        "rtsp://camera:554/user=admin&password=hunter22&channel=1&stream=0.sdp?real_stream",
        "rtsp://camera/user=admin_password=a_hunter22_channel=1",
        "rtsp://camera/11;token=hunter22",
        "http://camera/live?kennwort=hunter22'\"x",
        "http://camera/live?contrase%C3%B1a=hunter22#y",
    ],
)
def test_however_a_password_stands_in_an_address_it_is_refused_and_not_repeated(address):
    ways = [
        lambda: command_words.of_words([f"image={address}"]),
        lambda: run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": address}}]}, CARD),
    ]
    for way in ways:
        with pytest.raises(RunError, match="carries a user or password") as caught:
            way()
        assert "hunter22" not in str(caught.value)
        assert "_env" in str(caught.value)


@pytest.mark.parametrize("read", [lambda url: command_words.of_words([f"image={url}"]), lambda url: refuse_password(url, "--source")])
def test_an_address_with_a_password_is_refused_and_not_repeated(read):
    with pytest.raises(RunError, match="carries a user or password") as caught:
        read("rtsp://admin:hunter22@camera/live")
    assert "hunter22" not in str(caught.value)
    assert "password_env" in str(caught.value)


def test_an_address_with_a_password_in_the_file_is_refused():
    with pytest.raises(RunError, match=r"sources 1 \(stream\).url: the address 'rtsp://\*\*\*@camera/live' carries"):
        run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": "rtsp://a:b@camera/live"}}]}, CARD)


QUERIES = [
    "user=admin&password=hunter22",
    "usr=admin&pwd=hunter22",
    "token=hunter22",
    "Authorization=hunter22",
    "bearer=hunter22",
    "ticket=hunter22",
    "a=1&key=hunter22",
    "api_key=hunter22",
    "auth=hunter22",
]
QUERIES += [
    "secret=hunter22",
    "sig=hunter22",
    "%70assword=hunter22",
    "PassWord=hunter22",
    "loginuse=admin&loginpas=hunter22",
    "x;access_token=hunter22",
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_secret_in_the_query_is_refused_on_every_way_in_and_not_repeated(query):
    url = f"http://camera/live?{query}"
    ways = [
        lambda: command_words.of_words([f"image={url}"]),
        lambda: command_words.of_words([url]),
        lambda: command_words.of_sinks([url]),
        lambda: run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": url}}]}, CARD),
        lambda: run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": "x", "options": {"proxy": url}}}]}, CARD),
        lambda: run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": "x"}}], "sinks": [{"webhook": {"url": url}}]}, CARD),
    ]
    for way in ways:
        with pytest.raises(RunError, match="carries a user or password, or a token") as caught:
            way()
        assert "hunter22" not in str(caught.value)
        assert "query_env" in str(caught.value)
    assert "hunter22" not in redact(f"cannot open {url}: refused")


def test_a_query_without_secrets_is_left_alone():
    for url in ("http://camera/live?channel=0&keyframe=1&author=me&token=", "rtsp://camera/live?monkey=2", "mqtt://host/room?x"):
        refuse_password(url, "--source")
        assert redact(url).replace("***", "") == url


def test_an_address_may_be_longer_than_any_files_name():
    url = f"http://camera/live?x={'1' * 5000}"
    assert command_words.of_words([f"image={url}"]) == [{"stream": {"inputs": ["image"], "url": url}}]
    with pytest.raises(RunError, match="does not exist"):
        Stream(url="x" * 5000, inputs="image")


def test_the_querys_secrets_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("CAM_USER", "admin")
    monkeypatch.setenv("CAM_PASSWORD", "hun&ter 22")
    names = {"user": "CAM_USER", "password": "CAM_PASSWORD"}
    url = with_secrets("rtmp://camera/x?channel=0", None, names, "sources.stream")
    assert url == "rtmp://camera/x?channel=0&user=admin&password=hun%26ter%2022"
    assert redact(f"no {url}; hun&ter 22; admin") == "no rtmp://camera/x?channel=0&user=***&password=***; ***; admin"
    with pytest.raises(RunError, match="'NO_SUCH_PASSWORD' is not set"):
        with_secrets("rtmp://camera/x", None, {"password": "NO_SUCH_PASSWORD"}, "sources.stream")


def test_what_stands_in_the_path_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("CAM_USER", "admin")
    monkeypatch.setenv("CAM_PASSWORD", "hun/ter 23")
    place = "rtsp://camera/user={user}_password={password}_channel=1"
    refuse_password(place, "--source")
    url = with_secrets(place, {"user": "CAM_USER", "password": "CAM_PASSWORD"}, None, "sources.stream")
    assert url == "rtsp://camera/user=admin_password=hun%2Fter%2023_channel=1"
    assert redact(f"no {url}, hun/ter 23") == "no rtsp://camera/user=***_password=***_channel=1, ***"
    with pytest.raises(RunError, match=r"nothing fills \{password\} of the address(.|\n)*url_env: \{password: VARIABLE\}"):
        with_secrets(place, {"user": "CAM_USER"}, None, "sources.stream")
    with pytest.raises(RunError, match=r"url_env names 'pin', and \{pin\} is not in the address"):
        with_secrets("rtsp://camera/1", {"pin": "CAM_PASSWORD"}, None, "sources.stream")


def test_headers_come_from_the_environment_and_only_go_to_the_web(monkeypatch):
    monkeypatch.setenv("HOOK_HEADER", "Bearer t0ken-in-header")
    assert headers_of({"Authorization": "HOOK_HEADER"}, "https://h/x", "x") == {"Authorization": "Bearer t0ken-in-header"}
    assert redact("it said t0ken-in-header") == "it said ***"
    with pytest.raises(RunError, match=r"headers_env is set, and the address takes no headers(.|\n)*user_env"):
        headers_of({"Authorization": "HOOK_HEADER"}, "rtsp://h/x", "x")
    for name, value in (("Authorization", "two\nlines"), ("X Key", "x-key-1"), ("X-Key", "schlüssel-9")):
        monkeypatch.setenv("ODD_HEADER", value)
        with pytest.raises(RunError, match="is no header") as caught:
            headers_of({name: "ODD_HEADER"}, "https://h/x", "x")
        assert value not in str(caught.value)


def test_a_header_with_a_secret_in_the_file_is_refused():
    source = {"inputs": "image", "url": "http://h/x", "options": {"headers": "Authorization: Basic aHVudGVyMjI="}}
    with pytest.raises(RunError, match=r"options.headers holds a header that is a secret(.|\n)*headers_env") as caught:
        run_yaml.parse({"sources": [{"stream": source}]}, CARD)
    assert "aHVudGVyMjI" not in str(caught.value)


def test_a_secret_in_place_of_its_variables_name_is_not_repeated():
    with pytest.raises(RunError, match="no name of an environment variable") as caught:
        secret("hunter-22!", None, "camera")
    assert "hunter-22!" not in str(caught.value)


def test_a_file_that_is_not_yaml_is_not_shown(tmp_path):
    (tmp_path / "run.yaml").write_text("sources:\n  - stream: {password: hunter22, url: [}\n")
    with pytest.raises(RunError, match="line 2") as caught:
        run_yaml.load(tmp_path / "run.yaml", CARD)
    assert "hunter22" not in str(caught.value)


def test_the_console_is_not_made_twice():
    extra = {"sources": command_words.of_words(["image=x.mp4"]), "sinks": [{"console": {}}]}
    settings = run_yaml.parse(run_yaml._joined({"sinks": ["console", {"jsonl": {"path": "x"}}]}, extra), CARD)
    assert [part.kind for part in settings.sinks] == ["console", "jsonl"]


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


@pytest.mark.parametrize("own", [{"threshold": [0.9]}, {"debounce": "two"}])
def test_what_a_class_has_of_its_own_and_is_of_another_type_is_told_once(own):
    with pytest.raises(RunError, match=r"decisions.event.classes.glass.(threshold|debounce): .* is not a (whole )?number\."):
        run_yaml.parse({**GOOD, "decisions": {"event": {"classes": {"glass": own}}}}, CARD)


@pytest.mark.parametrize("key", ["threshold", "release", "cool_down_s"])
def test_a_decision_needs_numbers_that_are_some(key):
    with pytest.raises(RunError, match=rf"decisions.event.{key}: nan"):
        run_yaml.parse({**GOOD, "decisions": {"event": {key: float("nan")}}}, CARD)


@pytest.mark.parametrize("inputs", [3, True, {"image": 1}])
def test_inputs_that_are_no_names_feed_nothing(inputs):
    with pytest.raises(Mistakes, match="is not a list of texts or text") as caught:
        run_yaml.parse({"sources": [{"stream": {"inputs": inputs, "url": "rtsp://camera/live"}}]}, CARD)
    assert len(caught.value.errors) == 2  # and nothing feeds this model
