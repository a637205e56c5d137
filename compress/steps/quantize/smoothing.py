"""SmoothQuant: outlying channels of activations become outlying rows of weights, which have scales of their own.

Xiao et al., arXiv 2211.10438, equations 3 and 4: ``x W = (x / s)(s W)`` with ``s_j = max|x_j|^a / max|W_j|^(1-a)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.steps.quantize.observing import Spread
from compress.steps.quantize.ranges import encoding
from compress.steps.quantize.weights import quantize_weight, weight_scales

if TYPE_CHECKING:
    import onnx

    from compress.onnx_graph import Product

__all__ = ["ALPHAS", "factors", "smooth", "strengths"]

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Migration strengths that a search tries, beside none at all."""

_WORTH = 0.9
"""A smoothing stays where it leaves less than this share of the squared error: it costs an operation."""


def factors(spread: Spread, weights: Sequence[np.ndarray], alpha: float) -> np.ndarray:
    """Return ``s``, float32 ``[width]``, for one value and all weights ``[width, out]`` that multiply it."""
    largest = np.maximum(np.abs(spread.low), np.abs(spread.high)).astype(np.float64)
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    used = (largest > 1e-8) & (rows > 1e-8)
    found = np.ones(len(largest))
    found[used] = largest[used] ** alpha / rows[used] ** (1 - alpha)
    found[used] /= np.exp(np.log(found[used]).mean()) if used.any() else 1.0
    return np.clip(found, 1e-3, 1e3).astype(np.float32)


def smooth(
    graph: onnx.ModelProto,
    products: Sequence[Product],
    spreads: dict[str, Spread],
    *,
    alpha: float | None,
    bits: int,
    per_channel: bool,
    symmetric: bool,
) -> dict[str, float]:
    """Smooth the inputs of products in a graph, in place; what it computes stays the same.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed: a ``Mul`` before the products of a smoothed value, their weights multiplied.
    products : sequence of Product
        Of the graph; changed with it.
    spreads : dict of str to Spread
        Of the products' inputs; those of the smoothed values are added.
    alpha : float or None
        The migration strength; None searches for every value the one whose quantized products are nearest to the
        float ones on the sampled tokens, none at all among them.
    bits, per_channel, symmetric
        How weights and activations will be quantized.

    Returns
    -------
    dict of str to float
        The strength by name of value, those left alone absent.
    """
    from onnx import helper

    from compress.onnx_graph import replace_initializers, replace_nodes

    groups: dict[str, list[Product]] = {}
    for product in products:
        groups.setdefault(product.input, []).append(product)
    chosen: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    nodes = list(graph.graph.node)
    for name, group in groups.items():
        spread, weights = spreads[name], [product.weight for product in group]

        def error(s: np.ndarray, spread: Spread = spread, weights: list[np.ndarray] = weights) -> float:
            return _error(spread, weights, s, bits, per_channel, symmetric)

        best = alpha
        if alpha is None:
            tried = {one: error(factors(spread, weights, one)) for one in ALPHAS}
            nearest = min(tried, key=lambda one: (tried[one], one))
            best = nearest if tried[nearest] < _WORTH * error(np.ones(len(spread.low), dtype=np.float32)) else None
        if best is None:
            continue
        chosen[name] = best
        s = factors(spread, weights, best)
        smoothed = f"{name}_smoothed"
        values[f"{name}_smoothing"] = (1 / s).astype(np.float32)
        spreads[smoothed] = Spread(spread.low / s, spread.high / s, spread.sample / s)
        first = min(nodes.index(product.node) for product in group)
        nodes.insert(first, helper.make_node("Mul", [name, f"{name}_smoothing"], [smoothed], f"{name}_smooth"))
        for product in group:
            product.weight = product.weight * s[:, None]
            product.input = product.node.input[0] = smoothed
            product.node.input[1] = f"{product.name}.weight_smoothed"
            values[product.node.input[1]] = product.weight
    if chosen:
        replace_nodes(graph, nodes)
        by_name = {node.name: node for node in graph.graph.node if node.op_type == "MatMul"}
        for product in products:
            product.node = by_name[product.name]
        replace_initializers(graph, values)
    return chosen


def _error(
    spread: Spread, weights: Sequence[np.ndarray], s: np.ndarray, bits: int, per_channel: bool, symmetric: bool
) -> float:
    """Return the squared error of the quantized products of the sampled tokens."""
    sample = spread.sample / s
    code = encoding(float((spread.low / s).min()), float((spread.high / s).max()), symmetric)
    rounded = code.apply(sample).astype(np.float32)
    total = 0.0
    for weight in weights:
        scaled = weight * s[:, None]
        integers = quantize_weight(scaled, weight_scales(scaled, bits, per_channel, "max"), bits).floats()
        total += float(np.square(rounded @ integers - spread.sample @ weight).sum())
    return total


def strengths(chosen: Mapping[str, float], products: Sequence[Product]) -> dict[str, float]:
    """Return the strength by name of product, for a record."""
    return {
        product.name: chosen[product.input.removesuffix("_smoothed")]
        for product in products
        if product.input.removesuffix("_smoothed") in chosen
    }
