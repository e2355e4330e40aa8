"""A gallery in a run: who is seen is an event, and whoever is enrolled while it runs is known from then on."""

import json
import time

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving import gallery as galleries
from edgemm.box.serving.gallery import Gallery
from edgemm.box.serving.run_yaml import load, parse
from edgemm.box.serving.runner import Runner
from edgemm.errors import DataError, EdgemmError, RunError
from tests.box.serving.conftest import Listener, broker, cli, wait_for
from tests.verbs.test_index import PEOPLE, faces

__all__ = ["broker", "faces"]


def picture(folder, name, colour, seed=0):
    from PIL import Image

    pixels = np.random.default_rng(seed).normal(colour, 10, (8, 8, 3)).clip(0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def people(tmp_path):
    """A folder with a folder for each of three people."""
    for name, colour in PEOPLE.items():
        for number in range(3):
            picture(tmp_path / "people" / name, str(number), colour, number)
    return tmp_path / "people"


@pytest.fixture
def visits(tmp_path):
    """Pictures as a camera would bring them: Ben, Ben, nobody known, Anna, Anna."""
    seen = [PEOPLE["Ben"]] * 2 + [(128, 128, 128)] * 2 + [PEOPLE["Anna"]] * 2
    for number, colour in enumerate(seen):
        picture(tmp_path / "visits", str(number), colour, 100 + number)
    return tmp_path / "visits"


@pytest.fixture
def gallery(faces, people, tmp_path):
    edgemm.index(faces / "bundle", data=people, output=tmp_path / "gallery.npz")
    return tmp_path / "gallery.npz"


def events_of(bundle, folder, gallery, tmp_path, **decisions):
    settings = {"face": {"gallery": str(gallery), "debounce": 1, "threshold": 0.97, **decisions}}
    (tmp_path / "run.yaml").write_text(json.dumps({"decide_hz": 1, "decisions": settings}))
    edgemm.run(bundle, config=tmp_path / "run.yaml", source=[f"image={folder}"], jsonl=tmp_path / "events.jsonl", fast=True, quiet=True)
    return [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def test_a_folder_of_people_becomes_a_gallery_and_who_comes_is_an_event(faces, gallery, visits, tmp_path):
    assert galleries.load(gallery).labels == ("Anna", "Ben", "Cem")
    events = events_of(faces / "bundle", visits, gallery, tmp_path)
    assert [event["looks_like"] for event in events] == ["Ben", "Anna"]
    assert all(event["score"] > 0.99 for event in events)


def test_the_threshold_that_the_gallery_was_measured_with_holds_where_none_is_said(faces, gallery, visits, tmp_path):
    known = galleries.load(gallery)
    assert 0.97 < known.threshold < 1.0, "the people's colours are far apart, their pictures alike"
    events = events_of(faces / "bundle", visits, gallery, tmp_path, threshold=None)
    assert [event["looks_like"] for event in events] in (["Ben", "Anna"], ["Ben"], ["Anna"], [])
    lenient = events_of(faces / "bundle", visits, gallery, tmp_path, threshold=0.1)
    assert len(lenient) > len(events), "the first counted grey pictures as nobody"


def test_only_the_nearest_is_ever_on(faces, tmp_path):
    from edgemm.box.serving.decisions import Decider
    from edgemm.box.serving.names import UNKNOWN, Names
    from edgemm.box.serving.settings import DecisionSettings
    from edgemm.contracts.decision import Observation

    rows = galleries.unit(np.array([[1.0, 0.0], [1.0, 0.2]]))
    twins = Gallery(rows, np.array(["Ada", "Bea"]), "face")
    names = Names(twins.labels, "face", lambda answers: Observation(twins.scores(answers["face"])), is_like=True)
    decider = Decider(open_bundle(faces / "bundle").card, {"face": DecisionSettings(threshold=0.9, debounce=1)}, names={"face": names})
    for number, vector in enumerate(([1.0, 0.0], [1.0, 0.2])):
        readings, changes = decider.update({"face": np.array([vector])}, float(number))
    assert readings["face"].on == ("Bea",)
    assert [(change.label, change.is_on) for change in changes] == [("Ada", False), ("Bea", True)]
    readings, _ = decider.update({"face": np.array([[-1.0, 1.0]])}, 2.0)
    assert (readings["face"].on, readings["face"].label) == ((), UNKNOWN)


def test_the_console_says_whom_somebody_looks_like(faces, gallery, visits, tmp_path):
    run_yaml = {"decide_hz": 1, "decisions": {"face": {"gallery": "gallery.npz", "debounce": 1, "threshold": 0.97}}}
    (tmp_path / "run.yaml").write_text(json.dumps(run_yaml))
    done = cli("run", faces / "bundle", "--config", tmp_path / "run.yaml", "--source", f"image={visits}", "--fast")
    assert done.returncode == 0, done.stderr
    assert "looks like Ben" in done.stdout


@pytest.fixture
def serving(faces, tmp_path, paged):
    """``serving(**run.yaml)``: a run on looping pictures of Ben, with its page; runner and port."""
    picture(tmp_path / "loop", "0", PEOPLE["Ben"])

    def start(gallery, **more):
        decisions = {"face": {"gallery": str(gallery), "debounce": 1, "threshold": 0.97}}
        source = {"folder": {"inputs": "image", "path": str(tmp_path / "loop"), "loop": True, "seconds": 0.2}}
        plain = {"name": "door", "sources": [source], "decisions": decisions, "web": {"port": 0}, **more}
        return paged(open_bundle(faces / "bundle"), plain)

    return start


def post(port, what, value, **headers):
    import http.client

    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    line.request("POST", "/control", json.dumps({"what": what, "value": value}), {"Content-Type": "application/json", **headers})
    answer = line.getresponse()
    body = answer.read().decode()
    line.close()
    return answer.status, body


def test_whoever_is_enrolled_on_the_page_is_known_at_once_and_after_a_restart(serving, tmp_path):
    runner, port = serving(tmp_path / "new.npz")
    assert post(port, "face/enrol", "Ben")[0] in (204, 422), "the first decision may not be there yet"
    wait_for(lambda: post(port, "face/enrol", "Ben")[0] == 204)
    wait_for(lambda: runner.events >= 1, what="the event of who was enrolled")
    assert runner.status()["known"]["face"]["names"]["Ben"] >= 1
    kept = galleries.load(tmp_path / "new.npz")
    assert kept.labels == ("Ben",)
    assert kept.nearest(np.array(PEOPLE["Ben"]))[0][1] > 0.99
    assert post(port, "face/forget", "Ben")[0] == 204
    assert galleries.load(tmp_path / "new.npz").labels == ()
    status, words = post(port, "face/forget", "Ben")
    assert (status, "nobody here is called 'Ben'" in words) == (422, True)
    assert post(port, "face/enrol", "  ")[0] == 422
    assert post(port, "face/rename", "Ben")[0] == 404


def test_another_page_cannot_enrol_anybody(serving, tmp_path):
    runner, port = serving(tmp_path / "new.npz")
    wait_for(lambda: runner.engine.decided)
    assert post(port, "face/enrol", "Eve", Origin="http://evil.example")[0] == 403
    assert post(port, "face/enrol", "Eve", **{"Content-Type": "text/plain"})[0] == 415
    assert not (tmp_path / "new.npz").exists()


def test_a_gallery_that_is_made_anew_is_read_again(serving, gallery, faces, tmp_path):
    runner, _ = serving(gallery)
    wait_for(lambda: runner.events == 1)
    Gallery(np.array([[1.0, 0.0, 0.0]], np.float32), np.array(["Zoe"]), "face").save(gallery)
    wait_for(lambda: list(runner.status()["known"]["face"]["names"]) == ["Zoe"])
    gallery.write_bytes(b"torn")
    wait_for(lambda: "no gallery" in runner.status()["known"].get("error", ""))
    assert list(runner.status()["known"]["face"]["names"]) == ["Zoe"]


def test_by_mqtt_somebody_is_enrolled_and_home_assistant_gets_a_switch(serving, broker, tmp_path, monkeypatch):
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    sink = {"mqtt": {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD", "tls": False}}
    listener = Listener(broker)
    try:
        runner, _ = serving(tmp_path / "new.npz", sinks=[sink])
        wait_for(lambda: runner.engine.decided)
        wait_for(lambda: listener.payloads("edgemm/door/availability"))
        assert wait_for(lambda: _enrolled(listener, "Ben"))
        wait_for(lambda: listener.payloads("edgemm/door/face/Ben")[-1:] == [b"ON"])
        found = json.loads(listener.payloads("homeassistant/device/edgemm_door/config")[-1])["cmps"]
        key = "face_ben" if "face_ben" in found else "face_Ben"
        assert found[key]["p"] == "binary_sensor"
        listener.client.publish("edgemm/door/face/forget/set", "Ben")
        wait_for(lambda: listener.payloads("edgemm/door/face/Ben")[-1:] == [b""])
        gone = {"p": "binary_sensor"}  # named by its platform alone it goes away
        wait_for(lambda: json.loads(listener.payloads("homeassistant/device/edgemm_door/config")[-1])["cmps"][key] == gone)
    finally:
        listener.stop()


def _enrolled(listener, name):
    listener.client.publish("edgemm/door/face/enrol/set", name)
    time.sleep(0.3)
    return listener.payloads(f"edgemm/door/face/{name}")


def test_a_gallery_of_another_model_is_refused_before_the_first_frame(faces, tmp_path):
    card = open_bundle(faces / "bundle").card
    Gallery(np.ones((1, 3), np.float32), np.array(["Ben"]), "face", model="another").save(tmp_path / "g.npz")
    plain = {"sources": [{"folder": {"inputs": "image", "path": "."}}], "decisions": {"face": {"gallery": str(tmp_path / "g.npz")}}}
    with pytest.raises(DataError, match="is a gallery of another model"):
        Runner(open_bundle(faces / "bundle"), parse(plain, card))


def test_a_gallery_that_is_not_there_says_how_to_make_it(faces, tmp_path):
    card = open_bundle(faces / "bundle").card
    plain = {"sources": [{"folder": {"inputs": "image", "path": "."}}], "decisions": {"face": {"gallery": str(tmp_path / "g.npz")}}}
    with pytest.raises(RunError, match=r"there is no '.*g\.npz'") as caught:
        Runner(open_bundle(faces / "bundle"), parse(plain, card))
    assert "edgemm index" in str(caught.value)


def test_a_name_in_run_yaml_that_is_not_in_the_gallery_is_a_mistake(faces, gallery):
    card = open_bundle(faces / "bundle").card
    plain = {"sources": [{"folder": {"inputs": "image", "path": "."}}]}
    plain["decisions"] = {"face": {"gallery": str(gallery), "classes": {"Ana": {"threshold": 0.9}}}}
    with pytest.raises(EdgemmError, match="'Ana' is nobody in its gallery") as caught:
        parse(plain, card)
    assert "did you mean 'Anna'?" in str(caught.value)


def test_a_gallery_of_an_output_without_vectors_is_a_mistake(bundle, gallery):
    card = open_bundle(bundle).card
    plain = {"sources": [{"folder": {"inputs": "image", "path": "."}}], "decisions": {"event": {"gallery": str(gallery)}}}
    with pytest.raises(EdgemmError, match="a gallery is held against vectors, and 'event' is of task classification"):
        parse(plain, card)


def test_a_gallery_lies_beside_its_run_yaml(faces, gallery, tmp_path):
    (tmp_path / "run.yaml").write_text("sources: [{folder: {inputs: image, path: .}}]\ndecisions: {face: {gallery: gallery.npz}}\n")
    settings = load(tmp_path / "run.yaml", open_bundle(faces / "bundle").card)
    assert settings.decisions["face"].gallery == str(gallery)
