"""TensorRT without a GPU: names of every generation, profiles, advice, the engine cache, what stands in, what is refused."""

import ast
import enum
import json
import types
from pathlib import Path

import numpy as np
import pytest

import edgemm.box.targets
from edgemm.box.targets._tensorrt import advice, cuda
from edgemm.box.targets._tensorrt import api as names
from edgemm.box.targets._tensorrt import cache as engines
from edgemm.box.targets._tensorrt.build import BuildSettings, shapes
from edgemm.box.targets._tensorrt.session import DTYPES, described
from edgemm.box.targets.tensorrt import TensorRT
from edgemm.contracts import plugins
from edgemm.contracts.specs import TensorSpec
from edgemm.contracts.target import Target, fingerprint
from edgemm.errors import MissingExtra, QuantizeError, TargetError

TABLES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
"""Read from the real bindings of four versions by ``_record_tensorrt_names.py``."""
FILES = Path(edgemm.box.targets.__file__).parent
CALLED_ON = {
    "builder": "Builder", "config": "IBuilderConfig", "parser": "OnnxParser", "first": "ParserError", "error": "ParserError",
    "optimization": "IOptimizationProfile", "_engine": "ICudaEngine", "_context": "IExecutionContext", "inspector": "EngineInspector",
    "_runtime": "Runtime",
}  # fmt: skip
RTX_ONLY = {"num_compute_capabilities", "set_compute_capability"}

without_gpu = pytest.mark.skipif(not TensorRT().cannot_run(), reason="shows what a machine without a GPU does")


@pytest.fixture
def tensorrt() -> TensorRT:
    return plugins.load(Target, "tensorrt")


def module_of(version: str) -> types.SimpleNamespace:
    """The enums of a TensorRT, with its own members and numbers."""
    return types.SimpleNamespace(
        __version__=version.partition("==")[2],
        __name__="tensorrt",
        **{name: enum.IntEnum(name, members) for name, members in TABLES[version]["enums"].items()},
    )


def test_the_tables_hold_both_generations():
    generations = {names.of_module(module_of(version)).generation for version in TABLES}
    assert generations == {10, 11}


@pytest.mark.parametrize("version", TABLES)
def test_the_flag_of_a_strongly_typed_network_is_found_by_name(version):
    module = module_of(version)
    expected = 0b10 if names.of_module(module).generation == 10 else 0  # bit 1 in TensorRT 10; 11 makes no other network
    assert names.network_flags(module) == expected


@pytest.mark.parametrize("version", TABLES)
def test_every_name_that_is_called_is_there(version):
    module = module_of(version)
    assert TABLES[version]["classes"] == {name: list(methods) for name, methods in names.NEEDS.items()}
    assert {"WORKSPACE"} <= set(module.MemoryPoolType.__members__)
    assert {"DETAILED"} <= set(module.ProfilingVerbosity.__members__)
    assert {"INPUT", "OUTPUT"} <= set(module.TensorIOMode.__members__)
    assert {"JSON"} <= set(module.LayerInformationFormat.__members__)
    assert set(DTYPES) <= set(module.DataType.__members__)


def test_the_list_of_names_that_are_called_is_complete():
    used = set()
    for file in ("_tensorrt/build.py", "_tensorrt/session.py"):
        for node in ast.walk(ast.parse((FILES / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner in CALLED_ON:
                    used.add((CALLED_ON[owner], node.attr))
    assert {owner for owner, _ in used} >= {"Builder", "IBuilderConfig", "OnnxParser", "ICudaEngine", "IExecutionContext"}
    assert [entry for entry in sorted(used) if entry[1] not in names.NEEDS[entry[0]] and entry[1] not in RTX_ONLY] == []


def test_what_is_installed_here_has_the_names_too():
    trt = pytest.importorskip("tensorrt_rtx")
    assert {(c, m) for c, methods in names.NEEDS.items() for m in methods if not hasattr(getattr(trt, c), m)} == set()
    api = names.of_module(trt)
    assert (api.distribution, api.generation) == ("tensorrt-rtx", 11)


@pytest.mark.parametrize(
    ("axes", "profile", "found"),
    [
        (("batch", 3), {}, [(1, 3), (1, 3), (1, 3)]),
        (("batch", 3), {"batch": [1, 2, 8]}, [(1, 3), (2, 3), (8, 3)]),
        (("batch", "length"), {"length": [1, 12, 16]}, [(1, 1), (1, 12), (1, 16)]),
    ],
)
def test_open_axes_get_their_profile_and_the_batch_is_one_without(axes, profile, found):
    assert shapes(TensorSpec("x", "float32", axes), profile) == found


@pytest.mark.parametrize(
    ("axes", "profile", "words"),
    [
        (("batch", "length"), {}, "input 'ids' .*has the open axis 'length', and no profile says its sizes"),
        (("batch", 3), {"batch": [8, 1, 1]}, r"profile.batch is \[8, 1, 1\]"),
        (("batch", 3), {"batch": [1, 8]}, r"profile.batch is \[1, 8\]"),
        (("batch", 3), {"batch": [0, 1, 8]}, r"profile.batch is \[0, 1, 8\]"),
    ],
)
def test_an_open_axis_without_sizes_is_an_error_that_says_what_to_write(axes, profile, words):
    with pytest.raises(TargetError, match=words) as caught:
        shapes(TensorSpec("ids", "int64", axes), profile)
    assert "profile" in caught.value.fix or "in order" in caught.value.fix


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[E] Error Code 2: OutOfMemory (Requested size was 4434428928 bytes.)", "workspace_mib to 256"),
        ("NvMapMemAllocInternalTagged: 1075072515 error 12", "L4T 36.4.7"),
        ("IBuilder::buildSerializedNetwork: Network has dynamic inputs, but no optimization profile has been defined.", "profile"),
        ("Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.", "tensorrt-int8"),
        ("No importer registered for op: Mystery. Attempting to import as plugin.", "export with opset 18"),
        ("Attention: fp32 is not supported by a dedicated kernel", "fp16 or fp32"),
        ("something nobody has seen", "ONNX Runtime takes the same file"),
    ],
)
def test_messages_are_turned_into_advice(said, words):
    assert words in advice.refused(Path("model.onnx"), [said]).fix


def test_skipped_kernels_are_a_remark_and_not_an_error():
    said = ["Tactic Device request: 4229MB Available: 2658MB. Device memory is insufficient to use tactic.", "fine"]
    assert "1 kernels were not tried: the largest wanted 4229 MB, 2658 MB were free" in advice.skipped(said)
    assert advice.skipped(["fine"]) == ""


def test_nodes_are_found_in_messages():
    assert advice.named("Invalid Node - node_Foo_3 [x]") == "node_Foo_3"
    assert advice.named("Could not find any implementation for node {ForeignNode[node_A...node_B]}.") == "node_A"
    assert advice.named("all is well") == ""


class Gpu:
    """A GPU as the cache sees one. (The rest of ``Cuda`` needs a real one.)"""

    def __init__(self, capability="8.7", name="Orin"):
        self._capability, self._name = capability, name

    def capability(self):
        return self._capability

    def name(self):
        return self._name


API = names.Api(None, "tensorrt", "10.3.0", 10)


def keyed(conv, *, api=API, gpu=None, settings=None, form="int8+f16"):
    return engines.key(api, gpu or Gpu(), conv, settings or BuildSettings(), form)


def test_an_engine_is_found_again_under_exactly_its_key(conv, empty_cache):
    key = keyed(conv)
    assert engines.find(key) == (None, "no engine was built for this model here yet.")
    engines.keep(key.place, key, b"kernels", {"seconds": 1})
    assert engines.find(keyed(conv)) == (b"kernels", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api": names.Api(None, "tensorrt", "10.16.2", 10)}, r"TensorRT \(tensorrt 10.3.0 to tensorrt 10.16.2\) changed"),
        ({"gpu": Gpu("8.6", "RTX 3060")}, r"compute capability \(8.7 to 8.6\) and the GPU \(Orin to RTX 3060\) changed"),
        ({"settings": BuildSettings({"batch": [1, 1, 8]})}, "profile or build settings changed"),
        ({"form": "f16"}, r"the precision \(int8\+f16 to f16\) changed"),
    ],
)
def test_a_rebuild_says_what_changed(conv, empty_cache, changes, words):
    key = keyed(conv)
    engines.keep(key.place, key, b"kernels", {})
    found, why = engines.find(keyed(conv, **changes))
    assert found is None
    assert __import__("re").search(words, why), why


def test_a_damaged_engine_is_not_loaded(conv, empty_cache):
    key = keyed(conv)
    engines.keep(key.place, key, b"kernels", {})
    (key.place / engines.PLAN).write_bytes(b"kernelz")
    assert engines.find(key) == (None, "the engine kept here is damaged.")
    (key.place / engines.RECORD).write_text("{}")
    assert engines.find(key) == (None, "the engine kept here has no readable record.")


def test_one_build_at_a_time(empty_cache):
    import threading

    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with engines.alone():
            order.append("second")

    with engines.alone():
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_engine_of_another_model_is_another_key(conv, words):
    assert keyed(conv).place.parent != keyed(words).place.parent


def test_an_engine_from_another_machine_is_never_taken(conv, tmp_path):
    key = keyed(conv)
    engines.write_plan(tmp_path, key, b"kernels", {"form": "int8+f16"})
    record = engines.record(tmp_path / engines.PLAN)
    here = engines.of_record(record, names.Api(None, "tensorrt", "10.7.0", 10), Gpu())
    assert engines.read(tmp_path, here)[1].startswith("it was built for something else: TensorRT (tensorrt 10.3.0 to tensorrt 10.7.0)")
    assert engines.read(tmp_path, engines.of_record(record, API, Gpu())) == (b"kernels", "")


def test_a_plan_built_ahead_is_taken_on_the_gpus_it_names_only(conv, tmp_path):
    rtx = names.Api(None, "tensorrt-rtx", "1.7.1", 11)
    key = engines.key(rtx, None, conv, BuildSettings(capabilities=("SM86", "SM120")), "f32")
    engines.write_plan(tmp_path, key, b"kernels", {"form": "f32"})
    record = engines.record(tmp_path / engines.PLAN)
    assert engines.read(tmp_path, engines.of_record(record, rtx, Gpu("8.6"))) == (b"kernels", "")
    assert "compute capability" in engines.read(tmp_path, engines.of_record(record, rtx, Gpu("8.9")))[1]
    other = names.Api(None, "tensorrt-rtx", "1.8.0", 11)
    assert "TensorRT" in engines.read(tmp_path, engines.of_record(record, other, Gpu("8.6")))[1]


def test_a_plan_that_says_nothing_about_itself_is_refused(tensorrt, tmp_path):
    (tmp_path / "model.plan").write_bytes(b"\0" * 64)
    with pytest.raises(TargetError, match=r"the engine 'model.plan' is not for this machine") as caught:
        tensorrt.open(tmp_path / "model.plan")
    assert "edgemm compile BUNDLE --target tensorrt" in caught.value.fix
    (tmp_path / "trtexec.engine").write_bytes(b"\0" * 64)
    with pytest.raises(TargetError, match=r"the engine 'trtexec.engine' is not for this machine"):
        tensorrt.open(tmp_path / "trtexec.engine")
    with pytest.raises(TargetError, match="there is no engine"):
        tensorrt.open(tmp_path / "absent.plan")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025\n", "36.4.4"),
        ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n", "39.2.0"),
        ("odd", "odd"),
    ],
)
def test_l4t_is_read_from_its_release_file(tmp_path, text, version):
    (tmp_path / "release").write_text(text)
    assert engines.l4t(tmp_path / "release") == version
    assert engines.l4t(tmp_path / "absent") == ""


def test_layers_are_read_from_the_engines_own_description():
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "conv1 + relu1",
                    "LayerType": "CaskConvolution",
                    "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
                    "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}],
                    "TacticName": "sm86_xmma_fprop",
                },
                {"Name": "norm", "LayerType": "Norm", "Inputs": [{"Format/Datatype": "Row major linear FP32"}], "Outputs": []},
                "a name only",
            ]
        }
    )
    layers = described(text, {"norm": 12.5})
    assert [(layer.name, layer.precision, layer.kernel) for layer in layers] == [
        ("conv1 + relu1", "int8", "sm86_xmma_fprop"),
        ("norm", "f32", ""),
    ]
    assert layers[1].time_us == 12.5
    assert described("no json", {}) == []


def test_a_small_boards_workspace_is_limited(monkeypatch):
    monkeypatch.setattr("edgemm.box.targets._tensorrt.build.memory_gib", lambda: 7.4)
    assert BuildSettings().workspace() == 512
    assert BuildSettings(workspace_mib=128).workspace() == 128
    assert BuildSettings(capabilities=("SM86",)).workspace() is None
    monkeypatch.setattr("edgemm.box.targets._tensorrt.build.memory_gib", lambda: 61.0)
    assert BuildSettings().workspace() is None


def test_memory_seen_as_an_array_is_that_memory():
    import ctypes

    block = (ctypes.c_float * 6)(*range(6))
    array = cuda.view(ctypes.addressof(block), (2, 3), np.dtype("float32"))
    array[1, 2] = 42
    assert block[5] == 42
    assert array.shape == (2, 3)


@without_gpu
def test_without_a_gpu_opening_and_compiling_say_why_and_what_to_do(tensorrt, conv, tmp_path):
    for attempt in (lambda: tensorrt.open(conv), lambda: tensorrt.compile(conv, tmp_path)):
        with pytest.raises((TargetError, MissingExtra), match=r"tensorrt cannot run 'model.onnx' here") as caught:
            attempt()
        assert caught.value.why == tensorrt.cannot_run()
        assert "GPU" in caught.value.why or "not installed" in caught.value.why


@without_gpu
def test_without_a_gpu_the_only_choice_is_a_stand_in_for_accuracy(tensorrt):
    assert tensorrt.choices() == [{"precision": "f16", "int8": "on", "stand_in": "onnxruntime"}]
    assert tensorrt.choices(forbid=frozenset({"fp16"}))[0]["precision"] == "f32"
    with pytest.raises(TargetError, match="precision 'f16' is asked for, and a branch forbids it"):
        TensorRT(precision="f16").choices(forbid=frozenset({"fp16"}))


@without_gpu
def test_a_fallback_runs_only_where_it_was_allowed_and_says_so(conv, capsys):
    x = np.random.default_rng(0).normal(size=(2, 16, 12, 12)).astype(np.float32)
    with TensorRT(fallback="onnxruntime").open(conv) as session, plugins.load(Target, "onnxruntime").open(conv) as reference:
        np.testing.assert_allclose(session.run({"x": x})["y"], reference.run({"x": x})["y"], rtol=1e-5)
        assert session.precision() == "f32"
    said = capsys.readouterr().err
    assert "tensorrt cannot run 'model.onnx'" in said
    assert "ONNX Runtime runs it instead" in said


def test_a_stand_in_computes_the_form_that_would_be_built(tensorrt, conv, empty_cache):
    x = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)
    with plugins.load(Target, "onnxruntime").open(conv) as session:
        expected = session.run({"x": x})["y"]
    for precision, tolerance in (("f32", 1e-5), ("f16", 0.02)):
        with tensorrt.open(conv, precision=precision, stand_in="onnxruntime") as session:
            answer = session.run({"x": x})["y"]
            assert session.precision() == precision
        assert np.abs(answer - expected).max() <= tolerance * np.abs(expected).max()
    assert np.abs(answer - expected).max() > 0, "half is not float"


def test_a_quantized_graph_brings_its_half_form_along_and_a_float_one_nothing(tensorrt, quantized, conv, tmp_path, empty_cache):
    made = tensorrt.companions(quantized, tmp_path)
    assert [path.name for path in made] == ["model.int8-f16.onnx"]
    assert tensorrt.companions(conv, tmp_path) == []


def test_a_box_without_the_onnx_package_takes_the_form_that_was_brought_along(quantized, tmp_path, empty_cache, monkeypatch):
    import shutil

    from edgemm.box.targets._tensorrt import forms as module

    shutil.copy(quantized, tmp_path / "model.onnx")
    TensorRT().companions(tmp_path / "model.onnx", tmp_path)
    monkeypatch.setattr(module, "has_onnx", lambda: False)
    found, form = module.form_of(tmp_path / "model.onnx", {"precision": "f16"})
    assert (found.name, form) == ("model.int8-f16.onnx", "int8+f16")
    assert module.form_of(tmp_path / "model.onnx", {})[0] == tmp_path / "model.onnx"
    with pytest.raises(MissingExtra, match="in f16 must be made from the graph, and the package 'onnx' is not installed"):
        module.form_of(tmp_path / "model.onnx", {"precision": "f16", "int8": "off"})


def test_in_a_bundle_the_form_without_int8_is_made_of_its_float_graph(conv, quantized, tmp_path, empty_cache):
    import shutil

    from edgemm.box.targets._tensorrt.forms import form_of

    inside = tmp_path / "targets" / "tensorrt" / "model.onnx"
    inside.parent.mkdir(parents=True)
    shutil.copy(quantized, inside)
    x = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)

    def answer() -> np.ndarray:
        graph, form = form_of(inside, {"precision": "f32", "int8": "off"})
        assert form == "f32"
        with plugins.load(Target, "onnxruntime").open(graph) as session:
            return session.run({"x": x})["y"]

    assert answer().shape == (1, 32), "no float graph beside it: its own, without quantizers"
    shutil.copy(conv, tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)
    assert answer().shape == (1, 10)


def test_quantizers_from_elsewhere_are_refused_before_anything_is_built(tensorrt, foreign, quantized, tmp_path, empty_cache):
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(QuantizeError, match=r"node 'x_q' .*has the zero point 3"):
        tensorrt.ahead(foreign, tmp_path, ["SM86"])
    with pytest.raises(QuantizeError, match="is uint8 with zero point 0"):
        tensorrt.ahead(quantized, tmp_path, ["SM86"])


def test_an_unknown_runtime_option_is_refused(tensorrt, conv):
    with pytest.raises(TargetError, match="tensorrt has no runtime option 'precison'"):
        tensorrt.open(conv, precison="f16")


def test_its_fingerprint_says_which_tensorrt_is_here(tensorrt):
    pytest.importorskip("tensorrt_rtx")
    assert fingerprint(tensorrt)["tensorrt-rtx" if names.installed().is_rtx else "tensorrt"] == names.installed().version


def test_where_it_runs_four_forms_are_timed_the_safe_one_first(monkeypatch):
    monkeypatch.setattr(TensorRT, "cannot_run", lambda self: "")
    choices = TensorRT().choices()
    assert choices[0] == {"precision": "f16", "int8": "on"}
    assert {(choice["precision"], choice["int8"]) for choice in choices} == {(p, i) for p in ("f16", "f32") for i in ("on", "off")}
    assert TensorRT(precision="f32", int8="on").choices() == [{"precision": "f32", "int8": "on"}]
