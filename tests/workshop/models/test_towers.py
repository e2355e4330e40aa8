"""Towers of Hugging Face folders: the vectors are the library's own, exported too, and what a folder lacks is told."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.contracts.modality import modalities
from edgemm.errors import CardError, CheckpointError
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.export_parity import check_export
from edgemm.workshop.models.onnx_export import export_onnx
from tests import towers

KINDS = [*towers.MAKERS]
QUICK = ("clip", "clap", "sentences", "swin", "wav2vec2")
LEANEST = ("sentences",)


def quick(*kinds):
    """All kinds, those that every run tries unmarked."""
    return [kind if kind in kinds else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return lambda kind: root / kind if (root / kind).is_dir() else towers.folder(kind, root / kind)


def drafted(folder, tmp_path):
    return cards.load(edgemm.init(str(folder), output=tmp_path / "model.yaml"))


def inputs_of(card):
    rng = np.random.default_rng(0)
    samples = {name: np.stack([part.synthetic(rng) for _ in range(2)]) for name, part in modalities(card).items()}
    return {name: torch.from_numpy(value) for name, value in samples.items()}


def library_vectors(kind, folder, features):
    """What transformers itself makes of the features that our front-ends made."""
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    x = features[0]
    with torch.no_grad():
        match kind:
            case "clip" | "siglip":
                return [
                    whole.get_image_features(pixel_values=x).pooler_output,
                    whole.get_text_features(input_ids=features[1]).pooler_output,
                ]
            case "clap":
                sound = whole.get_audio_features(input_features=x.unsqueeze(1), is_longer=torch.zeros(2, 1, dtype=torch.bool))
                text = whole.get_text_features(input_ids=features[1], attention_mask=features[2])
                return [sound.pooler_output, text.pooler_output]
            case "whisper":
                return [whole.encoder(x).last_hidden_state.mean(1)]
            case "bert" | "mpnet" | "roberta" | "sentences":
                states = whole(input_ids=x, attention_mask=features[1]).last_hidden_state
                mask = features[1].unsqueeze(-1).float()
                mean = (states * mask).sum(1) / mask.sum(1)
                return [_dense(mean, folder) if kind == "sentences" else mean]
            case "vit" | "dinov2":
                return [whole(pixel_values=x).last_hidden_state[:, 0]]
            case "convnext" | "swin":
                return [whole(pixel_values=x).pooler_output.flatten(1)]
            case "wav2vec2" | "hubert":
                return [whole(input_values=x).last_hidden_state.mean(1)]
    return [whole(input_values=x).pooler_output]


def _dense(mean, folder):
    from safetensors.torch import load_file

    state = load_file(folder / "2_Dense" / "model.safetensors")
    return torch.tanh(functional.linear(mean, state["linear.weight"], state["linear.bias"]))


@pytest.mark.parametrize("kind", quick(*QUICK))
def test_a_folder_becomes_a_card_whose_vectors_are_the_librarys(kind, folders, tmp_path):
    card = drafted(folders(kind), tmp_path)
    model = load_model(card)
    inputs = inputs_of(card)
    with torch.no_grad():
        answers = list(model(inputs).values())
        want = library_vectors(kind, folders(kind), model.features(inputs))
    assert len(answers) == len(want)
    for ours, theirs in zip(answers, want, strict=True):
        torch.testing.assert_close(ours, functional.normalize(theirs, dim=-1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", quick(*LEANEST))
def test_its_graph_computes_the_same(kind, folders, tmp_path):
    model = load_model(drafted(folders(kind), tmp_path))
    samples = [{name: value[row : row + 1].numpy() for name, value in inputs_of(model.card).items()} for row in range(2)]
    assert check_export(model, export_onnx(model, tmp_path / "model.onnx"), samples).outputs


def test_init_writes_how_the_folder_prepares_its_pictures(folders, tmp_path):
    card = drafted(folders("dinov2"), tmp_path)
    assert card.inputs["image"].options == {
        "height": 28, "width": 28, "channels": 3, "fit": "crop", "short": 36, "resample": "bicubic",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert card.outputs["image_vector"].task == "embedding"


def test_init_says_nothing_beside_its_own_words(folders, tmp_path, capfd):
    drafted(folders("clip"), tmp_path)
    assert capfd.readouterr() == ("", "")


def broken(folders, tmp_path, kind, change):
    folder = shutil.copytree(folders(kind), tmp_path / "broken")
    change(folder)
    with pytest.raises((CardError, CheckpointError)) as caught:
        edgemm.init(str(folder), output=tmp_path / "model.yaml")
    assert not (tmp_path / "model.yaml").exists()
    return str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(folders, tmp_path):
    words = broken(folders, tmp_path, "bert", lambda folder: (folder / "tokenizer.json").unlink())
    assert "has no tokenizer" in words
    assert "save_pretrained" in words


def test_a_folder_without_a_processor_is_refused(folders, tmp_path):
    words = broken(folders, tmp_path, "vit", lambda folder: (folder / "preprocessor_config.json").unlink())
    assert "does not say how its pictures or sounds are prepared" in words


def test_a_folder_that_names_code_of_its_own_is_refused(folders, tmp_path):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.py--Own"}}))

    assert "names code of its own: AutoModel: modeling.py--Own" in broken(folders, tmp_path, "bert", change)


def changed_state(change):
    """A change of a folder's weights."""
    from safetensors.torch import load_file, save_file

    def on(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return on


def changed_config(**said):
    def on(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | said))

    return on


def test_weights_that_are_missing_are_named(folders, tmp_path):
    words = broken(folders, tmp_path, "bert", changed_state(lambda state: state.pop("encoder.layer.0.output.dense.weight")))
    assert "missing: encoder.layer.0.output.dense.weight." in words


def test_weights_that_the_model_has_no_place_for_are_named(folders, tmp_path):
    words = broken(
        folders, tmp_path, "clip", changed_config(vision_config={**towers.SMALL, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8})
    )
    assert "without a place in the model: vision_model.encoder.layers.1.layer_norm1.bias" in words
    assert "more" in words


def test_weights_of_another_shape_are_named_with_both_shapes(folders, tmp_path):
    words = broken(folders, tmp_path, "vit", changed_config(intermediate_size=48))
    assert "of another shape: layers.0.mlp.fc1.bias (64,) where (48,) is wanted" in words


def test_a_head_for_another_purpose_is_left_out_and_named(folders, tmp_path):
    folder, notes = shutil.copytree(folders("bert"), tmp_path / "masked"), []
    changed_state(lambda state: state.update({"cls.predictions.bias": torch.zeros(16), "embeddings.position_ids": torch.arange(32)}))(
        folder
    )
    load_model(drafted(folder, tmp_path), note=notes.append)
    assert notes == ["'masked' holds what is not used here, left out: cls.predictions.bias."]


def test_a_tokenizer_or_a_module_that_names_code_of_its_own_is_refused(folders, tmp_path):
    def tokenizer(folder):
        said = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(said | {"auto_map": {"AutoTokenizer": ["own.py--Own", None]}}))

    def module(folder):
        (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}]))

    assert "tokenizer_config.json' names code of its own" in broken(folders, tmp_path, "bert", tokenizer)
    shutil.rmtree(tmp_path / "broken")
    assert "modules.json' names code of its own: custom_st.Transformer" in broken(folders, tmp_path, "sentences", module)


def test_a_pooler_that_a_tower_does_not_have_is_refused_when_it_is_built(folders, tmp_path):
    card = drafted(folders("wav2vec2"), tmp_path)
    card = card.replace(kwargs={**card.kwargs, "encoders": {"audio": {"hf": {"path": str(folders("wav2vec2")), "pool": "pooler"}}}})
    with pytest.raises(CardError, match=r"inputs.audio: pool: pooler, and Wav2Vec2Model has none(.|\n)*mean, first, last, max"):
        load_model(card)


def test_a_pooling_that_nobody_knows_is_refused(folders, tmp_path):
    def change(folder):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_weightedmean_tokens": True}))

    assert "pools by weightedmean_tokens" in broken(folders, tmp_path, "sentences", change)


def test_a_type_of_model_that_nobody_knows_is_refused(folders, tmp_path):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "brt", "architectures": ["BrtModel"]}))

    assert "models of type 'brt' are not known here" in broken(folders, tmp_path, "bert", change)


def test_a_frozen_tower_stays_as_it_is_in_training(folders, tmp_path):
    towers_card = cards.parse(
        {
            "factory": "models:easyvqa",
            "kwargs": {"encoders": {"text": {"hf": str(folders("sentences")), "freeze": True, "pool": "mean", "width": 8}}},
            "inputs": {
                "image": {"modality": "image", "height": 16, "width": 16},
                "text": {"modality": "text", "length": 8, "tokenizer": str(folders("sentences") / "tokenizer.json"), "mask": True},
            },
            "outputs": {"answer": {"task": "classification", "labels": ["a", "b"]}},
        }
    )
    model = load_model(towers_card).train()
    encoder = model.module.encoders["text"]
    assert not encoder.tower.training
    assert not any(value.requires_grad for value in encoder.tower.parameters())
    assert all(value.requires_grad for value in encoder.project.parameters())
    assert encoder.width == 8
    ids = torch.tensor([[2, 4, 5, 3, 0, 0, 0, 0], [2, 6, 3, 0, 0, 0, 0, 0], [2, 4, 5, 3, 0, 0, 0, 0]])
    first, again = encoder(ids, ids.ne(0)), encoder(ids.flip(0), ids.flip(0).ne(0)).flip(0)
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(first, encoder.eval()(ids, ids.ne(0)))
    assert first.requires_grad


def test_words_become_logits_by_the_models_own_scale(folders, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text("parcel: [a parcel on the doorstep, parcel]\nnothing: [a photo]\n")
    card = cards.load(edgemm.init(str(folders("siglip")), output=tmp_path / "model.yaml", words=file))
    assert card.outputs["word"].labels == ("parcel", "nothing")
    assert card.outputs["word"].options["each"] is True
    model, inputs = load_model(card), inputs_of(card)
    whole = transformers.AutoModel.from_pretrained(folders("siglip")).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders("siglip"))

    def vector(words):
        ids = tokenizer(words, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
        return functional.normalize(whole.get_text_features(input_ids=ids).pooler_output, dim=-1)

    with torch.no_grad():
        words = torch.stack([functional.normalize(vector(["a parcel on the doorstep", "parcel"]).mean(0), dim=-1), vector(["a photo"])[0]])
        picture = functional.normalize(whole.get_image_features(pixel_values=model.features(inputs)[0]).pooler_output, dim=-1)
        torch.testing.assert_close(model(inputs)["word"], picture @ words.T * whole.logit_scale.exp() + whole.logit_bias, atol=1e-4, rtol=0)


def test_words_that_read_alike_are_named(folders, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text("parcel: [a parcel]\nbox: [a parcel]\n")
    with pytest.raises(CardError, match=r"the words 'parcel' and 'box' in .* have the same vector"):
        edgemm.init(str(folders("clip")), output=tmp_path / "model.yaml", words=file)


def test_weights_of_one_branch_come_from_a_file_of_their_own_and_what_does_not_fit_is_named(folders, tmp_path):
    from safetensors.torch import save_file

    plain = {
        "factory": "models:image-only",
        "inputs": {"image": {"modality": "image", "height": 16, "width": 16}},
        "outputs": {"answer": {"task": "classification", "labels": ["a", "b"]}},
    }
    first = load_model(cards.parse(plain), seed=1).module.encoders["image"].state_dict()
    state = {f"backbone.{name}": value.clone() for name, value in first.items()}
    left = state.popitem()[0].removeprefix("backbone.")
    save_file(state | {"backbone.extra.weight": torch.zeros(2)}, tmp_path / "image.safetensors")
    (tmp_path / "model.yaml").write_text(json.dumps(plain | {"weights": {"image": "image.safetensors"}}))
    notes = []
    model = load_model(cards.load(tmp_path / "model.yaml"), note=notes.append)
    own = model.module.encoders["image"].state_dict()
    assert all(torch.equal(own[name], value) for name, value in first.items() if name != left)
    assert any("lacks" in note and left in note for note in notes)
    assert any("no place for" in note and "extra.weight" in note for note in notes)
