"""What each branch bears, on a small model of which one branch decides nearly everything."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import edgemm
from edgemm.cli import main
from edgemm.contracts.report import read
from edgemm.errors import DataError, EdgemmError
from edgemm.pipeline import stages
from edgemm.pipeline.job import start
from edgemm.pipeline.sensitivity import sensitivity

pytest.importorskip("openvino")
torch = pytest.importorskip("torch")
MODEL = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.strong = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.weak = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.mix = nn.Linear(32, 24)
        self.event, self.level = nn.Linear(24, 3), nn.Linear(24, 1)

    def forward(self, strong, weak):
        joined = torch.relu(self.mix(torch.cat([self.strong(strong), 0.05 * self.weak(weak)], 1)))
        return self.event(joined), self.level(joined)


def build():
    torch.manual_seed(11)
    return Two()
"""
CARD = """
factory: two:build
weights: weights.safetensors
inputs:
  strong: {modality: sensor, shape: [12], rate_hz: 1}
  weak: {modality: sensor, shape: [6], rate_hz: 1}
outputs:
  event: {task: classification, labels: [a, b, c]}
  level: {task: regression, unit: dB}
"""
ROWS = {"train": 60, "val": 240, "test": 40}
TREATMENTS = ["prune 25 %", "prune 50 %", "prune 75 %", "INT8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Card, weights, and data that the model answers without a mistake."""
    import importlib.util

    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(MODEL)
    (folder / "model.yaml").write_text(textwrap.dedent(CARD))
    spec = importlib.util.spec_from_file_location("two_for_the_test", folder / "two.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.build().eval()
    save_file(model.state_dict(), folder / "weights.safetensors")
    rng = np.random.default_rng(0)
    for split, rows in ROWS.items():
        strong, weak = rng.normal(size=(rows, 12)).astype(np.float32), rng.normal(size=(rows, 6)).astype(np.float32)
        with torch.no_grad():
            event, level = model(torch.from_numpy(strong), torch.from_numpy(weak))
        np.savez(folder / f"{split}.npz", strong=strong, weak=weak, event=event.argmax(1).numpy(), level=level[:, 0].numpy())
    return folder


@pytest.fixture(scope="module")
def job(place):
    return start(place, place)


@pytest.fixture(scope="module")
def found(job):
    return sensitivity(job, target="openvino")


def test_every_branch_has_every_treatment_on_every_head(found):
    assert found.treatments == TREATMENTS
    assert {"strong", "weak", "fusion"} <= set(found.branches)
    for output in ("event", "level"):
        for branch in ("strong", "weak", "fusion"):
            for treatment in TREATMENTS:
                cell = found.find(branch, treatment, output)
                assert cell.value is not None
                assert cell.low <= cell.value <= cell.high
    assert (found.split, found.rows, found.target) == ("val", ROWS["val"], "openvino")
    assert found.before == {"event": 1.0, "level": pytest.approx(0, abs=1e-5)}


def test_the_branch_that_decides_bears_less_than_the_one_that_does_not(found):
    for output in ("event", "level"):
        strong, weak = (found.find(branch, "prune 75 %", output).value for branch in ("strong", "weak"))
        assert strong > 5 * max(weak, 0.0)
    assert found.find("strong", "prune 75 %", "event").value > found.find("strong", "prune 25 %", "event").value


def test_a_head_has_nothing_to_prune_and_says_so(found):
    cell = found.find("head:event", "prune 50 %", "event")
    assert (cell.value, cell.note) == (None, "nothing of it can be pruned alone")


def test_each_cell_has_its_unit_and_what_is_left(found):
    assert found.find("strong", "prune 50 %", "level").unit == "dB"
    assert found.find("strong", "prune 50 %", "event").note.endswith("% of its multiply-accumulates are left")
    assert "dB below the signal" in found.find("strong", "INT8", "event").note


def test_a_second_time_finds_everything_in_the_cache(place, found):
    again = start(place, place)
    assert sensitivity(again, target="openvino") == found
    assert again.made == []


@pytest.mark.slow
def test_the_guards_of_compress_find_the_int8_half(place, found, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "steps: [{quantize: {method: ptq, on_miss: report}}]\ntargets: {openvino: {}}\nfor: size\nbudgets: {accuracy_drop_points: 0}\n"
    )
    done = edgemm.compress(place, recipe=tmp_path / "recipe.yaml", data=place, output=tmp_path / "bundle")
    assert "quantize openvino" in done.reused
    assert "noise openvino" in done.reused
    table = [row.step for row in done.report.details.guard]
    assert "only strong in INT8" in table


def test_the_command_writes_a_report_with_a_heat_map(place, found, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(place), "-d", str(place), "-t", "openvino", "--sensitivity", "-o", str(tmp_path / "told")])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "lost of 'event' in points, each branch treated alone; accuracy before: 1, 240 rows of val" in printed
    assert all(treatment in printed for treatment in TREATMENTS)
    page = (tmp_path / "told" / "report.html").read_text()
    assert "What each branch bears" in page
    assert page.count('class="matrix"') == 2
    assert "--share:1.000" in page
    report = read(tmp_path / "told" / "report.json")
    assert report.find("accuracy_drop_points", branch="strong", output="event", candidate="INT8")


def test_json_holds_every_cell(place, found, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", str(place), "-d", str(place), "-t", "openvino", "--sensitivity", "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert len(plain["sensitivity"]["cells"]) == len(found.cells)


def test_without_data_it_is_refused(place):
    with pytest.raises(DataError, match="sensitivity needs a dataset"):
        edgemm.inspect(place, sensitivity=True)


def test_an_onnx_file_has_the_int8_half_only(place, job, tmp_path):
    exported = stages.export(job)
    (tmp_path / "model.onnx").write_bytes(exported.main.read_bytes())
    (tmp_path / "model.yaml").write_text(CARD.replace("factory: two:build\nweights: weights.safetensors", "model: model.onnx"))
    told = edgemm.inspect(tmp_path, data=place, target="openvino", sensitivity=True).sensitivity
    assert told.treatments == ["INT8"]
    assert "Pruning was left out" in told.notes[0]


def test_a_bundle_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(EdgemmError, match="sensitivity is measured on a card"):
        edgemm.inspect(tmp_path, sensitivity=True)


def test_a_second_time_needs_no_torch(place, found):
    code = (
        "import sys\nfrom edgemm.pipeline.job import start\nfrom edgemm.pipeline.sensitivity import sensitivity\n"
        "job = start(sys.argv[1], sys.argv[1])\nsensitivity(job, target='openvino')\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
