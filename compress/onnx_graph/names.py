"""Call weights and products what the torch checkpoint calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["name_weights"]


def name_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Give initialisers their names in `weights`, and products the name of the layer whose weight they use, in place.

    Exporters transpose matrices and number the results; such a matrix is found by its content. A node
    that multiplies by ``encoder.layer.0.output.dense.weight`` is called ``encoder.layer.0.output.dense``.

    Parameters
    ----------
    model : onnx.ModelProto
        The exported graph.
    weights : mapping of str to numpy.ndarray
        The module's parameters and buffers.
    prefix : str
        Prefix of exported names that `weights` has not.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    by_content = {_content(value.T): name for name, value in sorted(weights.items(), reverse=True) if value.ndim == 2}
    taken = {value.name for value in (*graph.input, *graph.output)}
    taken |= {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        name = tensor.name.removeprefix(prefix)
        if name not in weights and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            name = by_content.get(_content(numpy_helper.to_array(tensor)), name)
        if name != tensor.name and name not in taken:
            renamed[tensor.name] = name
            taken.add(name)
            tensor.name = name
    names = {node.name for node in graph.node}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.op_type in {"MatMul", "Gemm"}:
            layer = node.input[1].removesuffix(".weight")
            if node.input[1] in weights and layer not in names:
                node.name = layer
                names.add(layer)


def _content(values: np.ndarray) -> tuple[tuple[int, ...], str]:
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
