"""Missing inputs: split files, stand-ins, the ledger before and after, and the bundle that carries them.

The model is written by hand: it adds up what it sees and hears, and so do the labels; a form of it whose hearing was cut off is what a
bad compression would leave.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.packing import pack
from edgemm.box.bundle.parts import Parts
from edgemm.box.bundle.proving import verify
from edgemm.box.measuring.answers import file_of
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Report
from edgemm.contracts.target import Target
from edgemm.contracts.task import of
from edgemm.errors import BundleError, MeasureError
from edgemm.pipeline import ledger, stages, standins
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import start
from edgemm.store.artifact import Artifact
from tests.graph import user_files
from tests.onnx_models import model as onnx_model

CARD = """
model: model.onnx
inputs:
  image: {modality: sensor, shape: [4], rate_hz: 1}
  audio: {modality: sensor, shape: [4], rate_hz: 1%s}
outputs:
  event: {task: classification, labels: [low, high]}
  level: {task: regression, unit: dB}
"""
RNG = np.random.default_rng(0)
EYE = RNG.normal(0, 1, (4, 3)).astype(np.float32)
EAR = RNG.normal(0, 1, (4, 3)).astype(np.float32)


def model(hearing=1.0):
    """level = sum of eye and ear; event = whether that is above zero."""
    weights = {"eye": EYE, "ear": EAR * np.float32(hearing), "pick": np.array([[-1, 1]] * 3, np.float32), "last": np.array([1])}
    nodes = [
        helper.make_node("MatMul", ["image", "eye"], ["seen"], name="see"),
        helper.make_node("MatMul", ["audio", "ear"], ["heard"], name="hear"),
        helper.make_node("Add", ["seen", "heard"], ["both"], name="fuse"),
        helper.make_node("MatMul", ["both", "pick"], ["event"], name="decide"),
        helper.make_node("ReduceSum", ["both", "last"], ["level"], name="measure"),
    ]
    outputs = {"event": ["batch", 2], "level": ["batch", 1]}
    return onnx_model(nodes, {"image": ["batch", 4], "audio": ["batch", 4]}, outputs, weights)


def rows(seed, count):
    rng = np.random.default_rng(seed)
    image, audio = rng.normal(0.3, 1, (count, 4)).astype(np.float32), rng.normal(-0.2, 1, (count, 4)).astype(np.float32)
    level = (image @ EYE + audio @ EAR).sum(axis=1)
    return {"image": image, "audio": audio, "event": (level > 0).astype(np.int64), "level": level.astype(np.float32)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    for seed, (split, count) in enumerate({"train": 120, "val": 20, "test": 90}.items()):
        np.savez(folder / f"{split}.npz", **rows(seed, count))
    return folder


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    """``job(hearing)``: a run on that form of the model, and its float graph."""

    def made_of(hearing=1.0, audio="", at=data):
        folder = tmp_path_factory.mktemp("card")
        onnx.save(model(hearing), folder / "model.onnx")
        (folder / "model.yaml").write_text(CARD % audio)
        made = start(folder / "model.yaml", at)
        return made, stages.export(made)

    return made_of


def compiled(exported):
    return Compiled(exported, Deployment("onnxruntime", exported.main, runtime_options={"threads": 1}), {}, [], [])


@pytest.fixture(scope="module")
def unchanged(job):
    """The ledger of a compression that changed nothing."""
    run, exported = job()
    return run, exported, ledger.take(run, exported, run, exported, [compiled(exported)])


def found(taken, **where):
    return [m for m in taken.measurements if all(getattr(m, key) == value for key, value in where.items())]


def test_a_stand_in_is_the_mean_of_what_the_branch_makes_of_the_training_data(job, data):
    run, exported = job()
    means = standins.load(standins.measure(run, exported))
    train = np.load(data / "train.npz")
    assert set(means) == {"seen", "heard"}
    np.testing.assert_allclose(means["seen"], (train["image"] @ EYE).mean(axis=0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(means["heard"], (train["audio"] @ EAR).mean(axis=0, keepdims=True), atol=1e-6)
    assert means["seen"].dtype == np.float32


def test_rows_that_lack_an_optional_input_do_not_count_for_its_stand_in(job, tmp_path):
    (tmp_path / "manifest.jsonl").write_text(
        "".join(
            json.dumps({"split": "train", "image": [1.0, 0, 0, 0], "audio": audio, "event": "low", "level": 0.0}) + "\n"
            for audio in ([2.0, 0, 0, 0], None, [4.0, 0, 0, 0])
        )
    )
    run, exported = job(audio=", optional: true", at=tmp_path)
    means = standins.load(standins.measure(run, exported))
    np.testing.assert_allclose(means["heard"], 3.0 * EAR[:1], rtol=1e-5)
    np.testing.assert_allclose(means["seen"], EYE[:1], rtol=1e-5)


def test_the_parts_answer_what_the_whole_does_and_replace_what_is_missing(job, data):
    run, exported = job()
    files = splits.read(standins.in_parts(run, exported).folder)
    means = standins.load(standins.measure(run, exported))
    test = np.load(data / "test.npz")
    feed = {name: test[name][:1] for name in ("image", "audio")}
    runtime = plugins.load(Target, "onnxruntime")
    with Parts(files, runtime.open) as parts, runtime.open(exported.main) as whole:
        embedded = {name: parts.embed(name, feed) for name in files.inputs}
        for name, value in whole.run(feed).items():
            np.testing.assert_allclose(parts.answer(embedded, means, {})[name], value, atol=1e-5)
        deaf = parts.answer({"image": embedded["image"]}, means, {})
        assert parts.precision() == "f32"
    np.testing.assert_allclose(deaf["level"], (feed["image"] @ EYE + means["heard"]).sum(axis=1, keepdims=True), atol=1e-5)


def test_the_whole_set_scores_what_the_plain_model_scores_and_every_subset_is_there(unchanged, data):
    run, exported, taken = unchanged
    test = np.load(data / "test.npz")
    with plugins.load(Target, "onnxruntime").open(exported.main) as session:
        answers = session.run({name: test[name] for name in ("image", "audio")})
    for output in ("event", "level"):
        plain = of(run.card.outputs[output]).measure(answers, test[output]).score()
        for subject in ("original", "bundle"):
            (whole,) = found(taken, subject=subject, output=output, modalities=("image", "audio"))
            assert (whole.name, whole.n) == (plain.name, 90)
            assert [whole.value, whole.low, whole.high] == pytest.approx([plain.value, plain.low, plain.high], abs=1e-6)
    assert {m.modalities for m in taken.measurements} == {("image", "audio"), ("image",), ("audio",)}
    assert found(taken, subject="bundle")[0].target == "onnxruntime"
    assert found(taken, subject="bundle")[0].precision_ran == "f32"


def test_a_missing_input_costs_what_its_stand_in_leaves_out(unchanged, data):
    _, _, taken = unchanged
    test, means = np.load(data / "test.npz"), np.load(data / "train.npz")
    level = (test["image"] @ EYE + (means["audio"] @ EAR).mean(axis=0)).sum(axis=1)
    (alone,) = found(taken, subject="bundle", output="level", modalities=("image",))
    assert alone.value == pytest.approx(np.abs(level - test["level"]).mean(), rel=1e-5)
    (row,) = [row for row in taken.details.contributions if (row.input, row.output) == ("audio", "level")]
    assert row.before.value == pytest.approx(alone.value, rel=1e-4), "mae without it, minus a mae of zero"
    assert row.unit == "dB"


def test_a_compression_that_changes_nothing_changes_no_contribution_and_warns_of_nothing(unchanged):
    _, _, taken = unchanged
    assert taken.warnings == []
    assert [row.change.value for row in taken.details.contributions] == [0.0] * 4
    assert taken.details.rows == taken.details.of == 90


def test_a_compression_that_cuts_off_the_hearing_is_warned_of_by_name(job):
    run, exported = job()
    after, deaf = job(0.0)
    taken = ledger.take(run, exported, after, deaf, [compiled(deaf)])
    assert len(taken.warnings) == 2
    assert taken.warnings[0].startswith("onnxruntime: compression made the model stop listening to 'audio': it added ")
    assert taken.warnings[0].endswith(" points to 'event', now 0 points.")
    assert "dB to 'level', now 0 dB." in taken.warnings[1]
    assert {row.input for row in taken.details.contributions if row.deaf} == {"audio"}


def test_hearing_a_little_worse_is_no_warning(job):
    run, exported = job()
    after, duller = job(0.8)
    assert ledger.take(run, exported, after, duller, [compiled(duller)]).warnings == []


def test_of_a_larger_test_split_a_seeded_choice_is_measured_and_the_details_say_so(job, monkeypatch):
    run, exported = job()
    monkeypatch.setattr(ledger, "ROWS", 40)
    monkeypatch.setattr(standins, "LEAST_ROWS", 10)
    taken = ledger.take(run, exported, run, exported, [compiled(exported)])
    assert (taken.details.rows, taken.details.of) == (40, 90)
    assert {m.n for m in taken.measurements} == {40}
    assert [row.change.value for row in taken.details.contributions] == [0.0] * 4, "the same rows before and after"


def test_a_target_whose_graph_has_other_cuts_gets_stand_ins_of_its_own(job, packed, tmp_path):
    run, exported = job()
    renamed = onnx.load(exported.main)
    for node in renamed.graph.node:
        node.input[:] = [name.replace("heard", "sound") for name in node.input]
        node.output[:] = [name.replace("heard", "sound") for name in node.output]
    onnx.save(renamed, tmp_path / "model.onnx")
    taken = ledger.take(run, exported, run, exported, [compiled(Artifact(tmp_path / "model.onnx"))])
    assert [row.change.value for row in taken.details.contributions] == [0.0] * 4
    opened = open_bundle(packed(files={"model.onnx": exported.main, "targets/onnxruntime/model.onnx": exported.main, **taken.files}))
    assert set(opened.standins()) == {"seen", "heard"}
    assert set(opened.standins("onnxruntime")) == {"seen", "sound"}


def test_an_input_that_compression_made_useless_is_warned_of_too(job, tmp_path):
    run, exported = job()
    blind = onnx.load(exported.main)
    del blind.graph.node[[node.name for node in blind.graph.node].index("hear")]
    blind.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.float32), "heard"))
    onnx.save(blind, tmp_path / "model.onnx")
    taken = ledger.take(run, exported, run, exported, [compiled(Artifact(tmp_path / "model.onnx"))])
    assert len(taken.warnings) == 2
    assert all("stop listening to 'audio'" in warning for warning in taken.warnings)


def test_a_large_model_is_run_on_fewer_rows():
    assert standins.rows_for(10**6) == standins.ROWS
    assert standins.rows_for(7 * 10**9) == 714
    assert standins.rows_for(10**12) == standins.LEAST_ROWS


def test_a_target_that_cannot_run_here_is_measured_in_its_stand_in_and_labelled_so(job):
    target = plugins.load(Target, "tensorrt")
    if not target.cannot_run():
        pytest.skip("TensorRT runs here")
    run, exported = job()
    part = Compiled(exported, Deployment("tensorrt", exported.main, runtime_options=target.choices()[0]), {}, [], [])
    taken = ledger.take(run, exported, run, exported, [part])
    assert taken.warnings == []
    assert taken.details.where == {"tensorrt": "tensorrt compressed, in ONNX Runtime"}
    assert found(taken, subject="bundle")[0].target == "tensorrt"
    assert len(found(taken, subject="bundle")) == 6


def test_with_many_inputs_only_each_alone_all_but_each_and_the_whole_are_measured():
    assert ledger.subsets(["a", "b"]) == [("a", "b"), ("a",), ("b",)]
    assert len(ledger.subsets(list("abcd"))) == 15
    assert len(ledger.subsets(list("abcde"))) == 31
    six = ledger.subsets(list("abcdef"))
    assert len(six) == 1 + 6 + 6
    assert six[0] == tuple("abcdef")


def test_a_graph_that_cannot_be_split_says_why_and_stops_nothing(job, monkeypatch):
    run, exported = job()

    def refuse(*_):
        raise MeasureError("no stand-in can be measured.", why="it changes its size.")

    monkeypatch.setattr(standins, "measure", refuse)
    taken = ledger.take(run, exported, run, exported, [compiled(exported)])
    assert taken.warnings == ["No split graphs and no stand-ins for missing inputs: no stand-in can be measured. it changes its size."]
    assert (taken.measurements, taken.files) == ((), {})


@pytest.fixture
def packed(unchanged, tmp_path):
    """``packed(name)``: a bundle with the ledger's files."""
    run, exported, taken = unchanged

    def make(name="b", **changes):
        files = {"model.onnx": exported.main, "targets/onnxruntime/model.onnx": exported.main, **taken.files}
        given = {"card": run.card, "files": files, "report": Report({}), "provenance": {}, "accuracy": {}, "subsets": taken.manifest()}
        return pack(tmp_path / name, **{**given, **changes})

    return make


@pytest.mark.parametrize("name", ["b", "b.edgemm"])
def test_a_bundle_gives_back_its_parts_its_stand_ins_and_what_to_expect(unchanged, packed, data, name, empty_cache):
    _, _, taken = unchanged
    opened = open_bundle(packed(name))
    assert verify(packed(name), run=False).ok
    for parts in (opened.split(), opened.split("onnxruntime")):
        assert parts.inputs == ["image", "audio"]
        assert parts.cuts == {"image": ("seen",), "audio": ("heard",)}
        assert all(path.is_file() for path in (*parts.branches.values(), parts.rest))
    assert set(opened.standins()) == {"seen", "heard"}
    expected = opened.expected("onnxruntime", ["audio"])
    assert expected["event"].value == found(taken, subject="bundle", output="event", modalities=("audio",))[0].value
    assert opened.expected("onnxruntime", []) == {}
    assert {m.modalities for m in opened.ledger()} == {("image", "audio"), ("image",), ("audio",)}


def test_a_flipped_bit_in_a_split_graph_or_in_the_stand_ins_is_named(packed):
    out = packed()
    for name in ("split/image.onnx", "targets/onnxruntime/split/rest.onnx", "standins.npz"):
        content = bytearray((out / name).read_bytes())
        content[len(content) // 2] ^= 1
        (out / name).write_bytes(content)
    failed = [check.name for check in verify(out).failed]
    assert failed == ["split/image.onnx", "standins.npz", "targets/onnxruntime/split/rest.onnx"]


def test_a_bundle_without_split_graphs_says_so(unchanged, packed):
    _, exported, _ = unchanged
    opened = open_bundle(packed(files={"model.onnx": exported.main, "targets/onnxruntime/model.onnx": exported.main}, subsets=[]))
    with pytest.raises(BundleError, match=r"holds no split graphs for onnxruntime") as caught:
        opened.split("onnxruntime")
    assert "too large to be stored twice" in str(caught.value)
    assert opened.standins() is None
    assert opened.ledger() == []


def test_a_split_record_that_reaches_outside_is_refused(unchanged, packed, tmp_path):
    _, exported, taken = unchanged
    record = {"branches": {"image": "../../elsewhere.onnx"}, "rest": "rest.onnx", "cuts": {"image": ["seen"]}, "macs": 1}
    files = {"model.onnx": exported.main, **taken.files, "split/split.json": json.dumps(record).encode()}
    with pytest.raises(BundleError, match="names files that the bundle does not list"):
        open_bundle(packed(files=files)).split()


def test_a_large_graph_is_measured_but_not_stored_twice(job, monkeypatch):
    run, exported = job()
    monkeypatch.setattr(ledger, "STORED_MIB", 1e-6)
    taken = ledger.take(run, exported, run, exported, [compiled(exported)])
    assert list(taken.files) == ["standins.npz"]
    assert taken.measurements


def test_an_unreadable_split_record_says_so(tmp_path):
    with pytest.raises(BundleError, match=r"split\.json cannot be read"):
        splits.read(tmp_path)


def test_two_towers_find_each_other_only_with_both_there(tmp_path):
    nodes = [helper.make_node("MatMul", [name, "w"], [f"{name}_vector"], name=f"{name}_tower") for name in ("image", "audio")]
    faces = [[helper.make_tensor_value_info(f"{name}{end}", TensorProto.FLOAT, ["batch", 4]) for name in ("image", "audio")]
             for end in ("", "_vector")]  # fmt: skip
    weights = [numpy_helper.from_array(RNG.normal(0, 1, (4, 4)).astype(np.float32), "w")]
    towers = helper.make_model(
        helper.make_graph(nodes, "towers", *faces, weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(towers, tmp_path / "model.onnx")
    outputs = "image_vector: {task: embedding, pair: audio_vector}\n  audio_vector: {task: embedding}\n"
    (tmp_path / "model.yaml").write_text((CARD % "").split("outputs:")[0] + "outputs:\n  " + outputs)
    for split in ("train", "test"):
        same = np.random.default_rng(5).normal(0, 1, (20, 4)).astype(np.float32)
        np.savez(tmp_path / f"{split}.npz", image=same, audio=same)
    run = start(tmp_path / "model.yaml", tmp_path)
    exported = stages.export(run)
    taken = ledger.take(run, exported, run, exported, [compiled(exported)])
    assert taken.warnings == []
    assert [(m.name, m.modalities, round(m.value, 6)) for m in found(taken, subject="bundle")] == [
        ("recall_at_1", ("image", "audio"), 1.0), ("recall_at_1", ("image",), 0.05), ("recall_at_1", ("audio",), 0.05),
    ]  # fmt: skip
    assert [row.before.value for row in taken.details.contributions] == pytest.approx([95.0, 95.0])


def test_a_picture_and_a_question_through_torch_int8_and_the_ledger(tmp_path):
    """The easyVQA card made tiny: its fusion multiplies, so a mean picture leaves something to go by, zeros would leave nothing."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("nncf")
    from edgemm.contracts import card_file as cards
    from edgemm.contracts.recipe import Step
    from edgemm.workshop.models.build import build
    from edgemm.workshop.models.checkpoint.loading import save_model
    from edgemm.workshop.models.fused import FusedModel

    shipped = cards.load("easyvqa").to_dict()
    shipped["kwargs"]["encoders"] = {"image": {"cnn": {"channels": [8], "width": 16}}, "text": {"bag": {"embedding": 16, "width": 16}}}
    shipped["kwargs"]["fusion"]["product"]["width"] = 16
    shipped["factory"] = "models:easyvqa"
    card = cards.parse(shipped)
    torch.manual_seed(0)
    save_model(FusedModel(card, build(card)).eval(), tmp_path / "model")
    rng = np.random.default_rng(0)
    for split, count in {"train": 40, "test": 30}.items():
        pictures = rng.integers(0, 255, (count, 64, 64, 3)).astype(np.uint8)
        answers = rng.integers(0, 13, count)
        np.savez(tmp_path / f"{split}.npz", image=pictures, question=rng.integers(0, 64, (count, 12)), answer=answers)
    run = start(tmp_path / "model", tmp_path)
    exported = stages.export(run)
    steps = [Step("quantize", {"method": "ptq", "calibration_samples": 16}, "graph")]
    part = compiled(stages.quantize(run, exported, steps, "onnxruntime"))
    taken = ledger.take(run, exported, run, exported, [part])
    assert taken.warnings == []
    assert [m.modalities for m in found(taken, subject="bundle")] == [("image", "text"), ("image",), ("text",)]
    assert found(taken, subject="bundle")[0].precision_ran.startswith("int8")
    assert [name for name in taken.files if name.endswith("standins.npz")] == ["standins.npz"], "INT8 is cut where float is"
    cut = splits.read(standins.in_parts(run, exported).folder).cuts["image"][0]
    assert np.abs(standins.load(standins.measure(run, exported))[cut]).max() > 0


ALIKE = ["IMU", "imu", "Imu", "rest"]


def test_inputs_whose_names_differ_in_case_have_files_of_their_own(tmp_path):
    body = [helper.make_node("MatMul", [name, f"w{at}"], [f"x{at}"], name=f"l{at}") for at, name in enumerate(ALIKE)]
    body += [helper.make_node("Concat", [f"x{at}" for at in range(4)], ["c"], axis=1), helper.make_node("MatMul", ["c", "w"], ["out"])]
    weights = {f"w{at}": np.eye(4, dtype=np.float32) for at in range(4)} | {"w": np.ones((16, 2), np.float32)}
    path = user_files.write(tmp_path / "m.onnx", body, weights, inputs=dict.fromkeys(ALIKE, 4), outputs={"out": 2})
    run = start(path, None)
    files = splits.read(standins.in_parts(run, stages.export(run)).folder)
    assert list(files.branches) == ALIKE
    assert len({file.name.lower() for file in (*files.branches.values(), files.rest)}) == 5
    assert len({file_of(name).lower() for name in ("IMU", "imu", "Imu", "a/b", "A%2fb")}) == 5
