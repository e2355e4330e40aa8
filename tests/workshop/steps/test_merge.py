"""Token merging on small two-towers: fewer tokens, nearly the same answers, saved and loaded, exported, in INT8; what is refused."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.recipe import load as load_recipe
from edgemm.contracts.step import Context
from edgemm.contracts.target import Target
from edgemm.data import dataset as data
from edgemm.errors import CheckpointError, MergeError
from edgemm.graph import files, parity
from edgemm.graph.merging import merging_nodes
from edgemm.pipeline import bundling, stages
from edgemm.pipeline.job import start
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.onnx_export import export_onnx
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.steps.merge import merge, restore
from edgemm.workshop.steps.quantize import quantize

SIZE = "hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4, num_attention_heads: 4, patch_size: 8, image_size: 48"
ENCODERS = {
    "ours": "vit: {patch: 8, embedding: 32, layers: 4, heads: 4}",
    "clip": f"hf_vision: {{config: {{model_type: clip_vision_model, {SIZE}}}, width: 32, pool: pooler}}",
    "siglip": f"hf_vision: {{config: {{model_type: siglip_vision_model, {SIZE}}}, width: 32, pool: pooler}}",
    "dinov2": f"hf_vision: {{config: {{model_type: dinov2, {SIZE}}}, width: 32, pool: mean}}",
    "cnn": "cnn: {}",
}
TOKENS = {"ours": 36, "clip": 37, "siglip": 36, "dinov2": 37}


def card_of(encoder: str, folder: Path):
    (folder / "model.yaml").write_text(f"""
factory: models:image-text-two-tower
kwargs:
  encoders:
    image: {{{ENCODERS[encoder]}}}
    text: {{transformer: {{embedding: 32, layers: 2, heads: 4}}}}
  heads: {{embedding: {{embedding: {{size: 16}}}}}}
inputs:
  image: {{modality: image, height: 48, width: 48, channels: 3, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
  text: {{modality: text, vocab: 100, length: 8}}
outputs:
  image_vector: {{task: embedding, pair: text_vector}}
  text_vector: {{task: embedding, pair: image_vector}}
""")
    return cards.load(folder / "model.yaml")


@pytest.fixture
def model_of(tmp_path):
    def make(encoder: str):
        torch.manual_seed(0)
        return load_model(card_of(encoder, tmp_path), weights=False)

    return make


def context(model, folder: Path, notes: list[str] | None = None, target: str = "openvino") -> Context:
    numerics = plugins.load(Target, target).numerics
    told = (notes if notes is not None else []).append
    return Context(model.card, data.synthetic(model.card), folder / "scratch", target=target, numerics=numerics, note=told)


def answers(model, batch: int = 4):
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(sample_inputs(model.card, batch)).items()}


@pytest.mark.parametrize("encoder", TOKENS)
def test_half_of_the_tokens_are_enough_for_nearly_the_same_answers(model_of, tmp_path, encoder):
    model, notes = model_of(encoder), list[str]()
    merged = merge(model, context(model, tmp_path, notes), tokens_per_layer=5)
    before, after = answers(model), answers(merged)
    left = f"{(4 * TOKENS[encoder] - 30) / 4 / TOKENS[encoder]:.0%} of the tokens' work is left"
    assert notes == [f"merge: 'image' goes from {TOKENS[encoder]} tokens to {TOKENS[encoder] - 15} over its 4 layers, {left}."]
    assert np.array_equal(before["text_vector"], after["text_vector"])
    assert 0 < np.abs(before["image_vector"] - after["image_vector"]).max() < 0.2 * np.abs(before["image_vector"]).max()
    alone = answers(merged, 1)
    assert np.allclose(alone["image_vector"], after["image_vector"][:1], atol=1e-5), "a row does not depend on others"


def test_merging_ends_where_so_many_are_left_as_are_to_stay(model_of, tmp_path):
    model, notes = model_of("clip"), list[str]()
    merged = merge(model, context(model, tmp_path, notes), tokens_per_layer=15, leave=18)
    assert notes == ["merge: 'image' goes from 37 tokens to 18 over its 4 layers, 64% of the tokens' work is left."]  # 37, 22, 18, 18
    before, after = answers(model)["image_vector"], answers(merged)["image_vector"]
    assert 0 < np.abs(before - after).max() < 0.3 * np.abs(before).max()
    card = save_model(merged, tmp_path / "saved")
    assert np.array_equal(answers(load_model(card))["image_vector"], after)
    graph = files.load(export_onnx(merged, tmp_path / "model.onnx"))
    assert collections.Counter(node.op_type for node in graph.graph.node)["ArgMax"] == 2, "nothing is decided after the last that goes"
    samples = [{name: value.numpy() for name, value in sample_inputs(model.card, 1, 3).items()}]
    floats, _ = parity.run_reference(graph, samples)
    expected = merged(sample_inputs(model.card, 1, 3))["image_vector"].detach().numpy().ravel()
    assert np.allclose(floats["image_vector"], expected, atol=1e-5)


def test_a_checkpoint_merges_as_the_model_it_was_saved_from(model_of, tmp_path):
    model = model_of("ours")
    merged = merge(model, context(model, tmp_path), tokens_per_layer=4)
    card = save_model(merged, tmp_path / "saved")
    assert [*card.applied[0]] == ["merge"]
    again = load_model(card)
    assert all(np.array_equal(value, answers(again)[name]) for name, value in answers(merged).items())
    assert {*again.module.state_dict()} == {*model.module.state_dict()}
    with pytest.raises(CheckpointError, match="does not fit what the factory builds"):
        restore(model_of("cnn"), {"format": 1, "towers": [{"tower": "encoders.image.layers", "count": 1, "protected": 0}]})


@pytest.mark.parametrize(
    "target", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow), pytest.param("tensorrt", marks=pytest.mark.slow)]
)
def test_it_is_exported_and_quantized_with_what_decides_in_float(model_of, tmp_path, target):
    model = model_of("clip")
    merged = merge(model, context(model, tmp_path), tokens_per_layer=4)
    graph = files.load(export_onnx(merged, tmp_path / "model.onnx"))
    samples = [{name: value.numpy() for name, value in sample_inputs(model.card, 1, seed).items()} for seed in range(6)]
    expected = [merged(sample_inputs(model.card, 1, seed)) for seed in range(6)]
    floats, _ = parity.run_reference(graph, samples)
    assert np.allclose(floats["image_vector"], torch.cat([row["image_vector"] for row in expected]).detach().flatten(), atol=1e-5)
    quantized = quantize(graph, context(model, tmp_path, target=target), calibration_samples=8)
    deciding = merging_nodes(graph)
    kinds = collections.Counter(node.op_type for node in graph.graph.node if node.name in deciding)
    assert (kinds["ArgMax"], kinds["MatMul"]) == (3, 9)
    made = {name: node for node in quantized.graph.node for name in node.output}
    products = [node for node in quantized.graph.node if node.name in deciding and node.op_type == "MatMul"]
    assert not any(made[name].op_type == "DequantizeLinear" for node in products for name in node.input if name in made)
    found, _ = parity.run_reference(quantized, samples)
    assert parity.difference(floats["image_vector"], found["image_vector"]).sqnr_db > 15


def test_what_cannot_be_merged_is_refused_with_what_can(model_of, tmp_path):
    def refused(encoder: str, **options) -> str:
        model = model_of(encoder)
        with pytest.raises(MergeError) as caught:
            merge(model, context(model, tmp_path), **options)
        return f"{caught.value.what} {caught.value.fix}"

    assert refused("ours", tokens_per_layer=13) == (
        "tokens_per_layer: 13 leaves nothing of branch 'image'. at most 9; or more in the first layers alone: leave: 12."
    )
    assert refused("ours", tokens_per_layer=20, leave=12) == "tokens_per_layer: 20 of branch 'image', with 12 to leave. at most 18."
    assert refused("ours", leave=36) == "leave: 36 of branch 'image', which has 36 tokens. write less, such as 12."
    assert refused("ours", leave=1).startswith("leave: 1 tokens.")
    assert refused("ours", tokens_per_layer=0).startswith("tokens_per_layer: 0 tokens a layer.")
    assert refused("ours", branches={"text": 1}).startswith("branches: 'text' is text.")
    assert refused("cnn").startswith("the model has no transformer whose tokens could be merged.")


def test_what_leaves_nothing_is_told_before_the_original_is_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "export", lambda *given, **named: pytest.fail("the original was exported first"))
    job = start(card_of("ours", tmp_path).path, None)
    (tmp_path / "merging.yaml").write_text("steps: [{merge: {tokens_per_layer: 13}}]\ntargets: {openvino: {}}\n")
    with pytest.raises(MergeError, match="tokens_per_layer: 13 leaves nothing of branch 'image'"):
        bundling.bundle(job, load_recipe(tmp_path / "merging.yaml", card=job.card), sign=None)
