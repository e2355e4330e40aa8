"""Text: ids, padding, masks, and the vocabulary that train builds."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgemm.contracts import frontend_ops
from edgemm.contracts.card import Input
from edgemm.contracts.modality import Vocabulary, of
from edgemm.data.modalities.text import Text, build_vocabulary
from edgemm.errors import CardError, DataError

TEXTS = ["What color is the shape?", "what SHAPE is blue?", "is there a circle?", "is it blue?"]


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(build_vocabulary(TEXTS, 50), encoding="utf-8")
    return str(path)


def bert_like(path, pad=True):
    tokenizer = Tokenizer(models.WordLevel({"[PAD]" if pad else "[CLS]": 0, "[X]" if pad else "[SEP]": 1} | {
        "[UNK]": 2, **({"[CLS]": 3, "[SEP]": 4} if pad else {}), "red": 5, "green": 6, "blue": 7,
    }, unk_token="[UNK]"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    tokenizer.save(str(path))
    return str(path)


def test_a_vocabulary_has_pad_unk_and_the_most_frequent_words_lower_cased():
    ids = json.loads(build_vocabulary(TEXTS, 6))["model"]["vocab"]
    assert ids == {"<pad>": 0, "<unk>": 1, "?": 2, "is": 3, "blue": 4, "shape": 5}  # as frequent: by the alphabet
    assert build_vocabulary(iter(TEXTS), 6) == build_vocabulary(TEXTS[::-1], 6)


def test_texts_become_ids_padded_or_cut_to_the_length(words):
    vocab = json.loads(Path(words).read_text(encoding="utf-8"))["model"]["vocab"]
    got = Text(length=6, tokenizer=words).decode("What is BLUE", None)
    assert got.dtype == np.int64
    assert got.tolist() == [vocab["what"], vocab["is"], vocab["blue"], 0, 0, 0]
    assert Text(length=2, tokenizer=words).decode("What is BLUE", None).tolist() == [vocab["what"], vocab["is"]]


def test_unknown_words_and_other_scripts_are_the_unknown_token(words):
    assert Text(length=3, tokenizer=words).decode("zebra größer 猫", None).tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_one_unknown_token(words, text):
    assert Text(length=3, tokenizer=words).decode(text, None).tolist() == [1, 0, 0]


def test_an_empty_text_is_a_real_token_even_without_an_unknown_one(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "yes": 1, "no": 2}, unk_token="none"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "t.json"))
    spec = Text(length=2, tokenizer=str(tmp_path / "t.json"))
    assert spec.decode("", None).tolist() == [1, 0]
    with pytest.raises(DataError, match="the tokenizer fails on 'maybe'"):
        spec.decode("maybe", None)


def test_cutting_keeps_the_special_tokens_at_both_ends(tmp_path):
    spec = Text(length=4, tokenizer=bert_like(tmp_path / "t.json"))
    assert spec.decode("red green blue", None).tolist() == [3, 5, 6, 4]
    assert spec.decode("red", None).tolist() == [3, 5, 4, 0]


def test_the_mask_is_one_at_tokens_and_zero_at_padding(words):
    spec = Text(length=4, tokenizer=words, mask=True)
    ids, mask = frontend_ops.run(spec.frontend(), np.stack([spec.decode("is blue", None), spec.decode("", None)]))
    assert mask.dtype == np.int64
    assert mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert ids.tolist() == [[3, 4, 0, 0], [1, 0, 0, 0]]


def test_the_padding_id_comes_from_the_card_or_the_tokenizer(tmp_path):
    path = bert_like(tmp_path / "t.json", pad=False)
    with pytest.raises(CardError, match=r"t\.json' names no padding token\.\n  why: texts are padded to 4 ids\.\n  fix: add pad: <id>"):
        Text(length=4, tokenizer=path).decode("red", None)
    spec = Text(length=4, tokenizer=path, pad=7, mask=True)
    assert spec.decode("red", None).tolist() == [0, 5, 1, 7]
    assert spec.absent().tolist() == [7] * 4
    assert frontend_ops.run(spec.frontend(), spec.decode("red", None)[None])[1].tolist() == [[1, 1, 1, 0]]


def test_ids_may_stand_in_the_data_themselves():
    spec = Text(length=4, vocab=10)
    assert spec.decode([3, 4], None).tolist() == [3, 4, 0, 0]
    assert spec.decode(np.array([3, 4, 5, 6, 7], np.uint8), None).tolist() == [3, 4, 5, 6]
    for cell in ([0.5], [[1, 2]], [], {"ids": 1}):
        with pytest.raises(DataError, match="token ids have dtype"):
            spec.decode(cell, None)


def test_ids_beyond_the_vocabulary_are_errors(words):
    for cell, wrong in (([3, 10], 10), ([-1, 3], -1)):
        with pytest.raises(DataError, match=rf"token id {wrong} is outside vocab: 10\.\n  why: the model has no embedding for it"):
            Text(length=4, vocab=10).decode(cell, None)
    with pytest.raises(DataError, match=r"is outside vocab: 3\."):
        Text(length=4, vocab=3, tokenizer=words).decode("what color", None)


def test_a_text_without_a_tokenizer_says_that_train_builds_it():
    with pytest.raises(DataError, match=r"why: the card says vocab: 10 and names no tokenizer\.\n  fix: train the model"):
        Text(length=4, vocab=10).decode("red", None)


def test_a_missing_or_foreign_tokenizer_is_a_card_error(tmp_path):
    with pytest.raises(CardError, match=r"gone\.json' cannot be read\.\n  why: No such file"):
        Text(length=4, tokenizer=str(tmp_path / "gone.json")).decode("red", None)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(CardError, match=r"t\.json' is not a tokenizer"):
        Text(length=4, tokenizer=str(tmp_path / "t.json")).decode("red", None)


def test_the_tokenizers_path_is_relative_to_the_card(tmp_path, words):
    part = of(Input("question", "text", {"length": 4, "tokenizer": "tokenizer.json"}), folder=tmp_path)
    assert part.decode("blue", None).tolist() == [4, 0, 0, 0]


def test_impossible_options_are_card_errors():
    for options, words in (({"length": 0}, "length is 0"), ({"vocab": 2}, "vocab is 2"), ({"vocab": None}, "neither tokenizer nor vocab")):
        with pytest.raises(CardError, match=words):
            Text(**{"length": 4, "vocab": 10} | options)


def test_the_vocabulary_is_the_cards_or_one_more_than_the_tokenizers_highest_id(tmp_path):
    plain = {"model": {"vocab": {"<pad>": 0, "yes": 4}}, "added_tokens": [{"id": 9, "content": "<s>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    assert Text(4, tokenizer=str(tmp_path / "tokenizer.json"), pad=0).vocabulary() == Vocabulary(10)
    assert Text(4, tokenizer=str(tmp_path / "tokenizer.json"), vocab=64, pad=3).vocabulary() == Vocabulary(64, pad=3)


def test_a_tokenizer_that_cannot_be_read_tells_no_vocabulary(tmp_path):
    with pytest.raises(CardError, match="cannot read the vocabulary of"):
        Text(4, tokenizer=str(tmp_path / "other.json")).vocabulary()
