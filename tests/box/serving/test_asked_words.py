"""New words in a run, read by the text tower that went along: by file, page and broker, held against transformers' own CLIP."""

import dataclasses
import json
import threading

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.text_tower import TextTower
from edgemm.box.serving import knowing
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.errors import CardError, EdgemmError, RunError
from tests.box.serving.conftest import Listener, broker, bundle, wait_for
from tests.box.serving.test_galleries import post

__all__ = ["broker", "bundle"]
FIRST = {"parcel": ["a photo of a parcel", "parcel on doorstep"], "dog": ["a dog barks"], "nothing": ["a blue circle"]}
OTHER = {"red": ["a photo of a red circle"], "blue": ["a blue circle", "the blue"]}


@pytest.fixture(scope="session")
def asked(shared):
    """A small CLIP with its text tower in a bundle, uncompressed; its folder, words and pictures."""
    return shared("run-words", _make)


def _make(folder):
    from PIL import Image

    from tests import towers

    rng = np.random.default_rng(0)
    towers.folder("clip", folder / "clip")
    (folder / "words.yaml").write_text(json.dumps(FIRST))
    (folder / "bare.yaml").write_text("targets: {onnxruntime: {}}")
    (folder / "data").mkdir()
    for split in ("train", "val", "test"):
        np.savez(folder / "data" / f"{split}.npz", image=rng.integers(0, 256, (8, 32, 32, 3), np.uint8), word=rng.integers(0, 3, 8))
    (folder / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / "pictures" / f"{number}.png")
    edgemm.init(str(folder / "clip"), words=folder / "words.yaml", with_text=True, output=folder / "model.yaml")
    edgemm.compress(folder / "model.yaml", recipe=folder / "bare.yaml", data=folder / "data", output=folder / "bundle")


def by_transformers(asked, words):
    """Chances of words for each picture, as the library itself has them."""
    import torch
    import transformers
    from PIL import Image
    from torch.nn import functional

    model = transformers.AutoModel.from_pretrained(asked / "clip").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked / "clip")
    processor = transformers.CLIPImageProcessorPil.from_pretrained(asked / "clip")
    pictures = [Image.open(file) for file in sorted((asked / "pictures").glob("*.png"))]
    with torch.no_grad():
        seen = model.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output
        vectors = []
        for prompts in words.values():
            ids = tokenizer(prompts, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
            each = functional.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
            vectors.append(functional.normalize(each.mean(0), dim=-1))
        logits = functional.normalize(seen, dim=-1) @ torch.stack(vectors).T * model.logit_scale.exp()
    return logits.softmax(-1).numpy()


def settings_of(asked, **decisions):
    source = {"folder": {"inputs": "image", "path": str(asked / "pictures")}}
    plain = {"name": "porch", "decide_hz": 1, "sources": [source], "decisions": {"word": {"debounce": 1, **decisions}}}
    return parse(plain, open_bundle(asked / "bundle").card)


def decided(asked, **decisions):
    runner, scores = Runner(open_bundle(asked / "bundle"), settings_of(asked, **decisions), fast=True), []
    runner.on_decision.append(lambda decision: scores.append(decision.readings["word"].scores))
    runner.run(threading.Event())
    return scores


@pytest.mark.parametrize("words", [FIRST, OTHER], ids=["the bundle's own", "new ones"])
def test_words_of_a_file_are_told_as_by_the_library_itself(asked, tmp_path, words):
    (tmp_path / "words.yaml").write_text(json.dumps(words))
    scores = decided(asked, words=str(tmp_path / "words.yaml"))
    assert list(scores[0]) == list(words)
    np.testing.assert_allclose([list(one.values()) for one in scores], by_transformers(asked, words), atol=0.01)


def test_a_sentence_is_read_once_and_then_found_in_the_cache(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEMM_CACHE", str(tmp_path / "cache"))
    opened = open_bundle(asked / "bundle")
    first = TextTower(opened, "onnxruntime").vectors("word", OTHER, "words")
    monkeypatch.setattr("edgemm.box.bundle.text_tower.deploy", None)  # nothing can be opened any more
    np.testing.assert_array_equal(TextTower(opened, "onnxruntime").vectors("word", OTHER, "words"), first)
    with pytest.raises(TypeError):
        TextTower(opened, "onnxruntime").vectors("word", {**OTHER, "dog": ["the dog"]}, "words")


def test_the_tower_in_eight_bits_is_small(asked):
    files = open_bundle(asked / "bundle").manifest["files"]
    weights = (asked / "clip" / "model.safetensors").stat().st_size
    assert files["targets/onnxruntime/words/model.onnx"]["size"] < weights
    assert not any(name.startswith("words/") for name in files)


@pytest.fixture
def serving(asked, paged):
    """``serving(**run.yaml)``: a run on looping pictures, with its page; runner and port."""

    def start(words=None, **more):
        source = {"folder": {"inputs": "image", "path": str(asked / "pictures"), "loop": True, "seconds": 0.2}}
        decisions = {"word": {"debounce": 1, "threshold": 0.4, "cool_down_s": 0.1} | ({"words": str(words)} if words else {})}
        return paged(open_bundle(asked / "bundle"), {"name": "porch", "sources": [source], "decisions": decisions, **more})

    return start


def labels_now(runner):
    decision = next((outlet._sink._decision for outlet in runner.outlets if outlet.name == "web"), None)
    return list(decision.readings["word"].scores) if decision else []


def test_new_words_on_the_page_are_asked_from_then_on_and_kept_in_their_file(serving, asked, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(json.dumps(FIRST))
    runner, port = serving(file)
    wait_for(lambda: labels_now(runner) == list(FIRST))
    assert post(port, "word/words", "red: [a photo of a red circle]\nblue: [a blue circle, the blue]")[0] == 204
    wait_for(lambda: labels_now(runner) == list(OTHER))
    assert runner.status()["known"]["word"]["words"] == OTHER
    from edgemm.contracts.word_file import read_words

    assert read_words(file) == OTHER
    status, why = post(port, "word/words", "red: [a photo]\nblue: [a photo]")
    assert (status, "the words 'red' and 'blue'" in why) == (422, True)
    assert labels_now(runner) == list(OTHER), "what was asked is asked still"
    file.write_text(json.dumps(FIRST))
    wait_for(lambda: labels_now(runner) == list(FIRST), what="the file's words")


def test_new_words_by_mqtt_become_entities(serving, broker, monkeypatch):
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    sink = {"mqtt": {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD", "tls": False}}
    listener = Listener(broker)
    try:
        runner, _ = serving(sinks=[sink])
        wait_for(lambda: listener.payloads("edgemm/porch/word/dog"))
        listener.client.publish("edgemm/porch/word/words/set", json.dumps(OTHER))
        wait_for(lambda: labels_now(runner) == list(OTHER))
        wait_for(lambda: listener.payloads("edgemm/porch/word/blue")[-1:] == [b"ON"])
        assert listener.payloads("edgemm/porch/word/dog")[-1] == b""
    finally:
        listener.stop()


def test_accuracy_that_was_measured_with_other_words_is_not_told(asked):
    opened = open_bundle(asked / "bundle")
    row = {"name": "accuracy", "output": "word", "target": "onnxruntime", "modalities": ["image"], "value": 0.9, "unit": "ratio"}
    row |= {"low": None, "high": None, "n": 8, "better": "higher", "precision_ran": "f32"}
    told = dataclasses.replace(opened, manifest={**opened.manifest, "subsets": [row]})
    runner = Runner(told, settings_of(asked, threshold=0.1), fast=True)
    seen = []
    runner.on_decision.append(lambda decision: seen.append(runner.status()["expected"]))
    runner.on_decision.append(lambda decision: runner.control("word/words", json.dumps(OTHER)))
    runner.run(threading.Event())
    assert seen[0] == {"word": {"name": "accuracy", "value": 0.9}}
    assert seen[1:] == [{}, {}]


def test_words_outlive_another_bundle(asked, tmp_path):
    opened = open_bundle(asked / "bundle")
    before = knowing.Knowing(opened, settings_of(asked), "onnxruntime")
    before.set("word/words", json.dumps(OTHER), lambda output: None)
    after = knowing.Knowing(opened, settings_of(asked), "onnxruntime", before=before)
    assert after.names()["word"].labels == tuple(OTHER)


def test_a_bundle_without_the_tower_says_how_to_build_one_with_it(bundle, asked, tmp_path):
    (tmp_path / "words.yaml").write_text(json.dumps(OTHER))
    plain = {"sources": [{"folder": {"inputs": "image", "path": "."}}], "decisions": {"event": {"words": str(tmp_path / "words.yaml")}}}
    with pytest.raises(RunError, match="'event' is of task classification"):
        Runner(open_bundle(bundle), parse(plain, open_bundle(bundle).card))
    edgemm.init(str(asked / "clip"), words=asked / "words.yaml", output=tmp_path / "model.yaml")
    (tmp_path / "bare.yaml").write_text("targets: {onnxruntime: {}}")
    edgemm.compress(tmp_path / "model.yaml", recipe=tmp_path / "bare.yaml", data=asked / "data", output=tmp_path / "bundle")
    plain["decisions"] = {"word": {"words": str(tmp_path / "words.yaml")}}
    with pytest.raises(RunError, match="this bundle takes no new words") as caught:
        Runner(open_bundle(tmp_path / "bundle"), parse(plain, open_bundle(tmp_path / "bundle").card))
    assert "--with-text" in str(caught.value)


def test_a_file_of_words_that_cannot_be_read_is_told_before_the_first_frame(asked, tmp_path):
    with pytest.raises(EdgemmError, match="cannot read the words in"):
        settings_of(asked, words=str(tmp_path / "none.yaml"))


def test_a_text_tower_without_words_is_refused(asked, tmp_path):
    with pytest.raises(CardError, match="--with-text goes with --words"):
        edgemm.init(str(asked / "clip"), with_text=True, output=tmp_path / "model.yaml")


def test_the_tower_is_slim_luggage(asked, tmp_path):
    edgemm.slim(asked / "bundle", output=tmp_path / "slim.edgemm")
    (tmp_path / "words.yaml").write_text(json.dumps(OTHER))
    opened = open_bundle(tmp_path / "slim.edgemm")
    assert TextTower(opened, "onnxruntime").vectors("word", OTHER, "words").shape == (2, 24)
