"""The reference detector of a picture and a sound: trained, cut, taught by what it was, trained in INT8, compressed."""

import functools
import json

import numpy as np
import onnx
import pytest
import yaml

from edgemm import compress, train, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.step import Context
from edgemm.contracts.target import Target
from edgemm.data.boxes import cells
from edgemm.data.dataset import open_dataset
from tests.flow.test_detection import spoken  # noqa: F401  (a small spoken_box folder)

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("nncf")
pytest.importorskip("openvino")

from edgemm.workshop.models.checkpoint.loading import load_model  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402

pytestmark = pytest.mark.shared_data

SMALL = {
    "encoders": {
        "image": {"c2f": {"channels": [8, 16, 24, 32]}},
        "audio": {"conv_gru": {"channels": [16, 24], "hidden": 24, "width": 32, "input_dropout": 0.0, "dropout": 0.0}},
    },
    "fusion": {"film": {"width": 32}},
    "heads": {"objects": {"detection": {"layers": 1}}},
}
STEPS = {
    "cut and taught": [
        {"prune": {"macs_ratio": 0.5}},
        {"distill": {"epochs": 2}},
        {"quantize": {"method": "ptq", "calibration_samples": 24}},
    ],
    "trained in INT8": [{"qat": {"epochs": 1, "calibration_samples": 24}}],
}
BEST = 3  # of the float model's detections in a picture: what INT8 is to find


@pytest.fixture(scope="module")
def trained(spoken, tmp_path_factory):  # noqa: F811
    """The shipped card with narrow layers, trained on 200 rows for some seconds."""
    folder = tmp_path_factory.mktemp("boxes")
    plain = cards.load("spoken-box").to_dict() | {"kwargs": SMALL}
    (folder / "model.yaml").write_text(yaml.safe_dump(plain))
    return train(folder / "model.yaml", spoken, folder / "run", epochs=12, batch_size=20, learning_rate=3e-3, device="cpu")


def test_training_finds_boxes(trained):
    curve = dict(json.loads((trained.folder / "curves.json").read_text())["loss/train"])
    assert curve[12] < 0.6 * curve[1]
    assert trained.metrics["test"]["objects"]["map50"] > 0.02


@pytest.fixture(scope="module")
def compressed(trained, spoken, tmp_path_factory):  # noqa: F811
    """``compressed(steps)``: the folder with its bundle and checkpoint ``small``, and what ``compress`` says; made once."""

    @functools.cache
    def once(steps):
        folder = tmp_path_factory.mktemp("compressed")
        plan = {"steps": STEPS[steps], "targets": {"onnxruntime": {}}, "for": "size", "tune": False}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(plan))
        options = {"recipe": folder / "recipe.yaml", "output": folder / "bundle", "checkpoint": folder / "small"}
        return folder, compress(trained.card, data=spoken, **options)

    return once


@pytest.mark.parametrize("steps", ["cut and taught", pytest.param("trained in INT8", marks=pytest.mark.slow)])
def test_a_detector_goes_through_all_steps(steps, compressed):
    _, done = compressed(steps)
    assert verify(done.bundle).ok
    opened = open_bundle(done.bundle)
    named = {row["step"] for row in opened.manifest["provenance"]["steps"]}
    assert "int8" in opened.report().find("latency_p50_ms", subject="bundle", target="onnxruntime")[0].precision_ran
    (after,) = done.report.find("map", subject="bundle", target="onnxruntime", output="objects", modalities=None)
    assert after.n == 60
    assert named == {next(iter(step)) for step in STEPS[steps]} - {"quantize"}


@pytest.fixture(scope="module")
def float_graphs(trained, compressed, tmp_path_factory):
    """Name -> float graph: of the model as it was trained, and of what is left of it when it was cut and taught."""
    folder, (made, _) = tmp_path_factory.mktemp("floats"), compressed("cut and taught")
    models = {"whole": load_model(cards.load(trained.card)), "cut": load_model(cards.load(made / "small"))}
    return {name: export_onnx(model, folder / f"{name}.onnx") for name, model in models.items()}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cut", "openvino"),
        ("whole", "onnxruntime"),
        pytest.param("cut", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("whole", "openvino", marks=pytest.mark.slow),
    ],
)
def test_int8_finds_the_boxes_that_its_own_float_finds(name, target, float_graphs, trained, spoken, tmp_path):  # noqa: F811
    """Scores of 0.02 lie in one tensor with boxes of 96 pixels here: 8 bits for both would leave nothing of them."""
    card = cards.load(trained.card)
    task, dataset = tasks.tasks(card)["objects"], open_dataset(str(spoken), card)
    context = Context(card, dataset, tmp_path / "scratch", target=target, numerics=plugins.load(Target, target).numerics)
    int8 = plugins.function("steps", "quantize")(onnx.load(float_graphs[name]), context, calibration_samples=24)
    onnx.save(int8, tmp_path / "int8.onnx")
    rows = next(dataset.batches("test", 60)).inputs
    in_float, in_int8 = (answers(target, graph, rows) for graph in (float_graphs[name], tmp_path / "int8.onnx"))
    best = np.stack([as_truth(found[:BEST], task.truths) for found in task.detections(in_float)])
    itself, after = (task.measure(found, best).score().value for found in (in_float, in_int8))
    assert itself > 0.5
    assert after > 0.8 * itself


def answers(target, graph, rows):
    """Output -> what the runtime answers to each row."""
    count = len(next(iter(rows.values())))
    with plugins.load(Target, target).open(graph) as session:
        found = [session.run({name: values[row : row + 1] for name, values in rows.items()}) for row in range(count)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def as_truth(found, room):
    """Detections (K, 6) as the truth of a row, (room, 6)."""
    return cells.padded(np.column_stack([found[:, [0, 2, 3, 4, 5]], np.zeros(len(found))]), room)
