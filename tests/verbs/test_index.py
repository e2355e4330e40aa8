"""`edgemm index`: a gallery of vectors, and what other rows look like."""

import numpy as np
import pytest

import edgemm
from edgemm.errors import DataError, RunError
from tests.box.serving.conftest import bundle

__all__ = ["bundle"]
PEOPLE = {"Anna": (200, 40, 40), "Ben": (40, 200, 40), "Cem": (40, 40, 200)}


@pytest.fixture(scope="session")
def faces(shared):
    """A bundle whose vector is the mean colour of a picture, and pictures of three people."""
    return shared("run-faces", _make)


def _make(folder):
    import onnx
    from onnx import TensorProto, helper

    from edgemm.box.bundle import golden
    from edgemm.box.bundle.golden import Golden
    from edgemm.box.bundle.packing import TargetOptions, pack
    from edgemm.contracts import card_file as cards
    from edgemm.contracts import plugins
    from edgemm.contracts.report import Report
    from edgemm.contracts.target import Target
    from edgemm.graph import files
    from tests.onnx_models import model as onnx_model

    folder.mkdir(parents=True, exist_ok=True)
    outputs = {"face": {"task": "embedding"}}
    inputs = {"image": {"modality": "image", "height": 8, "width": 8}}
    card = cards.parse({"model": "model.onnx", "inputs": inputs, "outputs": outputs}, path=folder / "model.yaml")
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["face"], "mean", keepdims=0),
    ]
    taken = {"image": (TensorProto.UINT8, ["batch", 8, 8, 3])}
    graph = onnx.shape_inference.infer_shapes(onnx_model(nodes, taken, {"face": ["batch", 3]}, {"axes": np.array([1, 2])}))
    files.save(graph, folder / "model.onnx")
    rng = np.random.default_rng(0)
    sample = {"image": rng.integers(0, 256, (4, 1, 8, 8, 3), np.uint8)}
    with plugins.load(Target, "onnxruntime").open(folder / "model.onnx") as session:
        answers = golden.run(session, Golden(sample))
    pack(
        folder / "bundle",
        card=card,
        files={"model.onnx": folder / "model.onnx", "targets/onnxruntime/model.onnx": folder / "model.onnx"},
        report=Report({"device": "a box"}),
        golden=Golden(sample, {"onnxruntime": answers}, {"onnxruntime": golden.tolerance(answers, answers, "f32+bf16")}),
        provenance={"recipe": "by hand"},
        accuracy={},
        options={"onnxruntime": TargetOptions({})},
        subsets=[],
    )
    for split in ("known", "door"):
        (folder / split).mkdir()
        names = [name for name in PEOPLE for _ in range(4)]
        pictures = [rng.normal(PEOPLE[name], 20, (8, 8, 3)).clip(0, 255).astype(np.uint8) for name in names]
        np.savez(folder / split / "test.npz", image=np.stack(pictures), name=np.array(names))


def test_rows_become_a_gallery_and_others_find_their_names_in_it(faces, tmp_path):
    made = edgemm.index(faces / "bundle", data=faces / "known", output=tmp_path / "gallery.npz")
    assert made.rows == 12
    assert made.recalls[1] == 1.0
    assert made.verified.equal_error_rate == 0.0
    with np.load(tmp_path / "gallery.npz") as file:
        np.testing.assert_allclose(np.linalg.norm(file["vectors"], axis=1), 1.0, atol=1e-6)
    asked = edgemm.index(faces / "bundle", data=faces / "door", against=tmp_path / "gallery.npz")
    assert all(name == like for _, name, like, _ in asked.found)
    assert asked.recalls[1] == 1.0
    assert "looks like Anna, 1.00" in str(asked)


def test_data_without_the_column_name_another(faces, tmp_path):
    with pytest.raises(DataError, match="there is no column 'nmae'") as caught:
        edgemm.index(faces / "bundle", data=faces / "known", output=tmp_path / "gallery.npz", column="nmae")
    assert "did you mean 'name'?" in str(caught.value)


def test_a_gallery_of_other_vectors_is_refused(faces, tmp_path):
    np.savez(tmp_path / "gallery.npz", vectors=np.ones((2, 5), np.float32), names=np.array(["a", "b"]), output="face")
    with pytest.raises(DataError, match="holds vectors of 5 numbers, 'face' has 3"):
        edgemm.index(faces / "bundle", data=faces / "door", against=tmp_path / "gallery.npz")


def test_a_file_that_is_no_gallery_is_refused(faces, tmp_path):
    (tmp_path / "gallery.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no gallery"):
        edgemm.index(faces / "bundle", data=faces / "door", against=tmp_path / "gallery.npz")


def test_a_bundle_without_vectors_is_refused(bundle, faces, tmp_path):
    with pytest.raises(RunError, match="the bundle has no output of task embedding"):
        edgemm.index(bundle, data=faces / "door", output=tmp_path / "gallery.npz")
