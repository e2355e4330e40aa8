"""The report page's section on boxes, of answers that were really counted."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from edgemm.box.devices.environment import environment
from edgemm.contracts.card_file import parse
from edgemm.contracts.report import Report, read
from edgemm.contracts.report_parts import Details
from edgemm.data.detected import detected
from edgemm.report.page import render
from tests.report.test_page import EVIL, Balance, text_of

CARD = {
    "factory": "own:build",
    "inputs": {"rgb": {"modality": "image", "height": 64, "width": 96}},
    "outputs": {
        "objects": {"task": "detection", "labels": ["person", "parcel", EVIL], "frame": "rgb"},
        "event": {"task": "classification", "labels": ["a", "b"]},
    },
}
ROWS, SIDE = 40, 12


def answers(error, seed=0):
    """Answers (rows, 4 + labels, places) to boxes of two labels, moved by ``error`` pixels, and one that lies on nothing."""
    rng = np.random.default_rng(seed)
    truth = np.full((ROWS, 100, 6), -1, np.float32)
    answered = np.zeros((ROWS, 7, 8), np.float32)
    answered[:, :4] = 5.0
    for row in range(ROWS):
        for label in range(2):
            x, y = rng.uniform(0, 30) + 40 * label, rng.uniform(0, 40)
            truth[row, label] = [label, x, y, x + SIDE, y + SIDE, 0]
            centre = np.array([x, y]) + SIDE / 2 + rng.normal(0, error, 2)
            answered[row, :4, label], answered[row, 4 + label, label] = [*centre, SIDE, SIDE], rng.uniform(0.5, 1)
        answered[row, :4, 2], answered[row, 4, 2] = [90, 60, 6, 6], rng.uniform(0.3, 0.8)
    return {"objects": answered}, truth


@pytest.fixture(scope="module")
def parts():
    card = parse(CARD)
    (before, truth), (after, _) = answers(0.5), answers(2.5)
    return detected(card, {"objects": truth, "event": np.zeros(ROWS, np.int64)}, before, after)


@pytest.fixture(scope="module")
def report(parts):
    return Report(environment({}), details=Details(detected=parts))


def test_only_outputs_that_find_boxes_are_told_and_only_where_they_were_answered(parts):
    assert list(parts) == ["objects"]
    _, truth = answers(0.5)
    assert detected(parse(CARD), {"objects": truth}, {}, {}) == {}
    alone = detected(parse(CARD), {"objects": truth}, {}, answers(0.5)[0])["objects"]
    assert alone.before is None
    assert alone.after.mistakes == parts["objects"].before.mistakes


def test_the_page_shows_curves_figures_and_mistakes_before_and_after(report, parts):
    page = render(report)
    words, found = text_of(page), parts["objects"]
    assert "Boxes found" in words
    was, now = found.before.labels[0], found.after.labels[0]
    assert was.ap > now.ap
    assert f"person {ROWS} {100 * was.ap:.1f} % → {100 * now.ap:.1f} %" in words
    for kind in ("right", "background", "missed", "loose box"):
        assert re.search(rf"{kind} [a-z,.0-9 ]+ {found.before.mistakes[kind]} {found.after.mistakes[kind]} ", words), kind
    assert found.after.mistakes["loose box"] > found.before.mistakes["loose box"]
    mean = np.mean([label.ap50 for label in found.after.labels[:2]])
    assert f"after AP50 {100 * mean:.1f} %" in words
    assert page.count('role="img"') == 3, "the mean, and the two labels that are there"


def test_words_from_outside_are_escaped(parts):
    report = Report({}, details=Details(detected={EVIL: parts["objects"], "b": parts["objects"]}))
    parsed = Balance()
    parsed.feed(render(report))
    assert "script" not in parsed.names
    assert parsed.open == []
    assert text_of(render(report)).count("Mean over labels") == 2


def test_a_report_keeps_it_and_reads_older_ones_that_have_none(report, tmp_path):
    report.save(tmp_path / "report.json")
    again = read(tmp_path / "report.json")
    assert render(again) == render(report)
    assert np.isnan(again.details.detected["objects"].after.labels[2].ap)
    plain = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    del plain["details"]["detected"]
    (tmp_path / "report.json").write_text(json.dumps(plain), encoding="utf-8")
    assert read(tmp_path / "report.json").details.detected == {}
    assert "Boxes found" not in text_of(render(read(tmp_path / "report.json")))


def test_training_alone_has_one_column(parts):
    alone = replace(parts["objects"], before=None)
    words = text_of(render(Report({}, details=Details(detected={"objects": alone}))))
    assert "Count" in words
    assert "→" not in words[words.index("Boxes found") :]


def test_of_many_labels_those_that_lost_the_most_are_drawn(parts):
    def many(form):
        person = form.labels[0]
        return replace(form, labels=[replace(person, label=f"thing {number:02d}", ap=person.ap - number / 100) for number in range(30)])

    form = parts["objects"].after
    before = replace(many(form), labels=[replace(label, ap=form.labels[0].ap) for label in many(form).labels])
    page = render(Report({}, details=Details(detected={"objects": replace(parts["objects"], before=before, after=many(form))})))
    words = text_of(page)
    assert "The 12 of 30 labels that lost the most" in words
    assert page.count('role="img"') == 13
    assert "<h3>thing 29</h3>" in page
    assert "<h3>thing 00</h3>" not in page
