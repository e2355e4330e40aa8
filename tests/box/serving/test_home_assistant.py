"""A real Home Assistant finds a running box by itself, hears its events, moves its controls, and knows it again after every restart.

`tests/home_assistant.sh` (or `make home-assistant`) builds it, outside the project. Nothing is installed here, and nothing fetched.
"""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from tests.box.serving.conftest import Broker, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PLACE = Path(os.environ.get("EDGEMM_HOME_ASSISTANT") or Path.home() / ".cache" / "edgemm-home-assistant")
OFFLINE = ("unavailable", "unknown", None)
ENTITIES = {
    "binary_sensor.porch_visitor",
    "binary_sensor.porch_intruder",
    "sensor.porch_event",
    "event.porch_detection",
    "image.porch_last_event",
    "number.porch_threshold",
    "select.porch_modalities",
    "switch.porch_enabled",
    "sensor.porch_decisions_a_second",
    "sensor.porch_camera_rate",
    "sensor.porch_latency_p95",
    "sensor.porch_voting",
    "binary_sensor.porch_camera",
    "binary_sensor.porch_recalibrate",
}


class House:
    """A Home Assistant of its own on this machine, connected to a broker."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._token = ""
        folder.mkdir()
        (folder / "configuration.yaml").write_text(
            "homeassistant: {name: t, latitude: 0, longitude: 0, elevation: 0, unit_system: metric, time_zone: UTC}\n"
            f"http: {{server_host: 127.0.0.1, server_port: {self.port}}}\n"
            "logger: {default: warning, logs: {homeassistant.components.mqtt: info}}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "House":
        with open(self.folder / "said.log", "ab") as log:
            command = [PLACE / "venv" / "bin" / "hass", "-c", self.folder, "--skip-pip"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers, 300, "Home Assistant's start")
        return self

    def stop(self) -> None:
        """In good order, as its restart does."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def settle(self, broker: Broker) -> None:
        """Make the first user, and set up MQTT, as its pages do."""
        user = {"client_id": f"{self.url}/", "name": "t", "username": "t", "password": "house-pass-123", "language": "en"}
        code = self.ask("/api/onboarding/users", user)["auth_code"]
        form = urllib.parse.urlencode({"client_id": f"{self.url}/", "grant_type": "authorization_code", "code": code}).encode()
        self._token = self.ask("/auth/token", form)["access_token"]
        for step in ("core_config", "analytics", "integration"):
            try:
                self.ask(f"/api/onboarding/{step}", {"client_id": f"{self.url}/", "redirect_uri": f"{self.url}/"})
            except urllib.error.HTTPError as err:
                if (step, err.code) != ("core_config", 500):  # 2024.3 looks for a weather service that is not installed, and goes on
                    raise
        flow = self.ask("/api/config/config_entries/flow", {"handler": "mqtt"})["flow_id"]
        given = {"broker": "127.0.0.1", "port": broker.port, "username": broker.user, "password": broker.password}
        made = self.ask(f"/api/config/config_entries/flow/{flow}", given)
        assert made["type"] == "create_entry", made

    def ask(self, path: str, content: dict | bytes | None = None):
        """GET, or POST where there is content; JSON back."""
        return json.loads(self.fetch(path, content))

    def fetch(self, path: str, content: dict | bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if isinstance(content, dict):
            headers["Content-Type"], content = "application/json", json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, content, headers), timeout=20) as answer:
            return answer.read()

    def call(self, service: str, entity: str, **data: object) -> None:
        self.ask(f"/api/services/{service.replace('.', '/')}", {"entity_id": entity, **data})

    def states(self) -> dict[str, dict]:
        """Entity -> its state and attributes; {} while it does not answer."""
        try:
            return {one["entity_id"]: one for one in self.ask("/api/states")}
        except OSError:
            return {}

    def state(self, entity: str) -> str | None:
        return self.states().get(entity, {}).get("state")

    def warnings(self) -> list[str]:
        """What it found wrong with us."""
        return [line for line in (self.folder / "said.log").read_text().splitlines() if "mqtt" in line and "edgemm" in line]

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "said.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/api/onboarding", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as err:
            return err.code == 404  # everybody is on board already
        except OSError:
            return False


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    if not (PLACE / "ready").is_file():
        pytest.skip(f"there is no Home Assistant in {PLACE}: build it with `make home-assistant` (four minutes, 800 MB)")
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here (make system installs it)")
    one = Broker(tmp_path_factory.mktemp("broker")).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def house(broker, tmp_path_factory):
    one = House(tmp_path_factory.mktemp("house") / "config").start()
    try:
        one.settle(broker)
        yield one
    finally:
        one.stop()


def knows_devices() -> bool:
    """Whether this Home Assistant is of 2024.11 or later."""
    year, month = (int(part) for part in (PLACE / "ready").read_text().split(".")[:2])
    return (year, month) >= (2024, 11)


@contextmanager
def serving(name, discovery, bundle, clip, broker):
    """A run on the looping clip that only knows the broker."""
    secrets = {"EDGEMM_MQTT_USER": broker.user, "EDGEMM_MQTT_PASSWORD": broker.password}
    os.environ.update(secrets)
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user_env": "EDGEMM_MQTT_USER", "password_env": "EDGEMM_MQTT_PASSWORD"}
    settings = {
        "name": name,
        "sources": [{"stream": {"inputs": ["image", "audio"], "url": str(clip), "loop": True}}],
        "decisions": {"event": {"quiet": ["quiet"], "cool_down_s": 0.5}},
        "sinks": [{"mqtt": {**mqtt, "pictures": True, "discovery": discovery}}],
    }
    opened = open_bundle(bundle)
    one, stop = Runner(opened, parse(settings, opened.card)), threading.Event()
    thread = threading.Thread(target=one.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield one
    finally:
        stop.set()
        thread.join(10)
        for variable in secrets:
            os.environ.pop(variable, None)


@pytest.fixture(scope="module")
def runner(bundle, clip, broker, house):
    with serving("porch", "device" if knows_devices() else "component", bundle, clip, broker) as one:
        yield one


def everything_is_there(house) -> bool:
    states = house.states()
    return states.keys() >= ENTITIES and not any(states[name]["state"] == "unavailable" for name in ENTITIES)


def last_event(house) -> str | None:
    return house.state("event.porch_detection")


def wait_for_everything(house, threshold: str) -> None:
    """All entities are back, with what was set before, and events come in again; the seconds are printed."""
    back = time.monotonic()
    wait_for(lambda: everything_is_there(house), 60, "the return")
    print(f"everything there again after {time.monotonic() - back:.1f} s")
    assert house.state("number.porch_threshold") == threshold
    wait_for_a_fresh_event(house)


def wait_for_a_fresh_event(house) -> None:
    seen = last_event(house)
    wait_for(lambda: last_event(house) not in (*OFFLINE, seen), 30, "a fresh event")


def set_threshold(house, runner, value) -> None:
    wait_for(lambda: everything_is_there(house), 60, "discovery")
    house.call("number.set_value", "number.porch_threshold", value=value)
    wait_for(lambda: runner.decider.threshold == value, 10, "the threshold's change")


def test_one_device_with_every_entity_is_found(runner, house):
    wait_for(lambda: everything_is_there(house), 60, "discovery")
    states = house.states()
    assert {name for name in states if "porch" in name} == ENTITIES
    assert states["binary_sensor.porch_camera"]["attributes"]["device_class"] == "connectivity"
    assert states["select.porch_modalities"]["attributes"]["options"] == ["all", "image", "audio"]
    assert states["event.porch_detection"]["attributes"]["event_types"] == ["visitor", "intruder"]


def test_events_states_picture_and_diagnostics_arrive(runner, house):
    wait_for(lambda: everything_is_there(house), 60, "discovery")
    wait_for(lambda: last_event(house) not in OFFLINE, 40, "an event")
    attributes = house.states()["event.porch_detection"]["attributes"]
    assert attributes["event_type"] in ("visitor", "intruder")
    assert attributes["id"]
    for value in ("on", "off"):
        wait_for(lambda value=value: house.state("binary_sensor.porch_intruder") == value, 30, f"an intruder's {value}")
    seen = set()
    wait_for(lambda: seen.add(house.state("sensor.porch_event")) or {"quiet", "visitor", "intruder"} <= seen, 40, "every scene")
    assert house.fetch("/api/image_proxy/image.porch_last_event")[:2] == b"\xff\xd8"
    wait_for(lambda: float(house.states()["sensor.porch_decisions_a_second"]["state"]) > 3, 20, "the rate")
    assert 10 < float(house.state("sensor.porch_camera_rate")) < 20
    assert house.state("sensor.porch_voting") == "image, audio"
    assert house.state("binary_sensor.porch_camera") == "on"
    assert house.state("binary_sensor.porch_recalibrate") == "off"


def test_what_is_set_there_is_obeyed_here(runner, house):
    set_threshold(house, runner, 0.75)
    house.call("select.select_option", "select.porch_modalities", option="image")
    wait_for(lambda: runner.engine.allowed == frozenset({"image"}), 10, "the choice of modalities")
    wait_for(lambda: house.state("number.porch_threshold") == "0.75" and house.state("select.porch_modalities") == "image", 10)
    wait_for(lambda: runner.engine.voted == ("image",), 10)
    house.call("switch.turn_off", "switch.porch_enabled")
    wait_for(lambda: not runner.engine.enabled, 10)
    wait_for(lambda: house.state("switch.porch_enabled") == "off", 10)
    wait_for(lambda: house.state("binary_sensor.porch_visitor") == "unavailable", 15, "nobody claims to watch")
    house.call("switch.turn_on", "switch.porch_enabled")
    house.call("select.select_option", "select.porch_modalities", option="all")
    wait_for(lambda: runner.engine.enabled and len(runner.engine.allowed) == 2, 10)
    wait_for(lambda: everything_is_there(house), 20)


def test_after_the_brokers_restart_everything_is_there_again(runner, house, broker):
    set_threshold(house, runner, 0.75)
    broker.stop()
    wait_for(lambda: house.state("binary_sensor.porch_visitor") == "unavailable", 30, "the loss")
    before = runner.events
    wait_for(lambda: runner.events >= before + 2, 30, "an event while the broker is away")
    broker.start()
    wait_for_everything(house, threshold="0.75")


def test_after_home_assistants_restart_everything_is_there_again(runner, house):
    set_threshold(house, runner, 0.7)
    house.stop()
    house.start()
    wait_for_everything(house, threshold="0.7")


def test_an_entity_by_itself_is_found_too_as_older_ones_want_it(bundle, clip, broker, house):
    wanted = {name.replace("porch", "shed") for name in ENTITIES}
    with serving("shed", "component", bundle, clip, broker) as one:
        wait_for(lambda: wanted <= house.states().keys() and house.state("select.shed_modalities") == "all", 60, "discovery")
        house.call("select.select_option", "select.shed_modalities", option="audio")
        wait_for(lambda: one.engine.allowed == frozenset({"audio"}), 10, "the choice")
        wait_for(lambda: house.state("event.shed_detection") not in OFFLINE, 40, "an event")
    wait_for(lambda: house.state("binary_sensor.shed_visitor") == "unavailable", 15, "its end")


def test_it_found_nothing_wrong_with_what_we_send(runner, house):
    wrong = [line for line in house.warnings() if "WARNING" in line or "ERROR" in line]
    assert not wrong, "\n".join(wrong)
