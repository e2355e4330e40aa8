"""Attention as the exporter writes it, in the plain form that runtimes and quantizers recognise. In place, on ``onnx_ir`` models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemm.graph.values import add_constant, constant, is_zero, made_by, nodes_of, sizes_of

CLOSED = -1e30  # a mask's value below this closes a position: -inf, or the most negative float32


def turn_keys_once(model: ir.Model) -> None:
    """Attention's keys: (N, heads, T, d) -> Reshape (-1, T, d) -> Transpose -> Reshape (N, heads, d, T) is one Transpose."""
    for last in nodes_of(model, "Reshape"):
        middle = made_by(last.inputs[0])
        first = made_by(middle.inputs[0]) if middle is not None and middle.op_type == "Transpose" else None
        if middle is None or first is None or first.op_type != "Reshape" or list(middle.attributes["perm"].as_ints()) != [0, 2, 1]:
            continue
        source = first.inputs[0]
        before, between, after = (sizes_of(value) for value in (source, middle.inputs[0], last.outputs[0]))
        if not (before and between and after) or len(before) != 4 or len(between) != 3 or len(after) != 4:
            continue
        if before[2:] != between[1:] or after != [*before[:2], before[3], before[2]] or not all(isinstance(n, int) for n in before[1:]):
            continue
        turned = ir.node("Transpose", [source], attributes={"perm": [0, 1, 3, 2]}, name=f"{last.name}_turned")
        _take_over(model, last, turned)


def drop_guards(model: ir.Model) -> None:
    """``Where(IsNaN(p), 0, p)`` after attention's Softmax hinders every fusion of attention, and quantizers see no attention there.

    It is there for rows whose keys are all masked, to which torch gives zeros. With a constant mask that leaves no row empty it goes.
    With another mask, empty rows are opened in the mask and zeroed after the product: torch's result also where the exporter writes the
    most negative number for -inf, with which the guard never fires.
    """
    repaired: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for guard in nodes_of(model, "Where"):
        condition, fallback, weights = guard.inputs
        test, softmax = made_by(condition), made_by(weights)
        if weights is None or test is None or softmax is None or test.op_type != "IsNaN" or softmax.op_type != "Softmax":
            continue
        scores = made_by(softmax.inputs[0])
        users = [node for node, _ in guard.outputs[0].uses()]
        if test.inputs[0] is not weights or not is_zero(fallback) or scores is None or scores.op_type != "Add":
            continue
        if _never_empty(scores):
            guard.outputs[0].replace_all_uses_with(weights, replace_graph_outputs=True)
            continue
        slot = next((slot for slot, value in enumerate(scores.inputs) if _is_switch(value)), None)
        if slot is None or len(users) != 1 or users[0].op_type != "MatMul" or users[0].inputs[0] is not guard.outputs[0]:
            continue
        mask = scores.inputs[slot]
        assert mask is not None  # _is_switch found it
        if mask not in repaired:
            repaired[mask] = _without_empty_rows(model, mask)
        filled, kept = repaired[mask]
        scores.replace_input_with(slot, filled)
        guard.outputs[0].replace_all_uses_with(weights)
        _multiply(model, users[0], kept)


def _never_empty(scores: ir.Node) -> bool:
    """Whether scores are a product plus a constant mask with a finite value in each row along the last axis."""
    masks = [content for value in scores.inputs if (content := constant(value)) is not None]
    return bool(masks) and bool((masks[0] > CLOSED).any(axis=-1).all())


def _is_switch(value: ir.Value | None) -> bool:
    """Whether a value is ``Where(condition, 0, -inf)``, or with the most negative number, as the exporter writes it."""
    maker = made_by(value)
    if maker is None or maker.op_type != "Where" or not is_zero(maker.inputs[1]):
        return False
    closed = constant(maker.inputs[2])
    return closed is not None and bool((closed < CLOSED).all())


def _without_empty_rows(model: ir.Model, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The mask with its empty rows opened, and 1 for rows that were not empty, 0 for those that were."""
    switch = mask.producer()
    assert switch is not None
    open_, name = switch.inputs[0], f"{switch.name}_row"
    axes = add_constant(model, f"{name}_axes", np.array([-1], np.int64))
    tape = ir.tape.Tape()
    kept = tape.op(
        "ReduceMax", [tape.op("Cast", [open_], {"to": ir.DataType.FLOAT}, name=f"{name}_open"), axes], {"keepdims": 1}, name=f"{name}_any"
    )
    empty = tape.op("Not", [tape.op("Cast", [kept], {"to": ir.DataType.BOOL}, name=f"{name}_kept")], name=f"{name}_empty")
    filled = tape.op("Where", [tape.op("Or", [open_, empty], name=f"{name}_or"), *switch.inputs[1:]], name=f"{name}_filled")
    for node in tape.nodes:
        node.outputs[0].name = f"{node.name}_out"
    model.graph.insert_after(switch, list(tape.nodes))
    return filled, kept


def _multiply(model: ir.Model, node: ir.Node, factor: ir.Value) -> None:
    """Multiply a node's result by ``factor``, under the name the result had."""
    result = node.outputs[0]
    product = ir.node("Mul", [result, factor], name=f"{node.name}_kept")
    product.outputs[0].shape, product.outputs[0].type = result.shape, result.type
    users = result.uses()
    product.outputs[0].name, result.name = result.name, f"{result.name}_all"
    for user, index in users:
        if user is not product:
            user.replace_input_with(index, product.outputs[0])
    for index, output in enumerate(model.graph.outputs):
        if output is result:
            model.graph.outputs[index] = product.outputs[0]
    model.graph.insert_after(node, product)


def _take_over(model: ir.Model, old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` in the place of ``old``, under its output's name and type."""
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], [new], [old.outputs[0]], [new.outputs[0]])
