"""A slim bundle: what a box needs, held to the manifest, the hash and the signature of the whole one."""

import shutil

import pytest

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.packing import TargetOptions, pack
from edgemm.box.bundle.proving import verify
from edgemm.box.serving.model import choose_target, open_model
from edgemm.box.serving.settings import InputSettings, Settings
from edgemm.errors import BundleError
from tests.box.bundle.test_bundle import MODEL, flip, keys, names_of, parts  # noqa: F401  fixtures too
from tests.box.serving.conftest import make_bundle

SEAL = {"manifest.json", "manifest.sha256", "slim.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle in parts for two targets."""
    return make_bundle(tmp_path_factory.mktemp("whole"), targets=("openvino", "onnxruntime"))


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_its_targets_graphs_whole_and_in_parts_and_what_proves_them(whole, tmp_path):
    slim = edgemm.slim(whole, output=tmp_path / "slim", targets=["onnxruntime"]).bundle
    graphs = {f"targets/onnxruntime/{name}" for name in names(whole / "targets" / "onnxruntime")}
    assert names(slim) == SEAL | graphs | {"golden.npz", "standins.npz"}
    assert "targets/onnxruntime/split/audio.onnx" in graphs
    assert open_bundle(slim).targets() == ["onnxruntime"]


@pytest.mark.parametrize("name", ["slim", "slim.edgemm"])
def test_its_hashes_signature_and_golden_samples_are_those_of_the_whole(parts, keys, tmp_path, empty_cache, name):  # noqa: F811
    whole = pack(tmp_path / "whole", **parts, sign=keys[0])
    slim = edgemm.slim(whole, output=tmp_path / name)
    result = verify(slim.bundle, key=keys[1])
    assert result.ok
    assert {"model.onnx", "report.json", "report.html"} == set(slim.left_out)
    assert "3 files that the manifest lists were left out" in str(result)
    assert result.checks[-1].text == "4 golden samples in f32, tuned options"
    assert open_bundle(slim.bundle).manifest == open_bundle(whole).manifest


def test_a_slim_and_a_whole_zip_of_one_manifest_do_not_stand_for_each_other(parts, tmp_path, empty_cache):  # noqa: F811
    whole = pack(tmp_path / "whole.edgemm", **parts)
    slim = edgemm.slim(whole, output=tmp_path / "slim.edgemm").bundle
    assert open_bundle(slim).left_out
    assert open_bundle(whole).model.is_file()
    assert "model.onnx" not in open_bundle(slim).files


def test_what_is_there_is_held_to_its_hash_and_what_is_missing_is_named(parts, tmp_path):  # noqa: F811
    slim = edgemm.slim(pack(tmp_path / "whole", **parts), output=tmp_path / "slim").bundle
    flip(slim / MODEL, 40)
    (slim / "golden.npz").unlink()
    assert names_of(verify(slim)) == f"golden.npz {MODEL}"
    with pytest.raises(BundleError, match=r"fails verification: golden\.npz"):
        open_bundle(slim)


def test_one_flipped_bit_of_its_record_is_found(parts, tmp_path):  # noqa: F811
    slim = edgemm.slim(pack(tmp_path / "whole", **parts), output=tmp_path / "slim").bundle
    for place in range((slim / "slim.json").stat().st_size):
        flip(slim / "slim.json", place, place % 8)
        assert "slim.json" in names_of(verify(slim, run=False)), place
        flip(slim / "slim.json", place, place % 8)


@pytest.mark.parametrize("excused", ["golden.npz", MODEL, "targets/onnxruntime/options.json", "manifest.json", "absent"])
def test_a_record_that_excuses_what_no_box_can_do_without_is_refused(parts, tmp_path, excused):  # noqa: F811
    from edgemm.box.bundle import seal

    out = pack(tmp_path / "b", **parts)
    (out / "slim.json").write_bytes(seal.slim_record([excused]))
    assert "slim.json" in names_of(verify(out))
    with pytest.raises(BundleError, match=r"slim\.json is not one of edgemm's"):
        open_bundle(out)


def test_it_serves_in_parts_as_the_whole_does(whole, tmp_path):
    slim = open_bundle(edgemm.slim(whole, output=tmp_path / "slim", targets=["onnxruntime"]).bundle)
    sample = slim.golden().sample(0)
    answers = []
    for bundle in (open_bundle(whole), slim):
        with open_model(bundle, choose_target(bundle, "onnxruntime").target) as model:
            assert model.in_parts
            answers.append(model.answer({name: model.embed(name, sample[name]) for name in model.inputs}))
    assert (answers[0]["event"] == answers[1]["event"]).all()


def test_what_needs_a_file_that_was_left_out_says_so(whole, tmp_path):
    slim = edgemm.slim(whole, output=tmp_path / "slim", targets=["openvino"]).bundle
    opened = open_bundle(slim)
    says = r"goes without {}\.\n  why: it is a slim bundle with what a box needs for openvino\.\n  fix: take the whole bundle"
    with pytest.raises(BundleError, match=says.format("targets/onnxruntime/model.onnx")):
        choose_target(opened, "onnxruntime")
    with pytest.raises(BundleError, match=says.format("targets/onnxruntime/model.onnx")):
        edgemm.benchmark([slim], target="onnxruntime")
    with pytest.raises(BundleError, match=says.format("split/split.json")):
        open_model(opened, "openvino", Settings(inputs={"audio": InputSettings(precision="fp32")}))
    with pytest.raises(BundleError, match=says.format("model.onnx")):
        edgemm.inspect(slim, device="orin-nano-8gb-super")
    with pytest.raises(BundleError, match=says.format("report.json")):
        opened.report()
    with pytest.raises(BundleError, match=says.format("targets/onnxruntime/model.onnx")):
        edgemm.slim(slim, output=tmp_path / "other", targets=["onnxruntime"])


def test_it_is_measured_without_the_float_forms_and_the_report_says_so(whole, tmp_path):
    slim = edgemm.slim(whole, output=tmp_path / "slim", targets=["onnxruntime"]).bundle
    report = edgemm.benchmark([slim], rounds=2, calls=2, launches=0, seconds=0.5, roofline=False)
    assert {m.subject for m in report.measurements} == {"bundle"}
    assert "is a slim bundle: nothing is held against what it goes without (model.onnx, report.json)" in " ".join(report.details.notes)


def test_a_slim_one_can_be_slimmed_further_and_a_target_it_lacks_is_none(whole, tmp_path):
    both = edgemm.slim(whole, output=tmp_path / "both").bundle
    one = edgemm.slim(both, output=tmp_path / "one.edgemm", targets=["onnxruntime"])
    assert verify(one.bundle).ok
    assert open_bundle(one.bundle).targets() == ["onnxruntime"]
    with pytest.raises(BundleError, match=r"holds nothing for the target 'openvin'.\n  fix: did you mean 'openvino'"):
        edgemm.slim(whole, output=tmp_path / "none", targets=["openvin"])
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    flip(damaged / "model.onnx", 40)
    with pytest.raises(BundleError, match=r"fails verification: model\.onnx"):
        edgemm.slim(damaged, output=tmp_path / "none")


@pytest.mark.parametrize(("int8", "goes_along"), [("on", False), ("auto", True)])
def test_the_float_graph_goes_along_where_tensorrt_may_run_it(parts, tmp_path, int8, goes_along):  # noqa: F811
    parts["files"] = {"model.onnx": parts["files"][MODEL], "targets/tensorrt/model.onnx": parts["files"][MODEL]}
    parts["options"] = {"tensorrt": TargetOptions({"int8": int8})}
    slim = edgemm.slim(pack(tmp_path / "whole", **parts), output=tmp_path / "slim").bundle
    assert (slim / "model.onnx").is_file() == goes_along
