"""`edgemm fuse`: models that were trained apart under one card, which compresses and runs as any other."""

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.model import open_model
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.cli import main
from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.errors import CardError, DataError, Mistakes, OutputError
from edgemm.verbs.fuse import fuse
from edgemm.workshop.models.checkpoint.loading import load_model

MODEL = """
import torch
from torch import nn


class Sense(nn.Module):
    def __init__(self, kind, classes):
        super().__init__()
        flat = kind == "ear"
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if flat else (nn.Conv2d, nn.BatchNorm2d)
        first = 20 if flat else 3
        self.body = nn.Sequential(
            conv(first, 16, 3, 2, 1), norm(16), nn.ReLU(), conv(16, 32, 3, 2, 1), norm(32), nn.ReLU(), conv(32, 32, 3, 2, 1), nn.ReLU()
        )
        self.hidden, self.answer = nn.Linear(32, 24), nn.Linear(24, classes)

    def forward(self, x):
        return self.answer(torch.relu(self.hidden(self.body(x).flatten(2).amax(2))))


build = Sense
"""
EYE = """
factory: senses:build
kwargs: {kind: eye, classes: 5}
inputs:
  image: {modality: image, height: 32, width: 32, channels: 3, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
outputs:
  event: {task: classification, labels: [quiet, visitor, delivery, animal, intruder]}
"""
EAR = """
factory: senses:build
kwargs: {kind: ear, classes: 5}
inputs:
  audio: {modality: audio, rate_hz: 16000, seconds: 1.0, features: {log_mel: {mels: 20, window_ms: 32, hop_ms: 20}}}
outputs:
  event: {task: classification, labels: [quiet, visitor, delivery, animal, intruder]}
"""
TARGET = "targets: {openvino: {}}\nfor: size\n"
RECIPE = "steps:\n  - quantize: {calibration_samples: 24}\n" + TARGET
HEAD = ["event: yard.event, sound.event"]


@pytest.fixture(scope="module")
def senses(shared, porch) -> Path:
    """A folder with two trained models, ``eye`` and ``ear``."""

    def make(folder: Path) -> None:
        (folder / "senses.py").write_text(MODEL)
        for name, text in (("eye", EYE), ("ear", EAR)):
            (folder / f"{name}.yaml").write_text(text)
            edgemm.train(folder / f"{name}.yaml", porch, folder / name, epochs=12, batch_size=16, learning_rate=3e-3, device="cpu")

    return shared("senses", make)


@pytest.fixture(scope="module")
def in_torch(senses, porch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused") / "torch"
    return fuse([f"yard={senses}/eye", f"sound={senses}/ear/model.yaml"], heads=HEAD, data=porch, output=folder)


@pytest.fixture(scope="module")
def in_onnx(senses, porch, tmp_path_factory):
    """The picture's model as somebody's ONNX file with a softmax at its end and other words, the sound's as a card."""
    folder = tmp_path_factory.mktemp("foreign")
    edgemm.export(senses / "eye", output=folder)
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node.append(onnx.helper.make_node("Softmax", ["event"], ["chances"], "last", axis=-1))
    graph.graph.output[0].name = "chances"
    onnx.save(graph, folder / "yard.onnx")
    (folder / "model.yaml").write_text(
        EYE[EYE.index("inputs") :].replace("event:", "chances:").replace("visitor", "caller").replace("quiet", "nothing")
        + "model: yard.onnx\n"
    )
    (folder / "model.onnx").unlink()
    return fuse(
        [f"yard={folder}/yard.onnx", f"sound={senses}/ear"], heads=["event: yard.chances, sound"], data=porch, output=folder / "fused",
        labels=["visitor: caller", "quiet: yard.nothing"],
    )  # fmt: skip


def answers(card, data, split="test", **models):
    """Truth, and what each model answers to a split."""
    rows = list(open_dataset(data, card).batches(split, 60))
    truth = np.concatenate([batch.truth["event"] for batch in rows])
    with torch.no_grad():
        said = {
            name: np.concatenate([model({k: torch.from_numpy(v) for k, v in b.inputs.items()})["event"].numpy() for b in rows])
            for name, model in models.items()
        }
    return truth, said


def test_members_become_one_torch_card_with_a_joint_for_every_subset(in_torch, senses, porch):
    card = cards.load(in_torch.card)
    assert card.factory == "members:late"
    assert list(card.inputs) == ["image", "audio"]
    assert list(card.joint.heads["event"].rules) == ["yard", "sound", "yard+sound"]
    assert card.joint.members == {"yard": ("image",), "sound": ("audio",)}
    whole, eye, ear = (load_model(cards.load(place)) for place in (in_torch.card, senses / "eye", senses / "ear"))
    truth, said = answers(card, porch, whole=whole)
    for name, model in (("eye", eye), ("ear", ear)):
        said |= answers(card, porch, **{name: model})[1]
    accuracy = {name: (value.argmax(1) == truth).mean() for name, value in said.items()}
    assert accuracy["whole"] >= max(accuracy["eye"], accuracy["ear"])
    reported = {m.candidate: m.value for m in in_torch.report.measurements}
    assert reported == pytest.approx({"yard": accuracy["eye"], "sound": accuracy["ear"], "yard+sound": accuracy["whole"]})


def test_the_report_shows_calibration_before_and_after(in_torch):
    forms = [row.form for row in in_torch.report.details.calibration]
    assert forms == ["yard, as it comes", "yard", "sound, as it comes", "sound", "yard+sound"]
    page = (in_torch.folder / "report.html").read_text()
    assert "Calibration" in page
    assert "ECE" in page
    assert all(0 <= row.known.ece <= 1 and sum(n for _, _, n in row.known.points) == 60 for row in in_torch.report.details.calibration)


def test_a_foreign_file_with_chances_and_other_words_joins_to_the_same_answers(in_onnx, in_torch):
    card = cards.load(in_onnx.card)
    assert card.model == "fused.onnx"
    assert card.joint.heads["event"].chances == ("yard",)
    assert set(card.outputs["event"].labels) == {"quiet", "visitor", "delivery", "animal", "intruder"}
    said, same = ({m.candidate: m.value for m in one.report.measurements} for one in (in_onnx, in_torch))
    assert said["yard"] == pytest.approx(same["yard"])
    assert said["sound"] == pytest.approx(same["sound"])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "int8.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("which", [pytest.param("in_torch", marks=pytest.mark.slow), "in_onnx"])
def test_it_compresses_and_without_a_member_its_bundle_answers_as_the_other_alone(which, request, recipe, porch, tmp_path):
    fused = request.getfixturevalue(which)
    done = edgemm.compress(fused.card, recipe=recipe, data=porch, output=tmp_path / "bundle")
    assert "recalibrate openvino" in [*done.made, *done.reused]
    assert edgemm.verify(tmp_path / "bundle").ok
    values = {(m.subject, m.modalities): m.value for m in done.report.measurements if m.name == "accuracy" and m.modalities}
    alone = {m.candidate: m.value for m in fused.report.measurements}
    assert values["original", ("image",)] == pytest.approx(alone["yard"])
    assert values["original", ("audio",)] == pytest.approx(alone["sound"])
    assert values["original", ("image", "audio")] == pytest.approx(alone["yard+sound"])
    assert values["bundle", ("image",)] >= alone["yard"] - 0.1
    forms = {row.form for row in done.report.details.calibration}
    assert {"yard, before", "yard+sound, before", "yard, openvino int8", "sound, openvino int8", "yard+sound, openvino int8"} <= forms
    quantized = onnx.load(tmp_path / "bundle" / "targets" / "openvino" / "model.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    with open_model(open_bundle(tmp_path / "bundle"), "openvino") as model:
        rng = np.random.default_rng(0)
        heard = model.embed("audio", rng.normal(0, 0.1, (1, 16000)).astype(np.float32))
        seen = model.embed("image", rng.integers(0, 256, (1, 32, 32, 3), np.uint8))
        both, ear = model.answer({"image": seen, "audio": heard})["event"], model.answer({"audio": heard})["event"]
    assert np.isfinite(both).all()
    assert ear.argmax() == next(iter(heard.values())).argmax()


def test_a_fused_bundle_has_gates_and_runs_through_them(in_onnx, porch, tmp_path):
    """What was never trained together answers without a member by the joint of the others, and that is what decides."""
    (tmp_path / "gated.yaml").write_text(RECIPE + "tune: false\ngates: [{run: audio, after: image, loss_points: 30}]\n")
    edgemm.compress(in_onnx.card, recipe=tmp_path / "gated.yaml", data=porch, output=tmp_path / "bundle")
    opened = open_bundle(tmp_path / "bundle")
    (gate,) = opened.gates("openvino")
    assert (gate.run, gate.after, gate.rows, gate.next_rows) == ("audio", ("image",), 24, 24)
    assert 0 < gate.skipped <= 1
    summaries, decisions = zip(*(_played(opened, porch, use=use) for use in (True, False)), strict=True)
    skipped, passed = summaries[0].skipped["audio"]
    assert skipped > 0
    assert (skipped + passed, passed) == (summaries[1].ran["audio"], summaries[0].ran["audio"])
    assert not summaries[1].skipped
    pairs = itertools.pairwise(decisions[0])
    picture, one = next((before, one) for before, one in pairs if one.skipped == ("audio",) and "image" in before.samples)
    assert (one.voted, one.stood_in) == (("image",), ())
    with open_model(opened, "openvino") as model:
        alone = model.answer({"image": model.embed("image", picture.samples["image"].array)})["event"][0]
    scores = one.readings["event"].scores
    assert max(scores, key=scores.__getitem__) == opened.card.outputs["event"].labels[alone.argmax()]


def _played(opened, folder, *, use):
    """The summary of a run, and its decisions."""
    source = {"folder": {"inputs": ["image", "audio"], "path": str(folder)}}
    runner = Runner(opened, parse({"gates": {"use": use, "shadow": 0}, "sources": [source]}, opened.card), fast=True)
    decisions = []
    runner.on_decision.append(decisions.append)
    return runner.run(threading.Event()), decisions


@pytest.mark.slow
def test_torch_members_are_pruned_and_taught_by_the_joint(in_torch, porch, tmp_path):
    recipe = tmp_path / "prune.yaml"
    recipe.write_text("steps:\n  - prune: {ratio: 0.3}\n  - distill: {steps: 8}\n  - quantize: {calibration_samples: 24}\n" + TARGET)
    done = edgemm.compress(in_torch.card, recipe=recipe, data=porch, output=tmp_path / "bundle", checkpoint=tmp_path / "small")
    before, after = load_model(cards.load(in_torch.card)), load_model(cards.load(tmp_path / "small"))
    sizes = [sum(p.numel() for p in model.module.members["yard"].parameters()) for model in (before, after)]
    assert sizes[1] < 0.9 * sizes[0]
    assert after.card.joint == before.card.joint
    assert done.bundle.is_dir()


def test_a_rule_is_asked_for_on_the_command_line(senses, porch, tmp_path, capsys):
    command = ["fuse", f"yard={senses}/eye", f"sound={senses}/ear", "--head", HEAD[0], "-d", str(porch), "-o", str(tmp_path / "fused"),
               "--rule", "event: max", "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "fused")
    assert cards.load(tmp_path / "fused").joint.heads["event"].rules["yard+sound"] == "max"


def test_what_cannot_be_fused_is_told_before_work(senses, porch, tmp_path):
    pair = [f"yard={senses}/eye", f"sound={senses}/ear"]
    with pytest.raises((CardError, Mistakes), match=r"no model card at"):
        fuse(["yard=nowhere.yaml", pair[1]], heads=HEAD, data=porch, output=tmp_path / "a")
    with pytest.raises((DataError, Mistakes, CardError), match=r"situation"):
        fuse(pair, heads=["situation: yard, sound"], data=porch, output=tmp_path / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match=r"holds 'thesis.tex', which no fusion wrote"):
        fuse(pair, heads=HEAD, data=porch, output=tmp_path / "mine")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
