"""The reference model of masks and corners that a question asks for: trained, cut, taught by what it was, compressed for two runtimes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgemm import compress, train, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import card_file as cards
from tests.places import PACKS

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.shared_data, pytest.mark.slow]

MAKER = PACKS.parent / "tools" / "make_asked_shape.py"
TARGETS = ("openvino", "onnxruntime")
QUANTIZE = {"quantize": {"method": "ptq", "calibration_samples": 24}}
SMALL = {
    "encoders": {
        "image": {"c2f": {"channels": [8, 16, 24, 32], "levels": 4}},
        "text": {"bag": {"embedding": 16, "hidden": 32, "width": 32}},
    },
    "fusion": {"film": {"width": 16}},
}


@pytest.fixture(scope="session")
def asked(shared) -> Path:
    """A small asked_shape folder."""
    pytest.importorskip("scipy")
    if not MAKER.is_file() or not (PACKS / "easyvqa").is_dir():
        pytest.skip(f"the packed dataset 'easyvqa' is not in {PACKS} (set EDGEMM_DATA)")

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, MAKER, folder, "--rows", "240", "40", "40"], check=True, capture_output=True)

    return shared("asked-shape", make)


@pytest.fixture(scope="module")
def trained(asked, tmp_path_factory):
    """The shipped card with narrow layers, trained on 240 rows for some seconds."""
    folder = tmp_path_factory.mktemp("masks")
    plain = cards.load("asked-mask").to_dict() | {"kwargs": SMALL}
    (folder / "model.yaml").write_text(yaml.safe_dump(plain))
    return train(folder / "model.yaml", asked, folder / "run", epochs=6, batch_size=16, learning_rate=4e-3, device="cpu")


def test_training_finds_more_than_ground(trained):
    curve = dict(json.loads((trained.folder / "curves.json").read_text())["loss/train"])
    assert curve[6] < 0.7 * curve[1]
    assert trained.metrics["test"]["mask"]["miou"] > 0.3  # ground alone is a quarter


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([QUANTIZE], id="INT8"),
        pytest.param([{"prune": {"macs_ratio": 0.3}}, {"distill": {"epochs": 1}}, QUANTIZE], id="cut and taught"),
    ],
)
def test_masks_and_points_are_guarded_on_both_runtimes(steps, trained, asked, tmp_path):
    plan = {
        "steps": steps,
        "targets": {target: {} for target in TARGETS},
        "for": "size",
        "tune": False,
        "budgets": {"accuracy_drop_points": 20},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    done = compress(trained.card, data=asked, recipe=tmp_path / "recipe.yaml", output=tmp_path / "bundle")
    assert verify(done.bundle).ok
    report = open_bundle(done.bundle).report()
    for target in TARGETS:
        for name, output in (("miou", "mask"), ("oks_map", "corners")):
            (after,) = report.find(name, subject="bundle", target=target, output=output, modalities=None)
            assert "int8" in after.precision_ran
            assert after.n == 40
            (lost,) = report.find("accuracy_drop_points", subject="bundle", target=target, output=output, modalities=None)
            if len(steps) == 1:
                assert lost.value < 5
