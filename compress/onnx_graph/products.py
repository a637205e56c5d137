"""Products by stored weights, each with all that is needed to change it: input, weight, bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.onnx_graph.replacing import replace_initializers, replace_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["Product", "products_of"]


@dataclass
class Product:
    """``y = x W + b`` in a graph.

    Attributes
    ----------
    name : str
        Of its ``MatMul``.
    node : onnx.NodeProto
        The ``MatMul`` itself, in the graph.
    input : str
        The value ``x``, ``[..., width]``.
    weight : numpy.ndarray
        float32 ``[width, out]``.
    bias : str or None
        Name of the initialiser that an ``Add`` puts to the product and that nothing else reads; None where there is
        none.
    """

    name: str
    node: onnx.NodeProto
    input: str
    weight: np.ndarray
    bias: str | None


def products_of(model: onnx.ModelProto, without: str | None = None) -> list[Product]:
    """Return the products of values by stored float matrices, in the graph's order.

    Parameters
    ----------
    model : onnx.ModelProto
        Its ``Gemm`` nodes are rewritten as ``MatMul`` and ``Add``, in place, where they are such a product.
    without : str, optional
        Name of a product to leave out (the task head).
    """
    from onnx import numpy_helper

    _split_gemms(model, without)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.name == without or node.input[0] in stored:
            continue
        tensor = stored.get(node.input[1])
        if tensor is None or len(tensor.dims) != 2 or tensor.data_type != 1:
            continue
        weight = np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)
        found.append(Product(node.name, node, node.input[0], weight, _bias(node, readers, stored, weight.shape[1])))
    return found


def _bias(
    node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], stored: dict[str, onnx.TensorProto], out: int
) -> str | None:
    after = readers.get(node.output[0], [])
    if len(after) != 1 or after[0].op_type != "Add":
        return None
    for name in after[0].input:
        tensor = stored.get(name)
        if tensor is not None and list(tensor.dims) == [out] and len(readers[name]) == 1:
            return str(name)
    return None


def _split_gemms(model: onnx.ModelProto, without: str | None) -> None:
    """Write each ``Gemm`` by a stored matrix as ``MatMul`` and ``Add``, which quantized kernels are made of."""
    from onnx import helper, numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    written: dict[str, np.ndarray] = {}
    nodes = []
    for node in graph.node:
        set_to = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = set_to.get("alpha", 1.0) == 1.0 and set_to.get("beta", 1.0) == 1.0 and not set_to.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in stored or node.name == without:
            nodes.append(node)
            continue
        weight = node.input[1]
        if set_to.get("transB", 0):
            weight = f"{weight}_transposed"
            written[weight] = numpy_helper.to_array(stored[node.input[1]]).T
        biased = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], node.name))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_bias"))
    if all(one is two for one, two in zip(nodes, graph.node, strict=False)) and not written:
        return
    replace_nodes(model, nodes)
    if written:
        replace_initializers(model, written)
