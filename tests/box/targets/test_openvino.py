"""What is OpenVINO's own: static shapes, a stated precision, tensors bound once."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.box.targets._errors.vendor import _cause
from edgemm.contracts import plugins
from edgemm.contracts.target import Target
from edgemm.errors import SpecMismatch, TargetError
from edgemm.store.instructions import onednn_instructions
from edgemm.store.machine import usable_cores

ov = pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

needs_bf16 = pytest.mark.skipif(
    not onednn_instructions() & {"amx_bf16", "avx512_bf16"}, reason="this processor computes nothing in bf16, by default or asked"
)
needs_amx = pytest.mark.skipif(
    "amx_bf16" not in onednn_instructions(), reason="only processors with AMX run float models in bf16 by default"
)


@pytest.fixture
def openvino() -> Target:
    return plugins.load(Target, "openvino")


@pytest.fixture
def reference() -> Target:
    return plugins.load(Target, "onnxruntime")


def pictures(batch: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, 16, side, side)).astype(np.float32)


def test_fusions_are_offered_for_quantized_graphs_alone_and_left_out_for_their_parts(openvino, quantized, conv):
    (unsafe,) = openvino.unsafe_choices({"threads": 1}, quantized)
    assert unsafe == {"threads": 1, "snippets": "single"}
    assert openvino.without_unsafe(unsafe) == {"threads": 1}
    assert openvino.unsafe_choices({"threads": 1}, conv) == []  # they are on for it anyway
    for said in ("on", "off"):
        assert plugins.find(Target, "openvino")(snippets=said).unsafe_choices({"threads": 1}, quantized) == []


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_int8_is_right_at_every_batch_size(openvino, reference, quantized, batch):
    x = pictures(batch, 8)
    with openvino.open(quantized) as session, reference.open(quantized, optimize="none") as plain:
        ours, theirs = session.run({"x": x})["y"], plain.run({"x": x})["y"]
    steps = 2 if onednn_instructions() & {"amx_int8", "avx512_vnni", "avx_vnni"} else 4  # without them sums of two products are cut off
    assert np.abs(ours - theirs).max() <= steps * 6 / 255 + 1e-6  # steps of the last quantiser; a dynamic batch is off by 1.0


def test_a_batch_size_is_compiled_once_and_found_again(openvino, conv):
    with openvino.open(conv) as session:
        first = [session.run({"x": pictures(batch)})["y"] for batch in (1, 4, 1, 4)]
        assert len(session._plans) == 2
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], first[3])


def test_a_batch_gives_what_its_rows_give_alone(openvino, conv):
    x = pictures(4)
    with openvino.open(conv) as session:
        together = session.run({"x": x})["y"]
        alone = np.concatenate([session.run({"x": row[None]})["y"] for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_free_length_is_served_by_a_bounded_number_of_compiled_models(openvino, words, monkeypatch):
    monkeypatch.setattr("edgemm.box.targets._openvino.session.KEPT_BYTES", 0)
    table = None
    with openvino.open(words) as session:
        for length in (3, 5, 7, 3):
            ids = np.arange(length)[None]
            answer = session.run({"ids": ids})["y"]
            if table is None:
                table = answer
        assert len(session._plans) == 2
    np.testing.assert_allclose(answer, table, rtol=1e-6)


def test_a_model_with_a_free_length_tells_its_layers_after_the_first_run(openvino, words):
    with openvino.open(words) as session:
        assert session.layers() == []
        session.run({"ids": np.zeros((1, 4), np.int64)})
        assert session.layers()


@needs_bf16
def test_asked_for_f32_it_runs_f32_and_asked_for_bf16_it_runs_bf16(openvino, conv):
    ran = {}
    for precision in ("f32", "bf16"):
        with openvino.open(conv, precision=precision) as session:
            ran[precision] = session.precision()
    assert ran == {"f32": "f32", "bf16": "bf16"}


def test_left_unsaid_the_precision_is_f32(openvino, conv):
    with openvino.open(conv) as session:
        assert session.precision() == "f32"


@needs_amx
def test_its_own_default_is_reported_as_the_bf16_it_runs(openvino, conv):
    with openvino.open(conv, **openvino.default_options()) as session:
        assert session.precision() == "bf16"


def test_int8_layers_are_reported_with_their_kernels(openvino, quantized):
    with openvino.open(quantized) as session:
        convolution = next(layer for layer in session.layers() if layer.kind == "Convolution")
        assert convolution.precision == "int8"
        assert convolution.kernel.lower().endswith("i8")
        assert "the_conv" in convolution.name
        assert session.precision().startswith("int8")


def test_a_large_input_is_read_in_place_and_left_alone(openvino, tmp_path, write):
    relu = [helper.make_node("Relu", ["x"], ["y"], "the_relu")]
    path = write(tmp_path / "m.onnx", relu, {"x": (FLOAT, ["batch", 400_000])}, {"y": (FLOAT, ["batch", 400_000])}, {})
    x = np.random.default_rng(0).normal(size=(1, 400_000)).astype(np.float32)
    kept = x.copy()
    with openvino.open(path) as session:
        first = session.run({"x": x})["y"]
        np.testing.assert_array_equal(first, np.maximum(x, 0))
        read_only = x.copy()
        read_only.flags.writeable = False
        np.testing.assert_array_equal(session.run({"x": read_only})["y"], first)
        np.testing.assert_array_equal(session.run({"x": -x})["y"], np.maximum(-x, 0))
        np.testing.assert_array_equal(session.run({"x": np.repeat(x, 2, axis=1)[:, ::2]})["y"], first)
    np.testing.assert_array_equal(x, kept)


def test_an_output_whose_shape_depends_on_the_values_is_returned_whole(openvino, tmp_path, write):
    found = [helper.make_node("NonZero", ["x"], ["y"], "the_nonzero")]
    path = write(tmp_path / "m.onnx", found, {"x": (FLOAT, ["batch", 5])}, {"y": (onnx.TensorProto.INT64, [2, "found"])}, {})
    with openvino.open(path) as session:
        for row in ([0, 1, 0, 2, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 3]):
            x = np.array([row], np.float32)
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.stack(np.nonzero(x)))


def test_an_input_passed_through_as_output_is_a_copy(openvino, tmp_path, write):
    same = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    path = write(tmp_path / "m.onnx", same, {"x": (FLOAT, ["batch", 3])}, {"y": (FLOAT, ["batch", 3]), "z": (FLOAT, ["batch", 3])}, {})
    with openvino.open(path) as session:
        first = session.run({"x": np.ones((1, 3), np.float32)})
        session.run({"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(first["y"], np.ones((1, 3)))
    np.testing.assert_array_equal(first["z"], -np.ones((1, 3)))


def test_a_node_it_cannot_read_is_named(openvino, tmp_path, write):
    odd = [helper.make_node("NoSuchOperator", ["x"], ["y"], "the_odd_one")]
    path = write(tmp_path / "m.onnx", odd, {"x": (FLOAT, [1, 2])}, {"y": (FLOAT, [1, 2])}, {})
    with pytest.raises(TargetError, match=r"openvino refuses 'm\.onnx'(?s:.)*NoSuchOperator(?s:.)*fix: ") as caught:
        openvino.open(path)
    assert "src/" not in caught.value.why


def test_shapes_that_cannot_go_together_are_refused_with_the_node(openvino, tmp_path, write):
    add = [helper.make_node("Add", ["x", "w"], ["y"], "the_add")]
    path = write(tmp_path / "m.onnx", add, {"x": (FLOAT, ["batch", 3])}, {"y": (FLOAT, ["batch", 3])}, {"w": np.ones((2, 5), np.float32)})
    with pytest.raises(TargetError, match=r"openvino refuses 'm\.onnx' at node 'the_add' \(Add\)"):
        openvino.open(path)


def test_an_option_it_does_not_know_is_refused_with_the_nearest(openvino, conv):
    with pytest.raises(TargetError, match=r"openvino has no runtime option 'thread'(?s:.)*did you mean 'threads'"):
        openvino.open(conv, thread=1)
    with pytest.raises(TargetError, match=r"runtime option 'precision' is 'fp32'(?s:.)*'f32' or 'bf16' or 'f16' or 'default'"):
        openvino.open(conv, precision="fp32")
    with pytest.raises(TargetError, match=r"runtime option 'threads' is 0(?s:.)*a whole number of at least 1"):
        openvino.open(conv, threads=0)


def test_a_device_this_machine_does_not_have_is_an_error(conv):
    with pytest.raises(TargetError, match=r"openvino refuses 'model\.onnx'(?s:.)*XPU"):
        plugins.find(Target, "openvino")(device="XPU").open(conv)


def test_the_safe_choice_comes_first(openvino):
    first = openvino.choices()[0]
    assert first["precision"] == "f32"
    assert {choice["threads"] for choice in openvino.choices()} == {1, usable_cores()}


def test_what_the_recipe_fixes_is_not_chosen_among():
    made = plugins.find(Target, "openvino")(threads=1, precision="f32")
    assert made.choices() == [{"threads": 1, "precision": "f32"}]


def test_a_fixed_precision_that_a_branch_forbids_is_an_error():
    with pytest.raises(TargetError, match=r"precision 'bf16' is asked for, and a branch forbids it"):
        plugins.find(Target, "openvino")(precision="bf16").choices(forbid=frozenset({"bf16", "fp16"}))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_is_no_array_is_refused_by_name(name, conv):
    with plugins.load(Target, name).open(conv) as session, pytest.raises(SpecMismatch, match=r"input 'x' wants .* got a list"):
        session.run({"x": [[1.0, 2.0]]})


def test_a_closed_session_says_so(openvino, conv):
    session = openvino.open(conv)
    session.close()
    with pytest.raises(TargetError, match="is closed"):
        session.run({"x": pictures(1)})


def test_inputs_of_different_batch_sizes_are_refused(openvino, tmp_path, write):
    add = [helper.make_node("Add", ["a", "b"], ["y"])]
    facts = (FLOAT, ["batch", 3])
    path = write(tmp_path / "m.onnx", add, {"a": facts, "b": facts}, {"y": facts}, {})
    with openvino.open(path) as session, pytest.raises(SpecMismatch, match="disagree about the batch size: 'a' 1, 'b' 2"):
        session.run({"a": np.ones((1, 3), np.float32), "b": np.ones((2, 3), np.float32)})


def test_a_graph_it_has_no_kernel_for_is_refused_at_the_node(openvino, tmp_path, write):
    """A product of 14 axes: its kernels take 12, on whatever processor, and its own error names no node."""
    shape = (FLOAT, [1] * 12 + [2, 2])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "the_relu"),
        helper.make_node("MatMul", ["r", "w"], ["p"], "the_product"),
        helper.make_node("Neg", ["p"], ["y"], "the_end"),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": shape, "w": shape}, {"y": shape}, {})
    with pytest.raises(TargetError, match=r"openvino refuses 'm\.onnx' at node 'the_product' \(MatMul\)(?s:.)*fix: "):
        openvino.open(path)


@needs_bf16
def test_a_graph_it_has_no_bf16_kernel_for_is_refused_near_the_node_and_runs_in_f32(openvino, foreign):
    """With AMX this one is refused, with AVX-512 alone it runs: which of the two is asked of OpenVINO itself."""
    if compiles(foreign, "bf16"):
        openvino.open(foreign, precision="bf16").close()
    else:
        with pytest.raises(TargetError, match=r"openvino refuses 'model\.onnx' at node 'middle_(q|dq)'(?s:.)*fix: choose precision f32"):
            openvino.open(foreign, precision="bf16")
    with openvino.open(foreign, precision="f32") as session:
        assert session.precision() == "int8"


def compiles(path: Path, precision: str) -> bool:
    """What OpenVINO alone says to a graph, compiled as our session does it."""
    core = ov.Core()
    try:
        core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": precision, "SNIPPETS_MODE": "DISABLE"})
    except RuntimeError:
        return False
    return True


def short_spectra(path: Path) -> Path:
    """Spectra of a signal by ONNX's STFT, which OpenVINO reads only when it knows the batch."""
    contents = {"hop": np.array(8), "window": np.hanning(16).astype(np.float32), "size": np.array(16), "axes": np.array([3])}
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in contents.items()]
    nodes = [
        helper.make_node("STFT", ["x", "hop", "window", "size"], ["s"], name="stft"),
        helper.make_node("ReduceSum", ["s", "axes"], ["y"], name="sum", keepdims=0),
    ]
    values = [helper.make_tensor_value_info("x", FLOAT, ["batch", 64, 1]), helper.make_tensor_value_info("y", FLOAT, ["batch", 7, 9])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_that_openvino_reads_with_fixed_sizes_only_runs_at_every_batch(openvino, reference, batch, tmp_path):
    path = short_spectra(tmp_path / "stft.onnx")
    x = np.random.default_rng(0).normal(size=(batch, 64, 1)).astype(np.float32)
    with openvino.open(path) as session, reference.open(path) as plain:
        np.testing.assert_allclose(session.run({"x": x})["y"], plain.run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_openvinos_own_reason_is_told_not_that_of_a_node_behind_it():
    text = (
        "Exception from src/core.cpp:84: Model wasn't fully converted. Failed operations detailed log: -- Conv-18 with a message: While "
        "validating ONNX node '<Node(Conv): conv1d>': The input data tensor's rank has to be known (static) -- STFT-18 with a message: "
        "While validating ONNX node '<Node(STFT): val_34>': Shape of signal input must be static with the rank equal to 3. Summary: -- "
        "Conversion is failed for: Conv-18, STFT-18"
    )
    assert _cause(text).endswith("Shape of signal input must be static with the rank equal to 3.")
    assert "STFT" in _cause(text)
    quantized = text.replace("The input data tensor's rank has to be known (static)", '"x" input data type must be static.')
    assert "STFT" in _cause(quantized)
    assert _cause("something else") == "something else"
