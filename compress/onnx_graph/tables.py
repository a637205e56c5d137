"""Embedding tables as INT8: few of a small encoder's operations, half of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.onnx_graph.replacing import refill

if TYPE_CHECKING:
    import onnx

__all__ = ["lookups_of", "quantize_rows", "quantize_tables"]

SMALLEST_TABLE = 4096
"""Values; below, the three operations that are added cost more than the bytes saved (token types: 2 rows)."""


def quantize_rows(table: np.ndarray, per_row: bool) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a table symmetrically to 8 bits.

    ``q[r, :] = round(t[r, :] / s[r])``, ``s[r] = max |t[r, :]| / 127``.

    Parameters
    ----------
    table : numpy.ndarray
        Float ``[rows, width]``.
    per_row : bool
        One scale per row instead of one for all. On MiniLM's token embeddings the relative error
        (root mean square) falls from 4.3 % to 0.7 %, for 1 % more bytes.

    Returns
    -------
    quantized : numpy.ndarray
        int8 ``[rows, width]``.
    scales : numpy.ndarray
        float32 ``[rows, 1]``, or ``[1, 1]``.
    """
    largest = np.abs(table).max(axis=1, keepdims=True) if per_row else np.abs(table).max().reshape(1, 1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def quantize_tables(model: onnx.ModelProto, per_row: bool) -> list[str]:
    """Store every embedding table as INT8 and look rows up before they become floats again, in place.

    A table is a two-dimensional float initialiser read by nothing but ``Gather`` along axis 0. Only the
    rows that a batch needs are converted, so memory stays at one byte per value.

    Returns
    -------
    list of str
        Names of the tables quantized.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    done = []
    for name, (table, lookups) in lookups_of(model).items():
        quantized, scales = quantize_rows(table, per_row)
        graph.initializer.append(numpy_helper.from_array(quantized, f"{name}_quantized"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        for node in lookups:
            ids, out = node.input[1], node.output[0]
            scale = f"{name}_scale"
            added = [
                helper.make_node("Gather", [f"{name}_quantized", ids], [f"{out}_int8"], f"{node.name}_int8", axis=0),
                helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], f"{node.name}_float", to=TensorProto.FLOAT),
            ]
            if per_row:
                added.append(helper.make_node("Gather", [scale, ids], [f"{out}_scale"], f"{node.name}_scale", axis=0))
                scale = f"{out}_scale"
            added.append(helper.make_node("Mul", [f"{out}_float", scale], [out], f"{node.name}_dequantized"))
            position = list(graph.node).index(node)
            graph.node.remove(node)
            for offset, new in enumerate(added):
                graph.node.insert(position + offset, new)
        done.append(name)
    kept = [tensor for tensor in graph.initializer if tensor.name not in done]
    refill(graph.initializer, kept)
    return done


def lookups_of(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, list[onnx.NodeProto]]]:
    """Return every embedding table of at least `SMALLEST_TABLE` values and the nodes that look rows up in it, by name.

    A table is a two-dimensional float initialiser read by nothing but ``Gather`` along axis 0.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    found = {}
    for tensor in sorted(graph.initializer, key=lambda item: item.name):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or tensor.name in outputs:
            continue
        lookups = readers.get(tensor.name, [])
        if not lookups or not all(_is_lookup(node, tensor.name) for node in lookups):
            continue
        if int(np.prod(tensor.dims)) >= SMALLEST_TABLE:
            found[str(tensor.name)] = numpy_helper.to_array(tensor), lookups
    return found


def _is_lookup(node: onnx.NodeProto, table: str) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return bool(node.op_type == "Gather" and node.input[0] == table and node.input[1] != table and axis == 0)
