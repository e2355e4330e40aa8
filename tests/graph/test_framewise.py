"""A branch in two: frames of real sounds and steps one by one, on the targets, give what the branch gives of the whole window."""

import numpy as np
import pytest
from onnx import helper

from edgemm.box.bundle.frames import Frames, trial
from edgemm.box.bundle.parts import FramewiseFiles
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.modality import modalities
from edgemm.contracts.target import Target
from edgemm.graph import files
from edgemm.graph.framewise import cuts, has_frames
from edgemm.graph.frontend import form_of, prepend, reform
from tests.onnx_models import model as onnx_model
from tests.places import PACKS

AUDIO = {"modality": "audio", "rate_hz": 16000, "seconds": 1.0}
FEATURES = {
    "log_mel": {"log_mel": {"mels": 8}},
    "long window": {"log_mel": {"mels": 8, "window_ms": 64, "hop_ms": 20}},
    "centred, normalized": {"log_mel": {"mels": 8, "center": True, "normalize": "clip", "hop_ms": 7}},
    "mfcc": {"mfcc": {"coefs": 8, "center": True, "power": 1.0}},
}


def card_of(**inputs):
    return cards.parse({"factory": "a:b", "inputs": inputs, "outputs": {"y": {"task": "embedding"}}})


def hears(card, bands=8):
    """A mean over all frames of what a layer makes of each three of them."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["audio", "kernel"], ["c"], "listen"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "last"], ["y"], "mean", keepdims=0),
    ]
    constants = {"kernel": rng.normal(0, 0.3, (4, bands, 3)).astype(np.float32), "last": np.array([2])}
    return prepend(onnx_model(nodes, {"audio": ["batch", bands, "frames"]}, {"y": ["batch", 4]}, constants), card)


@pytest.fixture(scope="module")
def rows():
    """Three seconds of real sound, one after the other."""
    if not (PACKS / "media_samples").is_dir():
        pytest.skip(f"no real sounds in {PACKS} (set EDGEMM_DATA)")
    part = modalities(card_of(audio=AUDIO))["audio"]
    return np.stack([part.decode(f"{name}.wav", PACKS / "media_samples") for name in ("av_dog", "av_car", "word_yes_1s")])


def opened(target, model, parts, folder):
    """The branch as a whole and in two parts."""
    plugin = plugins.load(Target, target)
    block, rest = (part and files.save(part, folder / f"{name}.onnx") for name, part in (("block", parts.block), ("rest", parts.rest)))
    at = FramewiseFiles(block, rest, parts.frames, parts.hop, parts.window, parts.pad, parts.at_once, parts.axis)
    return plugin.open(files.save(model, folder / "whole.onnx"), threads=1), Frames(at, lambda path: plugin.open(path, threads=1))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("form", ["dense", "factorized"])
@pytest.mark.parametrize("features", FEATURES)
def test_of_a_sliding_window_only_new_frames_are_computed_and_nothing_changes(rows, tmp_path, features, form, target):
    pytest.importorskip(target)
    card = card_of(audio=AUDIO | {"features": FEATURES[features]})
    if form not in modalities(card)["audio"].frontend_forms():
        pytest.skip("this transform has no such form")
    model = reform(hears(card), card, {"audio": form})
    assert (has_frames(card, "audio"), form_of(model, card, "audio")) == (True, form)
    parts = next(iter(cuts(model, card, "audio", rows[:1])))
    whole, frames = opened(target, model, parts, tmp_path)
    with whole:
        tried = trial(frames, lambda window: whole.run({"audio": window}), rows, step=parts.at_once // 2)
    assert tried.off <= tried.allowed
    windows = (frames.computed + frames.kept) // parts.frames
    assert frames.kept > 0.6 * (windows - 1) * parts.frames
    frames.close()


def test_every_place_of_a_cut_computes_the_same(rows, tmp_path):
    card = card_of(audio=AUDIO | {"features": FEATURES["mfcc"]})
    model = hears(card)
    places = list(cuts(model, card, "audio", rows[:1]))
    assert len({parts.block.graph.output[0].name for parts in places}) == 3, "behind the cosines, the logarithm and the bands"
    for parts in places:
        whole, frames = opened("onnxruntime", model, parts, tmp_path)
        with whole:
            assert trial(frames, lambda window, whole=whole: whole.run({"audio": window}), rows, step=7).off < 1e-5
        frames.close()


def test_windows_that_are_divided_by_their_peak_are_computed_anew(rows):
    card = card_of(audio=AUDIO | {"features": {"log_mel": {"mels": 8, "normalize": "peak"}}})
    assert list(cuts(hears(card), card, "audio", rows[:1])) == ["its front-end looks at the whole window"]


def test_a_front_end_that_somebody_changed_is_left_whole(rows):
    card = card_of(audio=AUDIO | {"features": FEATURES["log_mel"]})
    model = hears(card)
    model.graph.node[0].name = "another"
    assert list(cuts(model, card, "audio", rows[:1])) == ["its front-end is not the card's any more"]


def sees(joined):
    """Three pictures, each to four numbers, joined over the steps by the nodes ``joined``."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["clips", "rows"], ["pictures"], "fold"),
        helper.make_node("Conv", ["pictures", "kernel"], ["c"], "look", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "places"], ["seen"], "pool", keepdims=0),
        *joined,
    ]
    constants = {
        "rows": np.array([-1, 3, 8, 8]),
        "kernel": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "places": np.array([2, 3]),
        "steps": np.array([-1, 3, 4]),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    return onnx_model(nodes, {"clips": ["batch", 3, 3, 8, 8]}, {"y": ["batch", 4]}, constants)


CLIPS = {"modality": "image", "height": 8, "width": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "steps": 3}
UNFOLD = helper.make_node("Reshape", ["seen", "steps"], ["apart"], "unfold")
JOINT = [UNFOLD, helper.make_node("ReduceMean", ["apart", "second"], ["y"], "join", keepdims=0)]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_step_is_encoded_once_and_the_joint_reads_all_of_them(tmp_path, target):
    pytest.importorskip(target)
    card = card_of(clips=CLIPS)
    model = prepend(sees(JOINT), card)
    clips = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8, 3)).astype(np.uint8)
    parts = next(iter(cuts(model, card, "clips", clips[:1])))
    assert [node.op_type for node in parts.rest.graph.node] == ["Reshape", "ReduceMean"]
    whole, frames = opened(target, model, parts, tmp_path)
    with whole:
        tried = trial(frames, lambda window: whole.run({"clips": window}), clips, step=1)
    assert tried.off <= tried.allowed
    assert frames.kept == 2 * (frames.computed - 3), "of three steps two were known, but in the first window"
    frames.close()


def test_steps_that_look_at_each_other_from_the_first_layer_on_are_encoded_anew():
    card = card_of(clips=CLIPS)
    mixed = helper.make_node("ReduceMean", ["frontend/clips/out", "second"], ["blurred"], "blur", keepdims=1)
    model = prepend(sees(JOINT), card)
    model.graph.node.insert(len(model.graph.node) - 6, mixed)
    model.graph.node[-6].input[0] = "blurred"
    clips = np.zeros((1, 3, 8, 8, 3), np.uint8)
    assert list(cuts(model, card, "clips", clips)) == ["what it makes of one step depends on the others"]


def test_what_several_steps_make_together_belongs_to_the_rest():
    card = card_of(clips=CLIPS)
    centred = [
        helper.make_node("ReduceMean", ["seen", "first"], ["mean"], "mean", keepdims=1),
        helper.make_node("Sub", ["seen", "mean"], ["rest"], "centre"),
        helper.make_node("Reshape", ["rest", "steps"], ["apart"], "unfold"),
        helper.make_node("ReduceMean", ["apart", "second"], ["y"], "join", keepdims=0),
    ]
    clips = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8, 3)).astype(np.uint8)
    parts = next(iter(cuts(prepend(sees(centred), card), card, "clips", clips)))
    assert [node.op_type for node in parts.rest.graph.node] == ["ReduceMean", "Sub", "Reshape", "ReduceMean"]
