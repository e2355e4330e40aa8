"""Answers that are chances where logits are read: of what is read by its sign they would always mean the same, others come out too even."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.task import Task
from edgemm.errors import CardError, ExportError
from edgemm.graph import parity, single_precision

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN")
"""Operators that sum by weights: what goes into the functions behind them may be any number."""
LAST = 8
"""How many of them are tried, from the end: gates and averages stand between the last and the answer."""
SHIFTS = (30.0, 1000.0)
"""Standard deviations of what is added there: the first saturates a sigmoid in float32 and overflows nothing."""
ROUNDED = 1e-3
"""How far the sum of a row's chances may be from 1."""

Arrays = Mapping[str, np.ndarray]


def settle(model: onnx.ModelProto, card: Card, samples: Sequence[Arrays], note: Callable[[str], None]) -> None:
    """Let each output of a user's graph mean what its task reads; one logit for two labels becomes two, in place.

    Args:
        samples: By the graph's input names.
        note: Gets what ``softened`` says.

    Raises:
        CardError: An output has another width than the card has labels.
        ExportError: A chance stands where a sign is read.
    """
    answers = _answers(model, samples)
    outputs = {name: task for name, task in tasks.tasks(card).items() if name in answers}
    for name, task in outputs.items():
        if task.takes_one_logit and task.answer_width == 2:
            _widen(model, name, answers[name], steps=1 if getattr(task, "per_step", False) else 0)
    answers = _answers(model, samples)
    for name, task in outputs.items():
        if task.answer_width not in (None, answers[name].shape[-1] if answers[name].ndim else 1):
            raise CardError(
                f"output '{name}' of '{card.model}' has shape {answers[name].shape}; the card names {task.answer_width} labels.",
                why="it answers with one logit a label.",
                fix="give the card as many labels as the model has classes.",
            )
    for task in tasks.tasks(card).values():
        if set(task.reads) <= answers.keys():
            task.check({read: answers[read].shape for read in task.reads})
    for words in softened(card, answers):
        note(words)
    stuck = _stuck(model, outputs, samples, answers)
    if stuck is not None:
        maker = next((node for node in model.graph.node if {stuck[0], _one(stuck[0])} & {*node.output}), None)
        raise no_logit(f"node '{maker.name or stuck[0]}' ({maker.op_type}): " if maker else "", *stuck)


def softened(card: Card, answers: Arrays) -> list[str]:
    """Which outputs hold a softmax already, where one is taken of what they say: in words."""
    words = []
    for name, task in tasks.tasks(card).items():
        value = answers.get(name)
        if value is None or not task.takes_one_logit or not value.ndim or value.shape[-1] < 2 or value.dtype.kind != "f" or not value.size:
            continue
        if (value >= 0).all() and np.allclose(value.sum(axis=-1, dtype=np.float64), 1, rtol=0, atol=ROUNDED):
            words.append(
                f"output '{name}' holds chances, as a softmax makes them, where logits are read: its labels are right, but its confidence "
                "is a softmax of a softmax, far too even, and training learns little. Let the model answer with what goes into the softmax."
            )
    return words


def side_of(task: Task, value: np.ndarray) -> set[str]:
    """``below`` where nothing that is read by its sign is below 0, ``above`` where nothing is above it; none where no sign is read."""
    is_one_logit = task.takes_one_logit and task.answer_width == 2 and not value[..., 0].any()  # the other's is a constant 0
    signed = value if task.is_by_sign else value[..., 1] if is_one_logit else None
    if signed is None or not signed.size or signed.dtype.kind != "f":
        return set()
    return {word for word, beyond in (("below", signed < 0), ("above", signed > 0)) if not beyond.any()}


def no_logit(place: str, name: str, side: str) -> ExportError:
    """The error of an output that never is on a side of 0.

    Args:
        place: Where it is made, with a colon and a blank behind; "" where nobody knows.
        side: ``below``, as a chance, or ``above``, as the logarithm of one.
    """
    kind, means = ("a chance", "yes") if side == "below" else ("the logarithm of a chance", "no")
    return ExportError(
        f"{place}output '{name}' is never {side} 0, whatever its layers sum up to.",
        why=f"one number for two labels, and each of a multilabel's, is read by its sign; {kind}, as a sigmoid or a softmax makes it, "
        f"would always mean {means}.",
        fix="return what goes into that function (as BCEWithLogitsLoss takes it), or torch.logit of the chance.",
    )


def _answers(model: onnx.ModelProto, samples: Sequence[Arrays]) -> dict[str, np.ndarray]:
    session = parity.reference_session(model)
    names = [value.name for value in session.get_outputs()]
    rows = [dict(zip(names, parity.asked(session, model, sample), strict=True)) for sample in samples]
    alike = {name: len({row[name].shape for row in rows}) == 1 and rows[0][name].ndim > 0 for name in names}
    return {name: np.concatenate([row[name] for row in rows]) if alike[name] else rows[0][name] for name in names}


def _widen(model: onnx.ModelProto, name: str, value: np.ndarray, *, steps: int) -> None:
    """One logit z, (N,) or (N, 1), with steps (N, T) or (N, T, 1), as (0, z): softmax of that is sigmoid of z, the chance of the second."""
    axes, graph = 1 + steps, model.graph
    if value.dtype.kind != "f" or not (value.ndim == axes or (value.ndim == axes + 1 and value.shape[-1] == 1)):
        return
    declared = next(output for output in graph.output if output.name == name)
    raw, pads = _one(name), [0] * axes + [1] + [0] * (axes + 1)
    single_precision.rename_tensor(graph, name, raw)
    graph.initializer.append(helper.make_tensor(f"{name}/pads", TensorProto.INT64, [len(pads)], pads))
    if value.ndim == axes:
        graph.initializer.append(helper.make_tensor(f"{name}/axis", TensorProto.INT64, [1], [axes]))
        graph.node.append(helper.make_node("Unsqueeze", [raw, f"{name}/axis"], [f"{name}/column"], f"{name}/Unsqueeze"))
        declared.type.tensor_type.shape.dim.add().dim_value = 2
    elif declared.type.tensor_type.HasField("shape"):
        declared.type.tensor_type.shape.dim[-1].dim_value = 2
    graph.node.append(helper.make_node("Pad", [f"{name}/column" if value.ndim == axes else raw, f"{name}/pads"], [name], f"{name}/Pad"))


def _one(name: str) -> str:
    """What the single logit of an output is called that was widened."""
    return f"{name}/one"


def _stuck(model: onnx.ModelProto, outputs: Mapping[str, Task], samples: Sequence[Arrays], plain: Arrays) -> tuple[str, str] | None:
    """An output that is read by its sign and has but one, whatever the last layers sum up to, and the side on which it never is."""
    sides = {name: side_of(task, plain[name]) for name, task in outputs.items()}
    sums = [name for node in model.graph.node if node.op_type in WEIGHTED for name in node.output if name][-LAST:]
    if not any(sides.values()) or not sums:
        return None
    try:
        shapes = {name: value.shape for name, value in _traced(model, sums, samples[0]).items()}
        session = parity.reference_session(noisy := _with_noise(model, sums))
        rng = np.random.default_rng(0)
        for shifted in reversed(sums):
            for shift in SHIFTS:
                noise = {_noise(name): np.zeros(shapes[name], np.float32) for name in sums}
                noise[_noise(shifted)] = (shift * rng.normal(size=shapes[shifted])).astype(np.float32)
                names = [value.name for value in session.get_outputs()]
                said = dict(zip(names, parity.asked(session, noisy, {**samples[0], **noise}), strict=True))
                sides = {name: side & side_of(outputs[name], said[name]) for name, side in sides.items()}
                if not any(sides.values()):
                    return None
    except ExportError:  # sums in another type than float32, or inside of what is told elsewhere
        return None
    return next((name, min(side)) for name, side in sides.items() if side)


def _traced(model: onnx.ModelProto, names: Sequence[str], sample: Arrays) -> dict[str, np.ndarray]:
    traced = parity.with_outputs(model, names)
    session = parity.reference_session(traced)
    values = dict(zip([value.name for value in session.get_outputs()], parity.asked(session, traced, sample), strict=True))
    return {name: values[name] for name in names}


def _noise(name: str) -> str:
    return f"{name}/noise"


def _with_noise(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which an input of its own is added to each of these tensors."""
    noisy = onnx.ModelProto()
    noisy.CopyFrom(model)
    nodes = list(noisy.graph.node)
    del noisy.graph.node[:]
    for node in nodes:
        noisy.graph.node.append(node)
        for slot, name in enumerate(node.output):
            if name not in names:
                continue
            noisy.graph.node[-1].output[slot] = f"{name}/sum"
            noisy.graph.node.append(helper.make_node("Add", [f"{name}/sum", _noise(name)], [name]))
            noisy.graph.input.append(helper.make_tensor_value_info(_noise(name), TensorProto.FLOAT, None))
    return noisy
