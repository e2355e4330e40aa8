"""Towers of Hugging Face folders lose heads and hidden units, and the proof holds."""

import pytest

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.workshop.models.checkpoint.loading import load_model
from tests import towers


@pytest.mark.parametrize("kind", ["clip", "sentences", pytest.param("whisper", marks=pytest.mark.slow)])
def test_a_towers_heads_and_hidden_units_go(kind, halved, tmp_path):
    folder = towers.folder(kind, tmp_path / kind)
    found, proof = halved(load_model(cards.load(edgemm.init(str(folder), output=tmp_path / "model.yaml"))))
    assert proof.error < 1e-5
    assert {layer.branch for layer in found.layers} == {"clip": {"image", "text"}, "sentences": {"text"}, "whisper": {"audio"}}[kind]
    assert any(".tower.backbone." in layer.name for layer in found.layers)
