"""All rewritings of a graph, in the order in which one makes room for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import UnsupportedError
from compress.steps.simplify.attention import find_attention, fold_scale, merge_projections
from compress.steps.simplify.editing import Graph
from compress.steps.simplify.first_token import narrow_to_read_token
from compress.steps.simplify.shapes import drop_expanded_bias, fix_reshapes, fold_token_types, plain_masks

if TYPE_CHECKING:
    import onnx

__all__ = ["simplify_graph"]


def simplify_graph(
    model: onnx.ModelProto, layers: int, *, merge: bool = True, first_token: bool = True
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Return a graph of fewer operations that computes the same.

    Parameters
    ----------
    model : onnx.ModelProto
        An exported fp32 encoder with a task head; left as it is.
    layers : int
        Its attention blocks.
    merge : bool
        Make query, key and value by one product.
    first_token : bool
        Of the last layer compute only the token that the head reads, where it reads one.

    Returns
    -------
    graph : onnx.ModelProto
        Canonical (see `compress.onnx_graph.canonicalise`), of standard operators alone.
    counts : dict of str to int
        How often each rewriting found its place.

    Raises
    ------
    UnsupportedError
        If the attention blocks are not all found: the graph is of a kind that is not known here.
    """
    graph = Graph(model)
    blocks = find_attention(graph)
    if len(blocks) != layers:
        raise UnsupportedError(
            f"{len(blocks)} of {layers} attention blocks are of the known form "
            f"softmax(query key^T * scale + mask) value, each of the three a product by a weight with a bias"
        )
    counts = {
        "reshapes": fix_reshapes(graph),
        "masks": plain_masks(graph, blocks),
        "copied_biases": drop_expanded_bias(blocks),
        "token_types": fold_token_types(graph),
        "scales": sum(fold_scale(graph, block) for block in blocks),
    }
    graph = Graph(graph.proto())  # without what is dead now, which still reads values that others are to replace
    counts["single_token_products"] = narrow_to_read_token(graph) if first_token else 0
    graph = Graph(graph.proto())
    counts["merged"] = sum(merge_projections(graph, block) for block in find_attention(graph)) if merge else 0
    return graph.proto(), counts
