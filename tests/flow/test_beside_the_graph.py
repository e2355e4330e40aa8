"""Weights that lie in a file beside the graph, as those above 2 GB do: in every stage, in the bundle, where it is proved."""

from pathlib import Path

import pytest

from edgemm import compress, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.graph import files

RECIPE = """
steps:
  - quantize: {method: weights, bits: 8, group: 16, calibration_samples: 8}
targets: {onnxruntime: {}, openvino: {}}
tune: false
for: size
budgets: {accuracy_drop_points: 100}
"""


@pytest.mark.slow
def test_weights_beside_the_graph_go_all_the_way(own_model: Path, porch: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(files.save.__kwdefaults__, "limit_bytes", 2000)
    monkeypatch.setattr("edgemm.workshop.quantizing.weights.FEWEST_WEIGHTS", 256)
    monkeypatch.setenv("EDGEMM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    compress(own_model, recipe=tmp_path / "recipe.yaml", data=porch, output=tmp_path / "bundle")
    beside = {path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.data")}
    assert beside >= {"model.onnx.data", "targets/onnxruntime/model.onnx.data", "targets/openvino/model.onnx.data"}
    verify(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.target_model("openvino").stat().st_size) < 100_000
