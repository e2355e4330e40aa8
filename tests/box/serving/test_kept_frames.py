"""A stream whose frames and steps are kept: the decisions are those of windows computed anew, on a real recording, over gaps and jumps."""

import dataclasses
import shutil
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.packing import TargetOptions, pack
from edgemm.box.bundle.proving import verify
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.model import open_model
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.settings import Settings
from edgemm.box.serving.web import _Metrics
from edgemm.box.serving.windows import Windows
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.modality import modalities
from edgemm.contracts.report import Report
from edgemm.contracts.source import Item
from edgemm.errors import RunError
from edgemm.pipeline import compiling, ledger, stages
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import start
from tests.onnx_models import model as onnx_model
from tests.places import PACKS

CARD = """
model: model.onnx
inputs:
  clips: {modality: image, height: 16, width: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], steps: 4}
  audio: {modality: audio, rate_hz: 16000, seconds: 2.0, features: {log_mel: {mels: 8, center: true, normalize: clip}}}
outputs:
  event: {task: classification, labels: [calm, talk, noise]}
"""
STREAM = [{"stream": {"inputs": ["clips", "audio"], "url": str(PACKS / "media_samples" / "clip_cartoon_30s_sound.webm")}}]
RATE_HZ = 16000


def _model():
    """Two branches of a convolution each; the one of pictures takes the mean over its steps."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["clips", "rows"], ["pictures"], "fold"),
        helper.make_node("Conv", ["pictures", "look"], ["seen_maps"], "see", strides=[2, 2]),
        helper.make_node("Relu", ["seen_maps"], ["seen_relu"], "see_relu"),
        helper.make_node("ReduceMean", ["seen_relu", "places"], ["seen_steps"], "see_mean", keepdims=0),
        helper.make_node("Reshape", ["seen_steps", "steps"], ["seen_apart"], "unfold"),
        helper.make_node("ReduceMean", ["seen_apart", "first"], ["seen"], "see_join", keepdims=0),
        helper.make_node("Conv", ["audio", "listen"], ["heard_maps"], "hear"),
        helper.make_node("Relu", ["heard_maps"], ["heard_relu"], "hear_relu"),
        helper.make_node("ReduceMean", ["heard_relu", "second"], ["heard"], "hear_mean", keepdims=0),
        helper.make_node("Concat", ["seen", "heard"], ["both"], "join", axis=1),
        helper.make_node("Gemm", ["both", "weight"], ["event"], "decide"),
    ]
    constants = {
        "rows": np.array([-1, 3, 16, 16]),
        "steps": np.array([-1, 4, 4]),
        "look": rng.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32),
        "listen": rng.normal(0, 0.5, (4, 8, 3)).astype(np.float32),
        "weight": rng.normal(0, 2, (8, 3)).astype(np.float32),
        "places": np.array([2, 3]),
        "first": np.array([1]),
        "second": np.array([2]),
    }
    inputs = {"clips": (TensorProto.FLOAT, ["batch", 4, 3, 16, 16]), "audio": ["batch", 8, "frames"]}
    return onnx.shape_inference.infer_shapes(onnx_model(nodes, inputs, {"event": ["batch", 3]}, constants))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    if not (PACKS / "media_samples").is_dir():
        pytest.skip(f"no real recordings in {PACKS} (set EDGEMM_DATA)")
    folder = tmp_path_factory.mktemp("kept")
    onnx.save(_model(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    rng, part = np.random.default_rng(1), modalities(start(folder / "model.yaml", None).card)["audio"]
    sounds = [part.decode(name, PACKS / "media_samples") for name in ("av_dog.wav", "av_car.wav", "av_bird.wav", "speech_jfk_11s.flac")]
    for split in ("train", "val", "test"):
        pictures = rng.integers(0, 256, (4, 4, 16, 16, 3)).astype(np.uint8)
        np.savez(folder / f"{split}.npz", clips=pictures, audio=np.stack(sounds), event=np.array([0, 1, 2, 0]))
    job = start(folder / "model.yaml", folder)
    exported = stages.export(job)
    compiled = [
        Compiled(exported, Deployment(name, exported.main, runtime_options=options), {}, [], [])
        for name, options in (("onnxruntime", {"threads": 1}), ("openvino", {"threads": 1, "precision": "f32"}))
    ]
    known = ledger.take(job, exported, job, exported, compiled)
    files = {"model.onnx": exported.main, **known.files, **{f"targets/{one.target}/model.onnx": one.model.main for one in compiled}}
    pack(
        folder / "bundle",
        card=job.card,
        files=files,
        report=Report({"device": "a box"}),
        golden=compiling.golden(job, exported, compiled),
        provenance={"recipe": "by hand"},
        accuracy={},
        options={one.target: TargetOptions(safe=dict(one.deployment.runtime_options)) for one in compiled},
    )
    return folder / "bundle"


def play(bundle, **settings):
    """A run on the recording: its decisions, and the runner."""
    opened = open_bundle(bundle)
    runner = Runner(opened, parse({"sources": STREAM, **settings}, opened.card), fast=True)
    decisions = []
    runner.on_decision.append(decisions.append)
    runner.run(threading.Event(), seconds=9.0)
    return decisions, runner


def switched(decision):
    return [(change.label, change.is_on, change.is_event) for change in decision.changes]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_recording_is_decided_on_as_without_kept_frames(bundle, target):
    pytest.importorskip(target)
    (kept, runner), (anew, without) = (play(bundle, target=target, reuse=reuse) for reuse in ("on", "off"))
    assert len(kept) == len(anew) >= 30
    for one, other in zip(kept, anew, strict=True):
        assert (one.at_s, one.voted, switched(one)) == (other.at_s, other.voted, switched(other))
        assert one.readings["event"].scores == pytest.approx(other.readings["event"].scores, abs=1e-6)
    frames = runner.summary().frames
    assert set(frames) == {"clips", "audio"}
    assert without.summary().frames == {}
    assert without.status()["inputs"]["audio"]["frames_anew"] == "reuse is off"
    for name, (computed, before) in frames.items():
        assert before > 2 * computed, name
    assert f"audio: {frames['audio'][0]} frames computed, {frames['audio'][1]} kept" in str(runner.summary())
    counted = {family.name: family.samples for family in _Metrics(runner.status()).collect()}
    assert {s.labels["input"]: s.value for s in counted["edgemm_frames_kept"]} == {name: kept for name, (_, kept) in frames.items()}


def test_frames_are_not_kept_over_a_gap_nor_over_a_jump_of_the_clock(bundle):
    opened, rng = open_bundle(bundle), np.random.default_rng(3)
    sounds = np.load(bundle.parent / "test.npz")["audio"]
    items = []
    for end_s, number in ((2.0, 0), (4.0, 1), (30.0, 2), (32.0, 3), (1.0, 0), (3.0, 1)):
        for index, piece in enumerate(np.split(sounds[number], 20)):
            at_s = end_s - 2.0 + (index + 1) / 10
            items.append(Item("audio", piece + rng.normal(0, 1e-3, piece.shape), at_s, discontinuity=end_s == 1.0 and index == 0))
    answers = {}
    for reuse in ("on", "off"):
        settings = parse({"sources": STREAM, "reuse": reuse, "inputs": {"audio": {"stale_s": 99}}}, opened.card)
        windows = Windows(opened.card, ["audio"])
        with open_model(opened, "onnxruntime", settings) as model:
            engine = Engine(model, windows, Decider(opened.card, settings.decisions), settings, opened.card)
            scores = []
            for number, item in enumerate(items):
                windows.offer(item, number / 10)
                sample = windows.take("audio", 1e9)
                if sample is not None:
                    scores.append(engine.model.embed("audio", sample.array, sample.position))
            answers[reuse] = scores
            assert bool(model.frames) == (reuse == "on")
    assert len(answers["on"]) == len(answers["off"]) == 3 * 21
    for one, other in zip(answers["on"], answers["off"], strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, atol=1e-5 * np.abs(value).max())


def test_windows_that_have_little_in_common_are_computed_as_a_whole(bundle):
    with open_model(open_bundle(bundle), "onnxruntime", Settings(reuse="on")) as model:
        window = np.zeros((1, 32000), np.float32)
        for position, computed in ((0, 224), (32000, 224), (32160, 448), (48480, 448), (48640, 576)):
            model.embed("audio", window, position)
            assert model.frames["audio"].computed == computed, position


def test_a_bundle_with_kept_frames_proves_itself_and_one_without_is_served_as_before(bundle, tmp_path):
    assert verify(bundle).ok
    opened = open_bundle(bundle)
    assert set(opened.split("openvino").framewise) == {"clips", "audio"}
    old = {name for name in opened.manifest["files"] if "framewise" not in name and "+" not in name}
    assert len(opened.manifest["files"]) - len(old) == 3 * 5
    shutil.copytree(bundle, tmp_path / "old")
    (tmp_path / "old" / "targets" / "onnxruntime" / "split" / "framewise.json").unlink()
    with open_model(dataclasses.replace(opened, folder=tmp_path / "old"), "onnxruntime", Settings(reuse="on")) as model:
        assert model.frames == {}


def test_reuse_is_a_word_of_three(bundle):
    card = open_bundle(bundle).card
    assert parse({"sources": STREAM}, card).reuse == "auto"
    with pytest.raises(RunError, match="reuse is 'sometimes'") as caught:
        parse({"sources": STREAM, "reuse": "sometimes"}, card)
    assert "write auto, on or off" in caught.value.fix
