"""What holds for every target: it computes what ONNX Runtime computes, says what ran, and refuses what does not fit."""

import re

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.target import Numerics, Target, fingerprint
from edgemm.errors import EdgemmError, MissingExtra, SpecMismatch

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)


def wanted(name: str) -> Target:
    try:
        return plugins.load(Target, name)
    except MissingExtra as err:
        pytest.skip(str(err.what))


@pytest.fixture(params=[name for name in plugins.names("targets") if name != "torch"])
def known(request) -> Target:
    """Every target that reads ONNX (``torch`` opens cards, for the benchmark's child process only)."""
    return wanted(request.param)


@pytest.fixture
def target(known) -> Target:
    """Those that can run on this machine."""
    if why := known.cannot_run():
        pytest.skip(why)
    return known


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    """left (batch, 4) float32 and right (batch, 3) uint8 -> both (batch, 2): a layer on each, added."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in {"a": (4, 2), "b": (3, 2)}.items()}
    nodes = [
        helper.make_node("MatMul", ["left", "a"], ["l"], "left_fc"),
        helper.make_node("Cast", ["right"], ["r8"], "right_cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["r8", "b"], ["r"], "right_fc"),
        helper.make_node("Add", ["l", "r"], ["sum"], "join"),
        helper.make_node("Relu", ["sum"], ["both"], "out"),
    ]
    inputs = {"left": ["batch", 4], "right": (onnx.TensorProto.UINT8, ["batch", 3])}
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(onnx_model(nodes, inputs, {"both": ["batch", 2]}, weights), path)
    return path, weights


@pytest.fixture
def opened(target, graph, tmp_path):
    artifact = target.compile(graph[0], tmp_path)
    with target.open(artifact.main, **target.float_options()) as session:
        yield session


def feed(batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"left": rng.normal(size=(batch, 4)).astype(np.float32), "right": rng.integers(0, 9, (batch, 3), dtype=np.uint8)}


def test_it_says_which_numerics_it_wants(known):
    assert isinstance(known.numerics, Numerics)
    assert "fp32" in known.numerics.floats


def test_what_it_compiled_lies_in_the_folder_it_was_given(target, graph, tmp_path):
    artifact = target.compile(graph[0], tmp_path)
    assert artifact.main.exists()
    assert artifact.main.parent == tmp_path


def test_forced_to_float_it_computes_the_graph(opened, graph):
    given = feed()
    answer = opened.run(given)
    assert list(answer) == ["both"]
    expected = np.maximum(given["left"] @ graph[1]["a"] + given["right"].astype(np.float32) @ graph[1]["b"], 0)
    np.testing.assert_allclose(answer["both"], expected, rtol=1e-4, atol=1e-4)


def test_answers_are_arrays_the_caller_may_keep(opened):
    first = opened.run(feed())["both"]
    kept = first.copy()
    other = feed()
    other["left"] = other["left"] + 5
    opened.run(other)
    np.testing.assert_array_equal(first, kept)


def test_arrays_that_are_not_contiguous_are_read_rightly(opened):
    given = feed()
    strided = {"left": np.repeat(given["left"], 2, axis=1)[:, ::2], "right": np.asfortranarray(given["right"])}
    np.testing.assert_array_equal(opened.run(strided)["both"], opened.run(given)["both"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"left": np.zeros((1, 5), np.float32)}, "input 'left' wants .*4.* float32, got (1, 5) float32"),
        ({"left": np.zeros((1, 4), np.float64)}, "input 'left' wants .*, got (1, 4) float64"),
        ({"left": None}, "input 'left' is missing"),
        ({"middle": np.zeros((1, 1), np.float32)}, "input 'middle' is not one of the model's"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_by_name(opened, change, words):
    given = {name: value for name, value in {**feed(), **change}.items() if value is not None}
    with pytest.raises(SpecMismatch, match=re.escape(words).replace(r"\.\*", ".*")):
        opened.run(given)


def test_it_says_what_ran(opened):
    opened.run(feed())
    assert opened.precision() == "f32"
    assert all(layer.kind for layer in opened.layers())


def test_its_inputs_and_outputs_are_the_graphs(opened):
    assert [(spec.name, spec.dtype) for spec in opened.inputs] == [("left", "float32"), ("right", "uint8")]
    assert [spec.name for spec in opened.outputs] == ["both"]


def test_every_choice_worth_timing_opens_and_runs(target, graph, tmp_path):
    artifact = target.compile(graph[0], tmp_path)
    choices = target.choices()
    assert choices
    for options in choices:
        with target.open(artifact.main, **options) as session:
            assert session.run(feed())["both"].shape == (1, 2)


def test_a_choice_is_safe_and_an_unsafe_variation_of_it_leads_back_to_it(known, graph):
    for options in known.choices():
        assert known.without_unsafe(options) == options
        for unsafe in known.unsafe_choices(options, graph[0]):
            assert unsafe != options
            assert known.without_unsafe(unsafe) == options


def test_what_is_forbidden_is_not_chosen(known):
    assert not [options for options in known.choices(forbid=frozenset({"bf16", "fp16"})) if options.get("precision") in ("bf16", "fp16")]


def test_a_file_that_is_no_graph_is_an_error_with_a_fix(target, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not an onnx file")
    (tmp_path / "out").mkdir()
    with pytest.raises(EdgemmError) as caught:
        target.open(target.compile(tmp_path / "broken.onnx", tmp_path / "out").main)
    assert "broken.onnx" in str(caught.value) or "model.onnx" in str(caught.value)
    assert caught.value.fix


def test_a_missing_file_is_an_error_that_names_it(known, tmp_path):
    with pytest.raises(EdgemmError, match=r"absent\.onnx"):
        known.compile(tmp_path / "absent.onnx", tmp_path)


def test_its_fingerprint_names_its_version(known):
    versions = known.versions()
    assert versions
    assert all(version[:1].isdigit() for version in versions.values())
    assert fingerprint(known).items() >= versions.items()


def test_one_that_cannot_run_here_has_a_stand_in_that_computes_the_graph(known, graph):
    why = known.cannot_run()
    if not why:
        pytest.skip("it runs here")
    (only,) = known.choices()
    assert only["stand_in"] == "onnxruntime"
    with known.open(graph[0], **only) as session:
        answer = session.run(feed())["both"]
    given = feed()
    expected = np.maximum(given["left"] @ graph[1]["a"] + given["right"].astype(np.float32) @ graph[1]["b"], 0)
    np.testing.assert_allclose(answer, expected, rtol=2e-2, atol=2e-2)
    with pytest.raises(EdgemmError) as caught:
        known.open(graph[0])
    assert caught.value.why == why
