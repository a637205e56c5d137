"""ONNX Runtime static INT8: ranges of activations from training rows, QDQ around every product by a weight."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import StaticQuantization
from compress.steps.base import Context, SourceFacts
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.observing import Calibration, Spread, Watch, hessians, histograms, spreads
from compress.steps.quantize.placement import Placed, place
from compress.steps.quantize.ranges import Encoding, encoding, find_range
from compress.steps.quantize.rounding import adaround, gptq, mean_error
from compress.steps.quantize.saturation import seven_bits
from compress.steps.quantize.smoothing import smooth, strengths
from compress.steps.quantize.unread import refuse_unread
from compress.steps.quantize.weights import IntegerWeight, quantize_weight, weight_scales

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint
    from compress.onnx_graph import Product

__all__ = ["Prepared", "StaticStep", "prepare"]

log = logging.getLogger(__name__)


class StaticStep(GraphQuantization[StaticQuantization]):
    """Quantize an exported model to INT8 with ranges that calibration rows set.

    ``x W ≈ s_x s_w (q_x - z_x) q_w`` as in dynamic quantization, but ``s_x`` and ``z_x`` are constants: a call does not
    look for them. Products of two activations, norms and GELU stay float. Token embeddings are stored as INT8, the
    task head stays fp32 unless the config says otherwise.
    """

    kind: ClassVar[str] = "quantize/static"
    config: ClassVar[type] = StaticQuantization
    method: ClassVar[str] = "static"
    packages: ClassVar[tuple[str, ...]] = (*GraphQuantization.packages, "torch")
    trains: ClassVar[bool] = True

    def check(self, config: StaticQuantization, source: SourceFacts) -> None:
        """Refuse a quantized source, and options that nothing reads."""
        super().check(config, source)
        if not config.smooth:
            refuse_unread(config, ["alpha"], "with smooth=false")
        if config.calibration != "percentile":
            refuse_unread(config, ["percentile"], f"with calibration={config.calibration}")

    def resolve(self, config: StaticQuantization) -> Mapping[str, Any]:
        """Return whether weights are kept to 7 bits on this machine."""
        return {"reduce_range": seven_bits(config.reduce_range)}

    def gate(self, config: StaticQuantization) -> float | None:
        """Return the config's."""
        return config.max_metric_drop

    def quantize(
        self, graph: onnx.ModelProto, config: StaticQuantization, context: Context, source: Checkpoint
    ) -> Quantized:
        """Calibrate, quantize the products by weights and the embedding tables."""
        from compress.onnx_graph import canonicalise, find_head, quantize_tables

        reduce_range = bool(self.resolve(config)["reduce_range"])
        calibration = Calibration.drawn(source, config.calibration_rows, config.batch_size, context)
        head = None if config.head else find_head(graph)
        facts: dict[str, Any] = {
            "calibration": config.calibration,
            "calibration_rows": calibration.rows,
            "rounding": config.rounding,
            "per_channel": config.per_channel,
            "reduce_range": reduce_range,
        }
        prepared = prepare(graph, config, calibration, context, bits=7 if reduce_range else 8, without=head)
        prepared.place(graph, config.kernels)
        facts |= prepared.facts
        tables = quantize_tables(graph, per_row=config.per_channel) if config.embeddings else []
        canonicalise(graph)
        return Quantized(graph, tables, facts)


@dataclass(frozen=True)
class Prepared:
    """How each product will be quantized, and what is to be told of it.

    Attributes
    ----------
    parts : mapping
        By name of product its input's encoding, its integer weight, and its new bias (None keeps the old one).
    without : str or None
        Name of the task head's product, where that is left as it is.
    facts : mapping
        ``smoothed``, migration strength by product, where there is smoothing.
    """

    parts: Mapping[str, tuple[Encoding, IntegerWeight, np.ndarray | None]]
    without: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def place(self, graph: onnx.ModelProto, kernels: str, only: Collection[str] | None = None) -> None:
        """Quantize products of the graph that this was prepared on, or of a copy, in place; by default all of them.

        `kernels` is as in `compress.steps.quantize.placement.place`.
        """
        from compress.onnx_graph import products_of

        wanted = self.parts.keys() if only is None else self.parts.keys() & set(only)
        placed = [Placed(one, *self.parts[one.name]) for one in products_of(graph, self.without) if one.name in wanted]
        place(graph, placed, kernels)


def prepare(
    graph: onnx.ModelProto,
    config: StaticQuantization,
    calibration: Calibration,
    context: Context,
    *,
    bits: int,
    without: str | None,
) -> Prepared:
    """Find ranges, integers and biases for the products by weights of a graph.

    Parameters
    ----------
    graph : onnx.ModelProto
        fp32; changed where there is smoothing, and as `compress.onnx_graph.products_of` does it.
    config : StaticQuantization
        How.
    calibration : Calibration
        The rows.
    context : Context
        For its seed and threads.
    bits : int
        Of the weights.
    without : str, optional
        Name of the task head's product, to leave out.
    """
    from compress.onnx_graph import products_of

    products = products_of(graph, without)
    if not products:
        return Prepared({}, without)
    seen = spreads(Watch(graph, [one.input for one in products], context.threads), calibration, context.seed)
    facts: dict[str, Any] = {}
    if config.smooth:
        chosen = smooth(
            graph,
            products,
            seen,
            alpha=config.alpha,
            bits=bits,
            per_channel=config.per_channel,
            symmetric=config.symmetric,
        )
        facts["smoothed"] = strengths(chosen, products)
    names = list(dict.fromkeys(one.input for one in products))
    codes = _encodings(graph, names, seen, config, calibration, context)
    sums: Mapping[str, np.ndarray] = {}
    if config.rounding == "gptq":
        sums = hessians(Watch(graph, names, context.threads), calibration, {name: codes[name].apply for name in names})
    biases = _biases(graph)
    parts = {}
    for number, product in enumerate(products, 1):
        code, spread = codes[product.input], seen[product.input]
        weight = _rounded(product, code, spread, sums.get(product.input), config, context, bits)
        bias = None
        if config.bias_correction and product.bias is not None:
            rounded = code.apply(spread.sample)
            bias = biases[product.bias] + mean_error(spread.sample, rounded, product.weight, weight.floats())
        parts[product.name] = code, weight, bias
        if config.rounding == "adaround":
            log.info("%s: rounding of %d/%d products learned", context.name, number, len(products))
    return Prepared(parts, without, facts)


def _encodings(
    graph: onnx.ModelProto,
    names: Sequence[str],
    seen: Mapping[str, Spread],
    config: StaticQuantization,
    calibration: Calibration,
    context: Context,
) -> dict[str, Encoding]:
    if config.calibration == "min_max":
        edges = {name: (float(seen[name].low.min()), float(seen[name].high.max())) for name in names}
    else:
        counted = histograms(Watch(graph, names, context.threads), calibration, seen)
        edges = {
            name: find_range(config.calibration, counted[name], config.percentile, config.symmetric) for name in names
        }
    return {name: encoding(*edges[name], config.symmetric) for name in names}


def _rounded(
    product: Product,
    code: Encoding,
    spread: Spread,
    hessian: np.ndarray | None,
    config: StaticQuantization,
    context: Context,
    bits: int,
) -> IntegerWeight:
    scales = weight_scales(product.weight, bits, config.per_channel, config.weight_range)
    if config.rounding == "nearest":
        return quantize_weight(product.weight, scales, bits)
    if config.rounding == "adaround":
        targets = spread.sample @ product.weight
        rounded = code.apply(spread.sample).astype(np.float32)
        return adaround(product.weight, scales, bits, rounded, targets, seed=context.seed)
    assert hessian is not None
    most = 2 ** (bits - 1) - 1

    def round_row(_: int, row: np.ndarray) -> np.ndarray:
        levels: np.ndarray = np.clip(np.rint(row / scales), -most, most) * scales
        return levels

    return quantize_weight(gptq(product.weight, hessian, round_row), scales, bits)


def _biases(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {
        tensor.name: np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)
        for tensor in graph.graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == 1
    }
