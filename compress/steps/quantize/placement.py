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
    smoothing : numpy.ndarray or None
        float32 ``[width]``: the input is divided by it first (and the weight was multiplied).
    """

    product: Product
    encoding: Encoding
    weight: IntegerWeight
    bias: np.ndarray | None = None
    smoothing: np.ndarray | None = None


def place(graph: onnx.ModelProto, placed: Sequence[Placed], *, signed: bool = False) -> None:
    """Quantize inputs and weights of products, in place.

    The input of a product passes ``QuantizeLinear`` and ``DequantizeLinear`` once, however many products read it
    with one encoding; its output stays float, so that the runtime multiplies integers, scales and adds the bias in one
    kernel (``MatMulIntegerToFloat``) and norms, GELU, softmax and residuals run as in the fp32 graph.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed.
    placed : sequence of Placed
        All of the products to quantize; those that read one value share one encoding and one smoothing.
    signed : bool
        int8 activations, zero point 0 in the place of 128 (for runtimes other than ONNX Runtime, which has no such
        kernel on x86).
    """
    from onnx import helper, numpy_helper

    from compress.onnx_graph import replace_initializers

    flat = _two_dimensional(graph, [one.product.input for one in placed])
    adds = {name: node for node in graph.graph.node if node.op_type == "Add" for name in node.input}
    values: dict[str, np.ndarray] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    codes: dict[str, str] = {}
    gone: set[int] = set()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if len(tensor.dims) == 1}
    for one in placed:
        product, name = one.product, one.product.name
        if product.input not in codes:
            codes[product.input] = f"{product.input}_dequantized"
            before[name] = _coded(one, values, signed)
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
            gone |= {id(product.node), id(adds[product.bias])}
    nodes = []
    for node in graph.graph.node:
        for added in (*(before.get(node.name, ()) if node.op_type == "MatMul" else ()), node):
            if id(added) in gone:
                continue
            copy = type(added)()
            copy.CopyFrom(added)
            nodes.append(copy)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
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


def _coded(one: Placed, values: dict[str, np.ndarray], signed: bool) -> list[onnx.NodeProto]:
    """Return the nodes that quantize an input, and what they read."""
    from onnx import helper

    name = one.product.input
    nodes, source = [], name
    if one.smoothing is not None:
        source = f"{name}_smoothed"
        values[f"{name}_smoothing"] = (1 / one.smoothing).astype(np.float32)
        nodes.append(helper.make_node("Mul", [name, f"{name}_smoothing"], [source], f"{name}_smooth"))
    values[f"{name}_scale"] = np.asarray(one.encoding.scale, dtype=np.float32)
    zero = np.int8(one.encoding.zero - 128) if signed else np.uint8(one.encoding.zero)
    values[f"{name}_zero"] = np.asarray(zero)
    code = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [source, *code], [f"{name}_quantized"], f"{name}_quantize"))
    nodes.append(
        helper.make_node(
            "DequantizeLinear", [f"{name}_quantized", *code], [f"{name}_dequantized"], f"{name}_dequantize"
        )
    )
    return nodes
