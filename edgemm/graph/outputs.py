"""The tensors that a card reads as the outputs of a user's graph: its own, under the card's names, and such as lie within it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.errors import CardError, nearest
from edgemm.graph import single_precision
from edgemm.graph.branches import drop_dead


def named(card: Card, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the card's tensors as outputs: those of its own that the card names, or all of its own under the card's names.

    What an output joins (``from``) may also be tensors within the graph, such as those before a NonMaxSuppression: what comes after them
    is cut off.

    Raises:
        CardError: The card names one the file has not, and the counts differ too; or gives one the name of another.
    """
    graph, wanted = model.graph, list(tasks.tensors(card))
    within = [name for name in wanted if name not in card.outputs and name not in {value.name for value in graph.output}]
    _expose(model, within, card)
    file_outputs = {value.name: value for value in graph.output}
    if not set(wanted) <= set(file_outputs):
        _rename(graph, file_outputs, wanted, card)
    kept = [file_outputs[name] for name in wanted]
    del graph.output[:]
    graph.output.extend(kept)
    if within:
        drop_dead(model)
    return model


def _expose(model: onnx.ModelProto, within: Sequence[str], card: Card) -> None:
    """Make tensors within the graph outputs of it, with what is known of their type and shape."""
    made = {name for node in model.graph.node for name in node.output}
    for name in within:
        if name not in made:
            known = [value.name for value in model.graph.output]
            raise CardError(f"'{card.model}' has no tensor '{name}'.", why=f"its outputs are {', '.join(known)}.", fix=nearest(name, known))
    if within:
        values = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
        unknown = onnx.helper.make_empty_tensor_value_info
        model.graph.output.extend([values.get(name) or unknown(name) for name in within])


def _rename(graph: onnx.GraphProto, file_outputs: dict[str, onnx.ValueInfoProto], wanted: Sequence[str], card: Card) -> None:
    """Hand the file's outputs out under the card's names, in order."""
    if len(wanted) != len(file_outputs):
        missing = next(name for name in wanted if name not in file_outputs)
        raise CardError(
            f"'{card.model}' has no output '{missing}'.", why=f"it has {', '.join(file_outputs)}.", fix=nearest(missing, file_outputs)
        )
    taken = {*file_outputs, *(value.name for value in (*graph.input, *graph.initializer))}
    for old, new in zip(list(file_outputs), wanted, strict=True):
        if old == new:
            continue
        if new in taken:
            what = f"output '{new}' of the card stands where '{card.model}' has '{old}', and there '{new}' is something else."
            raise CardError(what, why=f"it has {', '.join(file_outputs)}.", fix="name the outputs as the file does, or otherwise.")
        single_precision.rename_tensor(graph, new, f"{new}/inner")  # where a layer inside is called so
        graph.node.add(op_type="Identity", input=[old], output=[new], name=f"{new}_named")
        file_outputs[new] = onnx.ValueInfoProto()
        file_outputs[new].CopyFrom(file_outputs[old])
        file_outputs[new].name = new
