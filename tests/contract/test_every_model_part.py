"""What holds for every encoder, fusion and head: found by its protocol, options with defaults, a width where one is due."""

import inspect

import pytest

from edgemm.contracts import plugins

torch = pytest.importorskip("torch")

from edgemm.workshop.models.protocols import Encoder, Fusion, Head  # noqa: E402  (torch may be absent)

KINDS = {"encoders": Encoder, "fusions": Fusion, "heads": Head}
EVERY = [(kind, name) for kind in KINDS for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_it_is_found_and_its_options_are_keywords_with_defaults(kind, name):
    found = plugins.find(KINDS[kind], name)
    positional = {"encoders": ["features"], "fusions": ["widths", "outputs"], "heads": ["width", "output"]}[kind]
    parameters = list(inspect.signature(found).parameters.values())
    assert [p.name for p in parameters[: len(positional)]] == positional
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(positional) :])
    assert set(plugins.options(kind, name)) == {p.name for p in parameters[len(positional) :]}


@pytest.mark.parametrize("name", plugins.names("fusions"))
def test_a_fusion_gives_each_head_a_vector_of_the_width_it_named(name):
    outputs = ("event", "level")
    fusion = plugins.find(Fusion, name)({"a": 4, "b": 4}, outputs).eval()
    branches = {key: (torch.randn(2, 3, 4), None) if fusion.takes_tokens else torch.randn(2, 4) for key in "ab"}
    joined = fusion(branches)
    for output in outputs:
        vector = joined[output] if isinstance(joined, dict) else joined
        assert vector.shape == (2, fusion.width_for(output))
        assert torch.isfinite(vector).all()
