"""What holds for every encoder, fusion and head: found by its protocol, options with defaults, a width where one is due."""

import inspect

import pytest

from edgemm.contracts import plugins

torch = pytest.importorskip("torch")

from edgemm.workshop.models.protocols import Encoder, Fusion, Head, Maps  # noqa: E402  (torch may be absent)

KINDS = {"encoders": Encoder, "fusions": Fusion, "heads": Head}
MAPS = {name: Maps(name, (16, 32), (4, 8), (6, 6)) for name in "ab"}
EVERY = [(kind, name) for kind in KINDS for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_it_is_found_and_its_options_are_keywords_with_defaults(kind, name):
    found = plugins.find(KINDS[kind], name)
    positional = {"encoders": ["features"], "fusions": ["widths", "outputs"], "heads": ["width", "output"]}[kind]
    positional += ["maps"] if getattr(found, "takes_maps", False) else []
    parameters = list(inspect.signature(found).parameters.values())
    assert [p.name for p in parameters[: len(positional)]] == positional
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(positional) :])
    assert set(plugins.options(kind, name)) == {p.name for p in parameters[len(positional) :]}


@pytest.mark.parametrize("name", [name for name in plugins.names("fusions") if not plugins.find(Fusion, name).takes_maps])
def test_a_fusion_gives_each_head_a_vector_of_the_width_it_named(name):
    outputs = ("event", "level")
    fusion = plugins.find(Fusion, name)({"a": 4, "b": 4}, outputs).eval()
    branches = {key: (torch.randn(2, 3, 4), None) if fusion.takes_tokens else torch.randn(2, 4) for key in "ab"}
    joined = fusion(branches)
    for output in outputs:
        vector = joined[output] if isinstance(joined, dict) else joined
        assert vector.shape == (2, fusion.width_for(output))
        assert torch.isfinite(vector).all()


@pytest.mark.parametrize("name", [name for name in plugins.names("fusions") if plugins.find(Fusion, name).takes_maps])
def test_a_fusion_that_keeps_space_gives_maps_as_it_said(name):
    takes = plugins.find(Fusion, name)
    widths, options = {"a": 6, "b": 6, "word": 5}, {"picture": "a"}
    fusion = takes(widths, ("event",), MAPS, **options).eval()
    branches = {key: tuple(torch.randn(2, 6, *cells) for cells in of.cells) for key, of in MAPS.items()}
    joined = fusion({**branches, "word": torch.randn(2, 5)})
    assert [tuple(x.shape) for x in joined] == [(2, fusion.width, *cells) for cells in fusion.maps.cells]
    assert set(fusion.maps.channels) == {fusion.width}
    assert all(torch.isfinite(x).all() for x in joined)
