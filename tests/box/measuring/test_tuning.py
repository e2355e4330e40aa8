"""Choosing runtime options by measurement."""

import numpy as np
import pytest

from edgemm.box.measuring.schedule import Timing
from edgemm.box.measuring.tuning import _affordable, _ranked, tune
from edgemm.contracts.deployment import Deployment
from edgemm.errors import EdgemmError, TargetError
from edgemm.store.instructions import onednn_instructions

pytest.importorskip("onnxruntime")


def timing(ms: float, seed: int) -> Timing:
    random = np.random.default_rng(seed)
    return Timing(samples={"latency": tuple(tuple(ms * random.lognormal(0, 0.02, 12)) for _ in range(16))})


def steady(ms: float) -> Timing:
    return Timing(samples={"latency": ((ms,) * 12,) * 16}, launches=(0,) * 16)


def test_the_fastest_choice_comes_first():
    choices = {"one": {"threads": 1}, "two": {"threads": 2}}
    assert _ranked(choices, {"one": timing(2.0, 0), "two": timing(1.0, 1)}) == ["two", "one"]


@pytest.mark.parametrize(("ms", "first"), [(1.04, "one"), (1.07, "two")])
def test_fewer_threads_are_taken_where_they_are_at_most_5_percent_slower(ms, first):
    choices = {"two": {"threads": 2}, "one": {"threads": 1}}
    assert _ranked(choices, {"two": steady(1.0), "one": steady(ms)})[0] == first


@pytest.mark.parametrize(("ms", "first"), [(1.01, "f32"), (1.03, "bf16")])
def test_the_more_precise_is_taken_where_it_is_at_most_2_percent_slower(ms, first):
    choices = {"bf16": {"threads": 1, "precision": "bf16"}, "f32": {"threads": 1, "precision": "f32"}}
    assert _ranked(choices, {"bf16": steady(1.0), "f32": steady(ms)})[0] == first


def test_processes_count_alike_whatever_one_of_them_happens_to_do():
    """One process of the first is lucky; on average over their processes the second is faster."""
    choices = {"first": {"threads": 1, "precision": "bf16"}, "second": {"threads": 1, "precision": "f32"}}
    launches = (0, 0, 0, 1, 2, 3)
    first = Timing(samples={"latency": ((0.8,), (0.8,), (0.8,), (1.2,), (1.2,), (1.2,))}, launches=launches)
    second = Timing(samples={"latency": ((1.0,),) * 6}, launches=launches)
    assert _ranked(choices, {"first": first, "second": second}) == ["second", "first"]


@pytest.mark.parametrize(("opening_ms", "processes"), [(50, 4), (700, 3), (900, 2), (9000, 1)])
def test_what_takes_long_to_open_is_started_less_often(opening_ms, processes):
    assert _affordable(4, [Timing(load_ms=opening_ms), Timing(load_ms=10)]) == processes


def test_a_choice_that_failed_is_not_ranked():
    choices = {"one": {"threads": 1}, "two": {"threads": 2}}
    assert _ranked(choices, {"one": timing(1.0, 0), "two": Timing(error=TargetError("no"))}) == ["one"]


def test_tuning_times_every_choice_and_keeps_the_one_whose_accuracy_holds(layer, feed):
    asked = []

    def only_the_second(options):
        asked.append(options)
        return "" if len(asked) == 2 else "its accuracy does not hold."

    tuned = tune(Deployment("onnxruntime", layer), feed, objection=only_the_second, seconds=0.2)
    assert tuned.options == asked[1] != asked[0]
    assert all(choice.p50_ms and choice.low_ms and choice.high_ms for choice in tuned.table)
    assert tuned.table[0].options == tuned.options
    assert tuned.notes == [f"threads {asked[0]['threads']}: its accuracy does not hold."]


def test_no_choice_whose_accuracy_holds_is_an_error(layer, feed):
    with pytest.raises(EdgemmError, match=r"onnxruntime: no choice of runtime options can be taken(?s:.)*it is wrong(?s:.)*fix: "):
        tune(Deployment("onnxruntime", layer, {"threads": 1}), feed, objection=lambda options: "it is wrong.", seconds=0.2)


def test_a_model_that_no_choice_can_open_is_an_error(tmp_path, feed):
    with pytest.raises(TargetError, match=r"cannot read the model 'gone\.onnx'"):
        tune(Deployment("onnxruntime", tmp_path / "gone.onnx"), feed, seconds=0.2)


PICKY = """
from edgemm.contracts import plugins
from edgemm.contracts.target import Target
from edgemm.errors import TargetError


class Picky(plugins.find(Target, "onnxruntime")):
    def choices(self, *, forbid=frozenset()):
        return [{"threads": 1}, {"threads": 2}]

    def open(self, artifact, **options):
        if options["threads"] == 2:
            raise TargetError("picky refuses the model.", why="it takes one thread.")
        return super().open(artifact, **options)
"""


def test_a_choice_that_does_not_compile_is_left_out_and_noted(layer, feed, tmp_path, monkeypatch):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "picky.py").write_text(PICKY)
    monkeypatch.setenv("EDGEMM_PLUGINS", str(tmp_path))
    tuned = tune(Deployment("picky", layer), feed, seconds=0.2)
    assert tuned.options == {"threads": 1}
    (note,) = tuned.notes
    assert note.startswith("threads 2: left out: ")
    assert "picky refuses the model. it takes one thread." in note


@pytest.mark.skipif(not onednn_instructions() & {"amx_bf16", "avx512_bf16"}, reason="this processor computes nothing in bf16")
def test_what_openvino_has_no_bf16_kernels_for_runs_in_f32(foreign):
    """With AMX it has none for this graph; with AVX-512 alone it has, and which of the two is faster is not ours to say."""
    ov = pytest.importorskip("openvino")
    x = {"x": np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)}
    tuned = tune(Deployment("openvino", foreign), x, seconds=0.2)
    core = ov.Core()
    try:
        core.compile_model(core.read_model(foreign), "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "SNIPPETS_MODE": "DISABLE"})
    except RuntimeError:
        assert tuned.options["precision"] == "f32"
        assert len(tuned.notes) == len([choice for choice in tuned.table if choice.options["precision"] == "bf16"]) > 0
        assert all("precision bf16: left out: " in note and "No suitable implementations" in note for note in tuned.notes)
    else:
        assert tuned.notes == []
