"""Candidates of any origin: programs that speak the protocol, OpenVINO IR files, torch compiled, plans."""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgemm.box.measuring.any_program import CommandSession
from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.candidates import needs_card, resolve
from edgemm.box.measuring.measurements import ratios, size_bytes
from edgemm.box.measuring.schedule import time_candidates
from edgemm.contracts import card_file as cards
from edgemm.contracts.deployment import Deployment
from edgemm.errors import MeasureError, TargetError

pytest.importorskip("onnxruntime")
GUIDE = Path(__file__).parents[3] / "docs" / "measuring.md"
CARD = cards.parse(
    {
        "model": "model.onnx",
        "inputs": {"x": {"modality": "sensor", "shape": [64], "rate_hz": 10}},
        "outputs": {"kind": {"task": "classification", "labels": ["a", "b", "c"]}},
    }
)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The program that the guide shows."""
    (code,) = re.findall(r"```python\n(# any program.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path_factory.mktemp("example") / "program.py"
    path.write_text(code)
    return path


def program(folder, code):
    """A command that runs ``code``."""
    path = folder / "program.py"
    path.write_text(code)
    return f"{sys.executable} {path}"


def test_the_guides_program_has_ten_lines_and_answers_as_the_model_does(example, layer, feed):
    assert len([line for line in example.read_text().splitlines() if line and not line.startswith("#")]) == 10
    from edgemm.box.targets.onnxruntime import OnnxRuntime

    with CommandSession(f"{sys.executable} {example} {layer}") as session, OnnxRuntime().open(layer) as own:
        np.testing.assert_allclose(session.run(feed)["kind"], own.run(feed)["kind"], rtol=1e-5)
        again = {"x": 2 * feed["x"]}
        np.testing.assert_allclose(session.run(again)["kind"], own.run(again)["kind"], rtol=1e-5)
        assert session.precision() == "f32"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for files that go again, of this process and those it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_command_is_timed_beside_others_with_its_own_memory_and_processor_time(example, layer, feed, temporary):
    command = resolve(f"command:{sys.executable} {example} {layer}", card=CARD).candidates[0]
    rows = [Candidate("one", "bundle", Deployment("onnxruntime", layer, runtime_options={"threads": 1})), command]
    timings = time_candidates(rows, feed, rounds=5, calls=5, launches=1)
    assert not list(temporary.glob("edgemm-*")), "files for the command outlived it"
    found = timings[command.name].require()
    assert (command.target, command.subject, found.precision_ran) == ("command", "foreign", "f32")
    assert [len(samples) for samples in found.samples_ms] == [5] * 5
    assert found.peak_rss_mib > 10
    assert all(found.samples["processor"])


def test_a_command_that_cannot_be_started_says_so():
    with pytest.raises(TargetError, match=r"the command 'no-such-program' cannot be started"):
        CommandSession("no-such-program")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", r"ended before it answered \(exit code 0\)"),
        ("raise SystemExit(3)", r"ended before it answered \(exit code 3\)"),
        ("print('hello', flush=True); input(); input()", r"does not speak the protocol(?s:.)*it answered 'hello'"),
        ("input(); print('{}', flush=True); input()", r"does not speak the protocol(?s:.)*it wrote no outputs"),
        ('input(); print(\'{"error": "no such op"}\', flush=True); input()', r"does not speak the protocol(?s:.)*no such op"),
        ("input(); print('3', flush=True); input()", r"does not speak the protocol(?s:.)*it answered '3'"),
    ],
)
def test_a_command_that_does_not_speak_the_protocol_is_told_what_it_did(tmp_path, feed, code, message):
    with CommandSession(program(tmp_path, code)) as session, pytest.raises(MeasureError, match=message):
        session.run(feed)


def test_a_command_that_crashes_or_hangs_is_reported_and_the_rest_is_measured(tmp_path, layer, feed, temporary):
    hangs = Candidate("hangs", "foreign", Deployment("command", Path(program(tmp_path, "import time; input(); time.sleep(60)"))))
    rows = [Candidate("one", "bundle", Deployment("onnxruntime", layer, runtime_options={"threads": 1})), hangs]
    timings = time_candidates(rows, feed, rounds=5, calls=3, launches=0, limit_s=6)
    assert timings["one"].error is None
    with pytest.raises(MeasureError, match="'hangs' did not answer within 6 s"):
        timings["hangs"].require()
    assert not list(temporary.glob("edgemm-*")), "files for the command outlived it"


@pytest.mark.parametrize("given", ["command:./a b", "build/model.plan", "model.engine"])
def test_what_says_nothing_of_itself_needs_a_card_beside_it(given):
    assert needs_card(given)
    with pytest.raises(MeasureError, match=r"does not say what it takes(?s:.)*name a bundle, card or ONNX file of the same model"):
        resolve(given)


def test_a_card_may_be_measured_through_torch_compile(tmp_path):
    (tmp_path / "model.yaml").write_text(
        "factory: one:build\ninputs: {x: {modality: sensor, shape: [64], rate_hz: 10}}\noutputs: {kind: {task: tensor}}\n"
    )
    (row,) = resolve(f"torch-compile:{tmp_path / 'model.yaml'}").candidates
    assert (row.subject, row.target, dict(row.deployment.runtime_options), row.precision_asked) == (
        "compiled",
        "torch",
        {"compile": "on"},
        "f32",
    )


@pytest.fixture
def ir(layer, tmp_path):
    ov = pytest.importorskip("openvino")
    ov.save_model(ov.Core().read_model(str(layer)), str(tmp_path / "model.xml"), compress_to_fp16=False)
    return tmp_path / "model.xml"


def test_an_openvino_ir_is_measured_in_both_float_forms_with_the_answers_of_its_source(ir, layer, feed):
    from edgemm.box.targets.onnxruntime import OnnxRuntime
    from edgemm.box.targets.openvino import OpenVINO

    named = resolve(ir)
    assert [(row.subject, row.target) for row in named.candidates] == [("float", "openvino"), ("default", "openvino")]
    assert named.input_facts() == {"x": "(batch, 64) float32"}
    with OpenVINO().open(ir, threads=1, precision="f32") as session, OnnxRuntime().open(layer) as own:
        np.testing.assert_allclose(session.run(feed)["kind"], own.run(feed)["kind"], rtol=1e-4, atol=1e-5)
    assert size_bytes(ir) == ir.stat().st_size + ir.with_suffix(".bin").stat().st_size


def test_a_quantized_ir_is_not_called_float(foreign, tmp_path):
    ov = pytest.importorskip("openvino")
    ov.save_model(ov.Core().read_model(str(foreign)), str(tmp_path / "model.xml"), compress_to_fp16=False)
    assert [(row.subject, row.precision_asked) for row in resolve(tmp_path / "model.xml").candidates] == [("bundle", "int8+default")]


def test_a_quantized_file_from_elsewhere_runs_as_its_runtime_runs_it_unless_options_stand_behind_it(foreign, ir, tmp_path):
    from edgemm.box.targets.openvino import OpenVINO

    both = {row.target: dict(row.deployment.runtime_options) for row in resolve(foreign).candidates}
    assert both["openvino"] == OpenVINO().default_options() == {"precision": "default", "snippets": "on"}
    assert both["onnxruntime"] == {}
    (row,) = resolve(f"{ir}@threads=1,precision=f32").candidates
    assert (row.name, dict(row.deployment.runtime_options)) == (
        f"{ir}@threads=1,precision=f32, openvino",
        {"precision": "f32", "snippets": "on", "threads": 1},
    )
    assert (row.model, row.precision_asked) == (ir, "f32")
    tuned = resolve(f"{foreign}@threads=1").candidates
    assert {(row.target, row.deployment.runtime_options["threads"], row.precision_asked) for row in tuned} == {
        ("openvino", 1, "int8+default"),
        ("onnxruntime", 1, "int8+f32"),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.xml@threads=1,fast=", r"'fast=' is no option(?s:.)*write NAME=VALUE"),
        ("build/porch@threads=1", r"runtime options may follow a model's file only(?s:.)*leave out '@threads=1'"),
    ],
)
def test_options_that_cannot_be_read_or_stand_behind_something_else_are_refused(given, message):
    with pytest.raises(MeasureError, match=message):
        resolve(given)


def test_an_ir_that_is_broken_or_lacks_its_weights_is_named(ir, tmp_path):
    (tmp_path / "other.xml").write_text("<net>")
    with pytest.raises(TargetError, match=r"cannot read the model 'other\.xml'"):
        resolve(tmp_path / "other.xml")
    ir.with_suffix(".bin").unlink()
    with pytest.raises(TargetError, match=r"'model\.xml' needs the file 'model\.bin' beside it"):
        resolve(ir)


def test_what_the_first_candidate_has_no_like_of_is_held_against_its_own_compressed_form(layer):
    rows = [
        Candidate("a float", "float", Deployment("openvino", layer), source="a"),
        Candidate("a", "bundle", Deployment("openvino", layer), source="a"),
        Candidate("b", "bundle", Deployment("onnxruntime", layer), source="b"),
        Candidate("c", "bundle", Deployment("openvino", layer), source="c"),
        Candidate("d", "compiled", Deployment("torch", layer), source="d"),
    ]
    timing = Timing(samples={"latency": ([1.0, 1.1],) * 5}, launches=(0,) * 5)
    pairs = {(row.candidate, row.baseline) for row in ratios(rows, {row.name: timing for row in rows})}
    assert pairs == {("a", "a float"), ("b", "a"), ("c", "a"), ("c", "a float"), ("d", "a")}
