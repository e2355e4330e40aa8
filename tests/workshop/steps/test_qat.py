"""Quantization-aware training: every fusion, what comes out in three runtimes, what is left alone, what is refused."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.modality import modalities
from edgemm.contracts.step import Context
from edgemm.contracts.target import Target
from edgemm.data import dataset as data
from edgemm.errors import QuantizeError, TrainError
from edgemm.workshop.models.protocols import Fusion

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

import onnx  # noqa: E402  (all of them may be absent)
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from edgemm.graph.branches import find_branches  # noqa: E402
from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.fused import FusedModel  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from edgemm.workshop.models.quantized import QuantizedModel  # noqa: E402
from edgemm.workshop.models.torch_branches import find_parts  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from edgemm.workshop.quantizing import pt2e  # noqa: E402
from edgemm.workshop.steps.qat import qat  # noqa: E402
from edgemm.workshop.training.loop import Diverged  # noqa: E402

IMAGE = {"modality": "image", "height": 16, "width": 16, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
MOTION = {"modality": "sensor", "shape": [12, 4], "rate_hz": 50}
LABEL = {"label": {"task": "classification", "labels": ["a", "b", "c"]}}
BOTH = {"label": LABEL["label"], "level": {"task": "regression"}}
PAIR = {"image_vector": {"task": "embedding", "pair": "motion_vector"}, "motion_vector": {"task": "embedding"}}
CNN, GRU = {"cnn": {"channels": [8, 16], "width": 16, "dropout": 0.2}}, {"conv_gru": {"channels": [8], "hidden": 8, "width": 16}}
FUSIONS = {
    "average": ({}, {"image": {"depthwise_cnn": {"channels": [8, 16], "width": 16}}, "motion": GRU}, LABEL),
    "concat": ({"width": 16}, {"image": {"residual_cnn": {"channels": [8, 16], "width": 16}}, "motion": GRU}, BOTH),
    "cross_attention": ({"width": 16, "heads": 2}, {"image": CNN, "motion": GRU}, LABEL),
    "gated": ({"gate": "vector", "width": 16}, {"image": CNN, "motion": GRU}, LABEL),
    "graph": ({"width": 16}, {"image": CNN, "motion": {"mlp": {"hidden": [16], "width": 16}}}, LABEL),
    "mlp": ({"map_width": 16, "hidden": [16]}, {"image": CNN, "motion": {"tcn": {"channels": 8, "blocks": 1, "width": 16}}}, LABEL),
    "product": ({"width": 16}, {"image": CNN, "motion": {"lstm": {"hidden": 8, "width": 16}}}, LABEL),
    "towers": ({}, {"image": {"vit": {"embedding": 16, "width": 16, "heads": 2, "patch": 8}}, "motion": GRU}, PAIR),
    "weighted": ({}, {"image": CNN, "motion": GRU}, LABEL),
}


@functools.cache
def fused(fusion):
    """A tiny model of this fusion, in eval mode, its batch norms with statistics of their own."""
    options, encoders, outputs = FUSIONS[fusion]
    kwargs = {"encoders": encoders, "fusion": {fusion: options}}
    card = cards.parse({"factory": "models:digits", "kwargs": kwargs, "inputs": {"image": IMAGE, "motion": MOTION}, "outputs": outputs})
    torch.manual_seed(0)
    model = FusedModel(card, build(card)).train()
    with torch.no_grad():
        for seed in range(5):
            model(sample_inputs(card, batch=8, seed=seed))
    return model.eval()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """``dataset(card)``: 48 synthetic rows to train on and 16 to judge, labelled at random."""

    def made(card):
        folder = tmp_path_factory.mktemp("rows")
        for seed, (split, rows) in enumerate({"train": 48, "val": 16}.items()):
            rng = np.random.default_rng(seed)
            arrays = {name: np.stack([part.synthetic(rng) for _ in range(rows)]) for name, part in modalities(card).items()}
            arrays["label"] = rng.integers(0, 3, rows)
            arrays["level"] = rng.random(rows).astype(np.float32)
            named = {name: array for name, array in arrays.items() if name in card.inputs or name in card.outputs}
            np.savez(folder / f"{split}.npz", **named)
        return data.open_dataset(folder, card)

    return made


@pytest.fixture(scope="module")
def context(dataset, tmp_path_factory):
    """``context(card, **fields)``"""
    return lambda card, **fields: Context(
        **{"card": card, "dataset": dataset(card), "scratch": tmp_path_factory.mktemp("scratch")} | fields
    )


@pytest.fixture(scope="module")
def trained(context, tmp_path_factory):
    """``trained(fusion)``: (QuantizedModel after one epoch, its ONNX file, facts); made once."""

    @functools.cache
    def made(fusion):
        model = fused(fusion)
        given = context(model.card, numerics=plugins.load(Target, "openvino").numerics)
        quantized = qat(model, given, epochs=1, batch_size=16, calibration_samples=32)
        return quantized, export_onnx(quantized, tmp_path_factory.mktemp(fusion) / "qdq.onnx"), given.facts

    return made


def decibels(wanted, found):
    """Signal over error, the worst of the outputs."""
    return min(10 * np.log10(np.square(wanted[name]).mean() / max(np.square(wanted[name] - found[name]).mean(), 1e-12)) for name in wanted)


def answers(model, inputs):
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(inputs).items()}


def test_every_fusion_is_here():
    keep_space = {name for name in plugins.names("fusions") if plugins.find(Fusion, name).takes_maps}  # tests/flow/test_trained_boxes.py
    assert set(FUSIONS) == set(plugins.names("fusions")) - keep_space


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_trained_graph_answers_in_onnx_runtime_at_any_batch_size_as_in_torch(trained, fusion):
    model, path, _ = trained(fusion)
    inputs = sample_inputs(model.card, batch=3, seed=7)
    wanted = answers(model, inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = dict(zip(wanted, session.run(list(wanted), {name: value.numpy() for name, value in inputs.items()}), strict=True))
    assert decibels(wanted, found) > 30  # a value on the edge between two steps may fall to either side
    assert decibels(answers(model.float_model, inputs), found) > 15


@pytest.mark.parametrize("fusion", FUSIONS)
def test_openvino_runs_it_in_int8_and_agrees(trained, fusion, tmp_path):
    pytest.importorskip("openvino")
    model, path, _ = trained(fusion)
    target = plugins.load(Target, "openvino")
    (tmp_path / "made").mkdir()
    made = target.compile(path, tmp_path / "made", precision="f32", threads=1)
    inputs = sample_inputs(model.card, batch=1, seed=7)
    with target.open(made.main, precision="f32", threads=1) as session:
        found = session.run({name: value.numpy() for name, value in inputs.items()})
        assert "int8" in session.precision()
    assert decibels(answers(model, inputs), found) > 15


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_graph_is_valid_symmetric_int8_and_has_the_float_models_branches(trained, fusion):
    model, path, facts = trained(fusion)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [constants[node.input[2]] for node in pairs]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert all((constants[node.input[1]] > 0).all() for node in pairs)
    assert not any(node.name.startswith("frontend/") for node in pairs)
    expected = find_parts(fused(fusion)).names()
    assert find_branches(graph, model.card).names() == expected
    assert set(facts["int8_layers"]) <= set(expected)
    recurrent = {type(part).__name__ for part in fused(fusion).modules()} & {"GRU", "LSTM"}
    assert recurrent <= {node.op_type for node in graph.graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_tensorrt_builds_it(trained, fusion):
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(trained(fusion)[1])), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        rest = list(tensor.shape)[1:]
        profile.set_shape(tensor.name, [1, *rest], [1, *rest], [8, *rest])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_the_model_given_is_left_alone_and_the_trained_weights_come_back_by_name(context):
    model = fused("concat")
    before = copy.deepcopy(model.module.state_dict())
    rows = easy(context, model.card)
    made = qat(model, context(model.card, dataset=rows), epochs=2, batch_size=16, learning_rate=1e-3)
    assert isinstance(made, QuantizedModel)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    after = made.float_model.module.state_dict()
    assert list(after) == list(before)
    assert [name for name, value in after.items() if not torch.isfinite(value).all()] == []
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert {name for name in before if name.endswith(("weight", "bias", "running_mean"))} <= moved
    inputs = {name: torch.from_numpy(array) for name, array in next(rows.batches("val", 16)).inputs.items()}
    assert decibels(answers(made.float_model, inputs), answers(made, inputs)) > 15


def easy(context, card):
    """The rows of ``dataset``, labelled by how bright the picture is, so that there is something to learn."""
    folder = context(card).scratch
    for seed, split in enumerate(("train", "val")):
        rng = np.random.default_rng(seed)
        kinds = rng.integers(0, 3, 48)
        rows = {
            "image": np.stack([np.full((16, 16, 3), 60 + 60 * kind) + rng.integers(0, 20, (16, 16, 3)) for kind in kinds]).astype(np.uint8),
            "motion": rng.normal(size=(48, 12, 4)).astype(np.float32),
            "label": kinds,
            "level": kinds.astype(np.float32),
        }
        np.savez(folder / f"{split}.npz", **{name: value for name, value in rows.items() if name in card.inputs or name in card.outputs})
    return data.open_dataset(folder, card)


def test_the_facts_tell_accuracy_in_float_rounded_and_trained_and_the_curves(context):
    model = fused("gated")
    given = context(model.card, dataset=easy(context, model.card))
    qat(model, given, epochs=4, batch_size=16, learning_rate=0.02, distill=False)
    val = given.facts["val"]["label accuracy"]
    assert set(val) == {"float", "rounded", "trained"}
    assert val["trained"] > val["rounded"]
    assert [epoch for epoch, _ in given.facts["curves"]["loss/train"]] == [1, 2, 3, 4]
    assert given.facts["int8_layers"]["image"] > 0
    assert given.facts["best_epoch"] > 0


def test_distilling_learns_what_the_teacher_says_and_can_be_switched_off(context):
    model = fused("weighted")
    parts = []
    for distill in (True, False):
        given = context(model.card, teacher=fused("weighted"))
        qat(model, given, epochs=1, batch_size=16, distill=distill)
        parts.append({name for name in given.facts["curves"] if "teacher" in name})
    assert parts[0]
    assert not parts[1]


def test_two_runs_with_one_seed_are_equal(context):
    model = fused("weighted")
    one, two = (qat(model, context(model.card), epochs=1, batch_size=16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_branch_left_in_float_has_no_pairs(context, tmp_path):
    model = fused("concat")
    given = context(model.card)
    made = qat(model, given, epochs=1, batch_size=16, precision={"sensor": "fp32", "head": "fp32"})
    graph = onnx.load(export_onnx(made, tmp_path / "qdq.onnx"))
    branches = find_branches(graph, model.card)
    quantized = {branches.of_node[node.name] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    assert quantized == {"image", "fusion"}
    assert given.facts["float_branches"] == ["head:label", "head:level", "motion"]


def test_with_rounding_off_the_trainee_is_the_float_model_in_both_modes():
    model = copy.deepcopy(fused("concat"))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps, module.momentum = 1e-2, 0.3
    student = pt2e.prepare(model, {}, frozenset())
    pt2e.trainee_of(student).round(False)
    inputs = sample_inputs(model.card, batch=8, seed=3)
    assert decibels(answers(model, inputs), answers(student.eval(), inputs)) > 90
    assert decibels(answers(model.train(), inputs), answers(student.train(), inputs)) > 60
    kept = pt2e.carry_back(pt2e.trainee_of(student), model)
    stepless = {name: value for name, value in model.module.state_dict().items() if "num_batches" not in name}
    assert all(torch.allclose(kept.module.state_dict()[name], value, atol=1e-4) for name, value in stepless.items())


def test_dropout_acts_in_training_and_is_gone_afterwards():
    model = fused("gated")
    student = pt2e.prepare(model, {}, frozenset())
    inputs = sample_inputs(model.card, batch=8)
    trainee = pt2e.trainee_of(student)
    trainee.observe(True)
    answers(student, inputs)
    trainee.freeze_after = 0  # batch norms stand still: only dropout is left to chance
    student.train()
    first, second = (answers(student, inputs)["label"] for _ in range(2))
    assert not np.array_equal(first, second)
    student.eval()
    first, second = (answers(student, inputs)["label"] for _ in range(2))
    assert np.array_equal(first, second)


def test_ranges_and_statistics_stand_still_after_the_epochs_named():
    model = fused("gated")
    student = pt2e.prepare(model, {}, frozenset())
    trainee = pt2e.trainee_of(student)
    trainee.freeze_after = 1

    def state():
        found = student.state_dict()
        return {name: value.clone() for name, value in found.items() if name.endswith(("running_mean", "activation_post_process_0.scale"))}

    states = [state()]
    for epoch in range(3):
        student.train()
        answers(student, sample_inputs(model.card, batch=8, seed=epoch))
        states.append(state())
        student.eval()
        answers(student, sample_inputs(model.card, batch=8, seed=50 + epoch))
        assert all(torch.equal(value, state()[name]) for name, value in states[-1].items())
    assert all(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(states[1][name], states[3][name]) for name in states[0])


def test_a_diverging_training_names_step_and_learning_rate(context):
    model = fused("weighted")
    with pytest.raises(Diverged, match=r"qat: .* at step \d+ of epoch 1, learning rate") as caught:
        qat(model, context(model.card), epochs=1, batch_size=16, learning_rate=1e30)
    assert "lower learning_rate" in caught.value.fix


def test_without_labelled_rows_it_says_what_is_missing(context):
    model = fused("weighted")
    for dataset in (None, data.synthetic(model.card)):
        with pytest.raises(TrainError, match="no data to train on"):
            qat(model, context(model.card, dataset=dataset))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"precision": {"image": "int4"}}, QuantizeError, "precision.image: 'int4' is no precision of target"),
        ({"precision": {"image": "fp32", "sensor": "fp32", "head": "fp32"}}, QuantizeError, "nothing to quantize"),
        ({"freeze_after": 0}, TrainError, "freeze_after is 0"),
        ({"calibration_samples": 0}, TrainError, "calibration_samples is 0"),
        ({"temperature": 0.0}, TrainError, "temperature is 0.0"),
        ({"epochs": 0}, TrainError, "epochs is 0"),
    ],
)
def test_an_option_that_cannot_be_is_named(context, options, error, words):
    model = fused("average")
    with pytest.raises(error, match=words):
        qat(model, context(model.card), **options)


def test_a_missing_torchao_is_told_with_its_extra():
    error = plugins.missing_extra(ModuleNotFoundError("no", name="torchao.quantization"), "step 'qat'")
    assert "edgemm[compress]" in error.fix


def test_a_trained_checkpoint_is_saved_loaded_and_trained_again(trained, context, tmp_path):
    from edgemm.workshop.models.checkpoint.loading import load_model, save_model

    model, _, _ = trained("weighted")
    loaded = load_model(save_model(model.float_model, tmp_path / "model"))
    assert sorted(path.suffix for path in Path(tmp_path / "model").iterdir()) == [".safetensors", ".yaml"]
    again = qat(loaded, context(loaded.card), epochs=1, batch_size=16)
    inputs = sample_inputs(model.card, batch=4)
    assert decibels(answers(model, inputs), answers(again, inputs)) > 10
