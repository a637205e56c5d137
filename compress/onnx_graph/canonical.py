"""Bring a graph into the one form that depends on nothing but what it computes and what its values are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.onnx_graph.replacing import refill

if TYPE_CHECKING:
    import onnx

__all__ = ["canonicalise"]

PRODUCER = "compress"


def canonicalise(model: onnx.ModelProto) -> None:
    """Strip what tells of the exporting process and put the rest into a fixed order, in place.

    Exporters write stack traces with file paths into metadata, and quantizers append in the order of
    sets; neither may reach a content-addressed file. Doc strings, metadata and inferred shapes go;
    nodes that reach no output and weights that no node reads go; nodes are ordered depth-first from
    the outputs, initialisers and operator sets by name.
    """
    graph = model.graph
    model.producer_name, model.producer_version = PRODUCER, ""
    model.domain, model.doc_string, model.model_version = "", "", 0
    del model.metadata_props[:]
    opsets = sorted(((entry.domain, entry.version) for entry in model.opset_import), key=lambda pair: pair[0])
    del model.opset_import[:]
    for domain, version in opsets:
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
    _strip_functions(model)
    _strip_graph(graph)
    refill(graph.node, _ordered(graph))
    used = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    weights = sorted((tensor for tensor in graph.initializer if tensor.name in used), key=lambda tensor: tensor.name)
    refill(graph.initializer, weights)


def _strip_functions(model: onnx.ModelProto) -> None:
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        for node in function.node:
            _strip_node(node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    graph.name = "main"
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.doc_string = ""
        for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            _strip_graph(inner)
    attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
    refill(node.attribute, attributes)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those that its inner graphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            for nested in inner.node:
                yield from _reads(nested)
            yield from (value.name for value in inner.output)


def _ordered(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that reach an output, each after all that it reads (depth-first)."""
    makes = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    for output in graph.output:
        if output.name not in makes:
            continue
        stack: list[tuple[int, Iterator[str]]] = [(makes[output.name], _reads(graph.node[makes[output.name]]))]
        entered = {makes[output.name]}
        while stack:
            index, names = stack[-1]
            for name in names:
                source = makes.get(name)
                if source is not None and source not in done and source not in entered:
                    entered.add(source)
                    stack.append((source, _reads(graph.node[source])))
                    break
            else:
                done[index] = None
                stack.pop()
    return [graph.node[index] for index in done]
