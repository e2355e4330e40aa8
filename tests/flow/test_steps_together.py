"""Steps one after the other through `edgemm compress`, and what they leave: a checkpoint that loads anywhere and is compressed again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgemm import compress, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import card_file as cards
from edgemm.contracts.target import Target
from edgemm.errors import OutputError, RecipeError

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("nncf")

from edgemm.contracts import plugins  # noqa: E402  (all of them may be absent)
from edgemm.workshop.models.checkpoint.loading import load_model  # noqa: E402

OPTIONS = {
    "prune": {"ratio": 0.5, "round_to": 4},
    "distill": {"epochs": 1},
    "qat": {"epochs": 1, "calibration_samples": 24},
    "quantize": {"method": "ptq", "calibration_samples": 24},
}
PAIRS = [("prune", "distill"), ("prune", "qat"), ("prune", "quantize"), ("distill", "qat"), ("distill", "quantize"), ("qat", "quantize")]
ALL = ("prune", "distill", "qat", "quantize")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """``recipe("prune", "quantize", target=...)``: a recipe file."""

    def write(*steps: str, target: str = "openvino") -> Path:
        path = tmp_path_factory.mktemp("recipe") / f"{'-'.join(steps)}.yaml"
        path.write_text(yaml.safe_dump({"steps": [{step: OPTIONS[step]} for step in steps], "targets": {target: {}}, "for": "size"}))
        return path

    return write


@pytest.fixture(scope="module")
def compressed(own_model, porch, recipe, tmp_path_factory):
    """``compressed("prune", "quantize")``: what `compress` leaves of the user's own model; made once."""
    made = {}

    def once(*steps: str):
        if steps not in made:
            place = tmp_path_factory.mktemp("compressed")
            made[steps] = compress(own_model, recipe=recipe(*steps), data=porch, output=place / "bundle", checkpoint=place / "small")
        return made[steps]

    return once


@pytest.mark.parametrize("steps", [ALL, *(pytest.param(pair, marks=pytest.mark.slow) for pair in PAIRS)], ids="+".join)
def test_steps_together_make_a_bundle_that_verifies_and_answers_as_their_checkpoint(steps, compressed, own_model, porch):
    done = compressed(*steps)
    assert verify(done.bundle).ok
    opened = open_bundle(done.bundle)
    assert [row["step"] for row in opened.manifest["provenance"]["steps"]] == [step for step in steps if step != "quantize"]
    golden = opened.golden()
    wanted, found = answers(load_model(cards.load(done.checkpoint)), golden.inputs), run("onnxruntime", opened.model, golden.inputs)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    if {"qat", "quantize"} & set(steps):
        assert "int8" in opened.report().find("latency_p50_ms", subject="bundle", target="openvino")[0].precision_ran
        assert decibels(wanted, golden.outputs["openvino"]["event"]) > 15
    assert (parameters(done.checkpoint) < parameters(own_model)) == ("prune" in steps)


@pytest.mark.parametrize("stage", [pytest.param(stage, marks=pytest.mark.slow) for stage in ("prune", "distill", "qat")])
def test_a_run_killed_while_it_trains_ends_with_the_same_bytes(stage, compressed, recipe, own_model, porch, tmp_path, empty_cache):
    run = [sys.executable, "-m", "edgemm", "compress", own_model, "-r", recipe(*ALL), "-d", porch, "-o", tmp_path / "bundle"]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as killed:
        for line in killed.stderr:
            if line.startswith(f"{stage} ..."):
                time.sleep(0.1)  # in the middle of it: an epoch of this model takes half a second
                killed.kill()
                break
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    again = compress(own_model, recipe=recipe(*ALL), data=porch, output=tmp_path / "bundle")
    assert set(("prune", "distill", "qat")[: ("prune", "distill", "qat").index(stage)]) <= set(again.reused)  # not done again
    assert stage in again.made
    for name in ("model.onnx", "targets/openvino/model.onnx"):
        assert (tmp_path / "bundle" / name).read_bytes() == (compressed(*ALL).bundle / name).read_bytes()


def test_a_compressed_checkpoint_loads_in_a_fresh_process_and_holds_no_pickle(compressed, fresh_python, porch):
    place = compressed(*ALL).checkpoint
    assert {path.name for path in place.iterdir()} == {"model.yaml", "weights.safetensors", "prune.json"}
    assert not any(path.read_bytes().startswith(PICKLES) for path in place.iterdir())
    feed = {name: array[:, 0] for name, array in open_bundle(compressed(*ALL).bundle).golden().inputs.items()}
    code = (
        "import json, numpy, torch\n"
        "from edgemm.contracts import card_file as cards\n"
        "from edgemm.workshop.models.checkpoint.loading import load_model\n"
        f"model = load_model(cards.load({str(place)!r}))\n"
        f"feed = dict(numpy.load({str(saved(place.parent / 'feed.npz', feed))!r}))\n"
        "with torch.no_grad():\n"
        "    answer = model({name: torch.from_numpy(value) for name, value in feed.items()})['event']\n"
        "print(json.dumps(answer.tolist()))\n"
    )
    found = json.loads(fresh_python(code).splitlines()[-1])
    with torch.no_grad():
        wanted = load_model(cards.load(place))({name: torch.from_numpy(value) for name, value in feed.items()})["event"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compressed_checkpoint_is_compressed_again_in_a_fresh_process(compressed, recipe, porch, tmp_path):
    place, small = compressed(*ALL).checkpoint, tmp_path / "smaller"
    words = ["compress", place / "model.yaml", "-r", recipe("prune", "quantize"), "-d", porch, "-o", tmp_path / "b", "--checkpoint", small]
    done = subprocess.run([sys.executable, "-m", "edgemm", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"wrote {small}" in done.stdout
    assert verify(tmp_path / "b").ok
    assert [name for entry in cards.load(small).applied for name in entry.values()] == ["prune.json", "prune2.json"]
    assert parameters(small) < parameters(place)


def test_a_checkpoint_is_found_again_without_running_anything(compressed, recipe, own_model, porch, tmp_path):
    before = compressed(*ALL)
    again = compress(own_model, recipe=recipe(*ALL), data=porch, output=tmp_path / "bundle", checkpoint=tmp_path / "small")
    assert not again.made
    for path in before.checkpoint.iterdir():
        if path.name != "model.yaml":  # names the factory's folder as seen from here
            assert path.read_bytes() == (tmp_path / "small" / path.name).read_bytes()
    assert parameters(tmp_path / "small") == parameters(before.checkpoint)


def test_a_recipe_that_leaves_no_checkpoint_says_so_before_any_work(recipe, own_model, porch, tmp_path, empty_cache):
    with pytest.raises(RecipeError, match=r"recipe 'quantize' leaves no checkpoint\.(.|\n)*fix: leave out --checkpoint"):
        compress(own_model, recipe=recipe("quantize"), data=porch, output=tmp_path / "b", checkpoint=tmp_path / "small")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "small").exists()
    assert not (empty_cache / "export").exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (".", "the model that is compressed lies there"),
        ("out", "out is written too, and each is replaced as a whole"),
        ("out/small", "out is written too, and each is replaced as a whole"),
        ("thesis", "it holds 'words.txt' and is no checkpoint that was written here"),
        ("thesis/words.txt", "it is a file"),
    ],
)
def test_a_place_where_something_would_be_lost_is_refused(place, words, recipe, own_model, porch, tmp_path):
    for path in own_model.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "words.txt").write_text("years of work")
    with pytest.raises(OutputError, match=f"cannot write a checkpoint to(.|\n)*{words}"):
        compress(tmp_path, recipe=recipe(*ALL), data=porch, output=tmp_path / "out", checkpoint=tmp_path / place)
    assert (tmp_path / "thesis" / "words.txt").read_text() == "years of work"
    assert not (tmp_path / "out").exists()


def answers(model, inputs):
    """The model's event for golden samples (n, 1, *sample), as (n, 1, classes)."""
    with torch.no_grad():
        return model({name: torch.from_numpy(value[:, 0]) for name, value in inputs.items()})["event"].numpy()[:, None]


def run(runtime, graph, inputs):
    with plugins.load(Target, runtime).open(graph) as session:
        count = len(next(iter(inputs.values())))
        return np.stack([session.run({name: value[row] for name, value in inputs.items()})["event"] for row in range(count)])


def decibels(wanted, found):
    return 10 * np.log10(np.square(wanted).mean() / max(np.square(wanted - found).mean(), 1e-12))


def parameters(place):
    return sum(parameter.numel() for parameter in load_model(cards.load(place)).parameters())


def saved(path, arrays):
    np.savez(path, **arrays)
    return path
