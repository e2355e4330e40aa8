"""Candidates in processes of their own: interleaved, isolated, honest about what ran."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from edgemm.box.devices.power import open_meter
from edgemm.box.measuring.measurements import measurements, size_bytes
from edgemm.box.measuring.predict import Predictor
from edgemm.box.measuring.process import WorkerProcess
from edgemm.box.measuring.schedule import Candidate, time_candidates
from edgemm.contracts import card_file as cards
from edgemm.contracts import onnx_file
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.plain_values import plain
from edgemm.errors import DataError, MeasureError, TargetError
from edgemm.store.instructions import onednn_instructions

pytest.importorskip("onnxruntime")

FACTORY = """
import os, sys, torch

def build(how="loud"):
    print("hello from the factory")
    os.write(1, b"and straight to the file descriptor\\n")
    if how == "abort":
        print("last words of the factory", file=sys.stderr, flush=True)
        os.abort()
    return torch.nn.Linear(64, 3)
"""
CARD = """
factory: noisy:build
kwargs: {{how: {how}}}
inputs: {{x: {{modality: sensor, shape: [64], rate_hz: 10}}}}
outputs: {{kind: {{task: classification, labels: [a, b, c]}}}}
"""


def openvino(model, precision):
    return Deployment("openvino", model, runtime_options={"precision": precision})


def reference(name: str, artifact: Path, **facts: object) -> Candidate:
    return Candidate(name, "bundle", Deployment("onnxruntime", artifact, runtime_options={"threads": 1}), **facts)


@pytest.fixture
def card(tmp_path):
    (tmp_path / "noisy.py").write_text(FACTORY)
    (tmp_path / "model.yaml").write_text(CARD.format(how="loud"))
    return tmp_path / "model.yaml"


@pytest.fixture
def npz(tmp_path):
    """A dataset of 50 test rows for the layer."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 20), ("test", 50)):
        np.savez(folder / f"{split}.npz", x=rng.normal(size=(count, 64)).astype(np.float32), kind=rng.integers(0, 3, count))
    return folder


def children() -> dict[int, str]:
    """Worker processes of this process: pid -> command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "cmdline").read_text()
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() and "measuring.worker" in words:
            found[int(folder.name)] = words
    return found


def test_every_candidate_shows_all_it_was_asked_for(layer, feed):
    timings = time_candidates([reference("one", layer), reference("two", layer)], feed, rounds=5, calls=7, launches=2, seconds=5)
    for timing in timings.values():
        assert [len(samples) for samples in timing.samples_ms] == [7] * 5
        assert all(sample > 0 for samples in timing.samples_ms for sample in samples)
        assert len(timing.cold_start_ms) == 2
        assert min(timing.cold_start_ms) > timing.load_ms + timing.first_ms > 0
        assert 20 < timing.peak_rss_mib < 1000
        assert timing.precision_ran == "f32"
        assert [entry.kind for entry in timing.layers][:1] == ["MatMul"]
    assert children() == {}


def test_one_that_crashes_is_reported_and_the_rest_is_measured(layer, feed):
    def kill_the_second(text, share):
        if text.startswith("launched two"):
            os.kill(max(children()), signal.SIGKILL)

    timings = time_candidates(
        [reference("one", layer), reference("two", layer)], feed, rounds=5, calls=3, launches=1, progress=kill_the_second
    )
    assert len(timings["one"].samples_ms) == 5
    with pytest.raises(MeasureError, match=r"'two' crashed while it was measured \(signal 9\)"):
        timings["two"].require()


def test_one_that_hangs_is_ended_and_the_rest_is_measured(layer, feed):
    def stop_the_second(text, share):
        if text.startswith("launched two"):
            os.kill(max(children()), signal.SIGSTOP)

    timings = time_candidates(
        [reference("one", layer), reference("two", layer)], feed, rounds=5, calls=3, launches=1, limit_s=6, progress=stop_the_second
    )
    assert len(timings["one"].samples_ms) == 5
    with pytest.raises(MeasureError, match=r"'two' did not answer within 6 s"):
        timings["two"].require()
    assert children() == {}


def test_an_error_of_a_candidate_arrives_as_itself_with_its_name(layer, feed, tmp_path):
    timings = time_candidates([reference("one", layer), reference("gone", tmp_path / "gone.onnx")], feed, rounds=5, calls=3, launches=0)
    assert timings["one"].error is None
    with pytest.raises(TargetError, match=r"'gone': cannot read the model 'gone\.onnx'"):
        timings["gone"].require()


def test_candidates_need_different_names(layer, feed):
    with pytest.raises(MeasureError, match="two candidates have the same name"):
        time_candidates([reference("one", layer), reference("one", layer)], feed)


@pytest.mark.skipif("amx_bf16" not in onednn_instructions(), reason="only processors with AMX run float models in bf16 by default")
def test_a_row_labelled_f32_that_ran_bf16_is_impossible(layer, feed):
    pytest.importorskip("openvino")
    rows = [
        Candidate("lie", "float", openvino(layer, "default"), "f32"),
        Candidate("truth", "float", openvino(layer, "f32"), "f32"),
        Candidate("default", "default", openvino(layer, "default"), "default"),
    ]
    timings = time_candidates(rows, feed, rounds=5, calls=3, launches=0)
    with pytest.raises(MeasureError, match=r"'lie' was asked to run in f32 and ran bf16"):
        timings["lie"].require()
    assert timings["truth"].precision_ran == "f32"
    assert timings["default"].precision_ran == "bf16"


def test_slow_candidates_make_fewer_calls_within_their_time(layer, feed):
    timings = time_candidates([reference("one", layer)], feed, rounds=12, calls=100_000, seconds=0.2, launches=0)
    total_ms = sum(sum(samples) for samples in timings["one"].samples_ms)
    assert total_ms < 2000  # ten times the bound: other jobs may slow the calls after the warm-up


def test_a_round_of_a_very_slow_candidate_is_two_calls(layer, feed, monkeypatch):
    monkeypatch.setattr("edgemm.box.measuring.schedule.SLOW_MS", 0.0)
    timing = time_candidates([reference("one", layer)], feed, rounds=5, calls=40, seconds=1e-6, launches=2, cold=False)["one"]
    assert [len(samples) for samples in timing.samples_ms] == [2] * 5
    assert (timing.cold_start_ms, {*timing.launches}) == ((), {0, 1})


def test_the_measurements_say_what_they_are_about(layer, feed):
    row = reference("one", layer, precision_asked="f32", source="build/one")
    found = {m.name: m for m in measurements(row, time_candidates([row], feed, rounds=5, calls=5, launches=1)["one"])}
    assert {*found} == {
        "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_max_ms", "jitter_ms", "cpu_ms", "peak_rss_mib",
        "rss_mib", "unique_mib", "load_ms", "first_ms", "cold_start_ms", "size_mib", *(["energy_mj"] if open_meter()[0] else []),
    }  # fmt: skip
    assert found["unique_mib"].value <= found["rss_mib"].value <= found["peak_rss_mib"].value
    assert found["latency_p50_ms"].value <= found["latency_max_ms"].value
    assert found["latency_p50_ms"].low <= found["latency_p50_ms"].value <= found["latency_p50_ms"].high
    assert found["latency_p50_ms"].n == 25
    assert found["size_mib"].value == layer.stat().st_size / 2**20
    assert {(m.subject, m.candidate, m.target, m.precision_asked, m.precision_ran) for m in found.values()} == {
        ("bundle", "build/one", "onnxruntime", "f32", "f32")
    }


def test_a_model_card_runs_in_torch_and_what_its_code_prints_does_no_harm(card, feed):
    pytest.importorskip("torch")
    card.with_name("abort.yaml").write_text(CARD.format(how="abort"))
    rows = [Candidate(name, "original", Deployment("torch", card.with_name(f"{name}.yaml")), "f32") for name in ("model", "abort")]
    timings = time_candidates(rows, feed, rounds=5, calls=3, launches=0)
    assert timings["model"].precision_ran == "f32"
    assert len(timings["model"].samples_ms) == 5
    with pytest.raises(MeasureError, match=r"'abort' crashed while it was measured \(signal 6\)(?s:.)*last words of the factory"):
        timings["abort"].require()


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "torch"])
def test_a_worker_that_waits_uses_no_processor(layer, card, feed, tmp_path, target):
    pytest.importorskip(target)
    np.savez(tmp_path / "feed.npz", **feed)
    artifact = card if target == "torch" else layer
    with WorkerProcess("one") as worker:
        worker.ask(
            "open", limit_s=60, deployment=plain(Deployment(target, Path(artifact), runtime_options={"threads": 2})),
            feed=str(tmp_path / "feed.npz"), cpus=[],
        )  # fmt: skip
        worker.ask("warm", limit_s=60, seconds=0.2, probes=["latency"])
        worker.ask("round", limit_s=60, calls=50)
        time.sleep(0.1)
        before = cpu_seconds(worker.pid)
        time.sleep(0.5)
        assert cpu_seconds(worker.pid) - before <= 0.02


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_predictions_of_a_split_are_those_of_the_session_with_the_truth_beside(layer, npz, card):
    with Predictor() as predictor:
        answers = predictor.predict(reference("one", layer), npz, cards.load(card))
        predictions, truth = answers.predictions, answers.truth
    with np.load(npz / "test.npz") as rows:
        from edgemm.box.targets.onnxruntime import OnnxRuntime  # the runtime is optional

        with OnnxRuntime().open(layer) as session:
            expected = session.run({"x": rows["x"]})["kind"]
        np.testing.assert_allclose(predictions["kind"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(truth["kind"], rows["kind"])


def test_predictions_can_be_limited_to_the_first_rows(layer, npz, card):
    with Predictor() as predictor:
        answers = predictor.predict(reference("one", layer), npz, cards.load(card), limit=7)
        predictions, truth = answers.predictions, answers.truth
    assert (len(predictions["kind"]), len(truth["kind"])) == (7, 7)


def test_an_error_of_the_data_arrives_as_itself(layer, npz, card):
    (npz / "test.npz").unlink()
    with Predictor() as predictor, pytest.raises(DataError, match="'one': "):
        predictor.predict(reference("one", layer), npz, cards.load(card))


def test_candidates_of_one_target_share_a_process_and_what_it_decoded(layer, npz, card):
    parsed = cards.load(card)
    with Predictor() as predictor:
        first = predictor.predict(reference("one", layer), npz, parsed)
        worker = predictor._workers["onnxruntime"].pid
        (npz / "test.npz").unlink()  # what was decoded is still there
        again = predictor.predict(reference("two", layer), npz, parsed)
        assert predictor._workers["onnxruntime"].pid == worker
        np.testing.assert_array_equal(again.predictions["kind"], first.predictions["kind"])
        np.testing.assert_array_equal(again.truth["kind"], first.truth["kind"])
        with pytest.raises(DataError, match="'three': "):
            predictor.predict(reference("three", layer), npz / "elsewhere", parsed)
        assert not predictor._workers  # after an error the next one gets a fresh process
    assert not Path(f"/proc/{worker}").exists()


def test_the_size_of_an_onnx_file_counts_its_side_files(layer, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.load(layer), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert onnx_file.read(tmp_path / "m.onnx").external == {"w.bin"}
    assert size_bytes(tmp_path / "m.onnx") == sum(file.stat().st_size for file in tmp_path.iterdir())
