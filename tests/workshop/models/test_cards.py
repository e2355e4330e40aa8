"""Every shipped card: complete, explained, and buildable as it stands."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts import task as tasks

torch = pytest.importorskip("torch")

from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.fused import FusedModel  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402  (torch may be absent)

SHIPPED = sorted(path.stem for path in cards.SHIPPED.glob("*.yaml"))
MODALITIES = {modality for modality in plugins.names("modalities") if modality != "tensor"}


def test_the_promised_cards_are_there():
    assert set(SHIPPED) >= {
        "asked-mask", "asked-shape", "digits", "easyvqa",
        "image-audio-gated", "image-only", "image-text-concat", "image-text-product", "image-text-two-tower",
        "resnet-bert", "sensor-audio-graph", "sentiment-weighted", "spoken-box", "text-audio-image-multitask",
    }  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_for_whom_it_is_and_what_data_it_wants(name):
    lines = (cards.SHIPPED / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# For: ")
    assert any(line.startswith("# Data: ") for line in lines)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_is_built_from_itself_and_answers_each_output(name):
    card = cards.load(name)
    assert card.factory == f"models:{name}"
    model = FusedModel(card, build(card)).eval()
    with torch.no_grad():
        answers = model(sample_inputs(card))
    owners = tasks.tensors(card)
    assert list(answers) == list(owners)
    for tensor, value in answers.items():
        assert value.shape[0] == 2
        assert torch.isfinite(value).all()
        assert tasks.of(card.outputs[owners[tensor]]).answer_width in (None, value.shape[-1])


def test_the_cards_together_use_every_modality_task_and_fusion_idea():
    loaded = [cards.load(name) for name in SHIPPED]
    assert {spec.modality for card in loaded for spec in card.inputs.values()} == MODALITIES
    kinds = {output.task for card in loaded for output in card.outputs.values()}
    assert kinds == {"classification", "multilabel", "regression", "embedding", "detection", "segmentation", "keypoints"}
    fusions = {next(iter(card.kwargs["fusion"])) for card in loaded if "fusion" in card.kwargs}
    assert fusions >= {"concat", "product", "weighted", "gated", "towers", "cross_attention", "graph", "mlp", "film"}
