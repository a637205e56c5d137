"""Nodes of a graph that read weights in blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.steps.quantize.blocks import Blocks, of_table, packed

if TYPE_CHECKING:
    import onnx

    from compress.onnx_graph import Product

__all__ = ["place_blocks", "place_tables"]

_INT8_ACTIVATIONS = 4
"""``accuracy_level`` of MatMulNBits that multiplies integers, activations quantized block by block."""


def place_blocks(graph: onnx.ModelProto, placed: Sequence[tuple[Product, Blocks]], activations: str) -> None:
    """Put ``MatMulNBits`` in the place of products, in place.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed; gains the operator set ``com.microsoft``.
    placed : sequence of tuple
        Products, and their weights, ``[out, in]``.
    activations : str
        ``int8`` or ``float32``: what the kernel makes of them while it multiplies.
    """
    from onnx import helper

    from compress.onnx_graph import RUNTIME_DOMAIN

    values: dict[str, np.ndarray] = {}
    instead: dict[str, onnx.NodeProto] = {}
    for product, blocks in placed:
        out, width = blocks.codes.shape
        name = f"{product.name}.weight"
        padded = np.pad(blocks.codes, ((0, 0), (0, -width % blocks.size)))
        inputs = [product.input, *_stored(values, name, blocks, padded.reshape(out, -1, blocks.size))]
        instead[product.node.output[0]] = helper.make_node(
            "MatMulNBits",
            inputs,
            [product.node.output[0]],
            product.name,
            domain=RUNTIME_DOMAIN,
            K=width,
            N=out,
            bits=blocks.bits,
            block_size=blocks.size,
            accuracy_level=_INT8_ACTIVATIONS if activations == "int8" else 0,
        )
    _replace(graph, instead, values)


def place_tables(
    graph: onnx.ModelProto, bits: int, size: int, symmetric: bool, only: Collection[str] | None = None
) -> list[str]:
    """Store embedding tables in blocks along their width, each number at its nearest level, in place.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed; gains the operator set ``com.microsoft``.
    bits, size, symmetric
        As of `of_table`.
    only : collection of str, optional
        Names of the tables to store so; by default all.

    Returns
    -------
    list of str
        Names of the tables.
    """
    from onnx import helper

    from compress.onnx_graph import RUNTIME_DOMAIN
    from compress.onnx_graph.tables import lookups_of

    values: dict[str, np.ndarray] = {}
    instead: dict[str, onnx.NodeProto] = {}
    found = lookups_of(graph)
    tables = {name: found[name] for name in found if only is None or name in only}
    for table, (weights, nodes) in tables.items():
        blocks = of_table(weights, bits, size, symmetric)
        codes, *others = _stored(values, table, blocks, blocks.codes)
        for node in nodes:
            instead[node.output[0]] = helper.make_node(
                "GatherBlockQuantized",
                [codes, node.input[1], *others],
                list(node.output),
                node.name,
                domain=RUNTIME_DOMAIN,
                bits=blocks.bits,
                block_size=size,
                gather_axis=0,
                quantize_axis=1,
            )
    _replace(graph, instead, values)
    return sorted(tables)


def _stored(values: dict[str, np.ndarray], name: str, blocks: Blocks, codes: np.ndarray) -> list[str]:
    """Add the tensors of a weight to `values`; returns their names."""
    values[f"{name}_quantized"] = packed(codes, blocks.bits)
    values[f"{name}_scale"] = blocks.scales
    names = [f"{name}_quantized", f"{name}_scale"]
    if blocks.zeros is not None:
        floats = blocks.zeros.dtype == np.float32
        values[f"{name}_zero"] = blocks.zeros if floats else packed(blocks.zeros, blocks.bits)
        names.append(f"{name}_zero")
    return names


def _replace(graph: onnx.ModelProto, instead: Mapping[str, onnx.NodeProto], values: Mapping[str, np.ndarray]) -> None:
    from compress.onnx_graph import add_runtime_operators, replace_initializers, replace_nodes

    replace_nodes(graph, [instead.get(node.output[0], node) for node in graph.graph.node])
    add_runtime_operators(graph)
    replace_initializers(graph, values)
