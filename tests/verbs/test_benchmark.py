"""Candidates side by side: what is measured, against what, and what cannot be compared."""

import dataclasses
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import TargetOptions, pack
from edgemm.box.devices.power import open_meter
from edgemm.box.measuring.candidates import resolve
from edgemm.contracts import card_file as cards
from edgemm.contracts import onnx_file, plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.report import Report, Verdict, read
from edgemm.contracts.target import Target, fingerprint
from edgemm.contracts.timing_parts import Peaks
from edgemm.errors import BundleError, EdgemmError, MeasureError, OutputError, TargetError
from edgemm.report import page
from edgemm.report.terminal import Ending, conclude
from edgemm.store.instructions import onednn_instructions
from edgemm.verbs.benchmark import _prepare, benchmark
from tests.places import PACKS

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

from tests.graph import user_files  # noqa: E402
from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(64, 3)).astype(np.float32)
ROWS = RNG.normal(size=(120, 64)).astype(np.float32)
LABELS = np.where(RNG.random(120) < 0.9, (ROWS @ WEIGHT).argmax(axis=1), RNG.integers(0, 3, 120))
QUICK = {"rounds": 5, "calls": 3, "seconds": 1.0, "launches": 1, "roofline": False}

DIES = """import json, sys, numpy as np
fed = 0
for line in sys.stdin:
    ask = json.loads(line)
    fed += "feed" in ask
    if fed > 3: sys.exit(7)
    if "out" in ask: np.savez(ask["out"], kind=np.zeros((1, 3), np.float32))
    print("{}", flush=True)
"""


def graph(*, quantized: bool = False, width: int = 64, name: str = "kind") -> bytes:
    """x (batch, 64) -> kind (batch, 3): one layer, in float or with Q/DQ around it."""
    scale = np.abs(WEIGHT).max() / 127
    weights = {"w": WEIGHT[:width]} if not quantized else {"w8": np.round(WEIGHT / scale).astype(np.int8), "ws": np.float32(scale)}
    weights |= {"xs": np.float32(4 / 127), "z": np.int8(0)} if quantized else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "z"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "z"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["w8", "ws", "z"], ["w"], "w_dq"),
    ] * quantized
    nodes.append(helper.make_node("MatMul", ["xd" if quantized else "x", "w"], [name], "the_layer"))
    return onnx_model(nodes, {"x": ["batch", width]}, {name: ["batch", 3]}, weights).SerializeToString()


def card_of(folder: Path, labels: tuple[str, ...] = ("a", "b", "c"), width: int = 64) -> Card:
    plain = {
        "model": "model.onnx",
        "inputs": {"x": {"modality": "sensor", "shape": [width], "rate_hz": 10}},
        "outputs": {"kind": {"task": "classification", "labels": list(labels)}},
    }
    return cards.parse(plain, path=folder / "model.yaml")


def make(place: Path, *, labels=("a", "b", "c"), width=64, truth=LABELS, budgets=(), model: bytes | None = None) -> Path:
    card = card_of(place.parent, labels, width)
    outputs = {"kind": ROWS @ WEIGHT}
    return pack(
        place,
        card=card,
        files={"model.onnx": graph(width=width), "targets/openvino/model.onnx": model or graph(quantized=width == 64, width=width)},
        report=Report({}, [], list(budgets)),
        golden=Golden({"x": ROWS[:2, None, :width]}, {"openvino": {"kind": outputs["kind"][:2, None]}}, {"openvino": {"kind": 1.0}}),
        provenance={},
        accuracy={},
        options={"openvino": TargetOptions({}, {}, {"threads": 1, "precision": "f32"}, fingerprint(plugins.load(Target, "openvino")))},
        reference=Answers(outputs, {"kind": truth}),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    budgets = [
        Verdict("accuracy_drop_points", 50.0, 0.0, "met", "openvino", "kind"),
        Verdict("latency_p95_ms", 0.000001, 1.0, "missed", "openvino"),
    ]
    return make(tmp_path_factory.mktemp("b") / "bundle", budgets=budgets)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", x=ROWS, kind=LABELS)
    return folder


@pytest.fixture(scope="module")
def measured(bundle, data, tmp_path_factory) -> Report:
    return benchmark([bundle], data=data, output=tmp_path_factory.mktemp("out") / "report", **QUICK)


def test_a_bundle_is_measured_beside_its_float_graph(measured):
    subjects = {m.subject: m.precision_ran for m in measured.find("latency_p50_ms", target="openvino")}
    assert subjects["float"] == "f32"
    assert subjects["bundle"] == "int8"
    assert ("default" in subjects) is True
    if "amx_bf16" in onednn_instructions():
        assert subjects["default"] == "bf16"


def test_every_form_has_speed_memory_size_and_accuracy(measured):
    names = {
        "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_max_ms", "jitter_ms", "cpu_ms", "load_ms",
        "first_ms", "cold_start_ms", "peak_rss_mib", "rss_mib", "unique_mib", "size_mib", "accuracy", "accuracy_drop_points",
    } | {"energy_mj" for _ in range(open_meter()[0] is not None)}  # fmt: skip
    for subject in ("float", "default", "bundle"):
        assert {m.name for m in measured.measurements if m.subject == subject} == names


def test_accuracy_is_the_targets_own_and_the_loss_is_against_the_bundles_reference(measured):
    (accuracy,) = measured.find("accuracy", subject="float")
    assert accuracy.value == pytest.approx(float(((ROWS @ WEIGHT).argmax(axis=1) == LABELS).mean()), abs=0.01)
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.n == 120
    (lost,) = measured.find("accuracy_drop_points", subject="float")
    assert lost.value == pytest.approx(0.0, abs=1.0)


def test_the_budgets_it_was_packed_with_are_judged_anew(measured):
    assert [(verdict.name, verdict.verdict) for verdict in measured.budgets] == [
        ("accuracy_drop_points", "met"),
        ("latency_p95_ms", "missed"),
    ]
    assert [verdict.name for verdict in measured.missed] == ["latency_p95_ms"]


def test_forms_are_held_against_the_plainer_ones_in_pairs(measured, bundle):
    pairs = {(row.candidate, row.baseline): row for row in measured.details.ratios}
    row = pairs[f"{bundle}, openvino", f"{bundle}, openvino float"]
    assert row.low <= row.value <= row.high
    assert row.verdict in ("faster", "slower", "no difference shown")


def test_the_report_tells_the_machine_and_what_ran(measured):
    assert {"device", "cores", "memory_gib", "python", "versions"} <= set(measured.environment)
    assert {"openvino", "edgemm"} <= set(measured.environment["versions"])
    assert measured.details.confusion["kind"].labels == ["a", "b", "c"]
    assert np.sum(measured.details.confusion["kind"].before) == 120
    assert measured.details.layers


def test_the_report_is_written_and_reads_back(bundle, tmp_path):
    report = benchmark([bundle], output=tmp_path / "out", **QUICK)
    kept = read(tmp_path / "out" / "report.json")
    assert kept.measurements == list(report.measurements)
    assert kept.details.to_dict() == json.loads(json.dumps(report.details.to_dict()))
    assert (tmp_path / "out" / "report.html").read_text().lower().startswith("<!doctype html>")


def test_without_data_a_golden_sample_is_timed_and_the_report_says_so(bundle):
    report = benchmark([bundle], **QUICK)
    assert "No data was given: timed on a golden sample of the bundle, accuracy was not measured." in report.details.notes
    assert report.find("accuracy") == []
    assert {verdict.name: verdict.verdict for verdict in report.budgets}["accuracy_drop_points"] == "unknown"


def test_an_onnx_file_is_measured_on_every_target_that_can_run_here(tmp_path):
    (tmp_path / "m.onnx").write_bytes(graph())
    report = benchmark([tmp_path / "m.onnx"], **QUICK)
    assert {m.target for m in report.measurements} == {"onnxruntime", "openvino"}
    assert {m.subject for m in report.measurements} == {"float", "default"}
    assert "No data was given: timed on a synthetic sample (seed 0), accuracy was not measured." in report.details.notes


@pytest.mark.shared_data
def test_an_onnx_file_that_leaves_sizes_open_and_takes_constants_is_measured_as_edgemm_prepares_it():
    path = PACKS / "real_models" / "silero_vad_16k_op15.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {path.parent} (set EDGEMM_DATA)")
    report = benchmark([path], target="openvino", **QUICK)
    assert {m.subject for m in report.measurements} == {"float", "default"}
    assert any("with constants built in and the inputs 'input' (batch, 576) float32" in note for note in report.details.notes)


def test_an_onnx_file_with_int8_in_it_is_not_called_float(tmp_path):
    (tmp_path / "m.onnx").write_bytes(graph(quantized=True))
    report = benchmark([tmp_path / "m.onnx"], target="openvino", **QUICK)
    assert {(m.subject, m.precision_asked, m.precision_ran) for m in report.measurements} == {("bundle", "int8+default", "int8")}


def test_a_card_brings_the_original_that_others_are_held_against(bundle, data, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    (tmp_path / "one.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(64, 3, bias=False)\n")
    save_file({"weight": torch.from_numpy(WEIGHT.T.copy())}, tmp_path / "w.safetensors")
    (tmp_path / "model.yaml").write_text(
        "factory: one:build\nweights: w.safetensors\ninputs: {x: {modality: sensor, shape: [64], rate_hz: 10}}\n"
        "outputs: {kind: {task: classification, labels: [a, b, c]}}\n"
    )
    report = benchmark([tmp_path / "model.yaml", bundle], data=data, **QUICK)
    (original,) = report.find("latency_p50_ms", subject="original")
    assert (original.target, original.precision_ran) == ("torch", "f32")
    assert len(report.find("accuracy", subject="original")) == 1
    assert report.find("accuracy_drop_points", subject="original") == []
    assert report.find("accuracy_drop_points", subject="float")[0].value == pytest.approx(0.0, abs=0.01)


def test_two_bundles_share_the_measurement_of_the_float_graph_they_share(bundle, tmp_path):
    other = make(tmp_path / "other")
    report = benchmark([bundle, other], **QUICK)
    assert len(report.find("latency_p50_ms", subject="float")) == 1
    assert len(report.find("latency_p50_ms", subject="bundle")) == 2
    pairs = {(row.candidate, row.baseline) for row in report.details.ratios}
    assert (f"{other}, openvino", f"{bundle}, openvino") in pairs


def test_bundles_with_other_labels_are_not_compared(bundle, tmp_path):
    other = make(tmp_path / "other", labels=("a", "b", "d"))
    with pytest.raises(MeasureError, match=r"cannot be compared: their outputs and labels differ(?s:.)*'kind' is .*a, b, c.* a, b, d"):
        benchmark([bundle, other], **QUICK)


def test_candidates_with_other_inputs_are_not_compared(bundle, tmp_path):
    other = make(tmp_path / "other", width=32)
    with pytest.raises(MeasureError, match=r"their inputs differ(?s:.)*'x' is \(batch, 64\) float32 in the first and \(batch, 32\)"):
        benchmark([bundle, other], **QUICK)


def test_a_graph_made_for_one_sample_is_compared_with_one_that_takes_any_number(bundle, tmp_path):
    fixed = onnx.load_from_string(graph())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "fixed.onnx").write_bytes(fixed.SerializeToString())
    report = benchmark([bundle, tmp_path / "fixed.onnx"], target="openvino", **QUICK)
    assert {m.candidate for m in report.find("latency_p50_ms", subject="float")} == {str(bundle), str(tmp_path / "fixed.onnx")}


def test_data_with_other_labels_than_the_bundle_was_proved_on_is_refused(data, tmp_path):
    other = make(tmp_path / "other", truth=(LABELS + 1) % 3)
    with pytest.raises(MeasureError, match=r"the labels of output 'kind' in the data are not those '.*other' was(?s:.)*with other"):
        benchmark([other], data=data, **QUICK)


def test_a_form_that_does_not_run_is_noted_and_the_rest_is_measured(tmp_path):
    broken = make(tmp_path / "broken", model=graph().replace(b"MatMul", b"MatMux"))
    report = benchmark([broken], **QUICK)
    assert {m.subject for m in report.measurements} == {"float", "default"}
    assert any(f"{broken}, openvino was not measured: " in note and "MatMux" in note for note in report.details.notes)


def test_a_candidate_of_which_nothing_runs_is_an_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(graph().replace(b"MatMul", b"MatMux"))
    with pytest.raises(TargetError, match="MatMux"):
        benchmark([tmp_path / "m.onnx"], **QUICK)


def test_a_candidate_of_which_nothing_runs_is_told_and_the_rest_is_measured(bundle, data, tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(graph().replace(b"MatMul", b"MatMux"))
    report = benchmark([bundle, tmp_path / "m.onnx"], data=data, **QUICK)
    assert {m.candidate for m in report.measurements} == {str(bundle)}
    assert list(report.details.failures) == [str(tmp_path / "m.onnx")]
    assert any(note.startswith(f"{tmp_path / 'm.onnx'}, ") and "MatMux" in note for note in report.details.notes)
    assert conclude(Ending(report, report=report)) == 1
    assert f"nothing of '{tmp_path / 'm.onnx'}' could be measured" in capsys.readouterr().err


def test_a_candidate_that_dies_over_the_test_split_leaves_the_others_their_accuracy(bundle, data, tmp_path):
    (tmp_path / "dies.py").write_text(DIES)
    command = f"command:{sys.executable} {tmp_path / 'dies.py'}"
    report = benchmark([bundle, command], data=data, **QUICK)
    assert {m.candidate for m in report.measurements if m.name == "accuracy"} == {str(bundle)}
    assert any(m.candidate == command and m.name == "latency_p50_ms" for m in report.measurements)
    assert any(note.startswith(f"{command}: accuracy was not measured: ") and "exit code 7" in note for note in report.details.notes)


def test_a_file_that_names_its_outputs_otherwise_is_timed_and_its_accuracy_is_said_to_be_unknown(bundle, data, tmp_path):
    (tmp_path / "m.onnx").write_bytes(graph(name="sort"))
    report = benchmark([bundle, tmp_path / "m.onnx"], data=data, **QUICK)
    assert any("accuracy was not measured: it has no output 'kind', only sort." in note for note in report.details.notes)


def test_a_target_it_was_not_made_for_is_refused(bundle):
    with pytest.raises(BundleError, match=r"holds nothing for the target 'onnxruntime'(?s:.)*known: openvino"):
        benchmark([bundle], target="onnxruntime")
    with pytest.raises(EdgemmError, match=r"there is no target 'openvin'(?s:.)*did you mean 'openvino'"):
        benchmark([bundle], target="openvin")


def test_a_place_that_cannot_be_written_is_known_before_the_work(bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        benchmark([bundle], output=tmp_path / "file" / "report", **QUICK)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(MeasureError, match="no candidate was given"):
        benchmark([])


def test_rows_that_are_disturbed_are_flagged_in_table_json_and_page(measured):
    told = measured.details.disturbances
    assert {row.target for row in told.values()} == {"openvino"}
    assert all(row.disturbed <= row.rounds == 5 for row in told.values())
    turns = measured.details.timeline
    assert sum(turn.kept for turn in turns) == 15
    assert {turn.candidate for turn in turns} == set(told)
    assert [turn.at_s for turn in turns] == sorted(turn.at_s for turn in turns)
    spoiled = {name: dataclasses.replace(row, flagged=True) for name, row in told.items()}
    flagged = dataclasses.replace(measured, details=dataclasses.replace(measured.details, disturbances=spoiled))
    assert str(flagged).count("(disturbed)") >= 3
    assert "Disturbances while measuring" in page.render(flagged)


def test_the_table_says_who_was_held_against_whom_and_what_may_be_claimed(measured, bundle):
    (line,) = [line for line in str(measured).splitlines() if line.startswith(f"{bundle}, openvino against {bundle}, openvino float: ")]
    assert re.search(r"x \[.*\] (faster|slower|no difference shown)", line)


def test_a_test_split_too_small_for_the_claim_says_how_many_samples_it_needs(bundle, data):
    kept = Verdict("accuracy_drop_points", 0.1, 0.0, "met", "openvino", "kind")
    tight = make(Path(str(data)) / "tight", budgets=[kept])
    report = benchmark([tight], data=data, **QUICK)
    assert any(
        re.search(
            r"120 samples leave the loss of 'kind' unsure by \d\.\d points; to show one of at most 0\.1 about \d{3,} are needed", note
        )
        for note in report.details.notes
    )


@pytest.mark.slow
def test_a_pace_and_the_throughput_are_measured_where_they_are_asked_for(bundle):
    report = benchmark([bundle], pace="50hz", streams=[1], batches=[1, 2], target="openvino", **{**QUICK, "seconds": 0.4})
    assert report.details.pace.rates_hz == {"x": 50.0}
    assert {m.subject for m in report.find("paced_p50_ms")} == {"float", "default", "bundle"}
    assert {(row.batch, row.streams) for row in report.details.throughput} == {(1, 1), (2, 1)}
    best = max(row.per_s for row in report.details.throughput if row.candidate == f"{bundle}, openvino")
    assert report.find("throughput_per_s", subject="bundle")[0].value == best
    assert "Throughput" in page.render(report)


def test_the_first_candidates_branches_are_held_against_the_box(bundle, monkeypatch):
    box = Peaks(1, {"int8": 1000.0, "bf16": 500.0, "f32": 100.0}, 10.0, 0.2, "openvino", ("other processes used 50 % of the cores",))
    monkeypatch.setattr("edgemm.box.measuring.sustained.peaks", lambda threads: box)
    report = benchmark([bundle], **{**QUICK, "roofline": True})
    if any(layer.time_us for layer in report.details.layers):
        assert {row.reason for row in report.details.roofline} <= {"compute", "memory", "launch overhead"}
        assert any("The peaks of this machine were measured while other processes" in note for note in report.details.notes)
        assert "Against the limits of this box" in page.render(report)
    else:  # one product is quicker than the runtime's clock can tell
        assert any("no roofline: openvino tells no times" in note for note in report.details.notes)


def test_a_command_is_measured_beside_the_bundle_whose_inputs_it_takes(bundle, data, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys, numpy as np, onnxruntime as ort\nsession = ort.InferenceSession(sys.argv[1])\nfor line in sys.stdin:\n"
        "    ask = json.loads(line)\n    feed = dict(np.load(ask['feed'])) if 'feed' in ask else feed\n"
        "    (kind,) = session.run(['kind'], feed)\n    if 'out' in ask: np.savez(ask['out'], kind=kind)\n    print('{}', flush=True)\n"
    )
    command = f"command:{sys.executable} {program} {bundle / 'model.onnx'}"
    report = benchmark([command, bundle], data=data, limit=20, **QUICK)
    (accuracy,) = report.find("accuracy", subject="foreign")
    assert accuracy.value == report.find("accuracy", subject="float")[0].value
    assert (accuracy.target, accuracy.precision_ran) == ("command", "unknown")
    assert any(row.candidate.startswith("command:") or row.baseline.startswith("command:") for row in report.details.ratios)


def test_a_command_alone_does_not_say_what_it_takes():
    with pytest.raises(MeasureError, match="does not say what it takes"):
        benchmark(["command:./program"])


def test_a_file_with_operators_of_its_own_is_measured_as_edgemm_prepares_it(tmp_path):
    twice = helper.make_function("my", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 18)])
    body = [*user_files.nodes("o"), helper.make_node("Twice", ["o"], ["out"], domain="my")]
    path = user_files.write(tmp_path / "m.onnx", body, user_files.weights(), functions=[twice], domains=["my"])
    contender = resolve(path, prepare=partial(_prepare, None))
    assert {form.target for form in contender.candidates} == {"onnxruntime", "openvino"}
    assert not any(onnx_file.read(form.deployment.model).has_functions for form in contender.candidates)
    assert any("measured as edgemm prepares it" in note for note in contender.notes)
