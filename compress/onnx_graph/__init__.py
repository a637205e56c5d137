"""ONNX graphs: read, tidied to the same bytes every time, searched and rewritten."""

from compress.onnx_graph.canonical import canonicalise
from compress.onnx_graph.files import MODEL_FILE, load_graph, save_graph
from compress.onnx_graph.names import name_weights
from compress.onnx_graph.products import Product, products_of
from compress.onnx_graph.replacing import (
    RUNTIME_DOMAIN,
    add_runtime_operators,
    replace_initializers,
    replace_nodes,
)
from compress.onnx_graph.tables import quantize_tables
from compress.onnx_graph.weights import (
    block_products,
    dequantized_products,
    find_head,
    float_products,
    integer_products,
)

__all__ = [
    "MODEL_FILE",
    "RUNTIME_DOMAIN",
    "Product",
    "add_runtime_operators",
    "block_products",
    "canonicalise",
    "dequantized_products",
    "find_head",
    "float_products",
    "integer_products",
    "load_graph",
    "name_weights",
    "products_of",
    "quantize_tables",
    "replace_initializers",
    "replace_nodes",
    "save_graph",
]
