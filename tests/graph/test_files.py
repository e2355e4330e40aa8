"""ONNX files: the same bytes, side files above the limit, skeletons without weights."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgemm.graph import files, parity
from tests.onnx_models import model as onnx_model


@pytest.fixture
def model() -> onnx.ModelProto:
    """Two large weights, one of them in a Constant node, and a small one that steers a shape."""
    hidden = numpy_helper.from_array(np.ones((4, 1000), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], name="c", value=hidden),
        helper.make_node("Add", ["w", "c"], ["s"], name="s"),
        helper.make_node("MatMul", ["x", "s"], ["m"], name="m"),
        helper.make_node("Reshape", ["m", "target"], ["y"], name="y"),
    ]
    constants = {"w": np.arange(4000, dtype=np.float32).reshape(4, 1000), "target": np.array([-1, 10, 100])}
    return onnx_model(nodes, {"x": ["batch", 4]}, {"y": None}, constants)


def test_a_model_below_the_limit_is_one_file(model, tmp_path):
    assert files.load(files.save(model, tmp_path / "m.onnx")) == model
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_above_the_limit_weights_lie_page_aligned_in_a_side_file(model, tmp_path):
    path = files.save(model, tmp_path / "m.onnx", limit_bytes=1000)
    assert (tmp_path / "m.onnx.data").stat().st_size == 4 * 4096 + 16000
    feed = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(*(parity.run_reference(m, [feed])[0]["y"] for m in (model, files.load(path))))


def test_the_same_model_gives_the_same_bytes(model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.save(model, tmp_path / name / "m.onnx", limit_bytes=1000)
    assert (tmp_path / "a/m.onnx").read_bytes() == (tmp_path / "b/m.onnx").read_bytes()
    assert (tmp_path / "a/m.onnx.data").read_bytes() == (tmp_path / "b/m.onnx.data").read_bytes()


def test_saving_leaves_the_model_alone(model, tmp_path):
    before = model.SerializeToString()
    files.save(model, tmp_path / "m.onnx", limit_bytes=0)
    assert model.SerializeToString() == before


def test_a_skeleton_has_names_and_shapes_but_no_large_data(model):
    frame = files.skeleton(model)
    assert frame.ByteSize() < 2000
    assert [node.name for node in frame.graph.node] == [node.name for node in model.graph.node]
    assert list(frame.graph.initializer[0].dims) == [4, 1000]
    assert files.is_bare(frame.graph.initializer[0])
    assert numpy_helper.to_array(frame.graph.initializer[1]).tolist() == [-1, 10, 100], "small constants steer shapes"
    inferred = onnx.shape_inference.infer_shapes(frame, data_prop=True).graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in inferred.dim][1:] == [10, 100]


def test_sizes_are_counted_from_shapes(model):
    assert files.weight_bytes(model) == 2 * 16000 + 24
