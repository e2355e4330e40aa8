"""Where torchao puts its fake quantizers: symmetric int8, activations per tensor, weights per output channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import GraphModule, Node

from edgemm.contracts.libraries import quiet_imports
from edgemm.workshop.models.tracing import PREFIX
from edgemm.workshop.quantizing.pt2e_layers import (
    CONVOLUTIONS,
    PRODUCTS,
    SUMS,
    TABLES,
    TRANSPOSED,
    channel_axis,
    is_constant,
    is_share,
    parameters_of,
    weight_of,
)

with quiet_imports():  # it warns of what it was not built with
    from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

AVERAGING = 0.05  # share of the newest batch in a range: torchao's 0.01 needs hundreds of steps to follow, and small sets have tens
MOST, NARROW = 127, 63  # of a weight; where sums of products overflow 7 of 8 bits
ANNOTATION = "quantization_annotation"  # node.meta key that torchao reads


class Rounding(FakeQuantize):
    """torchao's, which lets NaN pass instead of failing on it: the loop then stops at the loss and says where."""

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        try:
            return super().forward(X)
        except AssertionError:  # torchao's, of a range that is no range
            if bool(torch.isfinite(X).all()):
                raise
            return X


ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_symmetric,
    observer_or_fake_quant_ctr=Rounding.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=AVERAGING),
)
"""int8 with zero point 0, the only one that every target takes; it covers -128 because QuantizeLinear does."""


def weights(axis: int, most: int) -> QuantizationSpec:
    """int8 with zero point 0 and a scale for each channel along ``axis``, always that of the present weights (no averaging)."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-most,
        quant_max=most,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=Rounding.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, ch_axis=axis),
    )


class Int8(Quantizer):
    """Quantizes what goes into convolutions, linear layers and products with weights, and the weights; embedding tables too.

    Recurrent layers, attention's products of activations, norms and other operators stay float: integers begin and end at the layers that
    gain. Of a residual sum the skip is quantized too: convolution and sum are one kernel, which reads a skip of the type it writes.

    Args:
        branch_of: Parameter of the user's module -> branch.
        floats: Branches to leave alone.
        is_narrow: Weights take 7 bits (``Numerics.narrow_weights``).
    """

    def __init__(self, branch_of: Mapping[str, str], floats: frozenset[str], *, is_narrow: bool = False) -> None:
        super().__init__()
        self._most = NARROW if is_narrow else MOST
        self._branch_of, self._floats = branch_of, floats
        self.layers: dict[str, int] = {}
        """Branch -> how many layers of it were marked."""

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            inputs = self._inputs(node)
            branch = self._branch(inputs)
            if inputs and branch not in self._floats:
                self.layers[branch] = self.layers.get(branch, 0) + 1
            elif (skip := _skip_of(node)) is not None:
                inputs = {skip: ACTIVATION}
            else:
                continue
            node.meta[ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        return model

    def validate(self, model: GraphModule) -> None:
        """Every target takes this."""

    def _inputs(self, node: Node) -> dict[Node, QuantizationSpec]:
        """What a node reads -> how that is quantized; {} for nodes that stay float."""
        if node.op != "call_function":
            return {}
        if node.target in TABLES:
            table = node.args[0]
            return {table: weights(0, MOST)} if isinstance(table, Node) and is_constant(table) else {}
        kernel = node.args[1] if node.target in PRODUCTS else weight_of(node)
        source = node.args[0]
        if not isinstance(kernel, Node) or not isinstance(source, Node) or not is_constant(kernel) or is_constant(source):
            return {}
        if is_share(source):  # distribution focal loss written as a layer, with bins for weights
            return {}
        if node.target in PRODUCTS and kernel.meta["val"].dim() != 2:
            return {}
        return {source: ACTIVATION, kernel: weights(channel_axis(node), self._most)}

    def _branch(self, inputs: Mapping[Node, QuantizationSpec]) -> str:
        names = [name.removeprefix(PREFIX) for node in inputs if is_constant(node) for name in parameters_of(node)]
        return next((self._branch_of[name] for name in names if name in self._branch_of), "")


def _skip_of(node: Node) -> Node | None:
    """Of a sum of two tensors of one shape the input that does not come straight from a marked convolution; None where neither does."""
    if node.target not in SUMS or len(node.all_input_nodes) != 2:
        return None
    one, other = node.all_input_nodes
    if any("val" not in source.meta for source in (one, other)) or one.meta["val"].shape != other.meta["val"].shape:
        return None
    if _is_straight(one):
        return other
    return one if _is_straight(other) else None


def _is_straight(node: Node) -> bool:
    """Whether a value is a marked convolution's own, or its folded batch norm's, and read only once."""
    if len(node.users) != 1:
        return False
    layer = node.args[0] if node.op == "call_module" else node
    return isinstance(layer, Node) and layer.target in (*CONVOLUTIONS, *TRANSPOSED) and ANNOTATION in layer.meta and len(layer.users) == 1
