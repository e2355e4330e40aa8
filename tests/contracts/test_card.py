"""The model card: read whole, every mistake at once, each with a fix."""

import json
import zipfile
from pathlib import Path

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card_file import parse
from edgemm.errors import CardError, Mistakes
from edgemm.verbs.init import init

GOOD = {
    "factory": "porch.model:build",
    "kwargs": {"classes": 7},
    "weights": "weights.safetensors",
    "inputs": {
        "picture": {"modality": "image", "height": 64, "width": 64, "channels": 3},
        "audio": {"modality": "audio", "rate_hz": 16000, "seconds": 1.0},
    },
    "outputs": {"event": {"task": "classification", "labels": ["quiet", "glass"]}, "level": {"task": "regression", "unit": "dB"}},
    "columns": {"photo": "picture"},
}


def changed(**changes):
    return {**GOOD, **changes}


def write(folder: Path, text: str) -> Path:
    path = folder / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_card_keeps_inputs_and_outputs_in_order():
    card = parse(GOOD)
    assert list(card.inputs) == ["picture", "audio"]
    assert list(card.outputs) == ["event", "level"]
    assert card.outputs["event"].labels == ("quiet", "glass")
    assert card.outputs["level"].unit == "dB"


def test_a_card_knows_the_column_of_each_name():
    card = parse(GOOD)
    assert (card.column("picture"), card.column("audio")) == ("photo", "audio")


def test_a_card_lists_its_branch_selectors():
    assert parse(GOOD).selectors() == ["audio", "fusion", "head", "head:event", "head:level", "image", "picture"]


def test_a_card_written_and_read_again_is_the_same(tmp_path):
    card = parse(GOOD)
    again = cards.load(write(tmp_path, card.to_yaml()))
    assert again.to_dict() == card.to_dict() == GOOD


def test_auxiliary_answers_by_place_and_name_survive_writing_and_json():
    card = parse(changed(outputs={"y": {"task": "regression", "auxiliary": {1: 0.4, "early": 1}}}, columns={}))
    assert card.outputs["y"].auxiliary == {1: 0.4, "early": 1.0}
    assert parse(json.loads(json.dumps(card.to_dict()))) == card


def test_paths_in_a_card_start_at_its_folder(tmp_path):
    card = cards.load(write(tmp_path, parse(GOOD).to_yaml()))
    assert card.weights_path == tmp_path / "weights.safetensors"
    assert card.model_path is None


def test_a_folder_with_a_model_yaml_is_a_card(tmp_path):
    write(tmp_path, parse(GOOD).to_yaml())
    assert cards.load(tmp_path).to_dict() == GOOD


@pytest.mark.parametrize("name", sorted(path.stem for path in cards.SHIPPED.glob("*.yaml")))
def test_every_shipped_card_loads_by_name_and_says_what_it_is(name):
    card = cards.load(name)
    assert card.factory == f"models:{name}"
    assert cards.locate(name).read_text(encoding="utf-8").startswith("# ")


def test_there_are_shipped_cards():
    assert list(cards.SHIPPED.glob("*.yaml"))


def test_an_unknown_path_is_refused_with_the_nearest_shipped_name(tmp_path):
    shipped = sorted(path.stem for path in cards.SHIPPED.glob("*.yaml"))[0]
    with pytest.raises(CardError, match=rf"no model card at '{shipped}x'\.(.|\n)*did you mean '{shipped}'\?"):
        cards.load(shipped + "x")


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ([], "is not a mapping"),
        ({**GOOD, "weigths": "w"}, "unknown key 'weigths'.*did you mean 'weights'"),
        (changed(inputs={}), "'inputs' is missing or empty"),
        (changed(outputs=None), "'outputs' is missing or empty"),
        (changed(model="a.onnx"), "either 'factory' or 'model'.*both are given"),
        (changed(factory=None), "either 'factory' or 'model'.*neither is given"),
        (changed(kwargs=[1]), r"'kwargs' must be a dict, not \[1\]"),
        (changed(columns={"photo": "pictures"}), "columns.photo names 'pictures'.*did you mean 'picture'"),
    ],
)
def test_a_mistake_in_the_whole_card_is_named(plain, words):
    with pytest.raises(CardError, match=f"(?s){words}"):
        parse(plain)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "inputs.x: 'modality' is missing"),
        ("image", "inputs.x: 'modality' is missing"),
        ({"modality": "imag"}, "inputs.x: unknown modality 'imag'.*did you mean 'image'"),
        ({"modality": "image", "height": 64, "width": 64, "widht": 6}, "inputs.x: unknown key 'widht'.*did you mean 'width'"),
        ({"modality": "image", "height": "tall", "width": 64}, "inputs.x.height: 'tall' is not a whole number"),
        ({"modality": "image", "width": 64}, "inputs.x: 'height' is missing"),
        ({"modality": "image", "height": 64, "width": 64, "steps": 0}, "inputs.x.steps: 0 is not a number of steps"),
        ({"modality": "image", "height": 64, "width": 64, "steps": True}, "inputs.x.steps: True is not a number of steps"),
    ],
)
def test_a_mistake_in_an_input_is_named(spec, words):
    with pytest.raises(CardError, match=f"(?s){words}"):
        parse(changed(inputs={"x": spec}, columns={}))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "outputs.y: 'task' is missing"),
        ({"task": "classify"}, "outputs.y: unknown task 'classify'.*did you mean 'classification'"),
        ({"task": "regression", "units": "dB"}, "outputs.y: unknown key 'units'.*did you mean 'unit'"),
        ({"task": "classification", "labels": "a"}, "outputs.y.labels: 'a' is not a list of names"),
        ({"task": "classification", "labels": ["a", "b", "a"]}, "outputs.y.labels: 'a' stands there twice"),
        ({"task": "classification", "labels": ["a", None]}, "outputs.y.labels: the entry at 1 is empty"),
        ({"task": "embedding", "pair": "z"}, "outputs.y.pair names 'z', no output"),
        ({"task": "regression", "auxiliary": {1: -1}}, "outputs.y.auxiliary: -1 is no weight above 0"),
        ({"task": "regression", "auxiliary": {"aux": "much"}}, "outputs.y.auxiliary: 'much' is no weight above 0"),
        ({"task": "regression", "auxiliary": 0.4}, "outputs.y.auxiliary: 0.4 is no weight above 0"),
    ],
)
def test_a_mistake_in_an_output_is_named(spec, words):
    with pytest.raises(CardError, match=f"(?s){words}"):
        parse(changed(outputs={"y": spec}))


def test_labels_that_yaml_reads_as_booleans_stay_words(tmp_path):
    text = parse(GOOD).to_yaml().replace("[quiet, glass]", "[yes, no, 3]")
    assert cards.load(write(tmp_path, text)).outputs["event"].labels == ("yes", "no", "3")


def test_a_name_is_an_input_or_an_output_not_both():
    with pytest.raises(CardError, match="'audio' is both an input and an output"):
        parse(changed(outputs={"audio": {"task": "regression"}}))


@pytest.mark.parametrize("name", ["fusion", "head", "head:x"])
def test_an_input_cannot_take_a_selectors_name(name):
    with pytest.raises(CardError, match=f"an input cannot be called '{name}'"):
        parse(changed(inputs={name: GOOD["inputs"]["picture"]}, columns={}))


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(Mistakes) as caught:
        parse(changed(inputs={"a": {"modality": "smell"}, "b": {}}, outputs={"c": {"task": "guess"}}, columns={}))
    assert len(caught.value.errors) == 3
    assert "unknown modality 'smell'" in str(caught.value)
    assert "unknown task 'guess'" in str(caught.value)


def test_a_line_to_fill_in_is_refused_by_name_and_number(tmp_path):
    text = parse(GOOD).to_yaml() + "source: x  # FILL IN\n"
    path = write(tmp_path, text)
    with pytest.raises(CardError, match=rf"line {len(text.splitlines())}: 'source' is not filled in"):
        cards.load(path)


def test_a_file_that_is_no_yaml_is_refused_at_its_place(tmp_path):
    with pytest.raises(CardError, match=r"is not YAML\.(.|\n)*line 1"):
        cards.load(write(tmp_path, "inputs: [unclosed"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="cannot read the card"):
        cards.load(path)


@pytest.mark.parametrize(("texts", "names"), [("a", ["tokenizer.json"]), ("ab", ["a.tokenizer.json", "b.tokenizer.json"])])
def test_tokenizers_go_beside_the_card_under_one_rule(tmp_path, texts, names):
    (tmp_path / "words.json").write_text("{}")
    inputs = {name: {"modality": "text", "length": 4, "tokenizer": "words.json"} for name in texts}
    placed, files = parse(changed(inputs=inputs, columns={}), path=tmp_path / "model.yaml").with_tokenizers()
    assert files == dict.fromkeys(names, b"{}")
    assert [spec.options["tokenizer"] for spec in placed.inputs.values()] == names


@pytest.mark.parametrize("pair", [8, True, ["said"]])
def test_a_pair_that_is_no_name_is_told(pair):
    outputs = {"seen": {"task": "embedding", "pair": pair}, "said": {"task": "embedding", "pair": "seen"}}
    with pytest.raises(CardError, match=r"outputs.seen.pair: .* is not an output"):
        parse(changed(outputs=outputs))


@pytest.mark.parametrize("name", ["w.pt", "program.zip", "lin.ts"])
def test_a_program_of_torchscript_is_no_card_and_the_way_to_one_is_told(name, tmp_path):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("lin/code/__torch__.py", "")
    with pytest.raises(CardError, match=r"is a TorchScript program(.|\n)*torch\.onnx\.export\(torch\.jit\.load(.|\n)*state_dict\(\)"):
        cards.load(tmp_path / name)
    with pytest.raises(CardError, match="is a TorchScript program"):
        init(str(tmp_path / name), inputs=["x=6"], output=tmp_path / "model.yaml")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("yard.tflite", r"tf2onnx.convert --tflite yard.tflite"),
        ("yard.keras", r"tf2onnx.convert --keras"),
        ("yard.engine", r"of TensorRT, from which no way"),
    ],
)
def test_another_runtimes_model_is_no_card_and_the_way_to_onnx_is_told(name, way, tmp_path):
    (tmp_path / name).write_bytes(b"TFL3\xf8\x00")
    for read in (lambda: cards.load(tmp_path / name), lambda: init(str(tmp_path / name), inputs=["x=6"], output=tmp_path / "model.yaml")):
        with pytest.raises(CardError, match=rf"is no model card(.|\n)*{way}(.|\n)*edgemm init model.onnx"):
            read()
