import json
import math
import zipfile
from pathlib import Path

import pytest

from edgemm.contracts.report import Measurement, Report, Verdict, judge, read
from edgemm.contracts.report_parts import Details, StageRan
from edgemm.contracts.rung import Difference, Rung
from edgemm.contracts.timing_parts import Ratio
from edgemm.errors import EdgemmError

FIXTURES = Path(__file__).parents[1] / "fixtures"


def measured(value=1.0, name="latency_p50_ms", **about):
    return Measurement(name, value, "ms", target="openvino", **about)


def test_a_report_read_back_is_the_one_that_was_saved(tmp_path):
    report = Report(
        {"device": "a box", "versions": {"numpy": "2"}},
        [measured(modalities=("image", "audio"), low=0.9, high=1.1, n=40), measured(subject="float")],
        [Verdict("size_mib", 2.0, 1.0, "met", "openvino")],
        Details(notes=["one"]),
    )
    report.save(tmp_path / "report.json")
    assert read(tmp_path / "report.json") == report
    assert json.loads((tmp_path / "report.json").read_text())["format"] == 1


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    Report({}, [measured(math.nan)], (), Details(parity=[Rung("a", "b", "c", {"y": Difference(0.0, math.inf, 1.0)})])).save(
        tmp_path / "report.json"
    )
    plain = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert plain["measurements"][0]["value"] is None
    assert plain["details"]["parity"][0]["outputs"]["y"] == {"max_abs": 0.0, "sqnr_db": None, "scale": 1.0}
    assert math.isnan(read(tmp_path / "report.json").measurements[0].value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "environment": {}, "measurements": [{}], "budgets": []}']
)
def test_what_is_no_report_says_so(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(EdgemmError, match=r"report.json is not an edgemm report|is a report of format None"):
        read(tmp_path / "report.json")


def test_a_newer_report_says_which_format_is_read(tmp_path):
    (tmp_path / "report.json").write_text('{"format": 2}')
    with pytest.raises(EdgemmError, match=r"is a report of format 2.\n  why: this edgemm reads format 1."):
        read(tmp_path / "report.json")


def test_a_missing_report_says_so(tmp_path):
    with pytest.raises(EdgemmError, match="No such file"):
        read(tmp_path / "report.json")


def test_measurements_are_found_by_what_they_are_about():
    report = Report({}, [measured(1.0, subject="float"), measured(2.0, subject="bundle")])
    assert [m.value for m in report.find("latency_p50_ms", subject="bundle")] == [2.0]
    assert report.find("size_mib") == []


def test_variants_come_original_first_then_by_target_in_the_order_of_improvement():
    about = [("bundle", "openvino"), ("original", "torch"), ("default", "openvino"), ("float", "openvino"), ("bundle", "tensorrt")]
    report = Report({}, [Measurement("size_mib", 1.0, "MiB", subject=subject, target=target) for subject, target in about])
    labels = ["original", "openvino, float", "openvino, its default", "openvino, compressed", "tensorrt, compressed"]
    assert [variant.label for variant in report.variants()] == labels


def test_two_candidates_of_one_subject_are_told_apart():
    report = Report({}, [measured(candidate="build/a"), measured(candidate="build/b")])
    assert [variant.label for variant in report.variants()] == ["openvino, compressed (build/a)", "openvino, compressed (build/b)"]


def test_measurements_of_branches_and_of_fewer_modalities_make_no_variant():
    assert Report({}, [measured(branch="audio"), measured(modalities=("image",))]).variants() == []


def test_a_variant_says_the_precision_that_ran():
    report = Report({}, [measured(precision_asked="int8", precision_ran="int8+bf16")])
    assert report.variants()[0].precision == "int8+bf16"


def test_the_table_has_a_row_for_each_variant_and_only_columns_with_numbers():
    report = Report(
        {},
        [measured(3.14159, low=3.0, high=3.3), Measurement("accuracy", 0.9, "ratio", "higher", target="openvino", output="event")],
        [Verdict("latency_p95_ms", 20.0, None, "unknown", "openvino")],
    )
    lines = str(report).splitlines()
    assert lines[0].split() == ["p50", "ms", "accuracy", "event"]
    assert lines[1].split("  ") == ["openvino, compressed", "3.142 [3, 3.3]", "0.9"]
    assert lines[3] == "budget latency_p95_ms on openvino: unknown: nobody measured it, limit 20"


def test_what_a_reader_must_know_is_printed_once():
    told = {"warnings": ["the box was busy."], "notes": ["the box was busy.", "compression made the model stop listening to 'audio'."]}
    lines = str(Report({}, [measured()], details=Details(**told))).splitlines()
    assert lines[3:] == ["the box was busy.", "", "note: compression made the model stop listening to 'audio'."]


def test_an_empty_report_is_an_empty_table():
    assert str(Report({})) == ""


def test_budgets_are_judged_for_every_target_and_guarded_output():
    found = [
        Measurement("accuracy_drop_points", 0.5, "points", target="openvino", output="event", low=0.1, high=0.9),
        Measurement("accuracy_drop_points", 2.5, "points", target="openvino", output="level", low=2.2, high=2.8),
        Measurement("latency_p95_ms", 19.0, "ms", target="openvino", low=18.0, high=21.0),
    ]
    budgets = {"accuracy_drop_points": 1.0, "latency_p95_ms": 20}
    verdicts = judge(budgets, found, ["openvino", "tensorrt"], ["event", "level"])
    assert [(v.target, v.output, v.verdict, v.uncertain) for v in verdicts] == [
        ("openvino", "event", "met", False),
        ("openvino", "level", "missed", False),
        ("openvino", None, "met", True),
        ("tensorrt", "event", "unknown", False),
        ("tensorrt", "level", "unknown", False),
        ("tensorrt", None, "unknown", False),
    ]
    assert [str(v) for v in Report({}, [], verdicts).missed] == [
        "budget accuracy_drop_points level on openvino: missed: 2.5 [2.2, 2.8], limit 1"
    ]
    assert str(verdicts[2]).endswith("met: 19 [18, 21], limit 20, but the interval reaches across the limit")


def test_a_limit_for_each_output_is_held_against_that_output():
    found = [Measurement("accuracy_drop_points", 1.5, "dB", target="openvino", output="level")]
    verdicts = judge({"accuracy_drop_points": {"level": 2.0}}, found, ["openvino"], ["event", "level"])
    assert [(v.output, v.limit, v.verdict) for v in verdicts] == [("level", 2.0, "met")]


def test_a_bare_number_means_hundredths_of_a_regressions_spread():
    found = [
        Measurement("accuracy_drop_points", 0.35, "lx", target="openvino", output="level", low=0.3, high=0.4, per_point=0.014567),
        Measurement("accuracy_drop_points", 0.35, "points", target="openvino", output="event", per_point=1.0),
    ]
    level, event = judge({"accuracy_drop_points": 2.0}, found, ["openvino"], ["level", "event"])
    assert (level.verdict, level.limit, level.unit) == ("missed", 0.0291, "lx")
    assert str(level) == "budget accuracy_drop_points level on openvino: missed: 0.35 [0.3, 0.4] lx, limit 0.0291 lx"
    assert (event.verdict, event.limit) == ("met", 2.0)
    (own,) = judge({"accuracy_drop_points": {"level": 2.0}}, found, ["openvino"], ["level"])
    assert (own.verdict, own.limit, own.unit) == ("met", 2.0, "lx")
    (unknown,) = judge({"accuracy_drop_points": 2.0}, [], ["openvino"], ["level"])
    assert (unknown.verdict, unknown.limit, unknown.unit) == ("unknown", 2.0, "points")


def test_only_the_bundles_own_numbers_are_judged():
    found = [measured(1.0, subject="float")]
    assert judge({"latency_p50_ms": 2.0}, found, ["openvino"], [])[0].verdict == "unknown"


def test_what_an_older_edgemm_wrote_beside_the_measurements_is_read_by_the_parts_known_today(tmp_path):
    old = {
        "ratios": [{"candidate": "a", "baseline": "b", "value": 0.5, "low": None, "high": None, "verdict": "faster", "disturbed": False}],
        "disturbances": {"a": {"rounds": 5, "disturbed": 1, "repeated": 2, "reasons": {"others": 3}, "flagged": False, "of_old": 1}},
        "steps": [{"name": "export", "seconds": 1.5}],
        "a_part_of_old": [1, 2],
    }
    Report({}).save(tmp_path / "report.json")
    plain = json.loads((tmp_path / "report.json").read_text()) | {"details": old}
    (tmp_path / "report.json").write_text(json.dumps(plain))
    details = read(tmp_path / "report.json").details
    assert details.ratios == [Ratio("a", "b", 0.5, verdict="faster")]
    assert (details.disturbances["a"].reasons, details.disturbances["a"].source) == ({"others": 3}, "")
    assert details.steps == [StageRan("export", 1.5)]


def test_every_part_of_a_report_of_the_first_version_is_read_and_written_as_it_was(tmp_path):
    with zipfile.ZipFile(FIXTURES / "v0_1" / "bundle.edgemm") as file:
        (tmp_path / "report.json").write_bytes(file.read("report.json"))
    old = json.loads((tmp_path / "report.json").read_text())["details"]
    new = json.loads(read(tmp_path / "report.json").to_json())["details"]
    kept = {name: old[name] for name in old if old[name]}
    later = {"steps": [{**step, "text": ""} for step in kept["steps"]], "ledger": {**kept["ledger"], "shares": []}}
    assert {name: new[name] for name in kept} == {**kept, **later}
