"""Attention in an exported graph: found, its scale moved into the query's weights, its three products made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.steps.simplify.editing import Graph, constant_of, is_weight, only_use, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Attention", "Projection", "find_attention", "fold_scale", "merge_projections"]


@dataclass(frozen=True)
class Projection:
    """A product by a weight, and its bias: ``y = x W + b``.

    Attributes
    ----------
    product, bias : onnx_ir.Node
        The ``MatMul`` ``[batch, sequence, hidden] x [hidden, width]`` and the ``Add``.
    bias_slot : int
        Which input of the ``Add`` is the bias.
    """

    product: ir.Node
    bias: ir.Node
    bias_slot: int

    @property
    def weight(self) -> ir.Value:
        """``W``, ``[hidden, width]``."""
        value = self.product.inputs[1]
        assert value is not None
        return value

    @property
    def offset(self) -> ir.Value:
        """``b``, ``[width]``."""
        value = self.bias.inputs[self.bias_slot]
        assert value is not None
        return value

    @property
    def source(self) -> ir.Value:
        """``x``, ``[batch, sequence, hidden]``."""
        value = self.product.inputs[0]
        assert value is not None
        return value


@dataclass(frozen=True)
class Attention:
    """The nodes of one attention block: ``softmax(q k^T * scale + mask) v``.

    Attributes
    ----------
    softmax, scores : onnx_ir.Node
        The ``Softmax`` and the ``MatMul`` of queries and keys.
    scale : onnx_ir.Node or None
        The ``Mul`` or ``Div`` by a constant between the two.
    query, key, value : Projection
        What the heads are cut from.
    """

    softmax: ir.Node
    scores: ir.Node
    scale: ir.Node | None
    query: Projection
    key: Projection
    value: Projection


def find_attention(graph: Graph) -> list[Attention]:
    """Return every attention block whose query, key and value are products by weights with biases."""
    found = (_attention(node) for node in graph.nodes("Softmax"))
    return [block for block in found if block is not None]


def fold_scale(graph: Graph, block: Attention) -> bool:
    """Multiply the query's weight and bias by the scale of the scores, ``(s q) k^T = s (q k^T)``.

    Computed in float64, so that each weight is rounded once. Returns whether there was a scale to fold.
    """
    factor = None if block.scale is None else _factor(block.scale)
    if block.scale is None or factor is None:
        return False
    if only_use(block.scores.outputs[0]) is not block.scale or not _feeds_only(block.query, block.scores):
        return False
    for node, slot, value in (
        (block.query.product, 1, block.query.weight),
        (block.query.bias, block.query.bias_slot, block.query.offset),
    ):
        node.replace_input_with(slot, _scaled(graph, value, factor))
    block.scale.outputs[0].replace_all_uses_with(block.scores.outputs[0])
    return True


def merge_projections(graph: Graph, block: Attention) -> bool:
    """Let one product make what up to three made of the same source, split afterwards.

    ``x [W_q W_k W_v] + [b_q b_k b_v]``. Where the query is made from fewer tokens than key and value, those two
    are merged. Returns whether there were at least two to merge.
    """
    source = block.value.source
    merged = [one for one in (block.query, block.key, block.value) if one.source is source]
    if len(merged) < 2 or any(only_use(one.product.outputs[0]) is not one.bias for one in merged):
        return False
    weights = [np.asarray(constant_of(one.weight)) for one in merged]
    offsets = [np.asarray(constant_of(one.offset)) for one in merged]
    name = _joined([one.product.name or str(one.weight.name) for one in merged])
    weight = graph.weight(f"{name}.weight", np.concatenate(weights, axis=1))
    offset = graph.weight(f"{name}.bias", np.concatenate(offsets))
    widths = graph.weight(f"{name}.widths", np.array([len(one) for one in offsets], dtype=np.int64))
    product = graph.add("MatMul", [source, weight], name, [f"{name}_product"])[0]
    total = graph.add("Add", [product, offset], f"{name}_add", [f"{name}_sum"])[0]
    names = [f"{one.bias.outputs[0].name}_split" for one in merged]
    parts = graph.add("Split", [total, widths], f"{name}_split", names, axis=-1)
    for one, part in zip(merged, parts, strict=True):
        one.bias.outputs[0].replace_all_uses_with(part)
    return True


def _attention(softmax: ir.Node) -> Attention | None:
    scores, scale = _scores(softmax.inputs[0])
    context = only_use(softmax.outputs[0])
    if scores is None or context is None or context.op_type != "MatMul":
        return None
    parts = [_projection(value) for value in (scores.inputs[0], scores.inputs[1], context.inputs[1])]
    if any(part is None for part in parts):
        return None
    query, key, value = (part for part in parts if part is not None)
    return Attention(softmax, scores, scale, query, key, value)


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, ir.Node | None]:
    """Return the product of queries and keys below masks and biases that are added, and the node that scales it."""
    node = producer_of(value, "Add", "Mul", "Div", "MatMul")
    if node is None or node.op_type == "MatMul":
        return node, None
    if node.op_type in ("Mul", "Div"):
        if _factor(node) is None:
            return None, None
        product = next((made for entry in node.inputs if (made := producer_of(entry, "MatMul"))), None)
        return product, node
    for entry in node.inputs:
        found = _scores(entry)
        if found[0] is not None:
            return found
    return None, None


def _factor(node: ir.Node) -> float | None:
    """Return what a ``Mul`` or ``Div`` by a single number multiplies by."""
    numbers = [constant_of(entry) for entry in node.inputs]
    slots = [slot for slot, number in enumerate(numbers) if number is not None and number.size == 1]
    if len(slots) != 1 or (node.op_type == "Div" and slots[0] != 1):
        return None
    number = float(np.asarray(numbers[slots[0]]).reshape(()))
    return number if node.op_type == "Mul" else 1 / number


def _projection(value: ir.Value | None) -> Projection | None:
    """Return the product by a weight that a tensor of heads was cut from."""
    while (node := producer_of(value, "Transpose", "Reshape")) is not None:
        value = node.inputs[0]
    bias = producer_of(value, "Add")
    if bias is None:
        return None
    for slot in (0, 1):
        product = producer_of(bias.inputs[1 - slot], "MatMul")
        if product is not None and is_weight(bias.inputs[slot], 1) and is_weight(product.inputs[1], 2):
            return Projection(product, bias, slot)
    return None


def _feeds_only(projection: Projection, scores: ir.Node) -> bool:
    """Whether nothing but the scores reads what a projection makes."""
    node: ir.Node | None = projection.product
    while node is not None and node is not scores:
        node = only_use(node.outputs[0])
    return node is scores


def _scaled(graph: Graph, value: ir.Value, factor: float) -> ir.Value:
    array = np.asarray(constant_of(value))
    return graph.weight(f"{value.name}_scaled", (array.astype(np.float64) * factor).astype(array.dtype))


def _joined(names: Sequence[str]) -> str:
    """Return ``a.b.query_key_value`` for ``a.b.query``, ``a.b.key`` and ``a.b.value``."""
    heads = {name.rpartition(".")[0] for name in names}
    tail = "_".join(name.rpartition(".")[2] for name in names)
    return f"{heads.pop()}.{tail}" if len(heads) == 1 else "_".join(names)
