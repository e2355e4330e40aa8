"""Reading the face of an ONNX file without the onnx package."""

import numpy as np
import pytest

from edgemm.contracts import onnx_file
from edgemm.contracts.specs import TensorSpec
from edgemm.errors import TargetError

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def test_inputs_and_outputs_keep_the_names_of_their_free_axes(words):
    face = onnx_file.read(words)
    assert face.inputs == (TensorSpec("ids", "int64", ("batch", "length")),)
    assert face.outputs == (TensorSpec("y", "float32", ("batch", 8)),)
    assert face.operators == ("Gather", "ReduceMean")


def test_the_first_axis_is_the_batch_whatever_the_file_calls_it(tmp_path, write):
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    path = write(tmp_path / "m.onnx", relu, {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, ["N", 3])}, {})
    assert onnx_file.read(path).inputs == (TensorSpec("x", "float32", ("batch", 3)),)


def test_scalars_and_axes_without_a_name_are_read(tmp_path, write):
    add = [helper.make_node("Add", ["x", "s"], ["y"])]
    path = write(tmp_path / "m.onnx", add, {"x": (FLOAT, [None, 3, None]), "s": (FLOAT, [])}, {"y": (FLOAT, [None, 3, None])}, {})
    assert [spec.shape for spec in onnx_file.read(path).inputs] == [("batch", 3, "axis_2"), ()]


def test_weights_listed_among_the_inputs_are_no_inputs(tmp_path, write):
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    inputs = {"x": (FLOAT, ["batch", 2]), "w": (FLOAT, [2])}
    path = write(tmp_path / "m.onnx", add, inputs, {"y": (FLOAT, ["batch", 2])}, {"w": np.ones(2, np.float32)})
    assert [spec.name for spec in onnx_file.read(path).inputs] == ["x"]


def test_an_operator_of_another_domain_is_named_with_it(tmp_path, write):
    gelu = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    path = write(tmp_path / "m.onnx", gelu, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, {})
    assert onnx_file.read(path).operators == ("com.microsoft:Gelu",)


def test_side_files_are_found_and_copied(tmp_path, write):
    fc = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    path = write(
        tmp_path / "from" / "big.onnx", fc, {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", 64])},
        {"w": np.ones((64, 64), np.float32)}, save_as_external_data=True, location="weights.bin", size_threshold=0,
    )  # fmt: skip
    assert onnx_file.read(path).external == {"weights.bin"}
    main = onnx_file.copy(path, tmp_path / "to")
    assert sorted(file.name for file in main.parent.iterdir()) == ["model.onnx", "weights.bin"]


def test_a_missing_side_file_is_an_error_that_names_it(tmp_path, write):
    fc = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    (tmp_path / "to").mkdir()
    path = write(
        tmp_path / "big.onnx", fc, {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", 64])},
        {"w": np.ones((64, 64), np.float32)}, save_as_external_data=True, location="weights.bin", size_threshold=0,
    )  # fmt: skip
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(TargetError, match=r"'big\.onnx' needs the file 'weights\.bin' beside it"):
        onnx_file.copy(path, tmp_path / "to")


def test_a_side_file_outside_the_models_folder_is_refused(tmp_path, write):
    fc = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    (tmp_path / "to").mkdir()
    path = write(
        tmp_path / "big.onnx", fc, {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", 64])},
        {"w": np.ones((64, 64), np.float32)}, save_as_external_data=True, location="weights.bin", size_threshold=0,
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"../ghts.bin"))
    with pytest.raises(TargetError, match=r"names the side file '\.\./ghts\.bin', outside its folder"):
        onnx_file.read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "there is no such file"), (b"", "the file is empty"), (b"hello, I am a text file", "not an ONNX file, or it is truncated")],
)
def test_what_cannot_be_read_is_an_error_with_its_reason(tmp_path, content, why):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(TargetError, match=rf"cannot read the model 'm\.onnx'(?s:.)*{why}"):
        onnx_file.read(tmp_path / "m.onnx")


def test_a_truncated_file_is_refused(tmp_path, conv):
    (tmp_path / "m.onnx").write_bytes(conv.read_bytes()[:5000])
    with pytest.raises(TargetError, match="truncated"):
        onnx_file.read(tmp_path / "m.onnx")
