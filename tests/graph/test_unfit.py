"""Files that no step can work on are refused with their cause; masks of infinities are none of them."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.errors import CheckpointError
from edgemm.graph import files, onnx_card, user_onnx
from tests.graph import user_files
from tests.graph.user_files import nodes, weights

FLOAT = TensorProto.FLOAT


def with_one(value: float) -> np.ndarray:
    changed = weights()["w1"].copy()
    changed[3, 3] = value
    return changed


def prepare(path, tmp_path):
    return files.load(user_onnx.prepare(onnx_card.draft(path), tmp_path / "made.onnx"))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_a_weight_that_is_no_number_is_named(value, word, tmp_path):
    path = user_files.write(tmp_path / "m.onnx", nodes(), weights(w1=with_one(value)))
    with pytest.raises(CheckpointError, match=f"weight 'w1' of 'm.onnx' holds {word}") as caught:
        prepare(path, tmp_path)
    assert "1 of its 1024 values" in str(caught.value)
    assert not (tmp_path / "made.onnx").exists()


def test_a_weight_behind_a_transpose_is_a_weight(tmp_path):
    body = [
        helper.make_node("Transpose", ["w1"], ["turned"]),
        helper.make_node("MatMul", ["a", "turned"], ["x"], name="first"),
        *nodes()[1:],
    ]
    path = user_files.write(tmp_path / "m.onnx", body, weights(w1=with_one(-np.inf)))
    with pytest.raises(CheckpointError, match="weight 'w1'"):
        prepare(path, tmp_path)


@pytest.mark.parametrize("how", ["Add", "Where"])
def test_masks_of_minus_infinity_pass(how, tmp_path):
    mask = np.array([[0, -np.inf, 0, 0]], np.float32)
    kept = {"mask": mask} if how == "Add" else {"mask": mask == 0, "none": np.array(-np.inf, np.float32)}
    masked = helper.make_node("Add", ["o", "mask"], ["m"]) if how == "Add" else helper.make_node("Where", ["mask", "o", "none"], ["m"])
    path = user_files.write(tmp_path / "m.onnx", [*nodes("o"), masked, helper.make_node("Softmax", ["m"], ["out"])], weights(**kept))
    assert [node.op_type for node in prepare(path, tmp_path).graph.node][-2:] == [how, "Softmax"]


def test_a_map_as_output_is_refused_with_the_exporters_option_and_may_be_left_out_by_a_card(tmp_path):
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, None)))
    body = [*nodes(), helper.make_node("ZipMap", ["out"], ["sure"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])]
    outputs = {"out": 4, "sure": helper.make_value_info("sure", kind)}
    path = user_files.write(tmp_path / "m.onnx", body, weights(), outputs=outputs, domains=["ai.onnx.ml"])
    with pytest.raises(CheckpointError, match=r"output 'sure' of 'm.onnx' is of the kind sequence(.|\n)*zipmap"):
        onnx_card.draft(path)
    plain = user_files.write(tmp_path / "plain.onnx", nodes(), weights())
    card = onnx_card.draft(plain).replace(model="m.onnx")
    model = files.load(user_onnx.prepare(card, tmp_path / "made.onnx"))
    assert [value.name for value in model.graph.output] == ["out"]


def test_strings_as_input_are_refused(tmp_path):
    text = helper.make_tensor_value_info("s", TensorProto.STRING, ["N", 1])
    body = [helper.make_node("Identity", ["s"], ["t"]), *nodes()]
    path = user_files.write(tmp_path / "m.onnx", body, weights(), inputs={"a": 32, "b": 8, "s": text})
    with pytest.raises(CheckpointError, match=r"input 's' of 'm.onnx' is made of strings(.|\n)*token ids"):
        onnx_card.draft(path)


@pytest.mark.parametrize("kind", ["BatchNormalization", "Dropout"])
def test_a_graph_in_training_mode_is_refused_by_node(kind, tmp_path):
    more = {"one": np.ones(32, np.float32), "nil": np.zeros(32, np.float32), "ratio": np.array(0.5, np.float32), "yes": np.array(True)}
    first = (
        helper.make_node("BatchNormalization", ["a", "one", "nil", "nil", "one"], ["n", "m", "v"], name="bn", training_mode=1)
        if kind == "BatchNormalization"
        else helper.make_node("Dropout", ["a", "ratio", "yes"], ["n"], name="bn")
    )
    body = [first, helper.make_node("MatMul", ["n", "w1"], ["x"], name="first"), *nodes()[1:]]
    path = user_files.write(tmp_path / "m.onnx", body, weights(**more))
    with pytest.raises(CheckpointError, match=rf"node 'bn' \({kind}\) of 'm.onnx' is in training mode(.|\n)*model.eval\(\)"):
        prepare(path, tmp_path)


def test_local_functions_are_written_out(tmp_path):
    body = [helper.make_node("MatMul", ["v", "w"], ["t"]), helper.make_node("Relu", ["t"], ["r"])]
    function = helper.make_function("own", "Layer", ["v", "w"], ["r"], body, [helper.make_opsetid("", 18)])
    calls = [helper.make_node("Layer", ["a", "w1"], ["y"], domain="own"), helper.make_node("Layer", ["b", "w2"], ["z"], domain="own")]
    path = user_files.write(tmp_path / "m.onnx", [*calls, *nodes()[3:]], weights(), domains=["own"], functions=[function])
    model = prepare(path, tmp_path)
    assert not model.functions
    assert sorted(node.op_type for node in model.graph.node) == ["Concat", "MatMul", "MatMul", "MatMul", "Relu", "Relu"]


def test_an_input_without_an_element_type_is_refused(tmp_path):
    path = user_files.write(tmp_path / "m.onnx", nodes(), weights())
    model = files.load(path)
    model.graph.input[0].type.tensor_type.elem_type = 0
    files.save(model, path)
    with pytest.raises(CheckpointError, match=r"input '.*' of 'm.onnx' has no element type"):
        onnx_card.draft(path)


def dropped(ratio, flag="flag"):
    drop = helper.make_node("Dropout", ["x", "ratio", flag], ["d"], name="drop")
    body = [nodes()[0], drop, helper.make_node("Relu", ["d"], ["y"]), *nodes()[2:]]
    return body, weights(ratio=np.array(ratio, np.float32))


def test_dropout_in_training_mode_that_drops_nothing_passes(tmp_path):
    body, contents = dropped(0.0)
    path = user_files.write(tmp_path / "m.onnx", body, contents | {"flag": np.array(True)})
    assert "Dropout" not in [node.op_type for node in prepare(path, tmp_path).graph.node]


def test_an_input_whose_opposite_switches_dropout_is_built_in_as_true(tmp_path):
    body, contents = dropped(0.5)
    body = [helper.make_node("Not", ["served"], ["flag"]), *body]
    inputs = {"a": 32, "b": 8, "served": helper.make_tensor_value_info("served", TensorProto.BOOL, [])}
    path = user_files.write(tmp_path / "m.onnx", body, contents, inputs=inputs)
    assert onnx_card.draft(path).inputs["served"].options["value"] is True
    assert "Dropout" not in [node.op_type for node in prepare(path, tmp_path).graph.node]


def test_an_input_that_switches_dropout_is_built_in_as_false_and_told(tmp_path):
    body, contents = dropped(0.5)
    inputs = {"a": 32, "b": 8, "flag": helper.make_tensor_value_info("flag", TensorProto.BOOL, [])}
    path, notes = user_files.write(tmp_path / "m.onnx", body, contents, inputs=inputs), []
    card = onnx_card.draft(path, notes.append)
    assert card.inputs["flag"].options["value"] is False
    assert notes == ["input 'flag' says whether dropout drops values, and is built in as false."]
    assert "Dropout" not in [node.op_type for node in files.load(user_onnx.prepare(card, tmp_path / "made.onnx")).graph.node]
    spec = dataclasses.replace(card.inputs["flag"], options={"dtype": "bool", "shape": []})
    with pytest.raises(CheckpointError, match=r"input 'flag' of 'm.onnx'(.|\n)*'drop'(.|\n)*inputs.flag.value: false in a card"):
        user_onnx.prepare(card.replace(inputs={**card.inputs, "flag": spec}), tmp_path / "other.onnx")


@pytest.mark.parametrize(("domain", "is_read"), [("ai.onnx.ml", True), ("", False), ("my.ops", False)])
def test_an_operator_whose_domain_the_file_does_not_import_is_read_where_it_is_known_and_else_named(domain, is_read, tmp_path):
    label = helper.make_node("LabelEncoder", ["i"], ["y"], keys_int64s=[0, 1], values_floats=[0.5, 2.0], domain=domain)
    body = [helper.make_node("ArgMax", ["a"], ["i"], axis=1), label]
    path = user_files.write(tmp_path / "m.onnx", body, {}, inputs={"a": 2}, outputs={"y": 1})
    if is_read:
        return onnx.checker.check_model(onnx_card.read(path), full_check=True)
    with pytest.raises(CheckpointError, match=r"node 'y' \(LabelEncoder\) of(.|\n)*ai.onnx.ml has LabelEncoder"):
        onnx_card.read(path)
