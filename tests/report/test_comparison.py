"""Two reports held against each other: what got worse beyond the noise, and what cannot be compared."""

import dataclasses
import json

import pytest

from edgemm.cli import main
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report_parts import Details
from edgemm.errors import MeasureError
from edgemm.report import markdown
from edgemm.report.comparison import compare

BOX = {"device": "a box", "architecture": "x86_64", "cores": 2, "versions": {"openvino": "1"}}


def report(*measurements, **details):
    return Report(BOX, list(measurements), details=Details.of_dict(details))


def p50(value, half=0.05, **facts):
    return Measurement("latency_p50_ms", value, "ms", target="openvino", low=value - half, high=value + half, **facts)


def accuracy(value, half=0.01):
    return Measurement("accuracy", value, "ratio", "higher", output="event", target="openvino", low=value - half, high=value + half)


def verdicts(old, new):
    return {change.name: change.verdict for change in compare(old, new).changes}


def test_slower_beyond_both_intervals_is_a_regression():
    found = compare(report(p50(1.0)), report(p50(1.2)))
    assert [change.verdict for change in found.changes] == ["worse"]
    assert found.missed[0].ratio == pytest.approx(1.2)


@pytest.mark.parametrize(("new", "half"), [(1.2, 0.3), (1.04, 0.001), (1.0, 0.0)])
def test_within_the_noise_of_both_or_of_runs_at_different_times_nothing_changed(new, half):
    assert verdicts(report(p50(1.0)), report(p50(new, half))) == {"latency_p50_ms": "same"}


def test_faster_is_better_and_less_accurate_is_worse():
    found = verdicts(report(p50(1.0), accuracy(0.9)), report(p50(0.8), accuracy(0.8)))
    assert found == {"latency_p50_ms": "better", "accuracy": "worse"}


def test_a_size_without_interval_is_judged_by_one_per_cent():
    def size(value):
        return Measurement("size_mib", value, "MiB", target="openvino")

    assert verdicts(report(size(10.0)), report(size(10.05))) == {"size_mib": "same"}
    assert verdicts(report(size(10.0)), report(size(10.2))) == {"size_mib": "worse"}


def test_the_slowest_call_is_shown_and_not_judged():
    def slowest(value):
        return Measurement("latency_max_ms", value, "ms", target="openvino")

    assert verdicts(report(slowest(1.0)), report(slowest(9.0))) == {"latency_max_ms": "same"}


def test_paths_may_differ_between_runs_and_what_is_gone_or_new_is_listed():
    old, new = report(p50(1.0, candidate="a/b"), accuracy(0.9)), report(p50(1.0, candidate="c/d"), Measurement("cpu_ms", 1.0, "ms"))
    assert verdicts(old, new) == {"latency_p50_ms": "same", "accuracy": "gone", "cpu_ms": "added"}


def test_candidates_of_one_run_are_told_apart_by_their_names():
    old = report(p50(1.0, candidate="a"), p50(2.0, candidate="b"))
    new = report(p50(1.0, candidate="a"), p50(3.0, candidate="b"))
    assert [change.verdict for change in compare(old, new).changes] == ["same", "worse"]


def test_what_no_longer_runs_is_a_regression_and_what_was_not_asked_for_is_none():
    old = report(p50(1.0, subject="bundle"), p50(2.0, subject="float"))
    crashed = report(p50(2.0, subject="float"), not_measured=[{"source": "b", "target": "openvino", "subject": "bundle"}])
    assert [change.verdict for change in compare(old, crashed).missed] == ["failed"]
    assert "failed" in str(compare(old, crashed))
    assert compare(old, report(p50(2.0, subject="float"))).missed == []


def test_reports_of_two_machines_are_not_compared():
    other = dataclasses.replace(report(p50(1.0)), environment={**BOX, "cores": 8})
    with pytest.raises(MeasureError, match=r"measured on different machines(?s:.)*cores: 2 in the old one, 8 in the new one"):
        compare(report(p50(1.0)), other)


def test_reports_without_anything_in_common_are_not_compared():
    with pytest.raises(MeasureError, match=r"no measurement in common(?s:.)*about openvino bundle, the new one about onnxruntime bundle"):
        compare(report(p50(1.0)), report(dataclasses.replace(p50(1.0), target="onnxruntime")))


def test_other_versions_and_disturbed_runs_are_noted():
    new = report(p50(1.0), disturbances={"one": {"flagged": True}})
    new = dataclasses.replace(new, environment={**BOX, "versions": {"openvino": "2"}})
    assert compare(report(p50(1.0)), new).notes == (
        "openvino was 1 and is 2.",
        "the new run was disturbed (one): measure it again before you believe a change of speed.",
    )


def test_the_command_ends_with_3_on_a_regression_and_0_without(tmp_path, capsys):
    report(p50(1.0)).save(tmp_path / "old.json")
    report(p50(2.0)).save(tmp_path / "new.json")
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "--compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), "--json"])
    assert ended.value.code == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["regressions"], told["changes"][0]["verdict"]) == (1, 1, "worse")
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "--compare", str(tmp_path / "old.json"), str(tmp_path / "old.json")])
    assert ended.value.code == 0
    assert "no regression beyond the interval" in capsys.readouterr().out


def test_a_comparison_and_a_report_are_written_as_markdown():
    text = markdown.render(compare(report(p50(1.0)), report(p50(1.2))))
    assert "| Latency, median | openvino bundle | 1.00 ms [0.950, 1.05] | 1.20 ms [1.15, 1.25] | 1.20x | ✕ worse |" in text
    row = {"candidate": "a | b", "baseline": "c", "value": 0.5, "low": 0.4, "high": 0.6, "verdict": "faster", "disturbed": True}
    text = markdown.render(report(p50(1.0, candidate="a"), accuracy(0.9), ratios=[row], notes=["read this"]))
    assert "| a \\| b | c | 2.00x | faster (disturbed) |" in text
    assert "- read this" in text
    assert "1.00 ms (0.950 to 1.05)" in text
    assert "90.00 % (89.00 to 91.00)" in text
