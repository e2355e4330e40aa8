"""Cards and weights become models and come back; nothing that can run code is opened."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, CheckpointError, OutputError
from edgemm.workshop.models.checkpoint import files
from edgemm.workshop.models.checkpoint.identity import identity
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.checkpoint.weights import _first_line
from edgemm.workshop.models.fused import FusedModel

MODEL = """
import torch
from torch import nn

class Fused(nn.Module):
    def __init__(self, classes, tied=False):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)
        if tied:
            self.twin = self.head

    def forward(self, left, *, right):
        return self.head(self.norm(self.left(left) + self.right(right)))

def build(classes=3, tied=False):
    return Fused(classes, tied)
"""
FEED = {"left": torch.ones(2, 4), "right": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def place(tmp_path):
    """A folder with the user's fused.py."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "fused.py").write_text(MODEL)
    return tmp_path / "own"


def made(folder: Path, **keys):
    plain = {
        "factory": "fused:build",
        "inputs": {"left": {"modality": "sensor", "shape": [4]}, "right": {"modality": "sensor", "shape": [3]}},
        "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}},
    } | keys
    return cards.parse({key: value for key, value in plain.items() if value is not None}, path=folder / "model.yaml")


def answer(model):
    with torch.no_grad():
        return model(FEED)["kind"]


@pytest.fixture
def trained(place):
    """A model and its state dict, unlike what a fresh factory builds."""
    return load_model(made(place), seed=7)


def test_a_model_is_built_in_eval_mode_and_answers_by_output_name(place):
    model = load_model(made(place))
    assert not model.training
    assert answer(model).shape == (2, 3)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "w.ckpt", "w.pth.tar"])
def test_weights_are_read_from_every_safe_format(place, trained, name):
    save = save_file if name.endswith("safetensors") else torch.save
    save(trained.module.state_dict(), place / name)
    assert torch.equal(answer(load_model(made(place, weights=name))), answer(trained))


def test_weights_can_be_left_out(place, trained):
    torch.save(trained.module.state_dict(), place / "w.pt")
    assert not torch.equal(answer(load_model(made(place, weights="w.pt"), weights=False)), answer(trained))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}, "pytorch-lightning_version": "2.5"},
        lambda state: {name: value for name, value in state.items() if "num_batches_tracked" not in name},
        lambda state: {name: value.double() for name, value in state.items()},
    ],
    ids=["state_dict", "model", "data parallel", "compiled", "lightning", "before num_batches_tracked", "float64"],
)
def test_state_dicts_are_found_however_they_were_wrapped(place, trained, wrap):
    torch.save(wrap(dict(trained.module.state_dict())), place / "w.pt")
    assert torch.equal(answer(load_model(made(place, weights="w.pt"))), answer(trained))


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["torch zip", "torch legacy", "bare pickle", "nested"])
def test_a_pickle_with_code_in_it_is_refused_and_its_code_never_runs(place, trained, tmp_path, how):
    evil = Malicious(f"touch {tmp_path / 'pwned'}")
    file = place / "w.pt"
    if how == "bare pickle":
        file.write_bytes(pickle.dumps(evil))
    else:
        holder = {"state_dict": dict(trained.module.state_dict()), "extra": evil} if how == "nested" else evil
        torch.save(holder, file, _use_new_zipfile_serialization=how != "torch legacy")
    with pytest.raises(CheckpointError, match="is refused: it is a pickle that holds more than tensors"):
        load_model(made(place, weights="w.pt"))
    assert not (tmp_path / "pwned").exists()
    os.system(evil.command)
    assert (tmp_path / "pwned").exists(), "the code would have run"


def test_a_whole_pickled_module_is_refused(place, trained):
    torch.save(nn.Linear(2, 2), place / "w.pt")
    with pytest.raises(CheckpointError, match=r"is refused(.|\n)*save model.state_dict\(\) alone"):
        load_model(made(place, weights="w.pt"))


@pytest.mark.parametrize("name", ["w.pkl", "w.pickle", "w.joblib", "w.h5", "w.tar", "w"])
def test_other_formats_are_refused_unopened(place, name):
    (place / name).write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="is not a format for weights that is known to hold data only"):
        load_model(made(place, weights=name))


def test_missing_weights_are_an_error(place):
    with pytest.raises(CheckpointError, match=r"no weights at '.*absent.pt'(.|\n)*edgemm train"):
        load_model(made(place, weights="absent.pt"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("kept", [0, 10, 500, -20])
def test_a_truncated_file_is_an_error(place, trained, name, kept):
    (save_file if name.endswith("safetensors") else torch.save)(trained.module.state_dict(), place / name)
    (place / name).write_bytes((place / name).read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{name}' is truncated or damaged"):
        load_model(made(place, weights=name))


def test_a_long_reason_ends_with_a_sentence_or_a_word():
    sentences = _first_line(
        ValueError("The file broke in the middle of it all. It was cut at the end of a block, says the reader. " + "why " * 60)
    )
    assert sentences.endswith("says the reader.")
    words = _first_line(ValueError("somewhere " * 60))
    assert words.endswith("somewhere ...")
    assert len(_first_line(ValueError("x" * 500))) < 250
    assert _first_line(ValueError("short")) == "short"


def test_a_file_without_a_state_dict_is_an_error(place):
    torch.save({"epoch": 3, "best": 0.9}, place / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds no state dict(.|\n)*it holds epoch, best"):
        load_model(made(place, weights="w.pt"))


def test_weights_that_do_not_fit_are_an_error_listing_shapes_missing_and_unexpected(place, trained):
    state = dict(trained.module.state_dict())
    state["head.weight"] = torch.zeros(5, 8)
    state["extra.weight"] = state.pop("left.bias")
    torch.save(state, place / "w.pt")
    with pytest.raises(CheckpointError, match="do not fit the model that the factory builds") as caught:
        load_model(made(place, weights="w.pt"))
    assert "head.weight: the file has (5, 8), the factory builds (3, 8)" in caught.value.why
    assert "missing: left.bias; unexpected: extra.weight" in caught.value.why


def test_long_lists_of_misfits_are_cut(place, trained):
    torch.save({f"old.{place}": torch.zeros(1) for place in range(9)}, place / "w.pt")
    with pytest.raises(CheckpointError, match=r"unexpected: old.0, old.1, old.2, old.3, old.4 and 4 more"):
        load_model(made(place, weights="w.pt"))


def test_a_factory_that_returns_no_module_is_an_error(place):
    (place / "other.py").write_text("build = dict\n")
    with pytest.raises(CheckpointError, match=r"factory 'other:build' returned dict, not a torch.nn.Module"):
        load_model(made(place, factory="other:build"))


def test_a_lazy_modules_weights_decide_its_shapes(place):
    (place / "lazy.py").write_text("from torch import nn\nbuild = lambda: nn.Sequential(nn.LazyLinear(3))\n")
    torch.save({"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3)}, place / "w.pt")
    model = load_model(made(place, factory="lazy:build", weights="w.pt", inputs={"left": {"modality": "sensor", "shape": [4]}}))
    assert answer(model).tolist() == [[4, 4, 4]] * 2


def test_an_onnx_card_has_no_torch_model(place):
    with pytest.raises(CheckpointError, match=r"'.*face.onnx' is not a PyTorch model(.|\n)*use the graph steps"):
        load_model(made(place, factory=None, model="face.onnx"))


# Saving


def test_a_saved_model_loads_from_anywhere_and_answers_the_same(place, trained, tmp_path, monkeypatch):
    written = save_model(trained, tmp_path / "runs" / "one")
    assert sorted(path.name for path in (tmp_path / "runs" / "one").iterdir()) == ["model.yaml", "weights.safetensors"]
    monkeypatch.chdir("/")
    assert torch.equal(answer(load_model(cards.load(tmp_path / "runs" / "one"))), answer(trained))
    assert written.source == "../../own"
    again = save_model(load_model(written), tmp_path / "deeper" / "down" / "two")
    assert torch.equal(answer(load_model(again)), answer(trained))


def test_saving_twice_writes_the_same_bytes(place, trained, tmp_path):
    for name in ("one", "two"):
        save_model(trained, tmp_path / name)
    assert (tmp_path / "one" / "weights.safetensors").read_bytes() == (tmp_path / "two" / "weights.safetensors").read_bytes()
    assert (tmp_path / "one" / "model.yaml").read_text() == (tmp_path / "two" / "model.yaml").read_text()


def test_tied_weights_are_written_once_and_stay_tied(place, tmp_path):
    model = load_model(made(place, kwargs={"tied": True}))
    written = save_model(model, tmp_path / "tied")
    from safetensors import safe_open

    with safe_open(tmp_path / "tied" / "weights.safetensors", "pt") as file:
        assert sum("head" in name or "twin" in name for name in file.keys()) == 2  # noqa: SIM118
    again = load_model(written)
    assert torch.equal(answer(again), answer(model))
    assert again.module.twin.weight is again.module.head.weight


def test_a_tokenizer_travels_with_the_model(place, tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    (place / "words.json").write_text(build_vocabulary(["one two two"], 10))
    (place / "bag.py").write_text("from torch import nn\nbuild = lambda: nn.EmbeddingBag(10, 3)\n")
    card = made(place, factory="bag:build", inputs={"text": {"modality": "text", "length": 4, "tokenizer": "words.json"}})
    written = save_model(load_model(card), tmp_path / "saved")
    assert written.inputs["text"].options["tokenizer"] == "tokenizer.json"
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == (place / "words.json").read_text()


def test_two_different_tokenizers_both_travel(place, tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    (place / "pair.py").write_text(
        "from torch import nn\nclass P(nn.Module):\n  def __init__(s):\n    super().__init__(); s.e = nn.EmbeddingBag(10, 3)\n"
        "  def forward(s, a, b): return s.e(a) + s.e(b)\nbuild = P\n"
    )
    for name in "ab":
        (place / f"{name}.json").write_text(build_vocabulary([f"only {name}"], 10))
    inputs = {name: {"modality": "text", "length": 4, "tokenizer": f"{name}.json"} for name in "ab"}
    written = save_model(load_model(made(place, factory="pair:build", inputs=inputs)), tmp_path / "saved")
    assert [written.inputs[name].options["tokenizer"] for name in "ab"] == ["a.tokenizer.json", "b.tokenizer.json"]


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        save_model(trained, tmp_path / "file" / "run")


def test_applied_steps_are_replayed_before_the_weights_are_loaded(place, trained, tmp_path, monkeypatch):
    """The step's `restore` is a stand-in; what is tested is the order factory, restore, weights."""
    from edgemm.contracts import plugins

    class Step:
        @staticmethod
        def restore(model, record):
            model.module.head = nn.Linear(8, record["classes"])
            return model

    real = plugins.import_plugin
    monkeypatch.setattr(plugins, "import_plugin", lambda folder, name: Step if folder == "steps" else real(folder, name))
    (place / "shrink.json").write_text(json.dumps({"classes": 2}))
    two = {"kind": {"task": "classification", "labels": ["a", "b"]}}
    smaller = load_model(made(place, applied=[{"prune": "shrink.json"}], outputs=two))
    written = save_model(smaller, tmp_path / "saved")
    assert written.applied == ({"prune": "shrink.json"},)
    assert torch.equal(answer(load_model(written)), answer(smaller))


# Identity


def test_identity_changes_with_every_file_the_card_leads_to(place, trained):
    torch.save(trained.module.state_dict(), place / "w.pt")
    (place / "words.json").write_text("{}")
    card = made(place, weights="w.pt", inputs={"text": {"modality": "text", "length": 4, "tokenizer": "words.json"}})
    seen = [identity(card)]
    for name in ("w.pt", "words.json", "fused.py"):
        (place / name).write_bytes((place / name).read_bytes() + b"\n")
        seen.append(identity(card))
    seen.append(identity(card.replace(kwargs={"classes": 4})))
    assert len({json.dumps(facts, sort_keys=True) for facts in seen}) == 5


def test_identity_imports_neither_torch_nor_the_factory(place, fresh_python):
    (place / "fused.py").write_text("raise SystemExit('imported')\n")
    (place / "model.yaml").write_text(made(place).to_yaml())
    printed = fresh_python(f"""
import sys
from edgemm.contracts import card_file
from edgemm.workshop.models.checkpoint.identity import identity
print(identity(card_file.load({str(place)!r}))["factory"].keys(), "torch" in sys.modules)
""")
    assert printed.strip() == "dict_keys(['fused.py']) False"


def test_identity_of_a_shipped_model_is_its_card(place):
    facts = identity(cards.load("digits"))
    assert "encoders" in facts["factory"]["digits"]


# Exported programs


@pytest.fixture
def program(place, trained):
    """A .pt2 of the user's module."""
    exported = torch.export.export(
        trained.module,
        (FEED["left"],),
        {"right": FEED["right"]},
        dynamic_shapes={"left": {0: torch.export.Dim.AUTO}, "right": {0: torch.export.Dim.AUTO}},
    )
    torch.export.save(exported, place / "fused.pt2")
    return place / "fused.pt2"


def test_an_exported_program_answers_like_its_module(place, program, trained):
    model = load_model(made(place, factory=None, model="fused.pt2"))
    assert torch.allclose(answer(model), answer(trained))


def rewritten(program: Path, change) -> None:
    """Rewrite the archive's members by ``change(name, content) -> content | None``."""
    with zipfile.ZipFile(program) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(program, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_an_exported_program_with_a_pickle_that_runs_code_is_refused(place, program, tmp_path):
    import io

    evil = io.BytesIO()
    torch.save(Malicious(f"touch {tmp_path / 'pwned'}"), evil)
    rewritten(program, lambda name, content: evil.getvalue() if name.endswith("sample_inputs/model.pt") else content)
    with pytest.raises(CheckpointError, match=r"is refused: it could run code when opened(.|\n)*sample_inputs/model.pt"):
        load_model(made(place, factory=None, model="fused.pt2"))
    assert not (tmp_path / "pwned").exists()


def test_a_weight_marked_as_pickled_is_checked_too(place, program, tmp_path):
    evil = pickle.dumps(Malicious(f"touch {tmp_path / 'pwned'}"))

    def change(name, content):
        if name.endswith("model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return evil if name.endswith("weights/weight_0") else content

    rewritten(program, change)
    with pytest.raises(CheckpointError, match=r"is refused: it could run code when opened(.|\n)*weights/weight_"):
        load_model(made(place, factory=None, model="fused.pt2"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"torch.ops.aten.linear.default", b"torch.hub.load_state_dict_from_url", "calls 'torch.hub"),
        (b"Symbol('s", b"__import__(chr(111)).x + Symbol('s", "holds the expression"),
    ],
)
def test_an_exported_program_whose_graph_could_run_code_is_refused(place, program, old, new, words):
    rewritten(program, lambda name, content: content.replace(old, new) if name.endswith("models/model.json") else content)
    with pytest.raises(CheckpointError, match=rf"is refused(.|\n)*{words}"):
        load_model(made(place, factory=None, model="fused.pt2"))


def test_native_code_in_an_exported_program_is_refused(place, program):
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr("fused/data/aotinductor/model/wrapper.so", b"\x7fELF")
    with pytest.raises(CheckpointError, match=r"is refused(.|\n)*wrapper.so' is native code"):
        load_model(made(place, factory=None, model="fused.pt2"))


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_exported_program_is_an_error(place, program, kept):
    program.write_bytes(program.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"is not a torch\.export archive, or is damaged"):
        load_model(made(place, factory=None, model="fused.pt2"))


def test_a_missing_exported_program_is_an_error(place):
    with pytest.raises(CheckpointError, match="no exported program at"):
        load_model(made(place, factory=None, model="absent.pt2"))


def test_an_exported_program_cannot_be_trained(place, program):
    from edgemm.errors import TrainError

    with pytest.raises(TrainError, match="an exported program"):
        load_model(made(place, factory=None, model="fused.pt2")).train()


# Hugging Face folders


@pytest.fixture
def bert(tmp_path):
    """A tiny BERT classifier as Hugging Face saves it."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
    )
    torch.manual_seed(3)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "bert")
    return model, tmp_path / "bert"


def text_card(folder: Path, **keys):
    text = {"text": {"modality": "text", "length": 6, "vocab": 30, "mask": True}}
    return made(folder, factory="hf:AutoModelForSequenceClassification", inputs=text, **keys)


def test_a_hugging_face_folder_loads_from_its_safetensors(bert):
    model, folder = bert
    ids = torch.tensor([[2, 5, 6, 0, 0, 0]])
    loaded = load_model(text_card(folder.parent, weights="bert"))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        assert torch.allclose(loaded({"text": ids})["kind"], expected, atol=1e-6)
    assert "model.safetensors" in identity(text_card(folder.parent, weights="bert"))["weights"]


def test_a_hugging_face_model_is_built_from_a_configuration_alone(bert):
    folder = bert[1]
    card = text_card(folder.parent, kwargs={"config": "bert/config.json", "num_hidden_layers": 2})
    assert len(load_model(card).module.bert.encoder.layer) == 2
    assert "bert/config.json" in identity(card)["files"]


def test_a_saved_hugging_face_model_needs_its_old_folder_no_more(bert, tmp_path):
    folder = bert[1]
    loaded = load_model(text_card(folder.parent, weights="bert"))
    written = save_model(loaded, tmp_path / "saved")
    shutil.rmtree(folder)
    ids = torch.tensor([[2, 5, 6, 0, 0, 0]])
    with torch.no_grad():
        again = load_model(written)
        # how a product sums up depends on where its matrices lie in memory: weights are equal by bits, answers nearly
        assert torch.allclose(again({"text": ids})["kind"], loaded({"text": ids})["kind"], atol=1e-6)
    weights = loaded.module.state_dict()
    assert again.module.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.module.state_dict().items())


@pytest.mark.parametrize(
    ("missing", "added", "words"),
    [
        (".layer.0.output.dense.weight", "", r"missing: bert\.encoder\.layer\.0\.output\.dense\.weight\."),
        ("", "bert.encoder.layer.7.output.dense.weight", r"without a place in the model: bert\.encoder\.layer\.7\.output\.dense\.weight\."),
    ],
)
def test_a_hugging_face_folder_whose_weights_do_not_fit_is_refused_by_their_names(bert, missing, added, words):
    state = {name: value.clone() for name, value in bert[0].state_dict().items() if not (missing and name.endswith(missing))}
    save_file(state | ({added: torch.zeros(2)} if added else {}), bert[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=words):
        load_model(text_card(bert[1].parent, weights="bert"))


def test_a_hugging_face_folder_without_the_head_may_be_trained_and_the_head_is_named(bert):
    state = {name: value.clone() for name, value in bert[0].state_dict().items() if not name.startswith("classifier")}
    save_file(state | {"cls.bias": torch.zeros(2)}, bert[1] / "model.safetensors", metadata={"format": "pt"})
    notes = []
    load_model(text_card(bert[1].parent, weights="bert"), note=notes.append)
    assert notes == [
        "'bert' holds what is not used here, left out: cls.bias.",
        "'bert' lacks classifier.bias, classifier.weight: drawn at random, and to be trained.",
    ]


def test_a_folder_that_holds_pickled_weights_only_is_refused(bert, tmp_path):
    model, folder = bert
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be built from(.|\n)*needs config.json and \*.safetensors"):
        load_model(text_card(folder.parent, weights="bert"))


def test_an_unknown_auto_class_is_named_with_the_nearest(bert):
    card = text_card(bert[1].parent, weights="bert").replace(factory="hf:AutoModelForSequenceClasification")
    with pytest.raises(CardError, match="did you mean 'AutoModelForSequenceClassification'"):
        load_model(card)


def test_a_missing_configuration_is_an_error(bert):
    with pytest.raises(CardError, match="has no configuration at"):
        load_model(text_card(bert[1].parent, kwargs={"config": "nowhere"}))


def test_an_unknown_configuration_entry_is_an_error(bert):
    with pytest.raises(CardError, match=r"kwargs.num_hiden_layers is no entry of BertConfig(.|\n)*did you mean 'num_hidden_layers'"):
        load_model(text_card(bert[1].parent, kwargs={"config": "bert", "num_hiden_layers": 2}))


def test_a_configuration_that_needs_code_of_its_own_is_refused(bert):
    folder = bert[1]
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(CardError, match="is not a configuration that transformers can use"):
        load_model(text_card(folder.parent, weights="bert"))


def test_features_equal_what_the_front_end_makes(place):
    model = load_model(made(place))
    left, right = model.features(FEED)
    assert np.allclose(left.numpy(), FEED["left"].numpy())
    assert np.allclose(right.numpy(), FEED["right"].numpy())


def test_a_checkpoint_is_copied_elsewhere_without_torch_and_answers_the_same(place, trained, tmp_path, fresh_python):
    save_model(FusedModel(made(place), trained.module), tmp_path / "runs" / "first")
    printed = fresh_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from edgemm.contracts import card_file as cards; from edgemm.workshop.models.checkpoint import files as checkpoint_files\n"
        f"checkpoint_files.copy(cards.load({str(tmp_path / 'runs' / 'first')!r}), Path({str(tmp_path / 'elsewhere')!r}))\n"
        "print(sorted({'torch', 'safetensors'} & set(sys.modules)))\n"
    )
    assert printed.strip() == "[]"
    copied = cards.load(tmp_path / "elsewhere")
    assert copied.source == "../own"
    assert torch.equal(answer(load_model(copied)), answer(trained))


def test_a_checkpoint_takes_the_place_of_an_earlier_one_only(place, trained, tmp_path):
    card = save_model(FusedModel(made(place), trained.module), tmp_path / "first")
    files.check_place(tmp_path / "new", original=place, apart=tmp_path / "bundle")
    files.copy(card, tmp_path / "new")
    files.check_place(tmp_path / "new", original=place, apart=tmp_path / "bundle")
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write a checkpoint to .*new(.|\n)*it holds 'notes.txt'(.|\n)*--checkpoint"):
        files.check_place(tmp_path / "new", original=place, apart=tmp_path / "bundle")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_hugging_face_folder_in_single_precision_is_read_as_float32_and_told(kind, bert):
    model, folder = bert
    model.to(kind).save_pretrained(folder)
    notes = []
    loaded = load_model(text_card(folder.parent, weights="bert"), note=notes.append)
    assert {value.dtype for value in loaded.module.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert notes == [f"'bert' holds {str(kind).removeprefix('torch.')}: it is read as float32."]


def spoiled(place: Path, name: str, value: float, where=slice(0, 1)) -> None:
    """The weights of the user's model, one tensor with ``value`` in it."""
    saved = save_model(load_model(made(place)), place / "saved")
    state = torch.nn.Module.state_dict(load_model(saved).module)
    state[name].view(-1)[where] = value
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, place / "spoiled.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("head.weight", np.nan, "NaN"),
        ("left.bias", np.inf, "infinity"),
        ("norm.running_var", np.inf, "infinity"),
        ("norm.bias", -np.inf, "inf"),
    ],
)
def test_a_tensor_that_is_no_number_is_named_when_weights_are_read(name, value, word, place):
    spoiled(place, name, value)
    with pytest.raises(CheckpointError, match=rf"'{name}' of the weights in 'spoiled.safetensors' holds {word}") as caught:
        load_model(made(place, weights="spoiled.safetensors"))
    assert "1 of its" in str(caught.value)


@pytest.mark.parametrize(("value", "is_refused"), [(-np.inf, False), (np.nan, True)])
def test_a_buffer_may_be_a_mask_of_infinities_but_never_nan(value, is_refused, place):
    mask = f"        self.register_buffer('mask', torch.full((3,), float('{value}')))"
    (place / "masked.py").write_text(MODEL.replace("def build", "def masked").replace("super().__init__()", f"super().__init__()\n{mask}"))
    card = made(place, factory="masked:masked")
    if is_refused:
        with pytest.raises(CheckpointError, match="'mask' of the weights in 'masked:masked' holds NaN"):
            load_model(card)
    else:
        assert load_model(card).module.mask.isinf().all()


def test_loading_a_model_imports_nothing_of_what_exports_one(fresh_python):
    loaded = fresh_python("import sys, edgemm.workshop.models.checkpoint.loading; print(*sys.modules)").split()
    assert not {"torch.onnx", "torch._dynamo", "onnxscript"} & {*loaded}  # four times as long as torch's own import
