import html.parser
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from edgemm.contracts.report import Measurement, Report, Verdict
from edgemm.contracts.report_parts import Confusion, Details
from edgemm.report import charts
from edgemm.report.page import render

NONE = {"value": 0.0, "low": None, "high": None}
EVIL = "<script>alert('x')</script>\"&"


def confusion(labels, seed=0):
    rng = np.random.default_rng(seed)
    return (np.eye(len(labels)) * 40 + rng.integers(0, 4, (len(labels),) * 2)).astype(int).tolist()


def measurements():
    rows = [("original", "torch", 9.8, 4.9, 0.862), ("float", "openvino", 3.1, 4.9, 0.862), ("default", "openvino", 2.0, 4.9, 0.861)]
    found = []
    for subject, target, ms, mib, accuracy in [*rows, ("bundle", "openvino", 1.25, 1.4, 0.8588)]:
        about = {"subject": subject, "target": target, "candidate": "build/digits", "precision_ran": "f32"}
        found.append(
            Measurement("accuracy", accuracy, "ratio", "higher", output="digit", low=accuracy - 0.02, high=accuracy + 0.02, **about)
        )
        found.append(Measurement("latency_p50_ms", ms, "ms", low=0.97 * ms, high=1.04 * ms, n=480, **about))
        found.append(Measurement("latency_p95_ms", 1.2 * ms, "ms", **about))
        found.append(Measurement("size_mib", mib, "MiB", **about))
    about = {"subject": "bundle", "target": "openvino", "candidate": "build/digits", "output": "digit"}
    return [*found, Measurement("accuracy_drop_points", 0.32, "points", low=-0.2, high=0.84, n=1500, **about)]


def with_inputs_missing():
    """The digit head with each input missing, before and after; and ``details.ledger``."""
    found = []
    for subject, values in (("original", (0.862, 0.6, 0.41)), ("bundle", (0.858, 0.59, 0.12))):
        for modalities, value in zip((("image", "audio"), ("image",), ("audio",)), values, strict=True):
            about = {"subject": subject, "target": "openvino", "output": "digit", "modalities": modalities, "n": 1500}
            found.append(Measurement("accuracy", value, "ratio", "higher", low=value - 0.02, high=value + 0.02, **about))
    about = {"output": "digit", "target": "openvino", "unit": "points"}
    contributions = [
        {"input": "image", **about, "before": {"value": 47.6, "low": 44.7, "high": 50.4},
         "after": {"value": 46.6, "low": 43.7, "high": 49.4},
         "change": {"value": -1.0, "low": -1.8, "high": 0.2}, "deaf": False},
        {"input": "audio", **about, "before": {"value": 28.9, "low": 26.4, "high": 31.4},
         "after": {"value": 0.0, "low": -1.0, "high": 1.0},
         "change": {"value": -28.9, "low": -31.0, "high": -26.0}, "deaf": True},
    ]  # fmt: skip
    where = {"openvino": "openvino int8, in ONNX Runtime"}
    return found, {"inputs": ["image", "audio"], "rows": 1500, "of": 9000, "where": where, "contributions": contributions}


STEPS = [
    {"step": "prune", "options": {"ratio": 0.5, "branches": {"audio": 0.3}}, "facts": {
        "branches": {"image": {"parameters": {"before": 812345, "after": 214000}, "macs": {"before": 21300000, "after": 5100000}},
                     "audio": {"parameters": {"before": 120000, "after": 80000}, "macs": {"before": 900000, "after": 610000}}},
        "kept_whole": [{"layer": f"image.blocks.{n}.expand", "reason": "its width is read by a reshape"} for n in range(14)],
        "proof": {"max_abs": 3.1e-7, "samples": 16}, "rounds": 2, "iterative": True, "seconds": 12.5,
    }},
    {"step": "distill", "options": {"epochs": 3}, "facts": {
        "curves": {"distilled/train": [[1, 1.2], [2, 0.7], [3, 0.5]], "distilled/val": [[1, 1.1], [2, 0.8], [3, 0.6]]},
        "val": {"teacher": {"digit": 0.9}, "before": {"digit": 0.5}, "after": {"digit": 0.89}}, "best_epoch": 3, "left": None,
    }},
]  # fmt: skip


@pytest.fixture(scope="module")
def full():
    """A report that has everything."""
    rng = np.random.default_rng(0)
    gap = {"max_abs": 0.4, "sqnr_db": 31.0, "scale": 12.0}
    labels = [str(digit) for digit in range(10)]
    details = {
        "title": "digits, compressed",
        "steps": [{"name": "export", "seconds": 6.2, "text": "opset 18"}, {"name": "quantize", "seconds": 0.0, "reused": True}],
        "notes": ["'text' is skipped, the model has no text input."],
        "branches": [
            {"branch": "frontend:audio", "precision": "f32", "parameters": {"before": 0, "after": 0}, "latency_share": 0.1,
             "macs": {"before": 132e6, "after": 16.5e6}, "size_mib": {"before": 4.13, "after": 0.155}},
            {"branch": "image", "precision": "int8", "parameters": 812345, "macs": 2.13e7, "latency_share": 0.5,
             "size_mib": {"before": 3.1, "after": 0.8}, "sqnr_db": 31.2},
            {"branch": "head:digit", "precision": "fp32", "parameters": 1290, "macs": 1280, "latency_share": 0.4,
             "size_mib": {"before": 0.005, "after": 0.005}, "sqnr_db": 27.5},
        ],
        "latency_samples_ms": {
            "openvino, float": (3 + rng.gamma(2, 0.1, 200)).tolist(), "openvino int8": (1.2 + rng.gamma(2, 0.1, 200)).tolist()
        },
        "confusion": {"digit": {"labels": labels, "before": confusion(labels), "after": confusion(labels, 1)}},
        "curves": {
            "loss/train": [[1, 2.0], [2, 1.0], [3, 0.5]], "loss/val": [[1, 2.1], [2, 1.2], [3, math.nan]],
            "accuracy/val": [[1, 0.5], [2, 0.8]],
        },
        "parity": [
            {"name": "export", "reference": "torch", "candidate": "ONNX", "ok": True, "outputs": {"digit": gap}, "branches": {}},
            {"name": "target", "reference": "Q/DQ", "candidate": "openvino", "ok": False, "note": "x",
             "outputs": {"digit": {"max_abs": 0.0, "sqnr_db": None, "scale": 1.0}},
             "branches": {"audio": {**gap, "max_abs": None, "sqnr_db": None}}, "culprit": {"branch": "audio", "node": "node_conv_3"}},
        ],
        "layers": [{"name": "node_conv_1,node_relu_1", "kind": "Convolution", "precision": "int8", "kernel": "brgconv", "time_us": 40.0}],
        "ratios": [{"candidate": "int8", "baseline": "float", "value": 0.4, "low": 0.38, "high": 0.42, "verdict": "faster"}],
        "runtime_options": [
            {"target": "openvino", "options": {"threads": 1, "snippets": "single"}, "p50_ms": 0.27, "low_ms": 0.26, "high_ms": 0.28,
             "precision_ran": "int8+f32", "note": "", "taken": True},
            {"target": "openvino", "options": {"threads": 2}, "p50_ms": None, "note": "left out: it does not compile", "taken": False},
        ],
        "files": {"model.onnx": 5_100_000, "report.json": 900},
        "ledger": with_inputs_missing()[1],
        "applied": STEPS,
    }  # fmt: skip
    budgets = [
        Verdict("accuracy_drop_points", 1.0, 0.32, "met", "openvino", "digit", -0.2, 0.84),
        Verdict("latency_p95_ms", 1.6, 1.5, "met", "openvino", None, 1.4, 1.7, True),
        Verdict("size_mib", 1.0, 1.4, "missed", "openvino"),
        Verdict("peak_rss_mib", 100.0, None, "unknown", "openvino"),
    ]
    environment = {"device": "Intel Xeon", "cores": 2, "governor": None, "versions": {"openvino": "2026.4"}, "instructions": ["amx_int8"]}
    return Report(environment, [*measurements(), *with_inputs_missing()[0]], budgets, Details.of_dict(details))


def text_of(page):
    """The words of a page without its style, whitespace collapsed."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


class Balance(html.parser.HTMLParser):
    """Fails where an element is closed that is not open."""

    VOID = ("meta", "link")

    def __init__(self):
        super().__init__()
        self.open, self.names = [], set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_headline_says_smaller_faster_and_what_it_cost(full):
    words = text_of(render(full))
    assert "3.5× smaller 4.90 → 1.40 MiB, against openvino in float" in words
    assert "2.5× faster 3.10 → 1.25 ms, against openvino in float; 1.6× faster than its default" in words
    assert "−0.32 points 86.20 % → 85.88 %; 95 %: −0.84 … +0.20" in words
    assert "2 of 4 met missed: size; unknown: peak memory; met, but within the interval: latency, 95th percentile" in words
    assert "openvino, compressed: 3.5× smaller, 2.5× faster, digit −0.32 points. Measured on Intel Xeon." in words


def test_every_part_of_a_full_report_is_on_the_page(full):
    words = text_of(render(full))
    for part in (
        "Worth knowing", "Budgets", "Before and after", "Every number", "Latency distribution", "Side by side", "Confusion matrix",
        "Branches", "Training", "Parity ladder", "What was done", "Inside the bundle", "Measured where", "'text' is skipped",
        "first differs in branch audio", "Runtime options by measurement", "left out: it does not compile",
        "node_conv_1 +1", "2.50× 2.38× … 2.63×", "Instruction sets amx_int8", "opset 18", "reused", "digit exact", "audio not finite",
    ):  # fmt: skip
        assert part in words, part


def test_the_page_says_which_modality_matters_and_warns_of_one_that_is_no_longer_heard(full):
    words = text_of(render(full))
    assert "Which modality matters Each head with inputs missing, on 1500 of 9000 test rows." in words
    assert "Not on the target: openvino int8, in ONNX Runtime." in words
    assert "After compression the model no longer listens to audio (for digit, on openvino)." in words
    assert "audio digit openvino 28.9 points 26.4 … 31.4 0 points −1.00 … 1.00 −28.9 points −31.0 … −26.0 ✕ no longer heard" in words
    assert "image digit openvino 47.6 points 44.7 … 50.4 46.6 points 43.7 … 49.4 −1.00 points −1.80 … 0.200 ✓ as before" in words
    assert "audio Accuracy, digit 41.00 % 39.00 … 43.00 12.00 % 10.00 … 14.00" in words


def test_beside_what_an_input_adds_stands_what_its_front_end_and_its_branch_cost(full):
    costs = text_of(render(full)).split("What each input costs")[1].split("Every subset")[0]
    assert "frontend:audio f32 0 132 M → 16.5 M 10.0 % 4.13 0.155" in costs
    assert "image int8" in costs
    assert "head" not in costs


def test_subsets_of_inputs_do_not_mix_with_the_plain_results(full):
    plain = Report(full.environment, measurements(), full.budgets, replace(full.details, ledger=None))
    start, end = "Before and after", "Latency distribution"
    assert text_of(render(full)).split(start)[1].split(end)[0] == text_of(render(plain)).split(start)[1].split(end)[0]
    assert "Which modality matters" not in text_of(render(plain))


def test_what_a_torch_step_found_out_is_shown_as_lists_tables_and_charts(full):
    words = text_of(render(full))
    assert "prune ratio 0.5, branches audio 0.3" in words
    assert "Rounds 2 Iterative yes Seconds 12.5" in words
    assert "parameters MACs image 812 k → 214 k 21.3 M → 5.1 M" in words
    assert "Kept whole: 14" in words, "a long table is folded away"
    assert "Proof largest difference 3.1e-07, samples 16" in words
    assert "distill epochs 3" in words
    assert "Val digit teacher 0.9 before 0.5 after 0.89" in words
    assert "distilled" in words
    assert "Left" not in words, "what is empty is left out"


def test_the_page_is_one_file_without_scripts_or_outside_parts(full):
    page = render(full)
    parsed = Balance()
    parsed.feed(page)
    assert parsed.open == []
    assert "script" not in parsed.names
    assert "img" not in parsed.names
    assert not re.search(r"https?://|@import|url\(|src=", page)


def test_everything_from_outside_is_escaped(full):
    hostile = [replace(m, candidate=EVIL, target=EVIL, output=EVIL, precision_ran=EVIL, unit=EVIL, name=EVIL) for m in full.measurements]
    hostile += [replace(m, modalities=(EVIL, "b")) for m in hostile]
    gap = {"max_abs": 0.4, "sqnr_db": 31.0, "scale": 12.0}
    details = {
        "title": EVIL, "notes": [EVIL], "card": EVIL, "recipe": EVIL,
        "steps": [{"name": EVIL, "text": EVIL, "seconds": 1}],
        "branches": [{"branch": EVIL, "precision": EVIL}],
        "latency_samples_ms": {EVIL: [1.0, 2.0]},
        "confusion": {EVIL: {"labels": [EVIL, "b"], "before": [[1, 1], [0, 2]], "after": [[1, 1], [0, 2]]}},
        "curves": {f"{EVIL}/{EVIL}": [[1, 1.0]]},
        "parity": [{"name": EVIL, "reference": EVIL, "candidate": EVIL, "ok": False, "outputs": {EVIL: gap}, "branches": {EVIL: gap},
                    "culprit": {"branch": EVIL, "node": EVIL}, "note": EVIL}],
        "layers": [{"name": EVIL, "kind": EVIL, "precision": EVIL, "kernel": EVIL, "time_us": 1.0}],
        "ratios": [{"candidate": EVIL, "baseline": EVIL, "value": 1.0, "verdict": EVIL}],
        "runtime_options": [{"target": EVIL, "options": {EVIL: EVIL}, "p50_ms": 1.0, "precision_ran": EVIL, "note": EVIL}] * 2,
        "files": {EVIL: 1},
        "ledger": {"inputs": [EVIL, "b"], "rows": EVIL, "where": {EVIL: f"{EVIL}, in ONNX Runtime"}, "contributions": [
            {"input": EVIL, "output": EVIL, "target": EVIL, "unit": EVIL, "deaf": True,
             **dict.fromkeys(("before", "after", "change"), NONE)}
        ]},
        "applied": [{"step": EVIL, "options": {EVIL: EVIL}, "facts": {EVIL: EVIL, "a": {EVIL: {EVIL: EVIL}}, "b": [{EVIL: [EVIL]}],
                     "c": {f"{EVIL}/{EVIL}": [[1, 2], [2, 3]]}, "d": {EVIL: EVIL}, "before": {"before": EVIL, "after": 1}}}],
    }  # fmt: skip
    page = render(
        Report(
            {EVIL: EVIL, "device": EVIL, "x": {EVIL: EVIL}, "y": [EVIL]},
            hostile,
            [Verdict(EVIL, 1, 2, EVIL, EVIL, EVIL)],
            Details.of_dict(details),
        )
    )
    parsed = Balance()
    parsed.feed(page)
    assert "script" not in parsed.names
    assert parsed.open == []


@pytest.mark.parametrize("kept", [(), ("curves",), ("confusion",), ("parity", "steps")])
def test_what_a_report_lacks_is_left_out(full, kept):
    page = render(Report({}, [], [], Details(**{key: getattr(full.details, key) for key in kept})))
    titles = {"curves": "Training", "confusion": "Confusion matrix", "parity": "Parity ladder", "steps": "What was done"}
    words = text_of(page)
    assert [title for title in titles.values() if title in words] == [
        titles[key] for key in ("curves", "confusion", "parity", "steps") if key in kept
    ]
    assert "Before and after" not in words


def test_measurements_alone_make_a_page(full):
    words = text_of(render(Report({}, [m for m in full.measurements if m.subject == "bundle"])))
    assert "Measurements" in words
    assert "Before and after" not in words


def test_latency_samples_named_by_candidate_take_the_variants_words():
    report = Report(
        {}, [Measurement("size_mib", 1.0, "MiB", candidate="x int8", target="openvino")], (), Details(latency_samples_ms={"x int8": [1.0]})
    )
    assert "openvino, compressed p50 1.00 ms · p95 1.00 ms · 1 calls" in text_of(render(report))


def test_a_verdict_within_its_interval_is_unsure_and_says_so(full):
    words = text_of(render(full))
    assert "1.50 ms 1.40 … 1.70 1.60 ms ✓ met, unsure" in words
    assert "✕ missed" in words
    assert "? unknown" in words


def test_two_targets_get_a_headline_each(full):
    both = [*full.measurements, *(replace(m, target="onnxruntime") for m in full.measurements if m.subject != "original")]
    words = text_of(render(Report({}, both)))
    assert words.count("2.5× faster 3.10 → 1.25 ms") == 2
    assert "against onnxruntime in float" in words


def test_a_slower_or_equal_result_is_called_so(full):
    def speed(ms):
        rows = [Measurement("latency_p50_ms", 2.0, "ms", subject="float", target="t"), Measurement("latency_p50_ms", ms, "ms", target="t")]
        return text_of(render(Report({}, rows)))

    assert "2.0× slower" in speed(4.0)
    assert "the same 2.00 → 2.02 ms" in speed(2.02)
    assert "1.05× faster" in speed(1.9)


def test_the_headline_claims_no_more_speed_than_the_paired_verdict():
    def speed(verdict, **row):
        about = {"unit": "ms", "target": "t"}
        rows = [
            Measurement("latency_p50_ms", 2.6, subject="float", candidate="t float", **about),
            Measurement("latency_p50_ms", 1.5, subject="default", candidate="t default", **about),
            Measurement("latency_p50_ms", 1.0, candidate="t int8", **about),
        ]
        pairs = [{"candidate": "t int8", "baseline": f"t {name}", "value": 0.4, "low": 0.3, "high": 1.1} for name in ("float", "default")]
        return text_of(
            render(Report({}, rows, details=Details.of_dict({"ratios": [{**pair, "verdict": verdict, **row} for pair in pairs]})))
        )

    unsure = speed("no difference shown")
    assert "t, compressed: no difference in speed shown." in unsure
    assert "no difference shown to its default" in unsure
    assert "2.6× faster" not in unsure
    assert "2.6× faster (disturbed)" in speed("faster", disturbed=True)
    assert "t, compressed: 2.6× faster." in speed("faster", disturbed=False)


def test_a_benchmarks_forms_are_found_by_their_own_names():
    about = {"unit": "ms", "target": "t", "candidate": "out/bundle"}
    rows = [Measurement("latency_p50_ms", 2.6, subject="float", **about), Measurement("latency_p50_ms", 1.0, **about)]
    forms = {f"out/bundle {form}": {"source": "out/bundle", "target": "t", "subject": form} for form in ("float", "bundle")}
    pair = {"candidate": "out/bundle bundle", "baseline": "out/bundle float", "value": 0.4, "verdict": "no difference shown"}
    words = text_of(render(Report({}, rows, details=Details.of_dict({"ratios": [pair], "disturbances": forms}))))
    assert "t, compressed: no difference in speed shown." in words


def test_a_regressions_limit_stands_in_its_unit():
    verdict = Verdict("accuracy_drop_points", 0.0146, 0.35, "missed", "t", "level", unit="lx")
    lost = Measurement("accuracy_drop_points", 0.35, "", target="t", output="plain", per_point=0.01)
    words = text_of(render(Report({}, [lost], [verdict])))
    assert "0.350 lx 0.0146 lx ✕ missed" in words
    assert "plain +0.35 of error" in words


def test_a_number_that_is_none_is_drawn_as_a_dash():
    rows = [
        Measurement("latency_p50_ms", math.nan, "ms", target="t"),
        Measurement("latency_p50_ms", 2.0, "ms", subject="float", target="t"),
    ]
    assert "– ms" in text_of(render(Report({}, rows)))


def test_a_gain_is_shown_with_a_plus_and_a_regression_loss_in_its_unit():
    rows = [
        Measurement("accuracy_drop_points", -0.6, "points", target="t", output="event", low=-1.0, high=-0.2),
        Measurement("accuracy_drop_points", 0.25, "dB", target="t", output="level"),
    ]
    words = text_of(render(Report({}, rows)))
    assert "Accuracy, event +0.60 points 95 %: +0.20 … +1.00" in words
    assert "Accuracy, level +0.25 dB of error" in words


def test_a_confusion_matrix_of_many_labels_lists_the_commonest_mistakes():
    labels = [f"class {n}" for n in range(80)]
    counts = np.eye(80, dtype=int) * 10
    counts[3, 7] = 6
    words = text_of(charts.matrix(labels, counts.tolist(), "After"))
    assert "99.3 % right, 80 labels; most frequent mistakes class 3 answered as class 7: 6" in words


def test_a_confusion_matrix_of_thirty_labels_shows_colours_alone():
    labels = [f"class {n}" for n in range(30)]
    drawn = charts.matrix(labels, (np.eye(30, dtype=int) * 10).tolist(), "After")
    assert drawn.count("<td") == 900
    assert "<span>10</span>" not in drawn


@pytest.mark.parametrize("ends", [(0.0, 0.97), (0.4, 0.87), (-3.0, 12.0), (5.0, 5.0), (0.0, 0.0), (1e-9, 3e-9), (990.0, 1010.0)])
def test_ticks_are_few_round_numbers_that_cover_the_range(ends):
    ticks = charts.nice_ticks(*ends)
    assert ticks[0] <= ends[0]
    assert ticks[-1] >= ends[1]
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.3, 1300), [0.2, 1, 10, 100, 2000]),
        ((0.5, 9), [0.5, 1, 2, 5, 10]),
        ((1, 20), [1, 2, 5, 10, 20]),
        ((0.02, 450), [0.02, 0.1, 1, 10, 100, 500]),
    ],
)
def test_ticks_in_powers_of_ten_are_few_and_do_not_crowd(ends, ticks):
    assert charts.decade_ticks(*ends) == ticks


def test_latencies_far_apart_are_drawn_in_powers_of_ten():
    drawn = charts.ridges({"original": [130.0, 140.0, 1200.0], "openvino": [0.4, 0.5, 0.6]}, {})
    assert "powers of ten" in text_of(drawn)
    assert "powers of ten" not in text_of(charts.ridges({"original": [3.0, 4.0], "openvino": [1.0, 1.1]}, {}))
    places = [float(place) for place in re.findall(r'class="p50" x1="([-\d.]+)"', drawn)]
    assert places[0] - places[1] > 50


def test_the_interval_of_a_pair_timed_side_by_side_is_shown_and_may_cast_doubt(full):
    def tile(low, high):
        rows = [replace(m, candidate=f"{m.target} {m.subject}") for m in full.measurements]
        ratio = {"candidate": "openvino bundle", "baseline": "openvino float", "value": 0.4, "low": low, "high": high, "verdict": "x"}
        return render(Report({}, rows, (), Details.of_dict({"ratios": [ratio]})))

    assert "against openvino in float; 95 %: 2.38× … 2.63×; 1.6× faster than its default" in text_of(tile(0.38, 0.42))
    assert 'class="tile good"><dt>Latency' in tile(0.38, 0.42)
    assert 'class="tile doubt"><dt>Latency' in tile(0.2, 1.3)


def test_a_single_slow_call_does_not_flatten_the_latency_chart():
    drawn = text_of(charts.ridges({"openvino": [1.0] * 500 + [900.0]}, {}))
    assert "1 beyond the axis" in drawn
    assert "900" not in drawn


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_looks_right_in_chromium(full, chromium, tmp_path, width, dark):
    path = tmp_path / "report.html"
    path.write_text(render(full), encoding="utf-8")
    chromium.show(path, width, dark)
    assert chromium.complaints() == []
    assert chromium.requests() == [path.as_uri()]
    assert chromium.ask("document.documentElement.scrollWidth") == width, "the page is wider than the screen"
    cut = (
        "[...document.querySelectorAll('section,.tile')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 40))"
    )
    assert chromium.ask(cut) == [], "something sticks out of its frame"
    small = (
        "Math.min(...[...document.querySelectorAll('main *')].filter(e => e.innerText).map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert chromium.ask(small) >= 10, "text too small to read"

    picture = chromium.picture()
    assert picture.shape[0] > 2500
    assert picture.shape[1] == width
    background = picture[5, 5].astype(int)
    assert bool(background.sum() < 150) is dark
    inked = np.abs(picture.astype(int) - background).sum(axis=2) > 60
    assert inked.mean() > 0.03, "an almost blank page"
    for top in range(0, picture.shape[0] - 500, 500):
        assert inked[top : top + 500].any(), f"nothing between {top} and {top + 500}"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_background(full, chromium, tmp_path, dark):
    """WCAG 2.1 AA asks for a contrast of 4.5."""
    path = tmp_path / "report.html"
    path.write_text(render(full), encoding="utf-8")
    chromium.show(path, 1280, dark)
    found = chromium.ask("""(() => {
      const rgb = text => (text.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
      return [...document.querySelectorAll('main *')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
        .filter(e => !e.closest('td.deep'))
        .map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 30)]; })
        .filter(([contrast]) => contrast < 4.5);
    })()""")
    assert found == []


def test_a_page_with_many_labels_and_long_names_does_not_stick_out_on_a_phone(full, chromium, tmp_path):
    labels = [f"a rather long label number {n}" for n in range(25)]
    long = "a-name-without-any-space-" * 8
    details = replace(full.details, title=long, notes=[long], confusion={"event": Confusion(labels, confusion(labels))})
    rows = [replace(m, candidate=long, precision_ran=long) for m in full.measurements]
    path = tmp_path / "report.html"
    path.write_text(render(Report({"device": long}, rows, full.budgets, details)), encoding="utf-8")
    chromium.show(path, 400)
    assert chromium.ask("document.documentElement.scrollWidth") == 400
