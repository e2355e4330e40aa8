"""tracks, zones and lines in run.yaml: every mistake at once, in the user's words."""

from pathlib import Path

import pytest

from edgemm.box.serving import run_yaml
from edgemm.contracts import card_file as cards
from edgemm.errors import Mistakes, RunError
from tests.box.serving.blobs import card

CARD = card(Path())
GOOD = {"sources": [{"stream": {"inputs": ["image", "audio"], "url": "rtsp://camera/live"}}]}
DOOR = [[0.1, 0.4], [0.4, 0.4], [0.4, 0.9], [0.1, 0.9]]


def parse(**more):
    return run_yaml.parse({**GOOD, **more}, CARD)


def test_a_zone_is_a_list_of_corners_or_has_settings():
    made = parse(
        tracks={"objects": {"threshold": 0.6, "thresholds": {"blue": 0.4}, "lost_s": 2.0, "quiet": ["blue"]}},
        zones={"door": DOOR, "yard": {"points": DOOR, "labels": ["red"], "inertia": 2, "loitering_s": 20}},
        lines={"gate": [[0.2, 0.9], [0.8, 0.9]]},
    )
    assert (made.zones["door"].points, made.zones["door"].inertia, made.zones["yard"].labels) == (DOOR, 3, ["red"])
    assert (made.lines["gate"].points, made.lines["gate"].labels) == ([[0.2, 0.9], [0.8, 0.9]], None)
    assert made.lost_s("objects", "image") == 2.0


def test_all_mistakes_are_told_at_once():
    with pytest.raises(Mistakes) as caught:
        parse(
            decisions={"objects": {"threshold": 0.5}},
            tracks={"objcts": {}, "objects": {"hits": 0, "release": 0.7, "thresholds": {"gren": 0.8}, "quiet": ["rde"], "threshold": 0.6}},
            zones={
                "pixels": [[10, 20], [30, 20], [30, 60]],
                "below": [[-0.1, 0.2], [0.3, 0.2], [0.3, 0.6]],
                "flat": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
                "bow": [[0, 0], [1, 1], [1, 0], [0, 1]],
                "two": [[0, 0], [1, 1]],
                "odd": [[0, 0], [1, 1, 0], [1, 0]],
                "word": "door",
                "empty": {"labels": ["red"]},
                "names": {"points": DOOR, "labels": ["rad"], "inertia": 0, "loitering_s": 0, "output": "object"},
                "more": {"points": DOOR, "labels": ["rad"], "innertia": 1},
            },
            lines={"long": DOOR, "dot": [[0.1, 0.1], [0.1, 0.1]]},
        )
    said = str(caught.value)
    for part in (
        "decisions.objects: 'objects' has boxes, which are followed",
        "write tracks.objects",
        "tracks.objcts: 'objcts' is no output of this model",
        "tracks.objects.hits: 0 boxes",
        "tracks.objects.release: 0.7 is above threshold 0.6",
        "tracks.objects.thresholds: 'gren' is no label of 'objects'",
        "tracks.objects.quiet: 'rde' is no label of 'objects'",
        "zones.pixels: [10, 20] is outside the picture",
        "divide x by the picture's width and y by its height",
        "zones.below: [-0.1, 0.2] is outside the picture",
        "zones.flat has no area",
        "zones.bow: its edges 1 and 3 cross",
        "zones.two: 2 points; a zone has at least three corners",
        "or it belongs under lines",
        "zones.odd: [1, 1, 0] is no point",
        "zones.word is not a mapping",
        "zones.empty: 'points' is missing",
        "zones.names.inertia: 0 pictures",
        "zones.names.loitering_s: 0 is not a number above 0",
        "zones.names: 'object' is no output of this model",
        "zones.more: unknown key 'innertia'",
        "did you mean 'inertia'?",
        "lines.long: 4 points; a line has two points",
        "lines.dot: both points are [0.1, 0.1]",
    ):
        assert part in said, part


def test_a_label_that_no_box_has_is_named():
    with pytest.raises(RunError, match=r"zones.door.labels: 'rad' is no label of 'objects'") as caught:
        parse(zones={"door": {"points": DOOR, "labels": ["rad"]}})
    assert "did you mean 'red'?" in str(caught.value)


def test_a_model_without_boxes_has_no_zones():
    plain = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {"image": {"modality": "image", "height": 8, "width": 8}},
            "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
        }
    )
    with pytest.raises(RunError, match=r"zones.door: this model finds no boxes"):
        run_yaml.parse({"sources": [{"stream": {"inputs": "image", "url": "rtsp://camera/live"}}], "zones": {"door": DOOR}}, plain)


def test_of_two_outputs_with_boxes_a_zone_says_whose_it_is():
    objects = {"task": "detection", "labels": ["red"], "frame": "image", "boxes": {"form": "xyxy"}}
    two = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {name: {"modality": "image", "height": 8, "width": 8} for name in ("image", "thermal")},
            "outputs": {"objects": objects, "hot": {**objects, "frame": "thermal"}},
        }
    )
    sources = [{"stream": {"inputs": ["image", "thermal"], "url": "rtsp://camera/live"}}]
    with pytest.raises(RunError, match=r"zones.door: 'output' is missing") as caught:
        run_yaml.parse({"sources": sources, "zones": {"door": DOOR}}, two)
    assert "objects, hot have boxes" in str(caught.value)
    made = run_yaml.parse({"sources": sources, "zones": {"door": {"points": DOOR, "output": "hot"}}}, two)
    assert made.zones["door"].output == "hot"


def test_tracks_last_from_one_picture_to_the_next():
    assert parse(decide_hz=0.5).lost_s("objects", "image") == 6.0
    with pytest.raises(RunError, match=r"tracks.objects.lost_s: 1 s is too short") as caught:
        parse(decide_hz=1.5, tracks={"objects": {"lost_s": 1}})
    assert "write at least 1.3, or raise decide_hz" in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("threshold", 1.5), ("release", -0.1), ("thresholds", {"red": 2.0})])
def test_scores_are_from_0_to_1(key, value):
    with pytest.raises(RunError, match="is outside 0 to 1"):
        parse(tracks={"objects": {key: value}})


def test_labels_are_words_whatever_they_look_like(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "sources: [{stream: {inputs: image, url: 'rtsp://c/live'}}]\n"
        "tracks: {objects: {quiet: [no]}}\nzones: {on: {points: [[0, 0], [1, 0], [1, 1]], labels: [off, 7]}}\n"
    )
    objects = {"task": "detection", "labels": ["no", "off", "7"], "frame": "image", "boxes": {"form": "xyxy"}}
    inputs = {"image": {"modality": "image", "height": 8, "width": 8}}
    made = run_yaml.load(path, cards.parse({"model": "m.onnx", "inputs": inputs, "outputs": {"objects": objects}}))
    assert (made.tracks["objects"].quiet, made.zones["on"].labels) == (["no"], ["off", "7"])
