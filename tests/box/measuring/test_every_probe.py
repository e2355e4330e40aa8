"""What holds for every probe: plain samples out of a round, measurements with units out of the samples."""

import json

import numpy as np
import pytest

from edgemm.box.measuring.answers import NpyWriter, read_files, score
from edgemm.contracts import plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Output
from edgemm.contracts.probe import CALLS, ROWS, Probe, watching
from edgemm.contracts.report import Measurement
from edgemm.errors import MeasureError

KIND = Output("kind", "classification", {"labels": ("a", "b", "c")})


@pytest.fixture(params=plugins.names("probes"))
def probe(request, tmp_path) -> Probe:
    made = plugins.find(Probe, request.param)
    return made(folder=tmp_path) if request.param in watching(ROWS) else made()


def watch(probe: Probe, calls: int = 5):
    probe.start()
    for number in range(calls):
        probe.observe({"kind": np.full((1, 3), number, np.float32)}, {"kind": np.array([number % 3])})
    return probe.stop()


def test_its_samples_are_plain_values(probe):
    samples = watch(probe)
    assert json.loads(json.dumps(samples)) == samples


def test_a_round_starts_anew(probe):
    first, second = watch(probe, 3), watch(probe, 2)
    assert type(first) is type(second)
    if isinstance(first, list):
        assert len(second) <= len(first)


def test_its_measurements_have_a_name_a_unit_and_a_direction(probe):
    if isinstance(probe, plugins.find(Probe, "accuracy")):
        samples = [({"kind": KIND}, Answers({"kind": np.eye(3)}, {"kind": np.arange(3)}), {})]
    else:
        samples = [watch(probe), watch(probe)]
    found = probe.summarise(samples)
    assert found or samples == [None, None], "None is what a probe without a sensor shows"
    assert all(isinstance(m, Measurement) and m.name and m.unit and m.better in ("lower", "higher") for m in found)


def test_accuracy_writes_what_it_observed(tmp_path):
    assert watch(plugins.find(Probe, "accuracy")(folder=tmp_path), 5) == ["kind", "label:kind"]
    answers = read_files(tmp_path)
    np.testing.assert_array_equal(answers.predictions["kind"], np.repeat(np.arange(5.0), 3).reshape(5, 3))
    np.testing.assert_array_equal(answers.truth["kind"], np.arange(5) % 3)


def test_a_probe_watches_calls_unless_its_file_says_otherwise(tmp_path, monkeypatch):
    assert watching(ROWS) == ["accuracy"]
    assert set(watching(CALLS)) == {*plugins.names("probes")} - {"accuracy"}
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "warmth.py").write_text("class Warmth: ...\n")
    monkeypatch.setenv("EDGEMM_PLUGINS", str(tmp_path))
    assert "warmth" in watching(CALLS)


def test_a_growing_file_holds_many_rows_and_any_row_count(tmp_path):
    for rows in (1, 9, 10, 999, 12345):
        writer = NpyWriter(tmp_path / "n.npy")
        for start in range(0, rows, 100):
            writer.append(np.arange(start, min(rows, start + 100)))
        writer.close()
        np.testing.assert_array_equal(np.load(tmp_path / "n.npy"), np.arange(rows))


def test_rows_of_different_shapes_are_refused(tmp_path):
    writer = NpyWriter(tmp_path / "kind.npy")
    writer.append(np.zeros((1, 3)))
    with pytest.raises(MeasureError, match=r"'kind' changes its shape from row to row(?s:.)*first \(3,\) float64, then \(4,\)"):
        writer.append(np.zeros((1, 4)))
    writer.close()


def test_accuracy_and_what_was_lost_come_per_output():
    truth = np.arange(30) % 3
    right = np.eye(3)[truth]
    wrong = right.copy()
    wrong[:3] = np.roll(right[:3], 1, axis=1)
    found = {m.name: m for m in score({"kind": KIND}, Answers({"kind": wrong}, {"kind": truth}), {"kind": right})}
    assert found["accuracy"].value == pytest.approx(0.9)
    assert found["accuracy_drop_points"].value == pytest.approx(10.0)
    assert found["accuracy"].output == found["accuracy_drop_points"].output == "kind"


def test_embeddings_are_scored_by_the_pair_they_find():
    rng = np.random.default_rng(0)
    image, text = Output("image", "embedding", {"pair": "text"}), Output("text", "embedding", {"pair": "image"})
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    broken = vectors.copy()
    broken[:5] = vectors[5:10]
    answers, before = Answers({"image": broken, "text": vectors}), {"image": vectors, "text": vectors}
    found = {(m.name, m.output): m.value for m in score({"image": image, "text": text}, answers, before)}
    assert found["recall_at_1", "image"] == pytest.approx(0.75)
    assert found["accuracy_drop_points", "image"] == pytest.approx(25.0)
