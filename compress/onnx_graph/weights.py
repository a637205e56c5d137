"""Find the products of a graph that a weight takes part in, and the task head among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["block_products", "dequantized_products", "find_head", "float_products", "integer_products"]

INTEGER_PRODUCTS = frozenset(
    {"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul"}
)
FLOAT_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul"})
BLOCK_PRODUCTS = frozenset({"MatMulNBits"})
_PASSED_THROUGH = frozenset({"Add", "Cast", "Identity", "Mul", "Reshape", "Squeeze", "Transpose"})


def float_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the ``MatMul`` and ``Gemm`` nodes that multiply by a stored floating-point weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type in FLOAT_PRODUCTS and any(name in weights for name in node.input[:2])
    ]


def integer_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that multiply integers."""
    return [node for node in model.graph.node if node.op_type in INTEGER_PRODUCTS]


def dequantized_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the float products by a stored integer weight that ``DequantizeLinear`` makes a float before."""
    stored = {tensor.name for tensor in model.graph.initializer}
    floats = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return [
        node
        for node in model.graph.node
        if node.op_type in FLOAT_PRODUCTS and any(name in floats for name in node.input[:2])
    ]


def block_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the products of floats by weights that are stored in few bits, block by block."""
    return [node for node in model.graph.node if node.op_type in BLOCK_PRODUCTS]


def find_head(model: onnx.ModelProto, output: str = "logits") -> str | None:
    """Return the name of the last product by a weight before `output`: the task head; None if there is none.

    From the output back, only a bias, a reshape or a cast may stand in between.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    products = {node.name for node in float_products(model)}
    name: str | None = output
    while name is not None and (node := makers.get(name)) is not None:
        if node.name in products:
            return str(node.name)
        if node.op_type not in _PASSED_THROUGH:
            return None
        name = next((source for source in node.input if source in makers), None)
    return None
