"""Front-ends in a graph: equal to numpy, torch and OpenVINO on real pictures and sounds, and put in without harm to the rest."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, parser

from edgemm.contracts import card_file as cards
from edgemm.contracts import frontend_ops, plugins
from edgemm.contracts.modality import input_specs, modalities
from edgemm.contracts.target import Target
from edgemm.errors import CardError, ExportError
from edgemm.graph.frontend import prepend, reform
from edgemm.graph.parity import reference_session
from edgemm.workshop.models.frontend import Frontend
from tests.onnx_models import model as onnx_model
from tests.places import PACKS

PICTURES = ("av_dog.jpg", "photo_coffee.png", "photo_cat_chelsea.png")
SOUNDS = ("word_yes_1s.wav", "av_car.wav", "word_no_1s.wav")
TEXTS = ([5, 3, 2], [9], [4, 4, 4, 4, 4])
IMAGE = {"modality": "image", "height": 48, "width": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "fit": "crop"}
AUDIO = {"modality": "audio", "rate_hz": 16000, "seconds": 1.0}
ALL = {
    "image": IMAGE,
    "audio": AUDIO | {"features": {"log_mel": {"mels": 40, "window_ms": 25, "hop_ms": 10}}},
    "words": AUDIO | {"features": {"mfcc": {"center": True, "normalize": "clip", "power": 1.0}}},
    "peak": AUDIO | {"features": {"log_mel": {"normalize": "peak", "power": 1.5, "offset": 1e-3}}},
    "pcm": AUDIO | {"features": "none"},
    "text": {"modality": "text", "length": 4, "vocab": 10, "mask": True},
    "imu": {"modality": "sensor", "shape": [5, 2], "mean": [1.0, 2.0], "std": [3.0, 0.5]},
}
STEPS = {
    "image": IMAGE | {"steps": 2},
    "audio": ALL["audio"] | {"steps": 3},
    "text": ALL["text"] | {"steps": 2},
    "imu": ALL["imu"] | {"steps": 2},
    "raw": {"modality": "sensor", "shape": [2], "steps": 4},
}


def make_card(inputs):
    return cards.parse({"factory": "a:b", "inputs": inputs, "outputs": {"y": {"task": "embedding"}}})


@pytest.fixture(scope="module")
def media():
    folder = PACKS / "media_samples"
    if not folder.is_dir():
        pytest.skip(f"no real pictures and sounds in {folder} (set EDGEMM_DATA)")
    return folder


def real_batch(card, folder, count):
    """Real samples: what the graph takes."""
    cells = {"image": PICTURES, "audio": SOUNDS, "text": TEXTS}
    rng = np.random.default_rng(0)
    feed = {}
    for name, part in modalities(card).items():
        spec = card.inputs[name]
        kind = cells.get(spec.modality) or [part.synthetic(rng) for _ in range(3)]
        rows = [[part.decode(kind[(row + step) % 3], folder) for step in range(spec.steps or 1)] for row in range(count)]
        feed[name] = np.stack([np.stack(row) if spec.steps else row[0] for row in rows])
    return feed


def in_numpy(card, feed):
    parts = modalities(card)
    return [value for name in card.inputs for value in frontend_ops.run(parts[name].frontend(), feed[name], steps=card.inputs[name].steps)]


def hands_through(card, opset=18, names=None):
    """A graph that gives back what ``forward`` would receive."""
    feed = {name: np.zeros([2 if size == "batch" else size for size in spec.shape], spec.dtype) for name, spec in specs_of(card)}
    features = in_numpy(card, feed)
    if names is None:
        parts = modalities(card)
        names = [each for name in card.inputs for each in ([name, f"{name}_mask"] if masked(parts[name]) else [name])]
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in features]
    shapes = [["batch", *value.shape[1:]] for value in features]
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_seen"], name=f"{name}/Identity") for name in names],
        "features",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in zip(names, kinds, shapes, strict=True)],
        [helper.make_tensor_value_info(f"{name}_seen", kind, shape) for name, kind, shape in zip(names, kinds, shapes, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def specs_of(card):
    return [(spec.name, spec) for spec in input_specs(card)]


def masked(part):
    return any(isinstance(op, frontend_ops.Mask) for op in part.frontend())


def in_onnxruntime(model, feed):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)


@pytest.mark.parametrize("inputs", [ALL, STEPS], ids=["single", "steps"])
def test_numpy_torch_onnxruntime_and_openvino_agree_on_real_data(media, inputs):
    card = make_card(inputs)
    model = prepend(hands_through(card), card)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    in_torch = Frontend(card)
    for count in (1, 3):
        feed = real_batch(card, media, count)
        want = in_numpy(card, feed)
        answers = {
            "torch": [value.numpy() for value in in_torch({name: torch.from_numpy(array) for name, array in feed.items()})],
            "onnxruntime": session.run(None, feed),
            "openvino": list(compiled(feed).values()),
        }
        for runtime, got in answers.items():
            assert len(got) == len(want)
            for number, (ours, theirs) in enumerate(zip(want, got, strict=True)):
                assert ours.shape == theirs.shape, (runtime, number)
                assert ours.dtype == theirs.dtype, (runtime, number)
                np.testing.assert_allclose(theirs, ours, atol=1e-4, err_msg=f"{runtime}, feature {number}, batch {count}")


def test_every_recording_gives_the_same_log_mel_up_to_what_float32_can_hold(media):
    """Cells 100 dB below the loudest of their frame keep fewer digits: a float32 Fourier transform of any make has this limit."""
    card = make_card({"audio": ALL["audio"] | {"seconds": 2.0}})
    files = sorted(path.name for path in media.iterdir() if path.suffix in (".wav", ".flac"))
    feed = {"audio": np.stack([modalities(card)["audio"].decode(name, media) for name in files])}
    (want,) = in_numpy(card, feed)
    (got,) = in_onnxruntime(prepend(hands_through(card), card), feed)
    error = np.abs(got - want)
    assert error.max() < 2e-3
    assert (error > 1e-4).mean() < 1e-3


@pytest.mark.parametrize("opset", [11, 18])
def test_a_front_end_changes_its_form_in_the_graph_and_nothing_else_does(media, opset):
    card = make_card({name: ALL[name] for name in ("image", "audio", "words")})
    model = prepend(hands_through(card, opset=opset), card)
    other = reform(model, card, {"audio": "factorized"})
    onnx.checker.check_model(other, full_check=True)
    feed = real_batch(card, media, 2)
    want, got = in_onnxruntime(model, feed), in_onnxruntime(other, feed)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=5e-4)  # cells 100 dB below their frame's loudest
    np.testing.assert_array_equal(got[2], want[2])
    assert other.ByteSize() < model.ByteSize() - 500_000


def test_a_form_and_back_is_the_graph_it_was(media):
    card = make_card({"audio": ALL["audio"]})
    model = prepend(hands_through(card), card)
    assert reform(reform(model, card, {"audio": "factorized"}), card, {"audio": "dense"}) == model


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_older_and_newer_opsets_take_the_front_end_too(opset):
    card = make_card({name: spec for name, spec in ALL.items() if name != "image"} | {"image": IMAGE | {"height": 6, "width": 5}})
    rng = np.random.default_rng(0)
    feed = {name: np.stack([part.synthetic(rng) for _ in range(2)]) for name, part in modalities(card).items()}
    model = prepend(hands_through(card, opset), card)
    onnx.checker.check_model(model, full_check=True)
    for got, want in zip(in_onnxruntime(model, feed), in_numpy(card, feed), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_graph_takes_what_the_card_says_and_front_end_nodes_are_named():
    card = make_card(ALL)
    before = hands_through(card)
    frozen = before.SerializeToString(deterministic=True)
    model = prepend(before, card)
    assert before.SerializeToString(deterministic=True) == frozen
    for value, spec in zip(model.graph.input, input_specs(card), strict=True):
        dims = value.type.tensor_type.shape.dim
        assert value.name == spec.name
        assert tuple(dim.dim_param or dim.dim_value for dim in dims) == spec.shape
        assert value.type.tensor_type.elem_type == helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    new = [node.name for node in model.graph.node if not node.name.endswith("/Identity")]
    assert new[:4] == ["frontend/image/0_Cast", "frontend/image/1_Transpose", "frontend/image/2_Mul", "frontend/image/3_Add"]
    assert all(name.startswith("frontend/") and name.split("/")[1] in card.inputs for name in new)
    assert len(set(new)) == len(new)
    assert [name for name in new if name.split("/")[1] == "pcm"] == []


def test_a_users_graph_with_other_input_names_is_fed_in_card_order():
    card = make_card({"text": ALL["text"], "image": IMAGE | {"height": 6, "width": 5}})
    model = prepend(hands_through(card, names=["input_ids", "attention", "pixels"]), card)
    assert [value.name for value in model.graph.input] == ["text", "image"]
    rng = np.random.default_rng(0)
    feed = {name: part.synthetic(rng)[None] for name, part in modalities(card).items()}
    for got, want in zip(in_onnxruntime(model, feed), in_numpy(card, feed), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_bodies_of_loops_and_branches_read_the_front_ends_result():
    card = make_card(
        {
            "imu": {"modality": "sensor", "shape": [2], "mean": [1.0, 2.0], "std": [3.0, 0.5]},
            "flag": {"modality": "tensor", "dtype": "bool", "shape": []},
        }
    )
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[batch, 2] imu, bool flag) => (float[batch, 2] y) {
            y = If (flag) <
                then_branch = a () => (float[batch, 2] t) { t = Neg (imu) },
                else_branch = b () => (float[batch, 2] e) { imu2 = Abs (imu) e = Identity (imu2) }
            >
        }
    """)
    merged = prepend(model, card)
    onnx.checker.check_model(merged, full_check=True)
    raw = np.array([[4.0, 1.0]], np.float32)
    for flag, want in ((True, [[-1.0, 2.0]]), (False, [[1.0, 2.0]])):
        np.testing.assert_allclose(in_onnxruntime(merged, {"imu": raw, "flag": np.array(flag)})[0], want, rtol=1e-6)


def test_free_axes_of_an_input_without_front_end_keep_their_names():
    card = make_card({"ids": {"modality": "text", "length": 8, "vocab": 10}})
    value = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "ids_length"])
    out = helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", "ids_length"])
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["y"])], "g", [value], [out])
    model = prepend(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), card)
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "ids_length"]


def test_another_number_of_inputs_is_a_card_error():
    card = make_card({"image": IMAGE})
    text = make_card({"text": ALL["text"]})
    with pytest.raises(
        CardError, match=r"the graph takes 1 inputs, the card describes 2\.\n  why: the graph: image; the card: text, text_mask"
    ):
        prepend(hands_through(card), text)


def test_too_old_an_opset_is_an_export_error():
    card = make_card({"image": IMAGE})
    with pytest.raises(ExportError, match="the graph has opset 9, a front-end needs at least 11"):
        prepend(hands_through(card, opset=9), card)


def test_initializers_listed_as_inputs_stay_constants():
    """Old exporters list weights among the inputs."""
    card = make_card({"imu": {"modality": "sensor", "shape": [2], "mean": [0.0, 0.0], "std": [1.0, 2.0]}})
    value, weight = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("imu", ["n", 2]), ("w", [2])))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["imu", "w"], ["y"])],
        "g",
        [value, weight],
        [out],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], [10.0, 10.0])],
    )
    model = prepend(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), card)
    np.testing.assert_allclose(in_onnxruntime(model, {"imu": np.array([[1.0, 4.0]], np.float32)})[0], [[10.0, 20.0]])


@pytest.mark.parametrize("form", ["dense", "factorized"])
def test_openvino_computes_an_int8_convolution_behind_every_form_rightly(tmp_path, form):
    card = make_card({"audio": AUDIO | {"features": {"log_mel": {"mels": 40, "window_ms": 32, "hop_ms": 16}}}})
    rng = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.07),
        "zero": np.int8(0),
        "axis": np.array([1]),
        "weight": rng.integers(-127, 128, (16, 1, 3, 3)).astype(np.int8),
        "weight_scale": np.full(16, 0.01, np.float32),
        "weight_zero": np.zeros(16, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["audio", "scale", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"),
        helper.make_node("Unsqueeze", ["dq", "axis"], ["picture"], "picture"),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], "w", axis=0),
        helper.make_node("Conv", ["picture", "w"], ["y"], "mix", strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    graph = reform(prepend(onnx_model(nodes, {"audio": ["batch", 40, 61]}, {"y": None}, constants), card), card, {"audio": form})
    onnx.save(graph, tmp_path / "model.onnx")
    feed = {"audio": rng.normal(0, 0.1, (1, 16000)).astype(np.float32)}
    (expected,) = reference_session(graph).run(None, feed)
    with plugins.load(Target, "openvino").open(tmp_path / "model.onnx", precision="f32") as session:
        np.testing.assert_allclose(session.run(feed)["y"], expected, atol=1e-5 * np.abs(expected).max())
