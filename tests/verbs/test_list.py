"""`edgemm list`: what there is, and what each of it takes, read from source."""

import json

import pytest

import edgemm
from edgemm.cli import main
from edgemm.contracts import plugins
from edgemm.data.modalities._audio.features import MFCC_KEYS
from edgemm.errors import EdgemmError
from edgemm.verbs.list import FILES, KINDS

VARIANTS = [(kind, name) for kind in KINDS if kind not in FILES for name in plugins.names(kind)]


def shown(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["list", *words])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(("kind", "name"), VARIANTS, ids=lambda word: word)
def test_every_variant_tells_its_options_as_the_checks_read_them(kind, name):
    told = edgemm.list(kind, name).to_dict()[kind][name]
    declared = plugins.options(kind, name)
    assert list(told["options"]) == list(declared)
    assert told["about"]
    for key, option in declared.items():
        assert told["options"][key]["required"] == option.required
        assert ("default" in told["options"][key]) == (not option.required)


@pytest.mark.parametrize("words", [("audio",), ("modalities", "audio")])
def test_a_modality_is_told_with_types_defaults_and_meanings(capsys, words):
    out = shown(capsys, *words)
    assert out.startswith("modalities: audio\n  Sound: ")
    assert "\n  rate_hz: a whole number; required\n" in out
    assert "\n  resample: true or false; default true\n      Whether files of another rate are converted" in out
    assert "optional (an empty cell = it is missing)" in out


def test_the_keys_of_sound_features_are_told_too():
    inner = edgemm.list("audio").to_dict()["modalities"]["audio"]["inner"]
    assert set(inner) == set(MFCC_KEYS)
    assert inner["floor"] == {
        "type": "float",
        "required": False,
        "default": 1e-6,
        "meaning": "Natural logarithm of max(x + offset, floor).",
    }
    assert all(choice["meaning"] for choice in inner.values())


def test_a_name_that_two_kinds_have_is_told_of_both():
    assert list(edgemm.list("mqtt").to_dict()) == ["sources", "sinks"]


@pytest.mark.parametrize("kind", FILES)
def test_a_recipe_or_card_is_shown_as_it_is(kind, capsys):
    name = next(iter(edgemm.list(kind).to_dict()[kind]))
    text = edgemm.list(kind, name).to_dict()[kind][name]["text"]
    assert text.startswith("# For")
    assert text.rstrip() in shown(capsys, name)


def test_a_variants_options_go_out_as_json(capsys):
    told = json.loads(shown(capsys, "steps", "quantize", "--json"))["steps"]["quantize"]["options"]
    assert told["calibration_samples"]["default"] == 300
    assert "int8, w8 or w4 (weights alone), fp32, bf16, fp16 or auto" in told["precision"]["meaning"]


def test_a_variant_without_options_says_so(capsys):
    assert shown(capsys, "targets", "torch").endswith("It has no options.\n")


def test_a_word_like_a_variants_name_is_told_which(capsys):
    with pytest.raises(EdgemmError, match=r"nothing is listed under 'imge'") as caught:
        edgemm.list("imge")
    assert caught.value.fix.startswith("did you mean 'image'? known: augmentations, cards, encoders")
    with pytest.raises(EdgemmError, match="there is nothing called 'prne' among the steps") as caught:
        edgemm.list("steps", "prne")
    assert caught.value.fix.startswith("did you mean 'prune'?")


def test_telling_options_imports_no_variant(fresh_python):
    told = "import edgemm, sys; str(edgemm.list('quantize')); str(edgemm.list('openvino')); "
    assert fresh_python(f"{told}print({{'torch', 'onnx', 'openvino'}} & set(sys.modules))").strip() == "set()"
