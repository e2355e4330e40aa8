"""Choosing runtime options by measurement."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.devices.environment import instructions
from edgemm.errors import EdgemmError, TargetError
from edgemm.probes._schedule import Timing
from edgemm.probes._statistics import ratio
from edgemm.probes._tuning import _ranked, tune

pytest.importorskip("onnxruntime")


def timing(ms: float, seed: int) -> Timing:
    random = np.random.default_rng(seed)
    return Timing(samples={"latency": tuple(tuple(ms * random.lognormal(0, 0.02, 12)) for _ in range(16))})


def test_the_fastest_choice_comes_first():
    choices = {"one": {"threads": 1}, "two": {"threads": 2}}
    assert _ranked(choices, {"one": timing(2.0, 0), "two": timing(1.0, 1)}) == ["two", "one"]


def test_of_choices_that_cannot_be_told_apart_the_one_with_fewer_threads_is_taken():
    choices = {"two": {"threads": 2}, "one": {"threads": 1}}
    assert _ranked(choices, {"two": timing(1.0, 0), "one": timing(1.0, 1)}) == ["one", "two"]


def test_of_choices_that_cannot_be_told_apart_the_more_precise_is_taken():
    choices = {"bf16": {"threads": 1, "precision": "bf16"}, "f32": {"threads": 1, "precision": "f32"}}
    assert _ranked(choices, {"bf16": timing(1.0, 0), "f32": timing(1.0, 1)}) == ["f32", "bf16"]


def test_what_seems_slower_by_more_than_2_percent_is_not_taken_for_being_precise():
    choices = {"bf16": {"threads": 1, "precision": "bf16"}, "f32": {"threads": 1, "precision": "f32"}}
    levels = [np.random.default_rng(seed).lognormal(0, 0.2, 16) for seed in (0, 1)]  # rounds far apart: nothing can be told
    fast, slow = (
        Timing(samples={"latency": tuple((ms * value / np.percentile(level, 10),) for value in level)})
        for ms, level in zip((1.0, 1.03), levels, strict=True)
    )
    assert ratio(slow.samples_ms, fast.samples_ms, share=10).verdict == "no difference shown"
    assert _ranked(choices, {"bf16": fast, "f32": slow}) == ["bf16", "f32"]


def test_a_choice_that_failed_is_not_ranked():
    choices = {"one": {"threads": 1}, "two": {"threads": 2}}
    assert _ranked(choices, {"one": timing(1.0, 0), "two": Timing(error=TargetError("no"))}) == ["one"]


def test_tuning_times_every_choice_and_keeps_the_one_whose_accuracy_holds(layer, feed):
    asked = []

    def only_the_second(options):
        asked.append(options)
        return "" if len(asked) == 2 else "its accuracy does not hold."

    tuned = tune("onnxruntime", layer, feed, objection=only_the_second, seconds=0.2)
    assert tuned.options == asked[1] != asked[0]
    assert all(choice.p50_ms and choice.low_ms and choice.high_ms for choice in tuned.table)
    assert tuned.table[0].options == tuned.options
    assert tuned.notes == [f"threads {asked[0]['threads']}: its accuracy does not hold."]


def test_no_choice_whose_accuracy_holds_is_an_error(layer, feed):
    with pytest.raises(EdgemmError, match=r"onnxruntime: no choice of runtime options can be taken(?s:.)*it is wrong(?s:.)*fix: "):
        tune("onnxruntime", layer, feed, objection=lambda options: "it is wrong.", seconds=0.2, target_options={"threads": 1})


def test_a_model_that_no_choice_can_open_is_an_error(tmp_path, feed):
    with pytest.raises(TargetError, match=r"cannot read the model 'gone\.onnx'"):
        tune("onnxruntime", tmp_path / "gone.onnx", feed, seconds=0.2)


@pytest.mark.skipif(not instructions() & {"amx_bf16", "avx512_bf16"}, reason="this processor computes nothing in bf16")
def test_a_choice_that_does_not_compile_is_left_out_and_noted(foreign, tmp_path: Path):
    pytest.importorskip("openvino")
    x = {"x": np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)}
    tuned = tune("openvino", foreign, x, seconds=0.2)
    assert tuned.options["precision"] == "f32"
    assert len(tuned.notes) == len([choice for choice in tuned.table if choice.options["precision"] == "bf16"]) > 0
    assert all("precision bf16: left out: " in note and "No suitable implementations" in note for note in tuned.notes)
