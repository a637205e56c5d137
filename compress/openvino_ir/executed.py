"""Which kernels OpenVINO makes of a model: its own rewritten graph, read back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino

__all__ = ["executed_kernels"]

_PRODUCTS = frozenset({"FullyConnected", "MatMul", "ScaledDotProductAttention", "Embedding", "Gather"})
_INTEGERS = frozenset({"i8", "u8", "i4", "u4"})


def executed_kernels(compiled: openvino.CompiledModel) -> dict[str, Any]:
    """Count products by weights that run in integer and in float kernels.

    Returns
    -------
    dict
        ``integer`` and ``float``, how many products by a stored weight run in each kind of kernel, and ``kernels``,
        how often each kernel of a product or a look-up stands in the graph that runs, by kind and precision
        (``FullyConnected i8``).
    """
    kernels: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = {name: str(value.astype(str)) for name, value in operation.get_rt_info().items()}
        kind = facts.get("layerType", operation.get_type_name())
        if kind in _PRODUCTS:
            kernels[f"{kind} {facts.get('runtimePrecision', 'unknown').lower()}"] += 1
    products = {name: count for name, count in kernels.items() if name.startswith("FullyConnected")}
    integer = sum(count for name, count in products.items() if name.rpartition(" ")[2] in _INTEGERS)
    return {"integer": integer, "float": sum(products.values()) - integer, "kernels": dict(sorted(kernels.items()))}
