import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.box.bundle import golden, seal
from edgemm.box.bundle.golden import Golden
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.packing import TargetOptions, check_place, pack
from edgemm.box.bundle.parts import Parts, SplitFiles
from edgemm.box.bundle.proving import verify
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.report import Measurement, Report, Verdict
from edgemm.contracts.target import Target, fingerprint
from edgemm.errors import BundleError, CardError, MissingExtra, OutputError, TargetError
from edgemm.report import page
from edgemm.store import stored_zip
from edgemm.store.cache import machine
from tests.onnx_models import model as onnx_model

MODEL = "targets/onnxruntime/model.onnx"


def linear_model(weight):
    """event = flatten(picture) @ weight, as an ONNX model."""
    nodes = [
        helper.make_node("Cast", ["picture"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["event"]),
    ]
    picture = {"picture": (TensorProto.UINT8, ["batch", 2, 2, 3])}
    return onnx_model(nodes, picture, {"event": ["batch", 3]}, {"weight": weight, "flat": np.array([-1, 12])}).SerializeToString()


@pytest.fixture
def parts(tmp_path):
    """Everything ``pack`` takes, for a tiny model that runs in ONNX Runtime."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(12, 3)).astype(np.float32) / 100
    pictures = rng.integers(0, 255, (4, 2, 2, 3)).astype(np.uint8)
    outputs = {"event": (pictures.reshape(4, -1).astype(np.float32) @ weight)[:, None]}
    card = cards.parse(
        {
            "model": "model.onnx",
            "inputs": {"picture": {"modality": "image", "height": 2, "width": 2}},
            "outputs": {"event": {"task": "classification", "labels": ["quiet", "glass", "person"]}},
            "columns": {"photo": "picture"},
        },
        path=tmp_path / "model.yaml",
    )
    model = linear_model(weight)
    return {
        "card": card,
        "files": {"model.onnx": model, MODEL: model},
        "report": Report({"device": "a box"}, [Measurement("size_mib", 1.0, "MiB")], [Verdict("size_mib", 2.0, 1.0, "met")]),
        "page": page.render,
        "golden": Golden(
            {"picture": pictures[:, None]}, {"onnxruntime": outputs}, {"onnxruntime": golden.tolerance(outputs, outputs, "f32")}
        ),
        "provenance": {"recipe": "openvino-int8"},
        "accuracy": {"event": {"accuracy": 0.9}},
        "options": {
            "onnxruntime": TargetOptions({"optimize": "all"}, {}, {"threads": 1}, fingerprint(plugins.load(Target, "onnxruntime")))
        },
        "reference": Answers({"event": outputs["event"][:, 0]}, {"event": np.array([0, 1, 2, 0])}),
    }


@pytest.fixture
def keys(tmp_path):
    """(private PEM, public PEM) of a new ed25519 pair."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def names_of(verification):
    return " ".join(check.name for check in verification.failed)


@pytest.mark.parametrize("name", ["b", "b.edgemm"])
def test_a_packed_bundle_verifies_and_its_golden_samples_run(parts, tmp_path, name):
    result = verify(pack(tmp_path / name, **parts))
    assert result.ok
    assert [check.ok for check in result.checks] == [True] * len(result.checks)
    assert result.checks[-1].name == MODEL
    assert result.checks[-1].text == "4 golden samples in f32, tuned options"
    assert str(result).endswith(f"{tmp_path / name}: everything that could be checked is right")


def test_a_bundle_holds_what_the_design_lists_and_nothing_else(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "manifest.json", "manifest.sha256", "model.onnx", MODEL, "targets/onnxruntime/options.json", "golden.npz", "reference.npz",
        "report.json", "report.html",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["inputs"]["picture"]["tensor"] == {"dtype": "uint8", "shape": ["batch", 2, 2, 3]}
    assert manifest["outputs"]["event"]["tensor"] == {"dtype": "float32", "shape": ["batch", 3]}
    assert manifest["accuracy"] == {"event": {"accuracy": 0.9}}
    assert manifest["files"].keys() == names - {"manifest.json", "manifest.sha256"}
    assert manifest["files"]["model.onnx"]["size"] == (out / "model.onnx").stat().st_size


def test_the_manifest_hash_is_one_that_sha256sum_checks(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    assert subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=out, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["b", "b.edgemm"])
def test_an_opened_bundle_gives_back_what_was_packed(parts, tmp_path, name, empty_cache):
    opened = open_bundle(pack(tmp_path / name, **parts))
    assert opened.card.outputs == parts["card"].outputs
    assert opened.card.columns == {"photo": "picture"}
    assert opened.card.model_path == opened.model
    assert opened.targets() == ["onnxruntime"]
    assert opened.target_model("onnxruntime").read_bytes() == parts["files"][MODEL]
    assert opened.report().measurements == [Measurement("size_mib", 1.0, "MiB")]
    np.testing.assert_array_equal(opened.golden().inputs["picture"], parts["golden"].inputs["picture"])
    assert opened.golden().tolerance == parts["golden"].tolerance
    np.testing.assert_array_equal(opened.reference().truth["event"], [0, 1, 2, 0])
    np.testing.assert_array_equal(opened.reference().predictions["event"], parts["reference"].predictions["event"])


def test_the_same_parts_give_the_same_bytes(parts, tmp_path):
    first, second = pack(tmp_path / "a.edgemm", **parts), pack(tmp_path / "b.edgemm", **parts)
    assert first.read_bytes() == second.read_bytes()


def test_the_zip_is_one_that_others_can_read(parts, tmp_path):
    out, folder = pack(tmp_path / "b.edgemm", **parts), pack(tmp_path / "b", **parts)
    with zipfile.ZipFile(out) as file:
        assert file.testzip() is None
        file.extractall(tmp_path / "unpacked")
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "unpacked" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert verify(tmp_path / "unpacked").ok


def test_one_flipped_bit_in_any_file_fails_and_names_the_file(parts, tmp_path, keys):
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    rng = np.random.default_rng(1)
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        size = path.stat().st_size
        places = range(size) if size < 100 else sorted({0, size - 1, *rng.integers(0, size, 12).tolist()})
        for place in places:
            bit = int(rng.integers(8))
            flip(path, place, bit)
            result = verify(out, run=False)
            assert not result.ok, (path, place, bit)
            assert path.relative_to(out).as_posix() in names_of(result)
            flip(path, place, bit)
    assert verify(out, run=False).ok


def test_one_flipped_bit_anywhere_in_a_zip_fails_and_names_the_file(parts, tmp_path):
    out = pack(tmp_path / "b.edgemm", **parts)
    with out.open("rb") as file:
        members = stored_zip.members(file)
    whole = out.read_bytes()
    rng = np.random.default_rng(2)
    contents = [place for member in members for place in rng.integers(member.start, member.start + member.size, 12)]
    for place in sorted({*range(2, len(whole), 5)} - {p for m in members for p in range(m.start, m.start + m.size)} | set(contents)):
        flip(out, place, int(rng.integers(8)))
        result = verify(out, run=False)
        assert not result.ok, place
        inside = [member.name for member in members if member.start <= place < member.start + member.size]
        assert not inside or inside[0] in names_of(result)
        out.write_bytes(whole)


def test_a_flipped_bit_of_the_hash_file_is_laid_to_it_where_that_can_be_told(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    flip(out / "manifest.sha256", 66)  # the second space
    assert names_of(verify(out)) == "manifest.sha256"
    flip(out / "manifest.sha256", 66)
    flip(out / "manifest.json", 200)
    assert names_of(verify(out)) == "manifest.json or manifest.sha256"


def test_every_bad_file_is_named_at_once(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    flip(out / "model.onnx", 40)
    (out / "golden.npz").unlink()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"fails verification: golden.npz, model.onnx, notes.txt.") as caught:
        verify(out).raise_if_bad()
    assert "golden.npz: it is missing." in caught.value.why
    assert "model.onnx: its content changed" in caught.value.why
    assert "notes.txt: the manifest does not list it." in caught.value.why


def test_a_file_of_another_length_is_named_with_both_sizes(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    (out / "report.html").write_bytes(b"")
    check = verify(out).failed[0]
    assert check.name == "report.html"
    assert check.text.startswith("it has 0 bytes, the manifest says ")


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_links_and_devices_are_no_part_of_a_bundle(parts, tmp_path, kind):
    out = pack(tmp_path / "b", **parts)
    if kind == "file":
        (out / "model.onnx").rename(tmp_path / "elsewhere.onnx")
        (out / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    elif kind == "folder":
        (out / "more").symlink_to(tmp_path)
    else:
        os.mkfifo(out / "pipe")
    result = verify(out)
    assert [check.text for check in result.failed] == ["it is a link or a device; a bundle holds plain files."]


@pytest.mark.parametrize("name", ["b", "b.edgemm"])
def test_a_signed_bundle_verifies_with_its_key_and_not_with_another(parts, tmp_path, keys, name):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    out = pack(tmp_path / name, **parts, sign=keys[0])
    assert verify(out, key=keys[1]).ok
    other = tmp_path / "other.pub"
    other.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    result = verify(out, key=other)
    assert names_of(result) == "manifest.sig"
    assert "not by the key given" in result.failed[0].text


def test_without_a_key_a_signature_says_only_that_it_is_whole(parts, tmp_path, keys):
    result = verify(pack(tmp_path / "b", **parts, sign=keys[0]))
    assert result.ok
    assert any("give --key to find out whether that is who you trust" in check.text for check in result.checks)


def test_a_resealed_bundle_does_not_pass_with_the_key(parts, tmp_path, keys):
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["accuracy"] = {"event": {"accuracy": 1.0}}
    raw = json.dumps(manifest).encode()
    (out / "manifest.json").write_bytes(raw)
    (out / "manifest.sha256").write_bytes(seal.hash_line(raw))
    result = verify(out, key=keys[1])
    assert names_of(result) == "manifest.sig"
    assert "it is not the signature of this manifest.sha256." in result.failed[0].text


def test_a_lost_signature_and_an_unsigned_bundle_are_told(parts, tmp_path, keys):
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    (out / "manifest.sig").unlink()
    assert verify(out).failed[0].text == "it is missing, and the manifest names a signer."
    plain = pack(tmp_path / "plain", **parts)
    assert verify(plain, key=keys[1]).failed[0].text == "the bundle is not signed, so nothing can be said with --key."
    (plain / "manifest.sig").write_bytes(b"x" * 64)
    assert names_of(verify(plain)) == "manifest.sig"


def test_the_signature_is_one_that_openssl_checks(parts, tmp_path, keys):
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", out / "manifest.sha256"]
    done = subprocess.run([*command, "-sigfile", out / "manifest.sig"], capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout


def test_a_file_that_is_no_key_is_an_error_that_says_how_to_make_one(parts, tmp_path, keys):
    with pytest.raises(BundleError, match=r"is not a private ed25519 key in PEM form.\n(.|\n)*openssl genpkey"):
        pack(tmp_path / "b", **parts, sign=keys[1])
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    with pytest.raises(BundleError, match="is not a public ed25519 key in PEM form"):
        verify(out, key=keys[0])
    with pytest.raises(BundleError, match="No such file"):
        verify(out, key=tmp_path / "absent.pub")


def test_a_signed_bundle_without_the_package_cryptography_is_an_error_not_a_pass(parts, tmp_path, keys, monkeypatch):
    out = pack(tmp_path / "b", **parts, sign=keys[0])
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [name for name in sys.modules if name.startswith("cryptography.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"needs the package 'cryptography'.\n(.|\n)*pip install 'edgemm\[sign\]'"):
        verify(out)


def test_a_model_that_computes_something_else_fails_on_its_golden_samples(parts, tmp_path):
    parts["files"] = {**parts["files"], MODEL: linear_model(np.ones((12, 3), np.float32))}
    result = verify(pack(tmp_path / "b", **parts))
    assert names_of(result) == MODEL
    assert "'event' is off by" in result.failed[0].text
    assert verify(tmp_path / "b", run=False).ok


def test_a_model_the_runtime_refuses_fails_with_its_words(parts, tmp_path):
    parts["files"] = {**parts["files"], MODEL: b"no onnx"}
    result = verify(pack(tmp_path / "b", **parts))
    assert names_of(result) == MODEL
    assert "golden samples cannot run here" in result.failed[0].text


def test_a_target_without_its_runtime_is_not_checked_and_says_so(parts, tmp_path, monkeypatch):
    out = pack(tmp_path / "b", **parts)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "edgemm.box.targets.onnxruntime", raising=False)
    result = verify(out)
    assert result.ok
    assert result.checks[-1].ok is None
    assert "pip install 'edgemm[onnxruntime]'" in result.checks[-1].text


def test_a_target_this_edgemm_does_not_know_is_not_checked_and_says_so(parts, tmp_path):
    outputs = parts["golden"].outputs["onnxruntime"]
    parts["files"] = {**parts["files"], "targets/abacus/model.onnx": b"beads"}
    parts["golden"] = Golden(parts["golden"].inputs, {"abacus": outputs}, {"abacus": {"event": 1.0}})
    texts = [check.text for check in verify(pack(tmp_path / "b", **parts)).checks if check.ok is None]
    assert sorted(texts) == [
        "golden samples not run: golden.npz holds no outputs for it.",
        "golden samples not run: this edgemm has no such target.",
    ]


def test_verifying_ten_megabytes_takes_under_three_seconds(parts, tmp_path):
    parts["files"] = {**parts["files"], "model.onnx.data": np.random.default_rng(0).bytes(10 << 20)}
    out = pack(tmp_path / "b.edgemm", **parts)
    begin = time.process_time()
    assert verify(out).ok
    assert time.process_time() - begin < 3


def test_tuned_options_apply_only_on_the_machine_they_were_tuned_on(parts, tmp_path):
    here = fingerprint(plugins.load(Target, "onnxruntime"))
    stored = TargetOptions({}, {"optimize": "all"}, {"threads": 7}, here)
    opened = open_bundle(pack(tmp_path / "b", **{**parts, "options": {"onnxruntime": stored}}))
    assert opened.options_for("onnxruntime", here) == ({"optimize": "all", "threads": 7}, "")
    options, reason = opened.options_for("onnxruntime", {**here, "cores": 64})
    assert options == {"optimize": "all"}
    assert reason == "it was tuned on a machine that differs in cores; `edgemm compile` tunes here."


def test_a_target_opens_with_what_the_recipe_gave_it(parts, tmp_path):
    opened = open_bundle(pack(tmp_path / "b", **{**parts, "options": {"onnxruntime": TargetOptions({"threads": 2}, {}, {}, machine())}}))
    assert opened.options_for("onnxruntime", machine()) == ({}, "nothing was tuned for it.")
    assert opened.deployment("onnxruntime").plugin().choices() == [{"threads": 2}]


def test_an_unknown_target_names_the_bundles_own(parts, tmp_path):
    opened = open_bundle(pack(tmp_path / "b", **parts))
    with pytest.raises(BundleError, match=r"holds nothing for the target 'onnxruntme'.\n  fix: did you mean 'onnxruntime'"):
        opened.target_model("onnxruntme")


@pytest.mark.parametrize("count", [1, 2])
def test_tokenizers_travel_with_the_bundle(parts, tmp_path, count):
    (tmp_path / "words.json").write_text('{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "<unk>": 1}}}')
    texts = {f"text{n}": {"modality": "text", "tokenizer": "words.json", "length": 4} for n in range(count)}
    plain = {"model": "model.onnx", "inputs": texts, "outputs": {"event": {"task": "regression"}}}
    card = cards.parse(plain, path=tmp_path / "model.yaml")
    opened = open_bundle(pack(tmp_path / "b", **{**parts, "card": card}))
    names = ["tokenizer.json"] if count == 1 else ["text0.tokenizer.json", "text1.tokenizer.json"]
    assert [spec.options["tokenizer"] for spec in opened.card.inputs.values()] == names
    assert all((opened.folder / name).read_bytes() == (tmp_path / "words.json").read_bytes() for name in names)
    assert verify(tmp_path / "b", run=False).ok


def test_a_missing_tokenizer_names_the_input(parts, tmp_path):
    plain = {"model": "m.onnx", "inputs": {"text": {"modality": "text", "tokenizer": "absent.json", "length": 4}}}
    card = cards.parse({**plain, "outputs": {"event": {"task": "regression"}}}, path=tmp_path / "model.yaml")
    with pytest.raises(CardError, match=r"inputs.text: cannot read the tokenizer 'absent.json'"):
        pack(tmp_path / "b", **{**parts, "card": card})


def test_packing_again_replaces_the_older_bundle(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    pack(out, **{**parts, "reference": None})
    assert not (out / "reference.npz").exists()
    assert verify(out).ok
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("name", ["b", "b.edgemm"])
def test_packing_killed_at_any_moment_leaves_the_older_bundle_and_the_next_run_tidies_up(parts, tmp_path, name):
    out = pack(tmp_path / name, **parts)
    parts["files"] = {**parts["files"], "model.onnx.data": b"\0" * (32 << 20)}
    (tmp_path / "parts").write_bytes(pickle.dumps(parts))
    script = "import pickle, sys; from edgemm.box.bundle.packing import Path, pack; parts = pickle.load(open(sys.argv[2], 'rb')); "
    script += "print('packing', flush=True); pack(Path(sys.argv[1]), **parts)"
    for delay_s in (0.0, 0.03, 0.1):
        child = subprocess.Popen([sys.executable, "-c", script, out, tmp_path / "parts"], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"packing\n"
        time.sleep(delay_s)
        child.kill()
        child.communicate()
        assert verify(out, run=False).ok
    pack(out, **parts)
    assert verify(out, run=False).ok
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_no_bundle_is_never_replaced(parts, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("all my work")
    with pytest.raises(OutputError, match=r"cannot write a bundle to .*precious.\n  why: the folder is not empty and is no bundle."):
        pack(tmp_path / "precious", **parts)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "all my work"


def test_a_bundle_with_files_of_the_users_is_not_replaced(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"the bundle there holds files that it does not list: notes.txt."):
        check_place(out)


def test_other_things_in_the_way_are_told(parts, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "text.edgemm").write_text("text")
    (tmp_path / "folder.edgemm").mkdir()
    (tmp_path / "empty").mkdir()
    found = {
        "file": "a file stands there.",
        "text.edgemm": "a file that is no bundle stands there.",
        "folder.edgemm": "a folder stands there.",
    }
    for name, why in found.items():
        with pytest.raises(OutputError, match=why):
            check_place(tmp_path / name)
    check_place(tmp_path / "empty")
    check_place(tmp_path / "new" / "deep")


@pytest.mark.parametrize("name", ["../up", "/root", "a/../b", "a\\b", "c:x", "", "manifest.json", "a//b", "line\nbreak"])
def test_unsafe_names_are_refused(parts, tmp_path, name):
    with pytest.raises(BundleError, match="a file of a bundle cannot be called"):
        pack(tmp_path / "b", **{**parts, "files": {**parts["files"], name: b"x"}})
    assert not (tmp_path / "b").exists()


def test_a_bundle_without_the_float_model_is_refused(parts, tmp_path):
    with pytest.raises(BundleError, match=r"a bundle needs 'model.onnx', the float model"):
        pack(tmp_path / "b", **{**parts, "files": {MODEL: b"x"}})


def test_a_float_model_that_is_no_onnx_file_is_refused(parts, tmp_path):
    with pytest.raises(TargetError, match=r"cannot read the model 'model.onnx'"):
        pack(tmp_path / "b", **{**parts, "files": {"model.onnx": b"hello"}})


def evil(path, *, name="model.onnx", compress=zipfile.ZIP_STORED, link=False, twice=False):
    with zipfile.ZipFile(path, "w", compress) as file:
        info = zipfile.ZipInfo(name)
        info.compress_type = compress
        info.external_attr = (0o120777 if link else 0o100644) << 16
        for _ in range(2 if twice else 1):
            file.writestr(info, "/etc/passwd" if link else b"\0" * 10_000_000)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "../../up"}, "its name leads out of the archive"),
        ({"name": "/etc/cron.d/x"}, "its name leads out of the archive"),
        ({"compress": zipfile.ZIP_DEFLATED}, "it is compressed; here members are only stored"),
        ({"link": True}, "its header is not the one edgemm writes"),
        ({"twice": True}, "its header is not the one edgemm writes"),
    ],
)
def test_hostile_zips_are_refused_before_anything_is_written(tmp_path, empty_cache, options, words):
    evil(tmp_path / "x.edgemm", **options)
    with pytest.raises(BundleError, match=words):
        open_bundle(tmp_path / "x.edgemm")
    assert words in verify(tmp_path / "x.edgemm").failed[0].text
    assert not empty_cache.exists()
    assert not (tmp_path.parent / "up").exists()


@pytest.mark.parametrize(("before", "after"), [(b"", b"x"), (b"", b"PK\5\6" + b"\0" * 18)])
def test_bytes_around_a_zip_are_refused(parts, tmp_path, before, after):
    out = pack(tmp_path / "b.edgemm", **parts)
    out.write_bytes(before + out.read_bytes() + after)
    assert verify(out).failed[0].name == "b.edgemm"
    assert "the archive's end is not the one edgemm writes" in verify(out).failed[0].text


def test_a_zip_with_one_changed_byte_is_refused_when_it_is_opened(parts, tmp_path, empty_cache):
    out = pack(tmp_path / "b.edgemm", **parts)
    content = out.read_bytes()
    flip(out, content.index(parts["files"]["model.onnx"]) + 40)
    with pytest.raises(BundleError, match=r"fails verification: model.onnx.\n  why: model.onnx: its content does not have the CRC"):
        open_bundle(out)
    assert not list((empty_cache / "bundles").glob("*"))


def test_a_zip_cut_short_is_refused(parts, tmp_path, empty_cache):
    out = pack(tmp_path / "b.edgemm", **parts)
    whole = out.read_bytes()
    for size in (3, 40, 1000, len(whole) - 1):
        out.write_bytes(whole[:size])
        assert not verify(out).ok
        with pytest.raises(BundleError, match="fails verification"):
            open_bundle(out)


def test_a_zip_is_unpacked_once_and_again_when_the_cache_was_damaged(parts, tmp_path, empty_cache):
    out = pack(tmp_path / "b.edgemm", **parts)
    first = open_bundle(out).folder
    stamp = first.stat().st_ino
    assert open_bundle(out).folder.stat().st_ino == stamp
    (first / "golden.npz").unlink()
    assert open_bundle(out).golden() is not None


def test_opening_names_missing_files(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    (out / "model.onnx").unlink()
    (out / "report.html").write_text("")
    with pytest.raises(BundleError, match=r"fails verification: model.onnx, report.html"):
        open_bundle(out)


@pytest.mark.parametrize("open_it", [open_bundle, verify])
def test_what_is_no_bundle_says_so(tmp_path, open_it):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, words in (
        ("folder", "there is no manifest.json in it"),
        ("text", "it is neither a folder nor a zip"),
        ("absent", "No such file"),
    ):
        with pytest.raises(BundleError, match=words):
            open_it(tmp_path / name)


def reseal(out, manifest):
    raw = json.dumps(manifest).encode()
    (out / "manifest.json").write_bytes(raw)
    (out / "manifest.sha256").write_bytes(seal.hash_line(raw))


def test_a_bundle_of_a_newer_format_says_so(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    reseal(out, {**json.loads((out / "manifest.json").read_text()), "format": 2})
    with pytest.raises(BundleError, match=r"is a bundle of format 2.\n  why: this edgemm reads format 1."):
        open_bundle(out)


@pytest.mark.parametrize("change", [{"inputs": 3}, {"inputs": {"x": {"card": {"modality": "smell"}}}}])
def test_a_manifest_that_describes_no_model_says_so(parts, tmp_path, change):
    out = pack(tmp_path / "b", **parts)
    reseal(out, {**json.loads((out / "manifest.json").read_text()), **change})
    with pytest.raises(BundleError, match=r"manifest.json does not describe a model"):
        open_bundle(out)


def test_a_manifest_with_odd_entries_says_so(parts, tmp_path):
    out = pack(tmp_path / "b", **parts)
    reseal(out, {"format": 1, "files": {"model.onnx": "abc"}})
    with pytest.raises(BundleError, match=r"manifest.json is not one of edgemm's"):
        open_bundle(out)
    assert names_of(verify(out)) == "manifest.json"


def test_arrays_are_never_unpickled(parts, tmp_path):
    parts["files"] = {**parts["files"]}
    out = pack(tmp_path / "b", **parts)
    np.savez(out / "golden.npz", **{"inputs/picture": np.array([{"a": 1}], dtype=object)})
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = seal.entry([(out / "golden.npz").read_bytes()])
    reseal(out, manifest)
    with pytest.raises(BundleError, match=r"golden.npz cannot be read.\n  why: Object arrays cannot be loaded"):
        open_bundle(out).golden()


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        (None, "No data left in file"),
        ({"outputs/x/y": np.ones((2, 1))}, "it holds no input"),
        ({"tolerance/x/y": np.ones(2), "inputs/x": np.ones((2, 1))}, "only"),
        ({"inputs/x": np.ones((2, 1)), "outputs/x/y": np.ones((3, 1))}, "its arrays hold 2 and 3 samples"),
    ],
)
def test_golden_samples_that_are_none_are_told_though_the_seal_fits(parts, tmp_path, arrays, why):
    out = pack(tmp_path / "b", **parts)
    content = b"" if arrays is None else stored_zip.npz_bytes(arrays)
    (out / "golden.npz").write_bytes(content)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = seal.entry([content])
    reseal(out, manifest)
    for look in (lambda: open_bundle(out).golden(), lambda: verify(out)):
        with pytest.raises(BundleError, match=rf"golden.npz cannot be read.\n  why: {why}"):
            look()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"safe": 3}, "options.json cannot be read.\n  why: 'safe' is no mapping"),
        ({"tune": {}}, "options.json cannot be read.\n  why: .*'tune'"),
        ({"target": {"thread": 1}}, "options.json: target: unknown key 'thread'"),
        ({"target": {"threads": "two"}}, "options.json: target.threads: 'two' is not a whole number"),
    ],
)
def test_options_of_a_target_that_are_none_are_told_though_the_seal_fits(parts, tmp_path, change, words):
    out = pack(tmp_path / "b", **parts)
    path = out / "targets/onnxruntime/options.json"
    content = json.dumps({**json.loads(path.read_bytes()), **change}).encode()
    path.write_bytes(content)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["targets/onnxruntime/options.json"] = seal.entry([content])
    reseal(out, manifest)
    with pytest.raises(BundleError, match=words):
        open_bundle(out).target_options("onnxruntime")


def test_parts_that_do_not_fit_together_are_told(parts, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(parts["files"]["model.onnx"])
    opened = Parts(SplitFiles({"picture": path}, path, {"picture": ["cut"], "sound": ["heard"]}), plugins.load(Target, "onnxruntime").open)
    for call in (
        lambda: opened.embed("picture", {"photo": np.zeros((1, 2, 2, 3), np.uint8)}),
        lambda: opened.embed("sound", {}),
        lambda: opened.answer({}, {}, {}),
    ):
        with pytest.raises(BundleError, match=r"split graphs of this bundle do not fit together\.\n  why: a part reads '(picture|heard)'"):
            call()


def test_npz_bytes_are_the_same_on_every_run_and_read_by_numpy():
    arrays = {"b/c": np.arange(6).reshape(2, 3).T, "a": np.float64(2.5), "words": np.array(["x", "yy"])}
    content = stored_zip.npz_bytes(arrays)
    assert content == stored_zip.npz_bytes(dict(reversed(arrays.items())))
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)


def test_a_tolerance_grows_with_the_scale_and_the_precisions_that_ran():
    outputs = {"level": np.array([10.0, -20.0], np.float32), "label": np.array([3], np.int64)}
    f32 = golden.tolerance(outputs, outputs, "f32")
    mixed = golden.tolerance(outputs, outputs, "int8+bf16")
    assert f32 == {"level": pytest.approx(0.02), "label": 0.0}
    assert mixed["level"] == pytest.approx(20 * (2 / 127 + 2e-2))


def test_a_tolerance_covers_the_options_a_machine_may_fall_back_to():
    outputs = {"level": np.array([1.0])}
    assert golden.tolerance(outputs, outputs, "f32", others=[{"level": np.array([1.1])}])["level"] == pytest.approx(0.2)


def test_scores_beside_pixels_are_held_at_a_scale_of_their_own():
    found = {"task": "detection", "labels": ["a"], "frame": "picture"}
    inputs = {"picture": {"modality": "image", "height": 64, "width": 64}}
    card = cards.parse({"factory": "own:build", "inputs": inputs, "outputs": {"found": found}})
    outputs = {"found": np.full((3, 1, 5, 8), 40.0, np.float32)}  # calls, rows, cx cy w h and a score, places
    outputs["found"][:, :, 4] = 0.5
    allowed = golden.tolerance(outputs, outputs, "int8", card=card)
    other = {"found": outputs["found"] - np.array([0, 0, 0, 0, 0.4], np.float32)[:, None]}
    off = golden.compare(other, outputs, allowed, card=card)
    assert {name for name, (gap, most) in off.items() if gap > most} == {"found scores"}
    assert allowed["found"] > 0.4 > allowed["found scores"]


@pytest.mark.parametrize(
    ("left", "right", "gap"),
    [
        ([1.0, np.inf], [1.5, np.inf], 0.5), ([np.nan], [np.nan], 0.0), ([np.nan], [1.0], np.inf), ([np.inf], [-np.inf], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
    ],
)  # fmt: skip
def test_what_is_not_a_number_is_never_near(left, right, gap):
    assert golden.difference(np.array(left), np.array(right)) == gap


def test_a_missing_output_is_infinitely_far():
    assert golden.compare({}, {"event": np.zeros(2)}, {"event": 1.0}) == {"event": (float("inf"), 1.0)}


def test_onnx_files_with_weights_outside_travel_whole(parts, tmp_path):
    model = onnx.load_from_string(parts["files"]["model.onnx"])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=100)
    files = {"model.onnx": tmp_path / "model.onnx", "model.onnx.data": tmp_path / "model.onnx.data"}
    for name in ("model.onnx", "model.onnx.data"):
        files[f"targets/onnxruntime/{name}"] = tmp_path / name
    result = verify(pack(tmp_path / "b.edgemm", **{**parts, "files": files}))
    assert result.ok
    assert result.checks[-1].text.startswith("4 golden samples")
