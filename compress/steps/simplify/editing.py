"""Reading and rewriting the values of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Graph", "constant_of", "evaluate", "inputs_of", "is_weight", "only_use", "producer_of"]


class Graph:
    """A graph under rewriting: nodes are added in any order, and sorted when the graph is written.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph to begin with; left as it is.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx_ir
        from onnx_ir.passes.common import ShapeInferencePass

        self.model = onnx_ir.from_proto(model)
        ShapeInferencePass()(self.model)
        self.graph: ir.Graph = self.model.graph

    def proto(self) -> onnx.ModelProto:
        """Return the graph without what reaches no output, canonical (see `compress.onnx_graph.canonicalise`)."""
        import onnx_ir

        from compress.onnx_graph import canonicalise

        proto = onnx_ir.to_proto(self.model)
        canonicalise(proto)
        return proto

    def nodes(self, *kinds: str) -> list[ir.Node]:
        """Return the nodes of some kinds of operator, in the order of the graph."""
        return [node for node in self.graph if node.op_type in kinds and node.domain == ""]

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        """Add an initialiser; a name that is taken gets a number."""
        import onnx_ir

        name = self._free(name)
        value = onnx_ir.val(name, const_value=onnx_ir.tensor(np.asarray(array, order="C"), name=name))
        self.graph.register_initializer(value)
        return value

    def add(
        self, kind: str, inputs: Sequence[ir.Value], name: str, outputs: Sequence[str], **attributes: Any
    ) -> list[ir.Value]:
        """Add a node and return its outputs; names that are taken get a number."""
        import onnx_ir

        node = onnx_ir.node(kind, list(inputs), attributes, num_outputs=len(outputs), name=name)
        for value, wanted in zip(node.outputs, outputs, strict=True):
            value.name = self._free(wanted)
        self.graph.append(node)
        return list(node.outputs)

    def _free(self, name: str) -> str:
        taken = {value.name for node in self.graph for value in node.outputs} | set(self.graph.initializers)
        taken |= {value.name for value in self.graph.inputs}
        if name not in taken:
            return name
        return next(new for number in range(2, len(taken) + 3) if (new := f"{name}_{number}") not in taken)


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Return what an initialiser holds; None for anything else."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def is_weight(value: ir.Value | None, rank: int) -> bool:
    """Whether a value is a floating-point initialiser of so many dimensions."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    return bool(value.const_value.dtype.is_floating_point()) and len(value.const_value.shape) == rank


def producer_of(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the node that makes a value, if it is of one of the kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in kinds and node.domain == "" else None


def only_use(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value; None where there are several, or it is an output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def evaluate(graph: Graph, value: ir.Value, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run what a value is made from.

    Parameters
    ----------
    graph : Graph
        The graph.
    value : onnx_ir.Value
        Made by nodes of the graph.
    feeds : dict of str to numpy.ndarray
        The graph's inputs, int64 ``[batch, sequence]``.
    """
    import onnx_ir
    import onnxruntime

    nodes, inputs, weights = _ancestry(value)
    proto = onnx_ir.to_proto(graph.model)
    made = {output.name for node in nodes for output in node.outputs}
    kept = [node for node in proto.graph.node if made.issuperset(node.output)]
    initialisers = [tensor for tensor in proto.graph.initializer if tensor.name in weights]
    given = [entry for entry in proto.graph.input if entry.name in inputs]
    for field, content in (("node", kept), ("initializer", initialisers), ("input", given)):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in content]
        proto.graph.ClearField(field)
        getattr(proto.graph, field).extend(copies)
    for field in ("output", "value_info"):
        proto.graph.ClearField(field)
    proto.graph.output.add().name = str(value.name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {name: array for name, array in feeds.items() if name in inputs})[0]
    return found


def inputs_of(value: ir.Value) -> set[str]:
    """Return the names of the graph's inputs whose content, not only whose shape, reaches a value."""
    return {entry.name or "" for entry in _walk(value, shapes=False) if entry.is_graph_input()}


def _ancestry(value: ir.Value) -> tuple[list[ir.Node], set[str], set[str]]:
    """Return the nodes, inputs and initialisers that a value is made from."""
    found = list(_walk(value, shapes=True))
    nodes = [node for entry in found if (node := entry.producer()) is not None]
    inputs = {str(entry.name) for entry in found if entry.is_graph_input()}
    return nodes, inputs, {str(entry.name) for entry in found if entry.is_initializer()}


def _walk(value: ir.Value, shapes: bool) -> Iterator[ir.Value]:
    seen, stack = {value}, [value]
    while stack:
        entry = stack.pop()
        yield entry
        node = entry.producer()
        if node is None or (not shapes and node.op_type in ("Shape", "Size")):
            continue
        for read in node.inputs:
            if read is not None and read not in seen:
                seen.add(read)
                stack.append(read)
