"""`edgemm inspect` on an ONNX file, a card and a bundle."""

import json
import sys

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import TargetOptions, pack
from edgemm.cli import main
from edgemm.contracts import card_file as cards
from edgemm.contracts.report import Report
from edgemm.errors import EdgemmError, MissingExtra
from tests.places import PACKS

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)

CARD = """
model: model.onnx
inputs:
  image: {modality: image, height: 16, width: 16}
  imu: {modality: sensor, shape: [20], rate_hz: 50}
outputs:
  event: {task: classification, labels: [quiet, glass, person]}
"""

ROWS = ["frontend:image", "image", "imu", "fusion", "head:event"]


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 10


def graph():
    """Features of image (convolution) and imu (matrix product) -> event."""
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["seen"], "flat"),
        helper.make_node("MatMul", ["imu", "w"], ["felt"], "felt_by"),
        helper.make_node("Concat", ["seen", "felt"], ["both"], "cat", axis=1),
        helper.make_node("MatMul", ["both", "h"], ["event"], "decide"),
    ]
    constants = {"k": weights(64, 3, 3, 3), "w": weights(20, 8), "h": weights(72, 3)}
    return onnx_model(nodes, {"image": ["batch", 3, 16, 16], "imu": ["batch", 20]}, {"event": ["batch", 3]}, constants)


@pytest.fixture
def model(tmp_path):
    """A folder with model.onnx and the card for it."""
    onnx.save(graph(), tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(CARD)
    return tmp_path


@pytest.fixture
def bundle(model):
    """The same graph as a bundle for OpenVINO."""
    exported = edgemm.export(model, output=model / "exported")
    golden = Golden({"image": np.zeros((2, 1, 16, 16, 3), np.uint8), "imu": np.zeros((2, 1, 20), np.float32)})
    return pack(
        model / "b",
        card=cards.load(model),
        files={"model.onnx": exported.main, "targets/openvino/model.onnx": exported.main},
        report=Report({}),
        golden=golden,
        options={"openvino": TargetOptions(safe={"threads": 1})},
        provenance={},
        accuracy={},
    )


def test_an_onnx_file_is_taken_apart_branch_by_branch(model):
    found = edgemm.inspect(model / "model.onnx")
    assert [row.branch for row in found.rows] == ROWS
    assert [row.modality for row in found.rows] == ["image", "image", "sensor", None, None]
    assert [row.parameters for row in found.rows] == [0, 64 * 27, 160, 0, 216]
    assert found.rows[1].macs == 16 * 16 * 64 * 27
    assert found.total.parameters == 64 * 27 + 160 + 216
    assert found.total.size_bytes["fp32"] == 4 * (found.total.parameters + 6), "and a scale and a shift for each colour"
    assert found.target == "openvino"
    assert [str(spec) for spec in found.inputs] == ["(batch, 16, 16, 3) uint8", "(batch, 20) float32"]
    assert found.outputs == {"event": "classification of quiet, glass, person"}


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_time_is_shared_among_the_branches_as_measured(model, target):
    rows = edgemm.inspect(model / "model.onnx", target=target).rows
    shares = {row.branch: row.latency_share for row in rows}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["frontend:image"] + shares["image"] > shares["imu"] + shares["fusion"] + shares["head:event"]
    assert [row.precision for row in rows[:2]] == ["", "f32"], "a picture's bytes are no INT8"


def test_a_file_without_a_card_is_inspected_too(model):
    (model / "model.yaml").unlink()
    found = edgemm.inspect(model / "model.onnx")
    assert [row.branch for row in found.rows] == ROWS[1:]
    assert found.outputs == {"event": "tensor"}


def test_a_torch_model_is_exported_first(tmp_path):
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    (tmp_path / "pair.py").write_text("""
import torch
class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.answer = torch.nn.Linear(4, 8), torch.nn.Linear(6, 8), torch.nn.Linear(16, 2)
    def forward(self, left, right):
        return self.answer(torch.cat([self.left(left).relu(), self.right(right).relu()], 1))
""")
    names = {
        "left.weight": (8, 4),
        "left.bias": (8,),
        "right.weight": (8, 6),
        "right.bias": (8,),
        "answer.weight": (2, 16),
        "answer.bias": (2,),
    }
    import torch

    save_file({name: torch.rand(shape) for name, shape in names.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "model.yaml").write_text("""
factory: pair:Pair
weights: weights.safetensors
inputs:
  left: {modality: sensor, shape: [4], rate_hz: 10}
  right: {modality: sensor, shape: [6], rate_hz: 10}
outputs: {answer: {task: regression, unit: dB}}
""")
    found = edgemm.inspect(tmp_path)
    assert {row.branch: row.parameters for row in found.rows} == {"left": 40, "right": 56, "fusion": 0, "head:answer": 34}
    assert found.outputs == {"answer": "regression in dB"}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bundle_is_inspected_on_its_own_target_with_its_golden_sample(bundle, tmp_path, form):
    from edgemm.store.stored_zip import write

    if form == "zip":
        with (tmp_path / "b.edgemm").open("wb") as file:
            write(file, {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()})
    found = edgemm.inspect(bundle if form == "folder" else tmp_path / "b.edgemm")
    assert found.target == "openvino"
    assert [row.branch for row in found.rows] == ROWS
    assert found.total.latency_share == 1.0
    assert found.notes == ("opened with safe options: nothing was tuned for it.",)


def test_a_bundles_unknown_target_is_told(bundle):
    with pytest.raises(EdgemmError, match=r"holds nothing for the target 'onnxruntime'.\n  fix: known: openvino"):
        edgemm.inspect(bundle, target="onnxruntime")


def without_runtimes(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
        for module in [word for word in sys.modules if word.startswith((f"edgemm.box.targets.{name}", f"edgemm.box.targets._{name}"))]:
            monkeypatch.delitem(sys.modules, module)


def test_a_bundle_whose_runtime_is_missing_is_shown_without_times(bundle, monkeypatch):
    without_runtimes(monkeypatch, "openvino")
    found = edgemm.inspect(bundle)
    assert found.total.latency_share is None
    assert "openvino cannot run here" in found.notes[0]
    assert found.notes[1] == "nothing was timed."


def test_without_openvino_onnx_runtime_times_the_layers(model, monkeypatch):
    without_runtimes(monkeypatch, "openvino")
    assert edgemm.inspect(model / "model.onnx").target == "onnxruntime"
    with pytest.raises(MissingExtra, match="target 'openvino' needs the package 'openvino'"):
        edgemm.inspect(model / "model.onnx", target="openvino")


def test_the_command_prints_a_table_and_json(model, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(model)])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "input   image: (batch, 16, 16, 3) uint8"
    assert lines[2] == "output  event: classification of quiet, glass, person"
    assert lines[4].split() == [
        "branch", "modality", "parameters", "MACs", "time", "ran", "in", "fp32", "MiB", "fp16", "MiB", "int8", "MiB", "stored", "MiB",
    ]  # fmt: skip
    assert lines[6].split()[:4] == ["image", "image", "1,728", "442,368"]
    assert lines[10].split()[0] == "total"
    assert lines[11] == "note: the layers were timed on a synthetic sample."
    with pytest.raises(SystemExit):
        main(["inspect", str(model), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert [row["branch"] for row in plain["branches"]] == ROWS
    assert plain["total"]["parameters"] == 2104


@pytest.mark.parametrize(("name", "parameters"), [("silero_vad_16k_op15", 309_633), ("face_yunet_n_320", 73_844)])
def test_real_models_are_taken_apart(name, parameters):
    path = PACKS / "real_models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is absent (set EDGEMM_DATA)")
    found = edgemm.inspect(path)
    assert found.total.parameters == parameters
    assert found.total.latency_share == 1.0
    assert found.rows[0].latency_share > 0.5


@pytest.mark.parametrize("form", ["model", "bundle"])
def test_a_board_that_is_not_at_hand_is_estimated_branch_by_branch(form, request, tmp_path):
    given = request.getfixturevalue(form)
    found = edgemm.inspect(given, device="orin-nano-8gb-super", output=tmp_path / "report")
    assert {row.branch for row in found.estimate.rows} == {*ROWS[1:], "total"}, "what a front-end only casts and turns is no layer"
    assert "estimate for Jetson Orin Nano 8GB Super" in str(found)
    kept = json.loads((tmp_path / "report" / "report.json").read_text())
    assert kept["details"]["estimate"]["board"]["name"] == "orin-nano-8gb-super"
