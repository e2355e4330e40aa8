"""`search`, end to end on small models: what is tried, what is written, what is refused, and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from edgemm import search, verify
from edgemm.errors import DataError, MeasureError, Mistakes, OutputError, QuantizeError, RecipeError
from edgemm.pipeline.searching import place

RECIPE = {
    "steps": [{"quantize": {"calibration_samples": 16, "ranges": "minmax"}}],
    "targets": {"onnxruntime": {}},
    "budgets": {"accuracy_drop_points": 100},
    "for": "size",
    "tune": False,
    "search": {
        "space": {
            "quantize.precision.audio": [None, "fp32"],
            "quantize.precision.image": [None, "fp32"],
            "quantize.precision.head": [None, "fp32"],
            "quantize.calibration_samples": {"from": 8, "to": 24, "step": 8},
        }
    },
}
CUT = {
    "steps": [
        {"prune": {"criterion": "magnitude"}},
        {"distill": {"epochs": 1}},
        {"quantize": {"calibration_samples": 16, "ranges": "minmax"}},
    ],
    "targets": {"onnxruntime": {}},
    "for": "size",
    "search": {"space": {"prune.ratio": {"from": 0.25, "to": 0.75, "step": 0.25}}, "batch": 2},
}


IN_VAIN = ("--trials", "8", "--seed", "3", "--budget", "size_mib=0.001")


def written(folder: Path, recipe: dict, **search_options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "search": {**recipe["search"], **search_options}}, sort_keys=False))
    return path


def trials_of(folder: Path) -> list[tuple]:
    """What was tried and what came of it, but for the seconds."""
    trials = json.loads((folder / place.FRONT).read_text())["trials"]
    return [(tried["name"], tried["options"], tried["state"], tried["losses"], tried["costs"], tried["seed"]) for tried in trials]


def command(own_model, porch, recipe, output, *more) -> list[str]:
    words = ["search", own_model, "-r", recipe, "-d", porch, "-o", output, *more]
    return [sys.executable, "-m", "edgemm", *map(str, words)]


@pytest.fixture(scope="module")
def straight(own_model, porch, tmp_path_factory):
    """A search of six trials that finds something."""
    place = tmp_path_factory.mktemp("straight")
    return search(own_model, recipe=written(place, RECIPE), data=porch, output=place / "out", trials=6, seed=3)


@pytest.fixture(scope="module")
def in_vain(own_model, porch, tmp_path_factory):
    """A search of eight trials that finds nothing, begun and ended in one go by one worker: its folder, and what the command said."""
    place = tmp_path_factory.mktemp("in-vain")
    return place / "out", subprocess.run(
        command(own_model, porch, written(place, RECIPE), place / "out", *IN_VAIN), capture_output=True, text=True, check=False
    )


def test_the_best_is_a_bundle_that_verifies_and_all_is_written_down(straight):
    assert verify(straight.best).ok
    names = sorted(path.name for path in straight.folder.iterdir() if not path.name.startswith("."))
    assert names == ["best", "front.json", "recipes", "report.html", "report.json", "study.journal", "study.log"]
    front = json.loads((straight.folder / "front.json").read_text())
    assert front["best"] == "best"
    assert len(front["trials"]) == 6
    assert front["front"][0]["best"]["name"] == straight.searched.front[0].best.name
    assert (straight.folder / front["front"][0]["file"]).is_file()
    assert next(straight.folder.rglob("manifest.json")) == straight.best / "manifest.json"
    log = (straight.folder / "study.log").read_text().splitlines()
    assert log[0].startswith("trial 0 (")
    assert f"{straight.searched.front[0].best.name} (" in log[-len(front["front"])]


def test_test_is_told_for_the_best_alone(straight):
    told = {m.candidate for m in straight.report.measurements if m.name == "accuracy" and m.subject == "bundle"}
    assert told == {straight.searched.front[0].best.name}


def test_the_page_shows_the_front_the_trials_and_what_mattered(straight):
    page = (straight.folder / "report.html").read_text()
    for words in ("<h2>The best</h2>", "<h2>Trials</h2>", "Every trial", straight.searched.front[0].best.name, "Points lost by size"):
        assert words in page


def test_nothing_on_the_front_is_beaten_by_a_trial(straight):
    best = straight.searched.front[0]
    for tried in straight.searched.trials:
        assert not (tried.points < best.best.points and tried.costs["size_mib"] < best.costs["size_mib"])


def test_a_recipe_of_the_front_makes_the_same_model(straight, own_model, porch, tmp_path):
    from edgemm import compress

    front = json.loads((straight.folder / "front.json").read_text())["front"]
    built = compress(own_model, recipe=straight.folder / front[0]["file"], data=porch, output=tmp_path / "again", seed=3)
    graph = "targets/onnxruntime/model.onnx"
    assert (built.bundle / graph).read_bytes() == (straight.best / graph).read_bytes()


def test_four_workers_try_the_same(in_vain, own_model, porch, tmp_path, empty_cache):
    words = command(own_model, porch, written(tmp_path, RECIPE), tmp_path / "out", *IN_VAIN, "--workers", "4")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert trials_of(tmp_path / "out") == trials_of(in_vain[0])


def test_a_killed_search_goes_on_to_the_same_trials(in_vain, own_model, porch, tmp_path, empty_cache):
    words = command(own_model, porch, written(tmp_path, RECIPE), tmp_path / "out", *IN_VAIN)
    running = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / place.LOG
    end = time.monotonic() + 300
    while not (log.is_file() and "trial 3" in log.read_text()):
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.5)  # into the next batch
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out" / place.FRONT).exists()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert trials_of(tmp_path / "out") == trials_of(in_vain[0])


def test_a_worker_ends_with_the_search_that_started_it(own_model, porch, tmp_path):
    from edgemm.pipeline.searching.runners import LocalRunner, Task

    program = (
        "import sys, time\nfrom edgemm.pipeline.searching.runners import LocalRunner\n"
        f"runner = LocalRunner({str(own_model)!r}, {str(porch)!r}, skip_bad_rows=False, workers=1, threads=1)\n"
        "print(runner._worker().pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)
    with LocalRunner(str(own_model), str(porch), skip_bad_rows=False, workers=1, threads=1) as runner:
        worker = runner._worker()
        runner._idle.put(worker)
        os.kill(worker.pid, signal.SIGKILL)
        (outcome,) = runner.run([Task("sized", "trial 0", {"steps": [], "targets": {"onnxruntime": {}}})], lambda count: None)
        assert outcome.crashed
        assert "'trial 0' crashed while it was tried (signal 9)" in outcome.error.what
        (outcome,) = runner.run([Task("sized", "trial 1", {"steps": [], "targets": {"onnxruntime": {}}})], lambda count: None)
        assert outcome.graph.size_mib > 0


def test_an_impossible_budget_names_the_nearest_and_exits_with_3(in_vain):
    folder, done = in_vain
    assert done.returncode == 3, done.stderr
    assert "nothing keeps the budgets: the nearest is trial" in done.stdout
    assert "size_mib 0.0" in done.stdout
    assert "limit 0.001" in done.stdout
    assert not (folder / place.BEST).exists()
    front = json.loads((folder / place.FRONT).read_text())
    assert front["best"] is None
    assert front["blocked"].startswith("the nearest is trial")
    assert "Nothing keeps the budgets" in (folder / "report.html").read_text()


def test_what_is_too_large_is_not_trained(own_model, porch, tmp_path):
    found = search(own_model, recipe=written(tmp_path, CUT), data=porch, output=tmp_path / "out", trials=4, budgets={"size_mib": 0.02})
    states = {tried.name: (tried.state, tried.options["prune.ratio"]) for tried in found.searched.trials}
    large = [tried for tried in found.searched.trials if tried.state == "ruled out"]
    assert large, states
    for tried in large:
        assert tried.costs["size_mib"] > 0.02
        assert not tried.losses
        assert tried.why.startswith("not trained: size_mib 0.0")


@pytest.mark.slow
def test_halving_starts_seeds_and_time_on_a_model_that_is_cut(own_model, porch, tmp_path):
    start = tmp_path / "int8.yaml"
    start.write_text("steps: [{quantize: {calibration_samples: 16, ranges: minmax}}]\ntargets: {openvino: {}}\n")
    recipe = written(
        tmp_path, CUT, fidelity={"distill.epochs": [1, 2], "keep": 0.4}, start=[str(start)], seeds=2, space={"prune.ratio": [0.25, 0.5]}
    )
    found = search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", trials=4, budgets={"latency_p50_ms": 50.0})
    trials = found.searched.trials
    assert [tried.name for tried in trials[:4]] == ["int8", "trial 0", "trial 1", "trial 2"]
    assert [tried.fidelity for tried in trials] == [None, 1, 1, 1, 2, 2]
    assert all(0 < tried.costs["latency_p50_ms"] < 50 for tried in trials)
    for one in found.searched.front:
        assert one.best.fidelity in (None, 2)
        assert list(one.seeds) == [0, 1]
        assert one.points.low <= one.points.value <= one.points.high
        assert one.costs["latency_p50_ms"] > 0
    ratios = {(row.candidate, row.baseline) for row in found.report.details.ratios}
    assert any(name == found.searched.front[0].best.name for name, _ in ratios)


def test_two_searches_in_one_folder_are_refused(own_model, porch, tmp_path):
    with place.taken(tmp_path / "out", {"seed": 0}):
        words = command(own_model, porch, written(tmp_path, RECIPE), tmp_path / "out")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"another search runs in {tmp_path / 'out'} (process {os.getpid()} on " in done.stderr


def test_a_folder_of_something_else_or_of_another_search_is_refused(straight, own_model, porch, tmp_path):
    recipe = written(tmp_path, RECIPE)
    with pytest.raises(OutputError, match=r"holds 'recipe\.yaml', which no search wrote"):
        search(own_model, recipe=recipe, data=porch, output=tmp_path)
    shutil.copytree(straight.folder, tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds another search\.(.|\n)*with other values of: seed"):
        search(own_model, recipe=recipe, data=porch, output=tmp_path / "out", seed=4)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"recipe": "openvino-int8"}, RecipeError, "'openvino-int8' says nothing to search"),
        ({"budgets": {"speed": 3}}, RecipeError, "unknown budget 'speed'"),
        ({"budgets": {"size_mib": -3}}, RecipeError, "budgets.size_mib: -3 is not a number of at least 0"),
        ({"budgets": {"accuracy_drop_points.evnt": 3}}, RecipeError, "'evnt' is no output of this model"),
        (
            {"space": {"quantize.precision.audio": ["int8", "int4"]}},
            QuantizeError,
            "search.space.quantize.precision.audio: 'int4': .*no precision",
        ),
        (
            {"targets": {"tensorrt": {}}, "budgets": {"latency_p95_ms": 5}},
            MeasureError,
            "a search that counts time cannot measure tensorrt here",
        ),
        ({"start": ["openvino-int9"]}, RecipeError, "no recipe 'openvino-int9'"),
        ({"targets": {"onnxruntime": {}, "openvino": {}}}, RecipeError, "is for 2 targets"),
    ],
)
def test_what_cannot_be_searched_is_told_before_any_work(changes, error, words, own_model, porch, tmp_path):
    options = {key: changes.pop(key) for key in ("recipe", "budgets") if key in changes}
    targets = {"targets": changes.pop("targets")} if "targets" in changes else {}
    recipe = written(tmp_path / "r", {**RECIPE, **targets}, **changes)
    with pytest.raises(error, match=f"(?s){words}"):
        search(own_model, **{"recipe": recipe, "data": porch, "output": tmp_path / "out", **options})


def test_all_that_steps_refuse_is_told_at_once(own_model, porch, tmp_path):
    space = {"quantize.precision.audio": ["int8", "int4"], "quantize.calibration_samples": [16, 1]}
    with pytest.raises(Mistakes) as caught:
        search(own_model, recipe=written(tmp_path / "r", RECIPE, space=space), data=porch, output=tmp_path / "out")
    assert len(caught.value.errors) == 2


def test_rows_to_judge_by_are_needed(own_model, porch, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(porch, data)
    rows = (data / "manifest.csv").read_text().splitlines()
    place = rows[0].split(",").index("split")
    kept = [row for row in rows[1:] if row.split(",")[place] == "test"]
    (data / "manifest.csv").write_text("\n".join([rows[0], *kept]) + "\n")
    labels = sorted({row.split(",")[rows[0].split(",").index("event")] for row in rows[1:]})
    shutil.copytree(own_model, tmp_path / "model")
    card = tmp_path / "model" / "model.yaml"
    card.write_text(card.read_text().replace("task: classification", f"task: classification, labels: {labels}"))
    with pytest.raises(DataError, match="a search judges its trials on val"):
        search(tmp_path / "model", recipe=written(tmp_path / "r", RECIPE), data=data, output=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.shared_data
def test_digits_are_searched_within_a_size(unpacked, tmp_path):
    """One epoch each: what is shown is the way, not how good a model becomes."""
    from edgemm import train

    data = unpacked("avdigits", "--spoiled", limit=120)
    train("digits", data, tmp_path / "digits", epochs=1)
    recipe = written(
        tmp_path / "r",
        {**CUT, "steps": [{"prune": {"criterion": "magnitude"}}, {"distill": {"epochs": 1}}, {"quantize": {"calibration_samples": 16}}]},
        space={"prune.macs_ratio": {"from": 0.3, "to": 0.7, "step": 0.2}, "prune.branches.audio": [None, 0.2]},
    )
    found = search(tmp_path / "digits", recipe=recipe, data=data, output=tmp_path / "out", trials=4, budgets={"size_mib": 0.8})
    assert len(found.searched.trials) == 4
    assert found.best is not None
    assert found.searched.front[0].costs["size_mib"] <= 0.8
    assert verify(found.best).ok
