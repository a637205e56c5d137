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


def place(graph: onnx.ModelProto, placed: Sequence[Placed], kernels: str) -> None:
    """Quantize inputs and weights of products, in place.

    The input of a product passes ``QuantizeLinear`` and ``DequantizeLinear`` once, however many products read it
    with one encoding; its output stays float, so that the runtime multiplies integers and scales in one kernel
    (``MatMulIntegerToFloat``) and norms, GELU, softmax and residuals run as in the fp32 graph. That kernel adds a bias
    too, but the runtime gives it none where it makes it of standard operators; ``fused`` writes it down as it will run.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed.
    placed : sequence of Placed
        All of the products to quantize; those that read one value share one encoding.
    kernels : str
        ``fused`` puts ``MatMulIntegerToFloat`` of the operator set ``com.microsoft``, which the graph gains, in the
        place of a product and the bias after it; ``qdq`` keeps to standard operators.
    """
    from onnx import numpy_helper

    from compress.onnx_graph import add_runtime_operators, replace_initializers, replace_nodes

    flat = _two_dimensional(graph, [one.product.input for one in placed])
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if len(tensor.dims) == 1}
    adds = {name: node for node in graph.graph.node if node.op_type == "Add" for name in node.input}
    values: dict[str, np.ndarray] = {}
    instead: dict[str, list[onnx.NodeProto]] = {}
    gone: set[str] = set()
    coded: set[str] = set()
    floats: set[str] = set()
    for one in placed:
        product = one.product
        if one.bias is not None and product.bias is not None:
            values[product.bias] = one.bias.astype(np.float32)
        nodes = instead[product.node.output[0]] = []
        if product.input not in coded:
            nodes.append(_quantize_input(one, values))
            coded.add(product.input)
        _store_weight(one, values)
        add = adds[product.bias] if product.bias is not None else None
        if add is not None and kernels == "fused" and product.input not in flat:
            nodes.append(_integer_product(one, add.output[0]))
            gone.add(add.output[0])
            continue
        if product.input not in floats:
            nodes.append(_dequantize_input(product.input))
            floats.add(product.input)
        nodes.append(_dequantize_weight(one))
        if add is not None and product.input in flat:
            nodes.extend(_gemm(one, stored[str(product.bias)], add.output[0], values))
            gone.add(add.output[0])
        else:
            nodes.append(_float_product(one))
    replace_nodes(
        graph,
        [new for node in graph.graph.node if node.output[0] not in gone for new in instead.get(node.output[0], [node])],
    )
    replace_initializers(graph, values)
    if any(node.op_type == "MatMulIntegerToFloat" for nodes in instead.values() for node in nodes):
        add_runtime_operators(graph)


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


def _code_of(name: str) -> list[str]:
    """Return the names of the scale and the zero point of a value."""
    return [f"{name}_scale", f"{name}_zero"]


def _quantize_input(one: Placed, values: dict[str, np.ndarray]) -> onnx.NodeProto:
    """Return the node that quantizes an input, and add what it reads."""
    from onnx import helper

    name = one.product.input
    scale, zero = _code_of(name)
    values[scale] = np.asarray(one.encoding.scale, dtype=np.float32)
    values[zero] = np.asarray(one.encoding.zero, dtype=np.uint8)
    return helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_quantized"], f"{name}_quantize")


def _dequantize_input(name: str) -> onnx.NodeProto:
    from onnx import helper

    inputs = [f"{name}_quantized", *_code_of(name)]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_dequantize")


def _store_weight(one: Placed, values: dict[str, np.ndarray]) -> None:
    matrix = f"{one.product.name}.weight"
    scale, zero = _code_of(matrix)
    values[f"{matrix}_quantized"] = one.weight.values
    values[scale] = one.weight.scales if one.weight.scales.size > 1 else one.weight.scales.reshape(())
    values[zero] = np.zeros_like(values[scale], dtype=np.int8)


def _dequantize_weight(one: Placed) -> onnx.NodeProto:
    from onnx import helper

    matrix = f"{one.product.name}.weight"
    axis: dict[str, Any] = {"axis": 1} if one.weight.scales.size > 1 else {}
    inputs = [f"{matrix}_quantized", *_code_of(matrix)]
    return helper.make_node("DequantizeLinear", inputs, [f"{matrix}_dequantized"], f"{one.product.name}_weight", **axis)


def _float_product(one: Placed) -> onnx.NodeProto:
    from onnx import helper

    inputs = [f"{one.product.input}_dequantized", f"{one.product.name}.weight_dequantized"]
    return helper.make_node("MatMul", inputs, one.product.node.output, one.product.name)


def _integer_product(one: Placed, output: str) -> onnx.NodeProto:
    """Return the kernel that multiplies integers, scales, and adds the bias, in the place of ``MatMul`` and ``Add``.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulIntegerToFloat
    """
    from onnx import helper

    from compress.onnx_graph import RUNTIME_DOMAIN

    source, matrix = one.product.input, f"{one.product.name}.weight"
    pairs = zip(_code_of(source), _code_of(matrix), strict=True)
    inputs = [
        f"{source}_quantized",
        f"{matrix}_quantized",
        *(name for pair in pairs for name in pair),
        str(one.product.bias),
    ]
    return helper.make_node("MatMulIntegerToFloat", inputs, [output], one.product.name, domain=RUNTIME_DOMAIN)
