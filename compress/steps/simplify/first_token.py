"""Compute of the last layer only what the head reads: one token, where it reads no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compress.steps.simplify.editing import Graph, constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["narrow_to_read_token"]

_POINTWISE = ("Cast", "Erf", "Gelu", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh")
_BROADCASTING = ("Add", "Div", "Mul", "Pow", "Sub")

Reads = dict["ir.Value", tuple[int, set[tuple["ir.Node", int]]]]
"""Values of which a single index along an axis is read, with that axis and the inputs that read so."""


def narrow_to_read_token(graph: Graph) -> int:
    """Move the choice of a token, ``x[:, t]``, from before the head to where all tokens are needed: keys and values.

    Layer norm, feed-forward part, residual sums and the query act on each token by itself, so that choosing first
    changes no number. Returns how many products by weights or by keys and values then work on a single token.
    """
    chosen = [node for node in graph.nodes("Gather") if _chooses(node)]
    sources = {node.inputs[0] for node in chosen}
    tokens = {int(np.asarray(constant_of(node.inputs[1])).reshape(())) for node in chosen}
    if len(sources) != 1 or len(tokens) != 1:
        return 0
    source, token = sources.pop(), tokens.pop()
    assert source is not None
    reads: Reads = {source: (1, {(node, 0) for node in chosen})}
    narrowed = _spread(graph, reads)
    if not any(node.op_type == "MatMul" for node in narrowed):
        return 0
    index = graph.weight("read_token", np.array([token], dtype=np.int64))
    for value, (axis, readers) in reads.items():
        if value.producer() in narrowed:
            continue
        one = graph.add("Gather", [value, index], f"{value.name}_read", [f"{value.name}_read_token"], axis=axis)[0]
        for node, slot in readers:
            node.replace_input_with(slot, one)
    zero = graph.weight("only_token", np.array(0, dtype=np.int64))
    for node in chosen:
        node.replace_input_with(1, zero)
    for node in narrowed:
        for value in node.outputs:
            value.shape = None  # was that of all tokens
    return sum(node.op_type == "MatMul" for node in narrowed)


def _chooses(node: ir.Node) -> bool:
    """Whether a node reads one token, of a fixed number, of ``[batch, sequence, hidden]``."""
    source, index = node.inputs[0], constant_of(node.inputs[1])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if source is None or source.shape is None or len(source.shape) != 3 or source.producer() is None:
        return False
    return index is not None and index.ndim == 0 and axis == 1


def _spread(graph: Graph, reads: Reads) -> set[ir.Node]:
    """Follow the reads of one index towards the inputs, and return the nodes of whose output nothing else is read."""
    narrowed: set[ir.Node] = set()
    for node in reversed(list(graph.graph)):
        if len(node.outputs) != 1 or node.outputs[0] not in reads:
            continue
        value = node.outputs[0]
        axis, readers = reads[value]
        if value.is_graph_output() or {(use.node, use.idx) for use in value.uses()} != readers:
            continue
        wanted = _wanted(node, axis)
        if wanted is None or any(
            entry in reads and reads[entry][0] != along
            for slot, along in wanted.items()
            if (entry := node.inputs[slot])
        ):
            continue
        narrowed.add(node)
        for slot, along in wanted.items():
            entry = node.inputs[slot]
            assert entry is not None
            reads.setdefault(entry, (along, set()))[1].add((node, slot))
    return narrowed


def _wanted(node: ir.Node, axis: int) -> Mapping[int, int] | None:
    """Return along which axis of which inputs one index makes one index of the output; None where that is not known."""
    shape = node.outputs[0].shape
    if node.domain != "" or shape is None:
        return None
    rank, last = len(shape), axis == len(shape) - 1
    kind = node.op_type
    if kind in _POINTWISE:
        return {0: axis}
    if kind in ("LayerNormalization", "Softmax"):
        along = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return None if last or along not in (-1, rank - 1) else {0: axis}
    if kind in _BROADCASTING:
        return _operands(node, axis, rank)
    if kind == "MatMul":
        return {0: axis} if axis == rank - 2 and _rank(node.inputs[0]) == rank else None
    if kind == "Transpose":
        return {0: int(node.attributes["perm"].as_ints()[axis])}
    if kind == "Reshape":
        sizes = constant_of(node.inputs[1])
        copied = sizes is not None and axis < 2 and (sizes[:2] == 0).all() and "allowzero" not in node.attributes
        return {0: axis} if copied else None
    return None


def _operands(node: ir.Node, axis: int, rank: int) -> Mapping[int, int] | None:
    """Return the operands that are not the same for every index along the axis."""
    found = {}
    for slot, entry in enumerate(node.inputs):
        shape = None if entry is None else entry.shape
        if shape is None:
            return None
        along = axis - (rank - len(shape))
        if along >= 0 and shape[along] != 1:
            found[slot] = along
    return found


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
