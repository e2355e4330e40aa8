"""`edgemm verify`, from Python and from the command line."""

import json

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.packing import pack
from edgemm.cli import main
from edgemm.contracts import card_file as cards
from edgemm.contracts.report import Report
from edgemm.errors import BundleError
from edgemm.report import page

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose model adds one, for ONNX Runtime."""
    add = onnx.helper.make_node("Add", ["x", "one"], ["y"], "add")
    content = onnx_model([add], {"x": ["batch", 2]}, {"y": ["batch", 2]}, {"one": np.float32(1)}).SerializeToString()
    x = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    inputs = {"x": {"modality": "sensor", "shape": [2], "rate_hz": 10}}
    return pack(
        tmp_path / "b",
        card=cards.parse({"model": "model.onnx", "inputs": inputs, "outputs": {"y": {"task": "regression"}}}, path=tmp_path / "model.yaml"),
        files={"model.onnx": content, "targets/onnxruntime/model.onnx": content},
        report=Report({}),
        page=page.render,
        golden=Golden({"x": x}, {"onnxruntime": {"y": x + 1}}, {"onnxruntime": {"y": 1e-3}}),
        provenance={},
        accuracy={},
    )


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def test_a_good_bundle_passes(bundle, capsys):
    assert edgemm.verify(bundle).ok
    assert run("verify", bundle) == 0
    printed = capsys.readouterr().out
    assert "ok          targets/onnxruntime/model.onnx  3 golden samples in f32" in printed
    assert printed.endswith(f"{bundle}: everything that could be checked is right\n")


def test_a_damaged_bundle_fails_and_the_file_is_named(bundle, capsys):
    content = bytearray((bundle / "report.html").read_bytes())
    content[100] ^= 4
    (bundle / "report.html").write_bytes(content)
    with pytest.raises(BundleError, match=r"fails verification: report.html.\n  why: report.html: its content changed"):
        edgemm.verify(bundle)
    assert run("verify", bundle) == 1
    assert "fails verification: report.html." in capsys.readouterr().err


def test_json_lists_every_check(bundle, capsys):
    assert run("verify", bundle, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["ok"] is True
    assert {key: plain["checks"][2][key] for key in ("name", "ok")} == {"name": "model.onnx", "ok": True}


def test_what_is_no_bundle_is_our_error_not_a_traceback(tmp_path, capsys):
    assert run("verify", tmp_path) == 1
    assert "is not a bundle.\n  why: there is no manifest.json in it." in capsys.readouterr().err
