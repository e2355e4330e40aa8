"""The page's sections about the measuring itself: trade-offs, throughput, limits, disturbances."""

import re

from edgemm.contracts.report import Measurement, Report, Variant
from edgemm.contracts.report_parts import Details
from edgemm.report.measured import front, measured


def form(subject, p50, accuracy):
    about = {"subject": subject, "candidate": subject, "target": "openvino"}
    return [
        Measurement("latency_p50_ms", p50, "ms", low=p50 * 0.9, high=p50 * 1.1, **about),
        Measurement("accuracy", accuracy, "ratio", "higher", output="event", low=accuracy - 0.02, high=accuracy + 0.02, **about),
    ]


def test_the_line_joins_what_no_other_form_beats_in_both():
    points = [
        (Variant(name, name, name, None, ()), Measurement("latency_p50_ms", ms, "ms"), Measurement("accuracy", score, "ratio", "higher"))
        for name, ms, score in (("slow", 3.0, 0.9), ("best", 1.0, 0.8), ("beaten", 2.0, 0.7), ("good", 2.5, 0.85))
    ]
    assert [variant.label for variant, _, _ in front(points)] == ["best", "good", "slow"]


def test_accuracy_is_drawn_against_latency_where_there_are_two_forms():
    page = measured(Report({}, [*form("float", 2.0, 0.9), *form("bundle", 1.0, 0.88)]))
    assert "Accuracy against latency" in page
    assert 'aria-label="openvino, float: 2 ms, 0.9; openvino, compressed: 1 ms, 0.88"' in page
    assert measured(Report({}, form("bundle", 1.0, 0.88))) == ""


def test_turns_are_drawn_by_what_became_of_them_with_their_reasons():
    turn = {"candidate": "a <b>", "round": 0, "launch": 0, "at_s": 1.0, "p50_ms": 2.0, "kept": True, "reasons": [], "seconds": 0.1}
    spoiled = {**turn, "at_s": 2.0, "reasons": ["the processor was throttled"]}
    told = {"a <b>": {"rounds": 2, "disturbed": 1, "repeated": 1, "reasons": {"the processor was throttled": 2}, "flagged": True}}
    page = measured(
        Report(
            {},
            details=Details.of_dict({"timeline": [turn, spoiled, {**spoiled, "kept": False}], "disturbances": told, "energy": "no meter"}),
        )
    )
    assert "1 of 2 disturbed" in page
    assert [len(re.findall(f"background:var\\({colour}\\)", page)) for colour in ("--good", "--bad", "--bad-soft")] == [1, 1, 1]
    assert "round 1: 2 ms; the processor was throttled" in page
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "no meter" in page


def test_limits_and_throughput_are_tables_and_failures_keep_their_reason():
    floors = {"compute_us": 12.5, "memory_us": 1.0, "launch_us": 2.0}
    details = {
        "roofline": [{"branch": "image", "time_us": 50.0, "of_limit": 0.25, "reason": "compute", "layers": 7, **floors}],
        "audit": [
            {
                "layer": "gru,x",
                "finding": "reference kernel",
                "kind": "RNNSeq",
                "kernel": "ref_any",
                "precision": "f32",
                "time_us": 9.0,
                "share": 0.2,
            }
        ],
        "peaks": {"threads": 1, "gops": {"int8": 1000.0, "bf16": None}, "bandwidth_gbs": 10.0, "layer_us": None, "runtime": "x"},
        "throughput": [
            {"candidate": "a", "batch": 1, "streams": 2, "per_s": 900.0, "low": 800.0, "high": 1000.0, "error": None},
            {"candidate": "a", "batch": 8, "streams": 1, "per_s": None, "low": None, "high": None, "error": "it takes one sample only"},
        ],
    }  # fmt: skip
    page = measured(Report({}, details=Details.of_dict(details)))
    assert "On 1 thread(s) this box shows int8 1000 GOP/s and copies 10.0 GB/s" in page
    for words in (
        "25 %",
        "compute",
        "reference kernel",
        "<code>gru</code>",
        "20.0 %",
        "900<small>800 … 1000</small>",
        "it takes one sample only",
    ):
        assert words in page
