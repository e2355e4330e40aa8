"""Which encoders, fusions and heads go together: every one of them at least once through export, INT8 and OpenVINO.

A row joins parts that no other row joins, so that pairs are covered, not only parts. Weights are random and widths tiny: what is shown
is that the graph is followed by every tool and that INT8 stays close to float, not how well a model does.
"""

import numpy as np
import pytest

from edgemm import plugins

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")

import onnx  # noqa: E402  (all of them may be absent)

from edgemm import card as cards  # noqa: E402
from edgemm.exporting import export_onnx, sample_inputs  # noqa: E402
from edgemm.models.build import build  # noqa: E402
from edgemm.models.fused import FusedModel  # noqa: E402
from edgemm.steps._protocol import Context  # noqa: E402
from edgemm.steps.quantize import quantize  # noqa: E402
from edgemm.targets.openvino import OpenVINO  # noqa: E402

IMAGE = {"modality": "image", "height": 32, "width": 32, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
AUDIO = {"modality": "audio", "rate_hz": 8000, "seconds": 0.5, "features": {"log_mel": {"mels": 16, "hop_ms": 16, "normalize": "clip"}}}
TEXT = {"modality": "text", "vocab": 40, "length": 8}
SENSOR = {"modality": "sensor", "shape": [24, 4], "rate_hz": 50}
NUMBERS = {"modality": "sensor", "shape": [5], "rate_hz": 1}
LABEL = {"task": "classification", "labels": ["a", "b", "c"]}
TAGS = {"task": "multilabel", "labels": ["a", "b"]}
LEVEL = {"task": "regression"}
TINY = {"channels": [8, 16], "width": 16}
TEXT_TINY = {"embedding": 16, "width": 16}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 8, **SMALL}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}

MATRIX = {
    "camera and microphone, scalar gate": (
        {"image": (IMAGE, {"cnn": TINY}), "audio": (AUDIO, {"conv_gru": {**TINY, "hidden": 16}})},
        {"gated": {"gate": "scalar", "width": 16}},
        {"event": LABEL, "level": LEVEL},
    ),
    "picture and words side by side": (
        {"image": (IMAGE, {"residual_cnn": TINY}), "text": (TEXT, {"text_lstm": {**TEXT_TINY, "hidden": 16}})},
        {"concat": {"width": 16}},
        {"label": LABEL},
    ),
    "picture, words and motion, weighted": (
        {
            "image": (IMAGE, {"depthwise_cnn": TINY}),
            "text": ({**TEXT, "mask": True}, {"bag": {**TEXT_TINY, "hidden": 16}}),
            "motion": (SENSOR, {"tcn": {"channels": 16, "blocks": 2, "width": 16}}),
        },
        {"weighted": {}},
        {"tags": TAGS, "level": LEVEL},
    ),
    "two towers": (
        {
            "image": (IMAGE, {"vit": {**TEXT_TINY, "heads": 2}}),
            "text": ({**TEXT, "mask": True}, {"transformer": {**TEXT_TINY, "heads": 2}}),
        },
        {"towers": {}},
        {"image_vector": {"task": "embedding", "pair": "text_vector"}, "text_vector": {"task": "embedding"}},
    ),
    "Hugging Face backbones that look at each other": (
        {"image": (IMAGE, {"hf_vision": {"config": RESNET, "width": 16}}), "text": (TEXT, {"hf_text": {"config": BERT, "width": 16}})},
        {"cross_attention": {"width": 16, "heads": 2}},
        {"label": LABEL},
    ),
    "sound and readings as a graph": (
        {"audio": (AUDIO, {"lstm": {"hidden": 16, "width": 16}}), "climate": (NUMBERS, {"mlp": {"hidden": [16], "width": 16}})},
        {"graph": {"width": 16}},
        {"faults": TAGS},
    ),
    "picture times words": (
        {"image": (IMAGE, {"hf_vision": {"config": SIGLIP, "width": 16}}), "text": (TEXT, {"text_cnn": {**TEXT_TINY, "channels": 16}})},
        {"product": {"width": 16, "beside": True}},
        {"answer": LABEL},
    ),
    "sound as a picture, and motion, mapped": (
        {"audio": (AUDIO, {"depthwise_cnn": TINY}), "motion": (SENSOR, {"conv_gru": {**TINY, "hidden": 16, "bidirectional": True}})},
        {"mlp": {"map_width": 16, "hidden": [16]}},
        {"event": LABEL, "tags": TAGS},
    ),
    "changes over four steps": (
        {
            "image": ({**IMAGE, "steps": 4}, {"cnn": TINY}),
            "audio": ({**AUDIO, "steps": 4}, {"cnn": TINY}),
            "text": (TEXT, {"bag": {"width": 16}}),
        },
        {"average": {}},
        {"change": {**LABEL, "per_step": True}, "level": {**LEVEL, "per_step": True}, "event": LABEL},
    ),
    "vector gate": (
        {"image": (IMAGE, {"vit": {**TEXT_TINY, "heads": 2}}), "motion": (SENSOR, {"lstm": {"hidden": 16, "width": 16}})},
        {"gated": {"gate": "vector", "width": 16}},
        {"label": LABEL},
    ),
}
HEADS = {"changes over four steps": {"change": {"change": {"hidden": 16}}}}
FEWEST_DB = 12.0  # signal over INT8 error; random weights leave little signal, a wrong graph leaves none


def test_the_matrix_holds_every_encoder_fusion_and_head():
    encoders = {next(iter(choice)) for inputs, _, _ in MATRIX.values() for _, choice in inputs.values()}
    fusions = {next(iter(fusion)) for _, fusion, _ in MATRIX.values()}
    heads = {output["task"] for _, _, outputs in MATRIX.values() for output in outputs.values()}
    heads |= {next(iter(head)) for chosen in HEADS.values() for head in chosen.values()}
    assert encoders == set(plugins.names("models/encoders"))
    assert fusions == set(plugins.names("models/fusions"))
    assert heads == set(plugins.names("models/heads"))


@pytest.mark.parametrize("name", MATRIX)
def test_a_combination_goes_through_export_int8_and_openvino(name, tmp_path):
    card, model = _model(name)
    exported = onnx.load(export_onnx(model, tmp_path / "float.onnx"))
    context = Context(card=card, dataset=None, scratch=tmp_path, target="openvino", numerics=OpenVINO().numerics)
    onnx.save(quantize(exported, context, calibration_samples=16), tmp_path / "model.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    artifact = OpenVINO().compile(tmp_path / "model.onnx", _folder(tmp_path / "openvino"), precision="f32", threads=1)
    inputs = sample_inputs(card, batch=1, seed=1)
    with torch.no_grad():
        wanted = {key: value.numpy() for key, value in model(inputs).items()}
    with OpenVINO().open(artifact.main, precision="f32", threads=1) as session:
        found = session.run({key: value.numpy() for key, value in inputs.items()})
        assert "int8" in session.precision()
    assert list(found) == list(card.outputs)
    for output, value in wanted.items():
        assert found[output].shape == value.shape
        assert _signal_over_error_db(value, found[output]) > FEWEST_DB, output


def _model(name):
    inputs, fusion, outputs = MATRIX[name]
    kwargs = {"encoders": {key: choice for key, (_, choice) in inputs.items()}, "fusion": fusion, "heads": HEADS.get(name, {})}
    described = {key: dict(spec) for key, (spec, _) in inputs.items()}
    card = cards.parse({"factory": "models:digits", "kwargs": kwargs, "inputs": described, "outputs": outputs})
    torch.manual_seed(0)
    model = FusedModel(card, build(card))
    model.train()
    with torch.no_grad():
        for seed in range(5):  # batch norm then has statistics of its own
            model(sample_inputs(card, batch=8, seed=seed))
    return card, model.eval()


def _signal_over_error_db(wanted, found):
    error = np.square(wanted - found).mean()
    return 10 * np.log10(np.square(wanted).mean() / max(error, 1e-12))


def _folder(path):
    path.mkdir()
    return path
