"""Every fusion x every step x export, OpenVINO and ONNX Runtime, with real training: what a runtime answers is what torch answers.

Every CI run takes every fusion once and every step several times; the whole product is `make test-full`, and
`benchmarks/steps_matrix.py` counts it.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.target import Target
from edgemm.data import dataset as datasets

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("nncf")
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402  (all of them may be absent)

from edgemm.contracts.step import Context  # noqa: E402
from edgemm.workshop.models.checkpoint.loading import load_model, save_model  # noqa: E402
from edgemm.workshop.models.fused import FusedModel  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.quantized import QuantizedModel  # noqa: E402
from edgemm.workshop.training.loop import train_model  # noqa: E402
from edgemm.workshop.training.options import TrainOptions  # noqa: E402
from tests.flow.cells import MATRIX, decibels, make, rows  # noqa: E402

STEPS = {
    "prune": {"ratio": 0.5, "round_to": 4, "recovery_epochs": 1},
    "distill": {"epochs": 2, "batch_size": 16, "learning_rate": 0.003},
    "qat": {"epochs": 1, "batch_size": 16, "calibration_samples": 48},
    "quantize": {"calibration_samples": 48},
}
IN_CI = {
    "camera and microphone, scalar gate": "prune",
    "picture and words side by side": "distill",
    "picture, words and motion, weighted": "qat",
    "two towers": "prune",
    "Hugging Face backbones that look at each other": "prune",
    "sound and readings as a graph": "prune",
    "picture times words": "quantize",
    "sound as a picture, and motion, mapped": "distill",
    "changes over four steps": "qat",
    "vector gate": "quantize",
}
CELLS = [
    pytest.param(name, step, id=f"{name} x {step}", marks=() if IN_CI[name] == step else pytest.mark.slow)
    for name in MATRIX
    for step in STEPS
]
RUNTIMES = ("openvino", "onnxruntime")
OF_TOWERS = {"merge", "shorten"}  # tests/workshop/steps: no fusion of the matrix has a tower
CARDS = ["SM86", "SM120"]
BUILT_DB = 12.0  # pairs stand elsewhere than training put them: 19 dB found after `qat`; a wrong graph leaves none
IN_CI_BUILT = {("camera and microphone, scalar gate", "prune"), ("picture, words and motion, weighted", "qat")}
BUILT = [
    pytest.param(name, step, id=f"{name} x {step}", marks=() if (name, step) in IN_CI_BUILT else pytest.mark.slow)
    for name in MATRIX
    for step in ("prune", "qat")
]
"""What ``test_tensorrt_build.py`` does not build: it takes every combination in float and quantized after training."""
FEWEST_DB = {"prune": 60.0, "distill": 60.0, "qat": 25.0, "quantize": 20.0}  # float: rounding alone; INT8: 10 below what was found


def test_every_combination_and_every_step_is_in_ci():
    assert list(IN_CI) == list(MATRIX)
    assert set(IN_CI.values()) == set(STEPS) == set(plugins.names("steps")) - OF_TOWERS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """``trained(name)``: the model of a row after two epochs on a dataset of its own, and that; made once."""

    @functools.cache
    def once(name: str) -> tuple[FusedModel, datasets.Dataset]:
        model, folder = make(name), tmp_path_factory.mktemp("rows")
        for seed, (split, count) in enumerate({"train": 64, "val": 24, "test": 8}.items()):
            np.savez(folder / f"{split}.npz", **rows(model.card, count, seed))
        dataset = datasets.open_dataset(folder, model.card)
        train_model(model, dataset, options=TrainOptions(epochs=2, batch_size=16, learning_rate=0.003))
        return model.eval(), dataset

    return once


@pytest.mark.parametrize(("name", "step"), CELLS)
def test_a_step_on_a_combination_answers_alike_in_torch_and_in_both_runtimes(name, step, trained, tmp_path, record_property):
    model, dataset = trained(name)
    made = after(step, name, model, dataset, tmp_path)
    graph = export_onnx(made, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(graph), full_check=True)
    feed = next(iter(dataset.batches("test", 8))).inputs
    with torch.no_grad():
        wanted = {key: value.numpy() for key, value in made({key: torch.from_numpy(value) for key, value in feed.items()}).items()}
    for runtime in RUNTIMES:
        found, precision = answers(runtime, quantized(runtime, graph, step, dataset, tmp_path), feed, tmp_path)
        assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
        worst = min(decibels(wanted, found).values())
        record_property(f"{runtime}_db", round(worst, 1))
        assert worst > FEWEST_DB[step], runtime
        record_property(f"{runtime}_precision", precision)
        assert (runtime, step) == ("onnxruntime", "qat") or ("int8" in precision) == (step in ("qat", "quantize")), runtime


@pytest.mark.parametrize(("name", "step"), BUILT)
def test_what_a_torch_step_leaves_is_quantized_for_tensorrt_and_builds(name, step, trained, tmp_path, empty_cache):
    pytest.importorskip("tensorrt_rtx")
    from edgemm.box.targets.tensorrt import TensorRT
    from edgemm.graph import checks

    model, dataset = trained(name)
    graph = export_onnx(after(step, name, model, dataset, tmp_path), tmp_path / "model.onnx")
    context = Context(model.card, dataset, tmp_path / "scratch", target="tensorrt", numerics=TensorRT.numerics)
    made = plugins.function("steps", "quantize")(onnx.load(graph), context, **STEPS["quantize"])
    assert checks.check(made, model.card) == []
    onnx.save(made, tmp_path / "tensorrt.onnx")
    for number, options in enumerate([{"precision": "f16"}, {"precision": "f32"}]):
        (tmp_path / str(number)).mkdir()
        built = TensorRT().ahead(tmp_path / "tensorrt.onnx", tmp_path / str(number), CARDS, **options)
        assert built.main.stat().st_size > 1000
    feed = next(iter(dataset.batches("test", 8))).inputs
    with plugins.load(Target, "onnxruntime").open(graph) as session:
        wanted = session.run(feed)
    with TensorRT().open(tmp_path / "tensorrt.onnx", precision="f16", stand_in="onnxruntime") as session:
        assert min(decibels(wanted, session.run(feed)).values()) > BUILT_DB


def after(step: str, name: str, model: FusedModel, dataset: datasets.Dataset, scratch: Path) -> FusedModel:
    """The model after a torch step, saved and loaded as a recipe does; as it is before a graph step."""
    if plugins.constant("steps", step, "STAGE") == "graph":
        return model
    numerics = plugins.load(Target, "openvino").numerics
    context = Context(model.card, dataset, scratch / "scratch", target="openvino", numerics=numerics, teacher=model)
    before = make(name) if step == "distill" else model  # a student that knows nothing yet
    made = plugins.function("steps", step)(before, context, **STEPS[step])
    changed = size(made) < size(before) if step == "prune" else not same(made, before)
    assert changed, f"{step} did nothing"
    return made if isinstance(made, QuantizedModel) else load_model(save_model(made, scratch / "saved"))


def size(model: FusedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same(one: FusedModel, other: FusedModel) -> bool:
    if isinstance(one, QuantizedModel):
        one = one.float_model
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def quantized(runtime: str, graph: Path, step: str, dataset: datasets.Dataset, scratch: Path) -> Path:
    """The graph after a graph step, in the runtime's numerics; as it is after a torch step."""
    if plugins.constant("steps", step, "STAGE") == "torch":
        return graph
    context = Context(dataset.card, dataset, scratch / "scratch", target=runtime, numerics=plugins.load(Target, runtime).numerics)
    onnx.save(plugins.function("steps", step)(onnx.load(graph), context, **STEPS[step]), scratch / f"{runtime}.onnx")
    return scratch / f"{runtime}.onnx"


def answers(runtime: str, graph: Path, feed: dict[str, np.ndarray], scratch: Path) -> tuple[dict[str, np.ndarray], str]:
    """What the runtime answers one row at a time, and the precision that ran.

    Of the signed integers that ``qat`` leaves, ONNX Runtime on x86 computes some layers in float; ``quantize`` makes them unsigned for it.
    """
    target, options = plugins.load(Target, runtime), {"precision": "f32", "threads": 1} if runtime == "openvino" else {"threads": 1}
    (scratch / runtime).mkdir()
    artifact = target.compile(graph, scratch / runtime, **options)
    with target.open(artifact.main, **options) as session:
        count = len(next(iter(feed.values())))
        single = [session.run({key: value[row : row + 1] for key, value in feed.items()}) for row in range(count)]
        return {key: np.concatenate([row[key] for row in single]) for key in single[0]}, session.precision()
