"""QuantizeLinear and DequantizeLinear around products by weights, placed so that the runtime runs integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.steps.quantize.ranges import Encoding
from compress.steps.quantize.weights import IntegerWeight

if TYPE_CHECKING:
    import onnx

    from compress.onnx_graph.products import Product

__all__ = ["Placed", "place"]


@dataclass(frozen=True)
class Placed:
    """What a product becomes.

    Attributes
    ----------
    product : Product
        As it stands in the graph.
    encoding : Encoding
        Of its input.
    weight : IntegerWeight
        Its weight.
    bias : numpy.ndarray or None
        A new bias; None leaves the old one.
    """

    product: Product
    encoding: Encoding
    weight: IntegerWeight
    bias: np.ndarray | None = None


def place(graph: onnx.ModelProto, placed: Sequence[Placed]) -> None:
    """Quantize inputs and weights of products, in place.

    The input of a product passes ``QuantizeLinear`` and ``DequantizeLinear`` once, however many products read it
    with one encoding; its output stays float, so that the runtime multiplies integers, scales and adds the bias in one
    kernel (``MatMulIntegerToFloat``) and norms, GELU, softmax and residuals run as in the fp32 graph.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed.
    placed : sequence of Placed
        All of the products to quantize; those that read one value share one encoding.
    """
    from onnx import helper, numpy_helper

    from compress.onnx_graph import replace_initializers, replace_nodes

    flat = _two_dimensional(graph, [one.product.input for one in placed])
    adds = {name: node for node in graph.graph.node if node.op_type == "Add" for name in node.input}
    values: dict[str, np.ndarray] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    codes: dict[str, str] = {}
    gone: set[str] = set()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if len(tensor.dims) == 1}
    for one in placed:
        product, name = one.product, one.product.name
        if product.input not in codes:
            codes[product.input] = f"{product.input}_dequantized"
            before[name] = _coded(one, values)
        matrix = f"{name}.weight"
        values[f"{matrix}_quantized"] = one.weight.values
        values[f"{matrix}_scale"] = one.weight.scales if one.weight.scales.size > 1 else one.weight.scales.reshape(())
        values[f"{matrix}_zero"] = np.zeros_like(values[f"{matrix}_scale"], dtype=np.int8)
        axis: dict[str, Any] = {"axis": 1} if one.weight.scales.size > 1 else {}
        before.setdefault(name, []).append(
            helper.make_node(
                "DequantizeLinear",
                [f"{matrix}_quantized", f"{matrix}_scale", f"{matrix}_zero"],
                [f"{matrix}_dequantized"],
                f"{name}_weight",
                **axis,
            )
        )
        product.node.input[0] = codes[product.input]
        product.node.input[1] = f"{matrix}_dequantized"
        if one.bias is not None and product.bias is not None:
            values[product.bias] = one.bias.astype(np.float32)
        if product.bias is not None and product.input in flat:
            before[name].extend(_gemm(one, stored[product.bias], adds[product.bias].output[0], values))
            gone |= {product.node.output[0], adds[product.bias].output[0]}
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type == "MatMul":
            nodes.extend(before.get(node.name, ()))
        if node.output[0] not in gone:
            nodes.append(node)
    replace_nodes(graph, nodes)
    replace_initializers(graph, values)


def _two_dimensional(graph: onnx.ModelProto, names: Sequence[str]) -> set[str]:
    """Return which of the values have two dimensions, as those that hold one token of each row."""
    import onnx

    wanted = set(names)
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {
        value.name
        for value in (*inferred.value_info, *inferred.input)
        if value.name in wanted and len(value.type.tensor_type.shape.dim) == 2
    }


def _gemm(one: Placed, bias: np.ndarray, output: str, values: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Return a ``Gemm`` with an integer bias in the place of ``MatMul`` and ``Add``.

    The runtime makes a float ``Gemm`` of the two where the input has two dimensions, before it looks for integers; of a
    ``Gemm`` whose three inputs are integers it makes ``QGemm``.
    """
    from onnx import helper

    name = f"{one.product.name}.bias"
    steps = np.asarray(one.encoding.scale * one.weight.scales, dtype=np.float32)
    exact = (bias if one.bias is None else one.bias) / steps
    values[f"{name}_quantized"] = np.clip(np.rint(exact), -(2**31), 2**31 - 1).astype(np.int32)
    values[f"{name}_scale"] = steps if steps.size > 1 else steps.reshape(())
    axis: dict[str, Any] = {"axis": 0} if steps.size > 1 else {}
    inputs = [f"{one.product.input}_dequantized", f"{one.product.name}.weight_dequantized", f"{name}_dequantized"]
    return [
        helper.make_node(
            "DequantizeLinear", [f"{name}_quantized", f"{name}_scale"], inputs[2:], f"{one.product.name}_offset", **axis
        ),
        helper.make_node("Gemm", inputs, [output], one.product.name),
    ]


def _coded(one: Placed, values: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Return the nodes that quantize an input, and what they read."""
    from onnx import helper

    name = one.product.input
    values[f"{name}_scale"] = np.asarray(one.encoding.scale, dtype=np.float32)
    values[f"{name}_zero"] = np.asarray(one.encoding.zero, dtype=np.uint8)
    code, quantized = [f"{name}_scale", f"{name}_zero"], f"{name}_quantized"
    return [
        helper.make_node("QuantizeLinear", [name, *code], [quantized], f"{name}_quantize"),
        helper.make_node("DequantizeLinear", [quantized, *code], [f"{name}_dequantized"], f"{name}_dequantize"),
    ]
