"""A detector's graph made to answer with the best score of each label: what of it a late fusion can join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts.specs import BATCH
from edgemm.data.boxes import forms
from edgemm.data.boxes.layout import Layout
from edgemm.errors import CardError

SCOPE = "best"
"""How names of the nodes begin, before the output's."""


def with_best_scores(model: onnx.ModelProto, output: str, layout: Layout) -> onnx.ModelProto:
    """A copy whose output ``output`` is (n, labels): of each label the best score of all places, a chance from 0 to 1.

    Its other outputs stay, but for those that the boxes lie in.

    Args:
        layout: How boxes and scores lie in its answer.

    Raises:
        CardError: A tensor's sizes are not known, or do not fit the layout.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    read = {name for names in layout.parts.values() for name in names}
    shapes = {value.name: _shape(value) for value in graph.output if value.name in read}
    for name in sorted(read):
        if 0 in shapes.get(name, (0,))[1:]:
            raise CardError(
                f"'{name}' has no fixed size in the graph.",
                why="the best score of all boxes is taken in the graph.",
                fix="export the detector for one size of its picture.",
            )
    builder = _Builder(graph, f"{SCOPE}/{output}/")
    if output in read:  # its own tensor makes room for what is told in its place
        _rename(graph, output, f"{output}/boxes")
    answers = {name: _Array(builder, f"{name}/boxes" if name == output else name, shapes[name]) for name in read}
    scores = forms.probabilities(forms.raw(answers, layout, _Onnx()), layout, _Onnx())
    best = builder.node("ReduceMax", [scores.name, builder.integers(1)], keepdims=0)
    graph.node.append(helper.make_node("Identity", [best], [output], f"{builder.prefix}answer"))
    kept = [value for value in graph.output if value.name not in read and value.name != f"{output}/boxes"]
    del graph.output[:]
    graph.output.extend([*kept, helper.make_tensor_value_info(output, TensorProto.FLOAT, [BATCH, layout.labels])])
    return model


class _Builder:
    """Adds nodes and constants to a graph."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self._graph, self.prefix, self._count = graph, prefix, 0

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        self._count += 1
        name = f"{self.prefix}{self._count}_{kind}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def integers(self, *values: int) -> str:
        return self.tensor(np.array(values, np.int64))

    def tensor(self, values: np.ndarray) -> str:
        self._count += 1
        name = f"{self.prefix}{self._count}_constant"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


@dataclass(frozen=True)
class _Array:
    """A tensor of the graph with the operations of numpy that ``forms`` uses of scores; of its rows the number is open."""

    builder: _Builder
    name: str
    shape: tuple[int, ...]

    def __getitem__(self, key: Any) -> _Array:
        begin, end, _ = key[-1].indices(self.shape[-1])  # (..., slice)
        ends = [self.builder.integers(value) for value in (begin, end, -1)]
        return self._new("Slice", (*self.shape[:-1], end - begin), *ends)

    def __mul__(self, other: _Array) -> _Array:
        return self._new("Mul", self.shape, other.name)

    def __pow__(self, power: float) -> _Array:
        assert power == 0.5  # the only one that a layout has
        return self._new("Sqrt", self.shape)

    def reshape(self, *sizes: int) -> _Array:
        return self._new("Reshape", sizes, self.builder.integers(-1, *sizes[1:]))

    def swapaxes(self, first: int, second: int) -> _Array:
        order = list(range(len(self.shape)))
        order[first], order[second] = second, first
        return _Array(self.builder, self.builder.node("Transpose", [self.name], perm=order), tuple(self.shape[axis] for axis in order))

    def _new(self, kind: str, shape: tuple[int, ...], *more: str) -> _Array:
        return _Array(self.builder, self.builder.node(kind, [self.name, *more]), shape)


class _Onnx(forms.Namespace):
    """``forms.Namespace`` as nodes."""

    def exp(self, array: _Array) -> _Array:
        return _Array(array.builder, array.builder.node("Exp", [array.name]), array.shape)

    def constant(self, array: np.ndarray, like: _Array) -> _Array:
        return _Array(like.builder, like.builder.tensor(array.astype(np.float32)), array.shape)

    def sigmoid(self, array: _Array) -> _Array:
        return _Array(array.builder, array.builder.node("Sigmoid", [array.name]), array.shape)

    def softmax(self, array: _Array) -> _Array:
        return _Array(array.builder, array.builder.node("Softmax", [array.name], axis=-1), array.shape)

    def concatenate(self, arrays: Sequence[_Array], axis: int) -> _Array:
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        name = arrays[0].builder.node("Concat", [array.name for array in arrays], axis=axis)
        return _Array(arrays[0].builder, name, tuple(shape))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes, 1 row; 0 where one is not known."""
    return (1, *(int(dim.dim_value) for dim in list(value.type.tensor_type.shape.dim)[1:]))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in graph.output:
        value.name = new if value.name == old else value.name
