"""Small inputs and cards for the reference models."""

import pytest

from edgemm.contracts import card_file as cards

INPUTS = {
    "image": {"modality": "image", "height": 32, "width": 32, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "night": {"modality": "image", "height": 32, "width": 32, "channels": 1, "mean": [0.5], "std": [0.5]},
    "audio": {"modality": "audio", "rate_hz": 8000, "seconds": 0.5, "features": {"log_mel": {"mels": 16, "hop_ms": 16}}},
    "wave": {"modality": "audio", "rate_hz": 2000, "seconds": 0.5},
    "text": {"modality": "text", "vocab": 40, "length": 8},
    "masked": {"modality": "text", "vocab": 40, "length": 8, "mask": True},
    "motion": {"modality": "sensor", "shape": [24, 4], "rate_hz": 50},
    "climate": {"modality": "sensor", "shape": [5], "rate_hz": 1},
}
LABEL = {"task": "classification", "labels": ["a", "b", "c"]}


@pytest.fixture(scope="session")
def make_card():
    """``make_card({"image": {"cnn": {}}, "text": None}, fusion=...)``: a card with these of ``INPUTS``; None = no encoder named."""

    def make(inputs, *, outputs=None, factory="models:digits", steps=None, **kwargs):
        plain = {name: INPUTS[name] | ({"steps": steps[name]} if name in (steps or {}) else {}) for name in inputs}
        kwargs["encoders"] = {name: choice for name, choice in inputs.items() if choice} | kwargs.get("encoders", {})
        return cards.parse({"factory": factory, "kwargs": kwargs, "inputs": plain, "outputs": outputs or {"label": LABEL}})

    return make


@pytest.fixture(scope="session")
def make_model(make_card):
    """The same as a FusedModel with seeded weights, in train mode."""
    import torch

    from edgemm.workshop.models.build import build
    from edgemm.workshop.models.fused import FusedModel

    def make(inputs, **rest):
        card = make_card(inputs, **rest)
        torch.manual_seed(0)
        return FusedModel(card, build(card))

    return make


@pytest.fixture(scope="session")
def gradients_are_finite():
    """``gradients_are_finite(model, batch)``: one backward pass; every weight gets a finite gradient."""
    import torch

    from edgemm.workshop.models.tried import sample_inputs

    def check(model, batch):
        model.zero_grad()
        answers = model(sample_inputs(model.card, batch=batch))
        sum(value.square().sum() for value in answers.values()).backward()
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return all(p.grad is not None and torch.isfinite(p.grad).all() for p in wanted)

    return check


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """``exported(model)``: (ONNX model, largest difference between torch and ONNX Runtime at a batch size it was not traced with)."""
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    from edgemm.workshop.models.onnx_export import export_onnx
    from edgemm.workshop.models.tried import sample_inputs

    def export(model):
        model.eval()
        path = export_onnx(model, tmp_path_factory.mktemp("exported") / "model.onnx")
        inputs = sample_inputs(model.card, batch=3, seed=1)
        with torch.no_grad():
            wanted = model(inputs)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(list(wanted), {name: value.numpy() for name, value in inputs.items()})
        return onnx.load(path), max(float(np.abs(a.numpy() - b).max()) for a, b in zip(wanted.values(), found, strict=True))

    return export
