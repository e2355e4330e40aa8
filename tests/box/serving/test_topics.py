"""Every label, output and control has a topic and an id of its own, whatever they are called."""

import pytest

from edgemm.box.serving.sinks._mqtt import homeassistant
from edgemm.box.serving.sinks.mqtt import Mqtt
from edgemm.contracts.card import Output
from edgemm.contracts.decision import Reading
from edgemm.contracts.sink import About
from edgemm.errors import RunError


def about(outputs: dict[str, list[str]], quiet=None) -> About:
    cards = {name: Output(name, "classification", {"labels": tuple(labels)}) for name, labels in outputs.items()}
    return About("box", "model", "1", ("image",), cards, quiet or {}, 0.5, lambda what, value: True)


OUTPUTS = {
    "event": ["glass", "玻璃", "狗", "人", "c++", "c", "A", "a", "scene", "a/b", "#"],
    "a": ["b_c"],
    "a_b": ["c"],
    "threshold": ["set"],
    "camera": ["rate"],
    "事件": ["人"],
}


def test_each_entity_has_a_topic_and_an_id_of_its_own():
    told = about(OUTPUTS)
    components = homeassistant.components(told, "edgemm/box", pictures=True)
    own = [one for entities in homeassistant.shown(told).values() for one in entities]
    assert len(own) == sum(len(labels) + 1 for labels in OUTPUTS.values())
    assert len({one.topic.lower() for one in own}) == len({one.id.lower() for one in own}) == len(own)
    assert len({entity["unique_id"].lower() for entity in components.values()}) == len(components)
    commands = {entity["command_topic"] for entity in components.values() if "command_topic" in entity}
    topics = [f"edgemm/box/{one.topic}" for one in own]
    assert not commands & set(topics)
    assert not any(set("+#") & set(topic) or topic.count("/") != 3 for topic in topics)
    assert components["event_glass"]["state_topic"] == "edgemm/box/event/glass"
    assert {components[key]["p"] for key in ("camera_rate", "threshold", "event")} == {"sensor", "number", "event"}


def test_what_people_read_tells_outputs_and_labels_apart():
    def titles(outputs):
        return [one.title for entities in homeassistant.shown(about(outputs)).values() for one in entities]

    assert titles({"event": ["glass_break", "quiet"]}) == ["Glass break", "Quiet", "Event"]
    assert titles({"front": ["dog", "cat"], "back": ["dog"]}) == ["Front: Dog", "Cat", "Front", "Back: Dog", "Back"]
    assert titles({"door": ["Open", "open"], "Door": ["shut"]}) == ["Open", "open", "door", "Shut", "Door"]


def test_glass_is_not_told_as_a_person():
    told = about(OUTPUTS)
    entities = homeassistant.shown(told)["event"]
    states = homeassistant.states(entities, "edgemm/box", Reading("玻璃", {}, on=("玻璃",)))
    on = [topic for topic, payload in states.items() if payload == "ON"]
    assert on == [f"edgemm/box/{homeassistant.topic_of(entities, '玻璃')}"]
    assert states["edgemm/box/event/scene"] == "玻璃"


def test_a_topic_does_not_move_when_a_class_falls_quiet():
    quiet = homeassistant.shown(about(OUTPUTS, {"event": frozenset({"c"})}))["event"]
    assert homeassistant.topic_of(quiet, "c++") == homeassistant.topic_of(homeassistant.shown(about(OUTPUTS))["event"], "c++")


@pytest.mark.parametrize("prefix", ["home/+", "#", ""])
def test_a_prefix_that_is_no_topic_is_refused(prefix):
    with pytest.raises(RunError, match=f"sinks.mqtt.prefix: '{prefix.replace('+', '.')}' is no topic"):
        Mqtt(host="broker", prefix=prefix)
