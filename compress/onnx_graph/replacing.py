"""Give a graph other nodes or initialisers, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["RUNTIME_DOMAIN", "add_runtime_operators", "refill", "replace_initializers", "replace_nodes"]

RUNTIME_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def add_runtime_operators(model: onnx.ModelProto) -> None:
    """Let a graph use ONNX Runtime's own operators, in place."""
    if not any(entry.domain == RUNTIME_DOMAIN for entry in model.opset_import):
        entry = model.opset_import.add()
        entry.domain, entry.version = RUNTIME_DOMAIN, 1


def refill(field: Any, items: Iterable[Any]) -> None:
    """Set a repeated field of a protobuf message to copies of items; its own may be among them, which die with it."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph these nodes, in this order, and no others."""
    refill(model.graph.node, nodes)


def replace_initializers(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Put arrays in the place of initialisers, or add those that are new."""
    from onnx import numpy_helper

    kept = [tensor for tensor in model.graph.initializer if tensor.name not in values]
    new = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in sorted(values.items())]
    refill(model.graph.initializer, [*kept, *new])
