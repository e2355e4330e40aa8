"""Gates the whole way: a recipe's, fitted while compressing, carried by the bundle, told in the report; and what is refused."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.proving import verify
from edgemm.contracts import recipe as recipes
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.gate import GateLoss, Wish
from edgemm.errors import BundleError, DataError, RecipeError
from edgemm.pipeline import gates as gating
from edgemm.pipeline import ledger, stages
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.gating.choosing import Chosen
from edgemm.pipeline.job import start
from tests.onnx_models import model as onnx_model

CARD = """
model: model.onnx
inputs:
  image: {modality: sensor, shape: [64], rate_hz: 1}
  audio: {modality: sensor, shape: [4], rate_hz: 1}
outputs:
  event: {task: classification, labels: [low, high]}
"""
WEIGHTS = np.random.default_rng(0)
DEEP = [WEIGHTS.normal(0, 0.125, (64, 512)).astype(np.float32), *(WEIGHTS.normal(0, 0.06, (512, 512)).astype(np.float32) for _ in range(6))]
LAST = WEIGHTS.normal(0, 0.1, (512, 2)).astype(np.float32)


def model():
    """event = what a deep branch makes of the image, and a much louder audio."""
    constants = {f"w{place}": weights for place, weights in enumerate(DEEP)} | {"last": LAST}
    constants["ear"] = np.float32([[-4, 4]] * 4)
    nodes, name = [], "image"
    for place in range(len(DEEP)):
        nodes += [helper.make_node("MatMul", [name, f"w{place}"], [f"m{place}"], name=f"see{place}")]
        nodes += [helper.make_node("Tanh", [f"m{place}"], [f"t{place}"], name=f"bend{place}")]
        name = f"t{place}"
    nodes += [
        helper.make_node("MatMul", [name, "last"], ["seen"], name="see_last"),
        helper.make_node("MatMul", ["audio", "ear"], ["heard"], name="hear"),
        helper.make_node("Add", ["seen", "heard"], ["event"], name="fuse"),
    ]
    return onnx_model(nodes, {"image": ["batch", 64], "audio": ["batch", 4]}, {"event": ["batch", 2]}, constants)


def rows(seed, count):
    """Most sounds are loud; on the others the image decides."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (count, 64)).astype(np.float32)
    loud = rng.random(count) < 0.8
    audio = (rng.normal(0, 0.02, (count, 4)) + (loud * rng.choice([-1, 1], count))[:, None]).astype(np.float32)
    seen = image
    for weights in DEEP:
        seen = np.tanh(seen @ weights)
    event = (seen @ LAST + audio @ np.float32([[-4, 4]] * 4)).argmax(1)
    return {"image": image, "audio": audio, "event": event.astype(np.int64)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    onnx.checker.check_model(model())
    onnx.save(model(), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    (folder / "data").mkdir()
    for seed, (split, count) in enumerate({"train": 300, "val": 1400, "test": 400}.items()):
        np.savez(folder / "data" / f"{split}.npz", **rows(seed, count))
    return folder


def recipe(folder, **more):
    gate = {"run": "image", "after": "audio", "loss_points": 0.3, "every_s": 10} | more
    text = {"targets": {"onnxruntime": {}}, "gates": [{key: value for key, value in gate.items() if value is not None}], "tune": False}
    (folder / "gated.yaml").write_text(json.dumps(text))
    return folder / "gated.yaml"


@pytest.fixture(scope="module")
def fit(place):
    """``fit(**gate)``: what comes of a gate where parts are timed."""
    job = start(place / "model.yaml", place / "data")
    exported = stages.export(job)
    part = Compiled(exported, Deployment("onnxruntime", exported.main, runtime_options={"threads": 1}), {}, [], [])
    known = ledger.take(job, exported, job, exported, [part])

    def fitted(**more):
        gates = [{"run": "image", "after": "audio", "loss_points": 0.3} | more]
        return gating.fit(job, [part], recipes.parse({"targets": {"onnxruntime": {}}, "gates": gates}, card=job.card), known)

    return fitted


@pytest.fixture(scope="module")
def made(place):
    out = place / "bundle"
    return edgemm.compress(place, recipe=recipe(place), data=place / "data", output=out)


def test_the_bundle_carries_the_gate_and_verifies(made):
    assert verify(made.bundle).ok
    (gate,) = open_bundle(made.bundle).gates("onnxruntime")
    assert (gate.run, gate.after, gate.bound, gate.every_s) == ("image", ("audio",), "exact", 10.0)
    assert 0.7 < gate.skipped < 0.9
    assert gate.bound_points <= 0.3
    assert (gate.rows, gate.next_rows) == (1400, 1400)
    plain = json.loads((made.bundle / "manifest.json").read_text())["gates"]["onnxruntime"][0]
    assert (plain["run"], plain["after"], plain["criterion"]) == ("image", ["audio"], gate.criterion)
    assert open_bundle(made.bundle).gates("openvino") == []


def test_the_report_tells_what_it_skips_and_costs(made):
    (found,) = made.report.details.gates
    assert (found.lost[0].output, found.branch_ms) == ("event", None)
    assert found.lost[0].bound <= 0.3
    notes = made.report.details.notes
    assert any("does not run in" in note and "with 95% confidence" in note for note in notes)
    assert any("whether the gate of 'image' pays is not known: nothing was timed" in note for note in notes)
    assert "<h2>Gates</h2>" in (made.bundle / "report.html").read_text()


def test_what_parts_take_is_timed_and_a_gate_that_pays_is_taken(fit):
    fitted = fit()
    (found,) = fitted.found
    assert found.branch_ms > 0 < found.rest_ms
    assert fitted.gates["onnxruntime"][0].run == "image"


def test_a_gate_whose_branch_costs_less_than_judging_is_refused_with_the_figure():
    wish, times = Wish("image", ("audio",), 0.3), {"image": 1.0, "audio": 1.0, "": 2.0}
    chosen = Chosen("margin", 0.5, 0.5, (GateLoss("event", 0.0, 0.2, 2000),), (0, 1000))
    with pytest.raises(RecipeError, match=r"the gate of 'image' costs more than it saves: 0\.65 ms a decision") as told:
        gating.require_that_it_pays("openvino", wish, chosen, times, ["image"])
    assert "its branch takes 1 ms and is skipped in 50% of the calls; judging takes 2 ms" in str(told.value)
    gating.require_that_it_pays("openvino", wish, chosen, times | {"image": 10.0}, ["image"])
    gating.require_that_it_pays("openvino", wish, chosen, {}, ["image"])


def test_the_benchmark_tells_both_humps_and_weighs_empty_moments(made, place):
    report = edgemm.benchmark(
        [made.bundle], data=place / "data", rounds=2, calls=2, launches=0, roofline=False, empty="low=0.9", target="onnxruntime"
    )
    (row,) = report.details.gated
    assert (row.where, row.empty, row.decisions) == ("test rows", 0.9, 400)
    assert row.humps["skipped"].share + row.humps["passed"].share == pytest.approx(1)
    assert row.humps["skipped"].share == pytest.approx(row.skipped["image"]) == pytest.approx(0.8, abs=0.1)
    assert min(hump.mean_ms for hump in row.humps.values()) > 0
    assert row.lost["event"].value <= 1.0
    assert [m.branch for m in report.measurements if m.name == "gated_skipped_ratio"] == ["image"]
    assert "image skipped in" in str(report)


def test_a_share_of_empty_moments_names_a_label(made, place):
    from edgemm.errors import MeasureError

    for words, told in (("quiet=0.9", "'quiet', which is no label"), ("low", "cannot be read")):
        with pytest.raises(MeasureError, match=told):
            edgemm.benchmark([made.bundle], data=place / "data", rounds=1, calls=1, launches=0, roofline=False, empty=words)


def test_a_val_too_small_for_the_budget_is_told_with_the_rows_it_takes(place, tmp_path):
    for split, count in {"train": 60, "val": 500, "test": 60}.items():
        np.savez(tmp_path / f"{split}.npz", **rows(9, count))
    with pytest.raises(DataError, match=r"500 rows cannot show that it loses at most 0\.3 points") as told:
        edgemm.compress(place, recipe=recipe(place), data=tmp_path, output=tmp_path / "out")
    assert "it takes 1334 rows" in str(told.value)
    assert "loss_points: 0.84" in str(told.value)


def test_a_val_that_shows_it_of_all_data_and_not_of_the_next_rows_says_what_to_leave_out(place, tmp_path):
    for split, count in {"train": 60, "val": 1100, "test": 60}.items():
        np.savez(tmp_path / f"{split}.npz", **rows(9, count))
    with pytest.raises(DataError, match=r"1100 rows cannot show that it loses at most 0\.3 points of the next 1100 rows") as told:
        edgemm.compress(place, recipe=recipe(place), data=tmp_path, output=tmp_path / "out")
    assert "or next_rows: 0, for a bound on all data like val" in str(told.value)
    gating.check(start(place / "model.yaml", tmp_path), recipes.load(recipe(place, next_rows=0)))


def test_no_rows_to_show_it_on_is_refused_before_work(place):
    with pytest.raises(DataError, match="gates need the splits train and val"):
        edgemm.compress(place, recipe=recipe(place), output=place / "none")


def test_what_a_gate_saves_is_its_branch_less_what_judging_and_shadows_take():
    wish = Wish("image", ("audio",), 0.3, shadow=0.1)
    times = {"image": 10.0, "audio": 1.0, "": 2.0}
    assert gating.saving_ms(wish, 0.8, times, ["image"]) == pytest.approx(0.8 * 0.9 * 10 - (0.2 + 0.08) * 2)
    assert gating.saving_ms(wish, 0.0, times, ["image"]) == -2.0
    assert Chosen("margin", None, 0.0, (), (0, 0)).threshold is None


def test_an_odd_manifest_is_told(made, tmp_path):
    from dataclasses import replace

    opened = open_bundle(made.bundle)
    odd = replace(opened, manifest={**opened.manifest, "gates": {"onnxruntime": [{"run": "smell"}]}})
    with pytest.raises(BundleError, match="odd 'gates'"):
        odd.gates("onnxruntime")
