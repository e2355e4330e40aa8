"""The MQTT sink and source against a real mosquitto: discovery, states, events, controls, a broker that dies and comes back."""

import json
import signal
import subprocess
import threading
import time

import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.outbox import Outbox
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.sinks.mqtt import Mqtt
from edgemm.contracts.sink import Event
from tests.box.serving.conftest import Broker, Listener, wait_for

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("BROKER_USER", "edgemm")
    monkeypatch.setenv("BROKER_PASSWORD", "broker-pass-123")
    return {"user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD"}


@pytest.fixture
def running(bundle, clip, secrets):
    """``running(port, **options)``: a Runner on the looping clip that publishes to the broker, in a thread."""
    stops = []

    def start(port, **options):
        opened = open_bundle(bundle)
        settings = parse(
            {
                "name": "porch",
                "sources": [{"stream": {"inputs": ["image", "audio"], "url": str(clip), "loop": True}}],
                "decisions": {"event": {"quiet": ["quiet"], "cool_down_s": 0.5}},
                "sinks": [{"mqtt": {"host": "127.0.0.1", "port": port, **secrets, **options}}],
            },
            opened.card,
        )
        runner, stop = Runner(opened, settings), threading.Event()
        thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
        thread.start()
        stops.append((stop, thread))
        return runner

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(10)


def test_home_assistant_is_told_of_one_device_with_all_its_entities(running, broker):
    listener = Listener(broker)
    running(broker.port, pictures=True)
    config = json.loads(wait_for(lambda: listener.payloads("homeassistant/device/edgemm_porch/config"))[0])
    assert set(config) <= {"dev", "o", "cmps", "availability", "availability_mode", "qos"}, "an unknown key at the root drops the device"
    assert {entity["p"] for entity in config["cmps"].values()} == {
        "binary_sensor",
        "event",
        "image",
        "number",
        "select",
        "sensor",
        "switch",
    }
    assert config["cmps"]["event"]["event_types"] == ["visitor", "intruder"]
    assert len({entity["unique_id"] for entity in config["cmps"].values()}) == len(config["cmps"])
    assert not [e for e in config["cmps"].values() if e["p"] in ("sensor", "binary_sensor") and e.get("entity_category") == "config"]
    listener.stop()


def test_events_states_and_the_picture_arrive(running, broker):
    listener = Listener(broker)
    running(broker.port, pictures=True)
    event = json.loads(wait_for(lambda: listener.payloads("edgemm/porch/event"), 20)[0])
    assert (event["event_type"], event["voted"]) == ("visitor", ["image", "audio"])
    assert wait_for(lambda: listener.payloads("edgemm/porch/picture"))[0][:2] == b"\xff\xd8"
    wait_for(lambda: b"ON" in listener.payloads("edgemm/porch/event/intruder"))
    assert b"online" in listener.payloads("edgemm/porch/availability")
    retained = {topic for topic, _, retain in listener.messages if topic == "edgemm/porch/event" and retain}
    assert not retained, "Home Assistant ignores retained events, and an old one is none"
    listener.stop()


def test_no_picture_leaves_the_box_unless_asked_for(running, broker):
    listener = Listener(broker)
    running(broker.port)
    wait_for(lambda: listener.payloads("edgemm/porch/event"), 20)
    time.sleep(0.3)
    assert not listener.payloads("edgemm/porch/picture")
    listener.stop()


def test_the_controls_are_obeyed_and_told_back(running, broker):
    listener = Listener(broker)
    runner = running(broker.port)
    wait_for(lambda: b"online" in listener.payloads("edgemm/porch/running"))
    listener.client.publish("edgemm/porch/modalities/set", "image")
    listener.client.publish("edgemm/porch/threshold/set", "0.75")
    wait_for(lambda: b"image" in listener.payloads("edgemm/porch/modalities") and b"0.75" in listener.payloads("edgemm/porch/threshold"))
    assert (runner.engine.allowed, runner.decider.threshold) == (frozenset({"image"}), 0.75)
    listener.client.publish("edgemm/porch/enabled/set", "OFF")
    wait_for(lambda: b"OFF" in listener.payloads("edgemm/porch/enabled"))
    listener.client.publish("edgemm/porch/threshold/set", "very high")
    time.sleep(0.3)
    assert b"very high" not in listener.payloads("edgemm/porch/threshold")
    listener.stop()


def test_everything_is_told_again_when_home_assistant_comes_up(running, broker):
    listener = Listener(broker)
    running(broker.port)
    topic = "homeassistant/device/edgemm_porch/config"
    wait_for(lambda: listener.payloads(topic))
    before = len(listener.payloads(topic))
    listener.client.publish("homeassistant/status", "online")
    wait_for(lambda: len(listener.payloads(topic)) > before)
    listener.stop()


def test_two_boxes_of_one_name_do_not_throw_each_other_out(running, broker, secrets):
    about = running(broker.port).about()
    sinks = [Mqtt(host="127.0.0.1", port=broker.port, **secrets) for _ in range(2)]
    for sink in sinks:
        sink.start(about)
    wait_for(lambda: all(sink.describe()["connected"] for sink in sinks))
    time.sleep(1.0)
    assert [sink._broker.connects for sink in sinks] == [1, 1]
    for sink in sinks:
        sink.stop()


def test_the_will_of_a_connection_that_died_long_ago_does_not_stand(running, broker):
    runner = running(broker.port)
    listener = Listener(broker)
    topic = "edgemm/porch/availability"
    wait_for(lambda: b"online" in listener.payloads(topic))
    listener.client.publish(topic, "offline", 1, retain=True)
    wait_for(lambda: listener.payloads(topic)[-2:] == [b"offline", b"online"], what="the correction")
    listener.stop()
    late = Listener(broker, topic)
    wait_for(lambda: late.payloads(topic) == [b"online"])
    late.stop()
    assert runner.status()["sinks"][-1]["connected"]


def test_paho_never_waits_for_a_lock_of_ours(running, broker, secrets):
    """It calls back while it holds locks that publishing wants: then both would wait for ever, as they once did."""
    sink = Mqtt(host="127.0.0.1", port=broker.port, prefix="other", **secrets)
    sink.start(running(broker.port).about())
    wait_for(lambda: sink.describe()["connected"])
    name = f"paho-mqtt-client-{sink._broker._id}"
    assert name in {thread.name for thread in threading.enumerate()}
    with sink._lock, sink._broker._lock:
        broker.stop()
        wait_for(lambda: name not in {thread.name for thread in threading.enumerate()}, 20, "the end of paho's thread")
    broker.start()
    wait_for(lambda: sink.describe()["connected"], 30)
    sink.stop()


def test_what_a_callback_raises_is_told_and_the_connection_comes_back(broker, secrets):
    from edgemm.box.serving.broker import Broker as Connection
    from edgemm.box.serving.broker import BrokerAddress

    said = []

    def once():
        said.append(connection.error)
        if len(said) == 1:
            raise ZeroDivisionError("in a callback")

    connection = Connection(BrokerAddress("127.0.0.1", broker.port, user=broker.user, password=broker.password), on_up=once)
    connection.start()
    wait_for(lambda: "ZeroDivisionError: in a callback" in connection.error)
    wait_for(lambda: len(said) == 2 and connection.connected)
    connection.stop()
    assert not connection.connected


def event(number):
    return Event(f"run-{number}", "event", "visitor", 0.9, 0.0, ("image",), (), 1.0)


def test_a_broker_that_was_away_gets_every_event_once_and_no_stale_state(running, broker, secrets):
    sink = Mqtt(host="127.0.0.1", port=broker.port, prefix="other", **secrets)
    sink.start(running(broker.port).about())
    wait_for(lambda: sink.describe()["connected"])
    sink._set("other/porch/event/scene", "quiet")
    broker.stop()
    wait_for(lambda: not sink.describe()["connected"])
    for number in range(5):
        sink.event(event(number))
    sink._set("other/porch/event/scene", "visitor")
    broker.start()
    wait_for(lambda: sink.describe()["waiting"] == 0, 30)
    time.sleep(0.3)
    assert broker.received("other/porch/event") == 5
    late = Listener(broker, "other/#")
    wait_for(lambda: late.payloads("other/porch/event/scene"))
    assert late.payloads("other/porch/event/scene") == [b"visitor"]
    sink.stop()
    late.stop()


def test_a_broker_that_froze_gets_every_event_at_least_once_with_its_id(running, broker, secrets):
    sink = Mqtt(host="127.0.0.1", port=broker.port, prefix="other", **secrets)
    sink.start(running(broker.port).about())
    wait_for(lambda: sink.describe()["connected"])
    listener = Listener(broker, "other/porch/event")
    broker.process.send_signal(signal.SIGSTOP)
    for number in range(5):
        sink.event(event(number))
    assert sink.describe()["waiting"] == 5, "nothing is taken for delivered that the broker has not confirmed"
    broker.process.send_signal(signal.SIGCONT)
    wait_for(lambda: sink.describe()["waiting"] == 0, 30)
    wait_for(lambda: {json.loads(payload)["id"] for payload in listener.payloads("other/porch/event")} == {f"run-{n}" for n in range(5)})
    sink.stop()
    listener.stop()


def test_events_from_before_the_first_connect_are_sent_once_and_the_end_is_told(broker, running, secrets):
    about = running(broker.port).about()
    sink = Mqtt(host="127.0.0.1", port=broker.port, prefix="late", **secrets)
    sink.start(about)
    for number in range(3):
        sink.event(event(number))
    listener = Listener(broker, "late/#")
    sink.event(event(3))
    wait_for(lambda: "run-3" in [json.loads(payload)["id"] for payload in listener.payloads("late/porch/event")])
    wait_for(lambda: sink.describe()["waiting"] == 0)
    assert broker.received("late/porch/event") == 4
    sink.stop()
    wait_for(lambda: listener.payloads("late/porch/availability")[-1:] == [b"offline"])
    listener.stop()


def test_a_wrong_password_is_told_without_it(broker, running, secrets, monkeypatch):
    monkeypatch.setenv("BROKER_PASSWORD", "wrong-secret-42")
    sink = Mqtt(host="127.0.0.1", port=broker.port, **secrets)
    sink.start(running(broker.port).about())
    why = wait_for(lambda: "refuses us" in sink.describe()["why"] and sink.describe()["why"])
    assert "check user_env and password_env" in why
    assert "wrong-secret-42" not in why
    sink.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return folder / "cert.pem", folder / "key.pem"


# paho leaves the socket of a failed handshake to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_with_tls_only_a_certificate_that_is_trusted_will_do(tmp_path, certificate, running, broker, secrets):
    secure = Broker(tmp_path, tls=certificate).start()
    about = running(broker.port).about()
    good = Mqtt(host="127.0.0.1", port=secure.port, ca_file=str(certificate[0]), **secrets)
    stranger = Mqtt(host="127.0.0.1", port=secure.port, tls=True, **secrets)
    plain = Mqtt(host="127.0.0.1", port=secure.port, **secrets)
    for sink in (good, stranger, plain):
        sink.start(about)
    wait_for(lambda: good.describe()["connected"])
    wait_for(lambda: "certificate" in stranger.describe()["why"].lower())
    wait_for(lambda: "is tls set right" in plain.describe()["why"])
    assert not stranger.describe()["connected"]
    for sink in (good, stranger, plain):
        sink.stop()
    secure.stop()


def test_an_outbox_forgets_what_is_too_old_and_keeps_the_order():
    clock = [0.0]
    box = Outbox(10.0, most=3, now=lambda: clock[0])
    for number in range(5):
        box.put(str(number), "topic", b"")
        clock[0] += 1
    assert ([letter.id for letter in box.waiting()], box.overflowed) == (["2", "3", "4"], 2)
    box.done("3")
    clock[0] = 13.5
    assert ([letter.id for letter in box.waiting()], box.expired) == (["4"], 1)


def test_a_topic_on_which_nobody_speaks_is_no_loss(broker, secrets):
    from edgemm.box.serving.source_threads import Feeder, Patience
    from edgemm.box.serving.sources.mqtt import Mqtt as Topic
    from edgemm.contracts.card import Input
    from edgemm.contracts.modality import of

    source, heard = Topic(inputs="imu", topic="garden/wind", host="127.0.0.1", port=broker.port, **secrets), []
    wants = {"imu": of(Input("imu", "sensor", {"shape": [2]}))}
    feeder = Feeder(
        source, wants, lambda item, at: heard.append(item.value.tolist()), patience=Patience(no_data_s=0.5, first_s=0.1, most_s=0.1)
    )
    feeder.start()
    for _ in range(20):
        assert feeder.watch() == ""
        time.sleep(0.1)
    assert (feeder.state, feeder.reconnects) == ("up", 0)
    listener = Listener(broker)
    listener.client.publish("garden/wind", "[1, 2]", 1)
    wait_for(lambda: heard == [[1, 2]])
    broker.stop()
    wait_for(lambda: feeder.state == "down", 30, "the loss")
    assert "has no broker" in feeder.error
    feeder.stop()
    feeder.join(15)
    listener.stop()


def test_texts_and_measurements_come_from_topics(broker, secrets):
    from edgemm.box.serving.sources.mqtt import Mqtt as Topic
    from edgemm.contracts.card import Input
    from edgemm.contracts.modality import of

    source = Topic(inputs="imu", topic="garden/+", host="127.0.0.1", port=broker.port, key="value", **secrets)
    found = []
    wants = {"imu": of(Input("imu", "sensor", {"shape": [2]}))}
    thread = threading.Thread(daemon=True, target=lambda: found.extend(source.items(wants)))
    thread.start()
    listener = Listener(broker)
    time.sleep(1.0)
    for payload in ('{"value": [1, 2]}', "torn", '{"value": [3, 4]}'):
        listener.client.publish("garden/wind", payload, 1)
    wait_for(lambda: len(listener.payloads("garden/wind")) == 3)
    time.sleep(0.3)
    source.close()
    thread.join(5)
    assert [item.value.tolist() for item in found] == [[1, 2], [3, 4]]
    assert "a message on garden/+ was left out" in source.notes[0]
    listener.stop()
