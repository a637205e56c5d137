"""Which kernels the runtime makes of a quantized graph: its own rewritten graph, read back."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["executed_graph", "executed_kernels"]


def executed_graph(directory: Path) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime runs on the CPU after all of its rewriting, as this machine gets it."""
    import onnx
    import onnxruntime

    from compress.onnx_graph import MODEL_FILE

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "executed.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3  # it warns that such a graph fits one machine only, which is what it is for
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        onnxruntime.InferenceSession(str(directory / MODEL_FILE), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(path), load_external_data=False)


def executed_kernels(directory: Path) -> dict[str, Any]:
    """Count products by weights that run in integer and in float kernels.

    Returns
    -------
    dict
        ``integer`` and ``float``, how many products by a stored weight run in each kind of kernel (a weight that is
        stored in few bits and multiplied as a float is a float product), and ``kernels``, how often each kernel that
        multiplies by a weight stands in the graph that runs.
    """
    from compress.onnx_graph import block_products, dequantized_products, float_products, integer_products

    graph = executed_graph(directory)
    integer = integer_products(graph)
    floating = [*float_products(graph), *dequantized_products(graph), *block_products(graph)]
    kernels = Counter(node.op_type for node in (*integer, *floating))
    return {"integer": len(integer), "float": len(floating), "kernels": dict(sorted(kernels.items()))}
