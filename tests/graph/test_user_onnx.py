"""A user's ONNX file: a card drafted for it, then made fit for the graph steps; with real trained networks."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Input
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.data import dataset
from edgemm.errors import CardError, CheckpointError, EdgemmError, ExportError, ParityError
from edgemm.graph import files, onnx_card, parity, user_onnx
from edgemm.graph.branches import find_branches
from edgemm.workshop.steps.quantize import quantize
from tests.places import PACKS

MODELS = PACKS / "real_models"
REAL = ("silero_vad_16k_op15", "face_rfb_320", "face_yunet_n_320")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def real(name: str) -> Path:
    path = MODELS / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set EDGEMM_DATA")
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """``prepared(name)``: card and prepared graph of a real network, made once."""
    made = {}

    def once(name: str):
        if name not in made:
            card = onnx_card.draft(real(name))
            made[name] = card, files.load(user_onnx.prepare(card, tmp_path_factory.mktemp(name) / "model.onnx"))
        return made[name]

    return once


def write(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict | None = None, opset: int = 18) -> Path:
    """A graph from nodes; inputs and outputs as name -> (element type, shape)."""
    values = [[helper.make_tensor_value_info(name, *facts) for name, facts in group.items()] for group in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    made = helper.make_model(helper.make_graph(nodes, "g", *values, tensors), opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(made, path)
    return path


def test_a_voice_detector_gets_state_rate_and_frame_size():
    card = onnx_card.draft(real("silero_vad_16k_op15"))
    assert card.inputs["input"].options == {"dtype": "float32", "shape": ["batch", 576]}
    assert card.inputs["state"].options == {"dtype": "float32", "shape": [2, "batch", 128], "state": "stateN"}
    assert card.inputs["sr"].options == {"dtype": "int64", "shape": [], "value": 16000}
    assert list(card.outputs) == ["output", "stateN"]


@pytest.mark.parametrize("name", REAL)
def test_a_drafted_card_is_a_valid_card_that_finds_its_file(name):
    card = onnx_card.draft(real(name))
    again = cards.parse(card.to_dict(), path=card.path)
    assert again.to_dict() == card.to_dict()
    assert again.model_path.resolve() == real(name).resolve()


@pytest.mark.parametrize("name", REAL)
def test_a_real_network_comes_out_in_a_recent_opset_with_names_and_the_same_results(prepared, name):
    card, model = prepared(name)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    samples = [batch.inputs for batch in dataset.synthetic(card, seed=3).calibration(2)]
    before, _ = parity.run_reference(onnx.load(real(name)), samples)
    after, _ = parity.run_reference(model, samples)
    assert all(parity.within(found) for found in parity.compare(before, after).values())


def test_conditions_on_sizes_and_batch_norms_are_gone(prepared):
    _, silero = prepared("silero_vad_16k_op15")
    assert not [node for node in silero.graph.node if node.op_type in ("If", "Constant", "ConstantOfShape")]
    assert [value.name for value in silero.graph.input] == ["input", "state", "sr"], "the built-in rate is still an input"
    assert not [name for node in silero.graph.node for name in node.input if name == "sr"]
    _, faces = prepared("face_rfb_320")
    assert not [node for node in faces.graph.node if node.op_type == "BatchNormalization"]


def test_branches_of_real_networks(prepared):
    card, model = prepared("silero_vad_16k_op15")
    assert find_branches(model, card).names() == ["input", "head:output"]
    card, model = prepared("face_rfb_320")
    assert find_branches(model, card).names() == ["input", "head:scores", "head:boxes"]
    card, model = prepared("face_yunet_n_320")
    assert len(find_branches(model, card).names()) == 13


@pytest.mark.parametrize("activations", ["mixed", "int8", "uint8"])
@pytest.mark.parametrize("name", REAL)
def test_real_networks_are_quantized_and_run(prepared, name, activations, tmp_path):
    card, model = prepared(name)
    made = quantize(model, Context(card, dataset.synthetic(card), tmp_path, numerics=Numerics(activations)), calibration_samples=4)
    samples = [batch.inputs for batch in dataset.synthetic(card, seed=3).calibration(2)]
    before, _ = parity.run_reference(model, samples)
    after, _ = parity.run_reference(made, samples)
    found = parity.compare(before, after)
    assert np.median([entry.sqnr_db for entry in found.values()]) > 10
    assert files.weight_bytes(made) < 0.6 * files.weight_bytes(model)


def test_the_batch_stays_open_where_the_file_leaves_it_open(prepared):
    _, model = prepared("silero_vad_16k_op15")
    rng = np.random.default_rng(0)
    feed = {"input": rng.normal(size=(3, 576)).astype(np.float32), "state": np.zeros((2, 3, 128), np.float32), "sr": np.array(16000)}
    assert parity.run_reference(model, [feed])[0]["output"].shape == (3,)


def test_inputs_of_a_file_with_an_open_axis_get_the_smallest_size_that_runs(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    path = write(
        tmp_path / "open.onnx", nodes, {"x": (FLOAT, ["n", "width"])}, {"y": (FLOAT, ["n", 2])}, {"w": np.zeros((40, 2), np.float32)}
    )
    assert onnx_card.draft(path).inputs["x"].options["shape"] == ["batch", 40]


def test_an_open_axis_for_which_nothing_runs_asks_for_a_card(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    path = write(
        tmp_path / "odd.onnx", nodes, {"x": (FLOAT, ["n", "width"])}, {"y": (FLOAT, ["n", 2])}, {"w": np.zeros((7, 2), np.float32)}
    )
    with pytest.raises(EdgemmError, match=r"'odd.onnx' leaves the size of width open") as caught:
        onnx_card.draft(path)
    assert "write a model.yaml beside it" in str(caught.value)


@pytest.mark.parametrize(
    ("state", "output"),
    [("h", "hn"), ("h0", "h_out"), ("state", "new_state"), ("cache_in", "cache_out"), ("h_prev", "h_next"), ("prev_c", "c_n")],
)
def test_states_are_known_by_name_and_shape(tmp_path, state, output):
    nodes = [helper.make_node("Add", ["x", state], [output], name="a"), helper.make_node("Relu", [output], ["y"], name="r")]
    kind = (FLOAT, ["batch", 4])
    path = write(tmp_path / "m.onnx", nodes, {"x": kind, state: kind}, {"y": kind, output: kind})
    card = onnx_card.draft(path)
    assert card.inputs[state].options["state"] == output
    assert "state" not in card.inputs["x"].options


@pytest.mark.parametrize(
    ("names", "states"),
    [
        ({"x": "x_out", "state": "new_state"}, ["state"]),
        ({"sound": "sound_out", "gru_h": "gru_h_next", "c_prev": "c_next"}, ["gru_h", "c_prev"]),
        ({"x": "x_out", "z": "z_out"}, []),
        ({"h": "hn", "c": "cn"}, []),
    ],
)
def test_where_all_inputs_could_be_states_those_called_so_are_and_none_where_that_says_nothing(tmp_path, names, states):
    kind, notes = (FLOAT, ["batch", 4]), []
    nodes = [helper.make_node("Add", [name, next(iter(names))], [output], name=output) for name, output in names.items()]
    path = write(tmp_path / "m.onnx", nodes, dict.fromkeys(names, kind), dict.fromkeys(names.values(), kind))
    card = onnx_card.draft(path, notes.append)
    assert [name for name in names if "state" in card.inputs[name].options] == states
    assert [bool(states)] == [not notes]
    assert states or f"inputs {', '.join(map(repr, names))} could each be a state" in notes[0]


def test_a_missing_file_is_named():
    with pytest.raises(CheckpointError, match=r"no file 'nowhere\.onnx'"):
        onnx_card.draft(Path("nowhere.onnx"))


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="no complete ONNX file"):
        onnx_card.draft(path)


def test_a_card_with_a_picture_puts_its_front_end_before_the_file(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["pixels", "axes"], ["y"], name="mean", keepdims=0)]
    write(tmp_path / "m.onnx", nodes, {"pixels": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3])}, {"axes": np.array([2, 3])})
    card = cards.parse(
        {
            "model": "m.onnx",
            "inputs": {"pixels": {"modality": "image", "height": 8, "width": 8, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}},
            "outputs": {"y": {"task": "tensor"}},
        },
        path=tmp_path / "model.yaml",
    )
    model = files.load(user_onnx.prepare(card, tmp_path / "made.onnx"))
    found, _ = parity.run_reference(model, [{"pixels": np.full((1, 8, 8, 3), 255, np.uint8)}])
    np.testing.assert_allclose(found["y"], 1.0, rtol=1e-5)


@pytest.fixture
def two_outputs(tmp_path):
    """A file with outputs ``y`` and ``z``, and ``card(*names)``: a card that gives it these outputs."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="r"), helper.make_node("Neg", ["y"], ["z"], name="n")]
    kind = (FLOAT, ["batch", 2])
    write(tmp_path / "m.onnx", nodes, {"x": kind}, {"y": kind, "z": kind})
    inputs = {"x": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 2]}}
    return lambda *names: cards.parse(
        {"model": "m.onnx", "inputs": inputs, "outputs": {name: {"task": "tensor"} for name in names}}, path=tmp_path / "model.yaml"
    )


@pytest.mark.parametrize(
    ("names", "values"), [(("z", "y"), (-3.0, 3.0)), (("y",), (3.0,)), (("event", "level"), (3.0, -3.0)), (("y", "level"), (3.0, -3.0))]
)
def test_outputs_are_those_of_the_card_by_name_or_by_order(two_outputs, tmp_path, names, values):
    model = files.load(user_onnx.prepare(two_outputs(*names), tmp_path / "made.onnx"))
    found, _ = parity.run_reference(model, [{"x": np.full((1, 2), 3.0, np.float32)}])
    assert {name: value[0] for name, value in found.items()} == dict(zip(names, values, strict=True))


def test_an_output_the_file_has_not_is_refused(two_outputs, tmp_path):
    with pytest.raises(CardError, match=r"'m\.onnx' has no output 'yy'") as caught:
        user_onnx.prepare(two_outputs("yy"), tmp_path / "made.onnx")
    assert "it has y, z" in str(caught.value)


def test_a_conversion_that_changes_results_is_refused(tmp_path, monkeypatch):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}, opset=15
    )

    def wrongly(model, _):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.graph.node[0].op_type = "Neg"
        return made

    monkeypatch.setattr(user_onnx.version_converter, "convert_version", wrongly)
    with pytest.raises(ParityError, match=r"output 'y' of 'm.onnx' changes by .* converted to opset 18"):
        user_onnx.prepare(onnx_card.draft(path), tmp_path / "made.onnx")


def test_an_opset_that_cannot_be_converted_is_named(tmp_path):
    nodes = [helper.make_node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y", "a", "b", "c", "d"], name="training")]
    path = write(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [1, 1, 2])}, {"y": (FLOAT, [1, 1, 2])}, {"v": np.ones(1, np.float32)}, opset=12)
    with pytest.raises(CheckpointError, match=r"'m\.onnx' has opset 12 and cannot be converted to 18"):
        user_onnx._converted(onnx.load(path), path.name)


def test_a_state_that_no_output_continues_is_a_mistake_in_the_card(tmp_path):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Add", ["x", "h"], ["y"])], {"x": (FLOAT, [2]), "h": (FLOAT, [2])}, {"y": (FLOAT, [2])}
    )
    card = onnx_card.draft(path)
    spec = card.inputs["h"]
    card = card.replace(inputs={**card.inputs, "h": dataclasses.replace(spec, options={**spec.options, "state": "z"})})
    with pytest.raises(CardError, match=r"inputs.h.state names 'z', which is no output of the card"):
        user_onnx.prepare(card, tmp_path / "made.onnx")


def test_weights_of_another_size_than_their_shape_says_are_told(tmp_path):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, ["batch", 2])}, {"y": (FLOAT, ["batch", 2])},
        {"w": np.ones(2, np.float32)},
    )  # fmt: skip
    model = onnx.load(path)
    model.graph.initializer[0].raw_data *= 2  # the checker lets it pass
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"'.*m.onnx' is no complete ONNX file"):
        onnx_card.draft(path)


@pytest.mark.parametrize(
    ("options", "words"), [({"shape": ["batch", 3]}, r"'x' \(1, 3\) float32"), ({"dtype": "int64"}, r"'x' \(1, 2\) int64")]
)
def test_a_card_whose_input_the_file_does_not_take_is_told_with_the_sample(tmp_path, options, words):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, ["batch", 2])}, {"y": (FLOAT, ["batch", 2])},
        {"w": np.ones(2, np.float32)},
    )  # fmt: skip
    drafted = onnx_card.draft(path)
    card = drafted.replace(inputs={"x": Input("x", "tensor", {**drafted.inputs["x"].options, **options})})
    with pytest.raises(ExportError, match=rf"cannot run the graph.* on a sample.\n  why: .*; the sample: {words}"):
        user_onnx.prepare(card, tmp_path / "out.onnx")


def test_a_card_with_fewer_inputs_than_the_file_is_told_by_their_names(two_outputs, tmp_path):
    card = two_outputs("y", "z")
    card = card.replace(inputs={**card.inputs, "q": Input("q", "tensor", {"dtype": "float32", "shape": ["batch", 2]})})
    with pytest.raises(CardError, match=r"the graph takes 1 inputs, the card describes 2"):
        user_onnx.prepare(card, tmp_path / "out.onnx")


def test_a_file_whose_answer_depends_on_no_input_is_refused(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["unread"]), helper.make_node("Exp", ["w"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["batch", 2])}, {"y": (FLOAT, [2])}, {"w": np.ones(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"'m.onnx' computes nothing of its inputs"):
        user_onnx.prepare(onnx_card.draft(path), tmp_path / "out.onnx")


def test_an_output_may_be_called_as_a_tensor_inside_but_not_as_another_output(two_outputs, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["inside"]), helper.make_node("Neg", ["inside"], ["y"]), helper.make_node("Exp", ["x"], ["z"])]
    kind = (FLOAT, ["batch", 2])
    write(tmp_path / "m.onnx", nodes, {"x": kind}, {"y": kind, "z": kind})
    model = files.load(user_onnx.prepare(two_outputs("inside", "z"), tmp_path / "made.onnx"))
    assert parity.run_reference(model, [{"x": np.full((1, 2), 3.0, np.float32)}])[0]["inside"][0] == -3.0
    with pytest.raises(CardError, match=r"output 'y' of the card stands where 'm.onnx' has 'z'"):
        user_onnx.prepare(two_outputs("event", "y"), tmp_path / "made.onnx")
