"""Which encoders, fusions and heads go together: every one of them at least once through export, INT8 and OpenVINO.

A row joins parts that no other row joins, so that pairs are covered, not only parts. Weights are random and widths tiny: what is shown
is that the graph is followed by every tool and that INT8 stays close to float, not how well a model does.
"""

import pytest

from edgemm.contracts import plugins
from edgemm.workshop.models.protocols import Fusion, Head

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")

import onnx  # noqa: E402  (all of them may be absent)

from edgemm.box.targets.openvino import OpenVINO  # noqa: E402
from edgemm.contracts.step import Context  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from edgemm.workshop.steps.quantize import quantize  # noqa: E402
from tests.flow.cells import HEADS, MATRIX, decibels, make  # noqa: E402

FEWEST_DB = 12.0  # signal over INT8 error; random weights leave little signal, a wrong graph leaves none


PARTS = (("fusions", Fusion), ("heads", Head))
"""Of which those that keep space go the same way in test_trained_boxes.py and tests/pipeline/test_dense.py."""
OF_FOLDERS = {"hf", "words"}
"""Made of a Hugging Face folder: tests/workshop/models/test_towers.py."""


def test_the_matrix_holds_every_encoder_fusion_and_head():
    encoders = {next(iter(choice)) for inputs, _, _ in MATRIX.values() for _, choice in inputs.values()}
    fusions = {next(iter(fusion)) for _, fusion, _ in MATRIX.values()}
    heads = {output["task"] for _, _, outputs in MATRIX.values() for output in outputs.values()}
    heads |= {next(iter(head)) for chosen in HEADS.values() for head in chosen.values()}
    keep_space = [{name for name in plugins.names(kind) if plugins.find(of, name).takes_maps} for kind, of in PARTS]
    assert encoders == set(plugins.names("encoders")) - {"c2f"} - OF_FOLDERS
    assert fusions == set(plugins.names("fusions")) - keep_space[0]
    assert heads == set(plugins.names("heads")) - keep_space[1] - OF_FOLDERS


@pytest.mark.parametrize("name", MATRIX)
def test_a_combination_goes_through_export_int8_and_openvino(name, tmp_path):
    model = make(name)
    card = model.card
    exported = onnx.load(export_onnx(model, tmp_path / "float.onnx"))
    context = Context(card=card, dataset=None, scratch=tmp_path, target="openvino", numerics=OpenVINO().numerics)
    onnx.save(quantize(exported, context, calibration_samples=16), tmp_path / "model.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    artifact = OpenVINO().compile(tmp_path / "model.onnx", _folder(tmp_path / "openvino"), precision="f32", threads=1)
    inputs = sample_inputs(card, batch=1, seed=1)
    with torch.no_grad():
        wanted = {key: value.numpy() for key, value in model(inputs).items()}
    with OpenVINO().open(artifact.main, precision="f32", threads=1) as session:
        found = session.run({key: value.numpy() for key, value in inputs.items()})
        assert "int8" in session.precision()
    assert list(found) == list(card.outputs)
    assert {output: value.shape for output, value in found.items()} == {output: value.shape for output, value in wanted.items()}
    assert min(decibels(wanted, found).values()) > FEWEST_DB


def _folder(path):
    path.mkdir()
    return path
