"""Every form of head that says where things are x {export, INT8 on OpenVINO, on ONNX Runtime, TensorRT-RTX}.

Every CI run takes a few cells, every column among them; the whole product is `make test-full`, and `benchmarks/dense_matrix.py` counts it.
Weights are random: what is shown is that the graph is followed by every tool, that every convolution is INT8, and that boxes, masks and
points stay where they were in float.
"""

import functools

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.target import Target

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402  (all of them may be absent)

from edgemm.contracts.step import Context  # noqa: E402
from edgemm.graph import checks  # noqa: E402
from edgemm.graph.back_to_float import int8_layers, quantized_readers  # noqa: E402
from edgemm.graph.float_tail import float_tail  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from tests.flow.cells import decibels  # noqa: E402
from tests.flow.dense_cells import FORMS, make  # noqa: E402

COLUMNS = ("export", "openvino", "onnxruntime", "tensorrt")
IN_CI = {
    ("boxes, two cameras attended", "openvino"),
    ("boxes, levels of distributions", "onnxruntime"),
    ("points, heat maps", "tensorrt"),
    ("set", "export"),
}
"""An export takes seconds; other forms go their way in tests/pipeline/test_dense.py and tests/flow/test_trained_boxes.py."""
CELLS = [
    pytest.param(name, column, id=f"{name} x {column}", marks=() if (name, column) in IN_CI else pytest.mark.slow)
    for name in FORMS
    for column in COLUMNS
]
EXPORT_DB, INT8_DB = 60.0, 12.0  # signal over error: of rounding in float; of INT8 with random weights (a wrong graph leaves none)
RUN = {"openvino": {"precision": "f32", "threads": 1}, "onnxruntime": {"threads": 1}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``exported(name)``: the model of a form, its float graph, rows, and what torch answers to them; made once."""

    @functools.cache
    def once(name):
        model = make(name)
        path = export_onnx(model, tmp_path_factory.mktemp("forms") / "model.onnx")
        inputs = sample_inputs(model.card, batch=4, seed=9)
        with torch.no_grad():
            wanted = {key: value.numpy() for key, value in model(inputs).items()}
        return model, path, {key: value.numpy() for key, value in inputs.items()}, wanted

    return once


@pytest.mark.parametrize(("name", "column"), CELLS)
def test_a_form_of_head_goes_to(name, column, exported, tmp_path, empty_cache, record_property):
    model, path, feed, wanted = exported(name)
    task = tasks.tasks(model.card)["found"]
    task.check({key: value.shape for key, value in wanted.items()})
    if column == "export":
        onnx.checker.check_model(onnx.load(path), full_check=True)
        worst = far(task, wanted, answered("onnxruntime", path, feed)[0])
        record_property("export_db", round(worst, 1))
        assert worst > EXPORT_DB
        return
    int8 = quantized(column, path, model.card, tmp_path)
    if column == "tensorrt":
        pytest.importorskip("tensorrt_rtx")
        assert checks.check(onnx.load(int8), model.card) == []
        built = plugins.find(Target, "tensorrt")().ahead(int8, tmp_path, ["SM86"], precision="f16")
        record_property("tensorrt_bytes", built.main.stat().st_size)
        assert built.main.stat().st_size > 1000
        return
    found, precision = answered(column, int8, feed)
    worst = far(task, wanted, found)
    record_property(f"{column}_db", round(worst, 1))
    record_property(f"{column}_precision", precision)
    assert worst > INT8_DB
    assert "int8" in precision
    every_convolution_is_int8(onnx.load(path), onnx.load(int8))


def quantized(target, path, card, scratch):
    """The float graph's INT8 in a target's numerics."""
    context = Context(card, None, scratch / "scratch", target=target, numerics=plugins.load(Target, target).numerics)
    made = plugins.function("steps", "quantize")(onnx.load(path), context, calibration_samples=16, ranges="minmax")
    onnx.save(made, scratch / f"{target}.onnx")
    return scratch / f"{target}.onnx"


def answered(target, path, feed):
    """Tensor -> what the runtime answers, a row at a time, and the precision that ran."""
    count = len(next(iter(feed.values())))
    with plugins.load(Target, target).open(path, **RUN[target]) as session:
        rows = [session.run({key: value[row : row + 1] for key, value in feed.items()}) for row in range(count)]
        return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}, session.precision()


def far(task, wanted, found):
    """The worst signal over error, of what the answer means where its tensors do not tell that themselves."""
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    pairs = {word: pair for word, pair in task.compared(wanted, found).items() if pair[0].size}
    if pairs:
        return min(decibels({word: a for word, (a, _) in pairs.items()}, {word: b for word, (_, b) in pairs.items()}).values())
    return min(decibels(wanted, found).values())


def every_convolution_is_int8(floats, int8):
    tail = float_tail(floats)
    convolutions = {node.name for node in floats.graph.node if node.op_type == "Conv"} - tail
    assert len(convolutions) > 10
    assert convolutions <= {*int8_layers(int8)}
    assert not tail & {*quantized_readers(int8)}
