"""Weights of 2, 4 or 8 bits in an ONNX graph: fewer bytes, products of floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import WeightOnlyQuantization
from compress.errors import ConfigError
from compress.steps.base import Context, SourceFacts
from compress.steps.quantize.block_nodes import place_blocks, place_tables
from compress.steps.quantize.blocks import Blocks, check_block_size, gptq_blocks, half_quadratic, nearest
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.observing import Calibration, Watch, hessians
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint
    from compress.onnx_graph import Product

__all__ = ["WeightOnlyStep", "quantize_weights"]


class WeightOnlyStep(GraphQuantization[WeightOnlyQuantization]):
    """Store weights and token embeddings in 2, 4 or 8 bits, block by block.

    A block of ``block_size`` weights along the input has a scale and a zero point; ``MatMulNBits`` reads them as they
    are stored, ``GatherBlockQuantized`` makes floats of the rows that a batch needs.
    """

    kind: ClassVar[str] = "quantize/weight_only"
    config: ClassVar[type] = WeightOnlyQuantization
    method: ClassVar[str] = "weight_only"
    precision: ClassVar[str | None] = None
    trains: ClassVar[bool] = True

    def check(self, config: WeightOnlyQuantization, source: SourceFacts) -> None:
        """Refuse a quantized source and numbers that no kernel has."""
        super().check(config, source)
        if config.bits not in (2, 4, 8):
            raise ConfigError(f"bits={config.bits}; the runtime's kernels have 2, 4 and 8")
        check_block_size(config.block_size)
        if config.rounding == "hqq" and config.bits == 8:
            raise ConfigError(
                "rounding=hqq fits zero points that are no integers, which the runtime's 8-bit kernel does not take; "
                "use rounding=nearest, which loses next to nothing at 8 bits, or bits=4"
            )
        if config.symmetric and config.rounding == "hqq":
            raise ConfigError("rounding=hqq fits zero points, and symmetric=true has none; set one of them otherwise")
        if config.rounding != "gptq":
            refuse_unread(config, ["calibration_rows", "batch_size"], f"with rounding={config.rounding}")

    def cautions(self, config: WeightOnlyQuantization, device: str) -> Sequence[str]:
        """Return that weights in blocks save bytes."""
        return cautions("onnx_blocks", device)

    def after(self, config: WeightOnlyQuantization, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the precision of the weights."""
        return replace(source, format=self.leaves, precision=f"int{config.bits}")

    def gate(self, config: WeightOnlyQuantization) -> float | None:
        """Return the config's."""
        return config.max_metric_drop

    def quantize(
        self, graph: onnx.ModelProto, config: WeightOnlyQuantization, context: Context, source: Checkpoint
    ) -> Quantized:
        """Put block kernels in the place of products by weights and of lookups."""
        from compress.onnx_graph import canonicalise, find_head, products_of

        head = None if config.head else find_head(graph)
        products = products_of(graph, head)
        sums: Mapping[str, np.ndarray] = {}
        facts: dict[str, Any] = {
            "bits": config.bits,
            "block_size": config.block_size,
            "rounding": config.rounding,
            "symmetric": config.symmetric,
            "activations": config.activations,
        }
        if config.rounding == "gptq" and products:
            calibration = Calibration.drawn(source, config.calibration_rows, config.batch_size, context)
            facts["calibration_rows"] = calibration.rows
            sums = hessians(Watch(graph, [one.input for one in products], context.threads), calibration)
        tables = quantize_weights(graph, products, config, sums)
        canonicalise(graph)
        return Quantized(graph, tables, facts)


def quantize_weights(
    graph: onnx.ModelProto,
    products: list[Product],
    config: WeightOnlyQuantization,
    sums: Mapping[str, np.ndarray],
) -> list[str]:
    """Store weights of products and, if asked to, embedding tables in blocks, in place.

    Parameters
    ----------
    graph : onnx.ModelProto
        Changed; gains the operator set ``com.microsoft``.
    products : list of Product
        Those to quantize.
    config : WeightOnlyQuantization
        How.
    sums : mapping of str to numpy.ndarray
        ``sum of x x^T`` by input, for ``rounding=gptq``.

    Returns
    -------
    list of str
        Names of the tables.
    """
    placed = [
        (product, _blocks(np.ascontiguousarray(product.weight.T), config, sums.get(product.input)))
        for product in products
    ]
    tables = place_tables(graph, config.bits, config.block_size, config.symmetric) if config.embeddings else []
    place_blocks(graph, placed, config.activations)
    return tables


def _blocks(weight: np.ndarray, config: WeightOnlyQuantization, hessian: np.ndarray | None) -> Blocks:
    if hessian is not None:
        return gptq_blocks(weight, hessian, config.bits, config.block_size, config.symmetric)
    if config.rounding == "hqq":
        return half_quadratic(weight, config.bits, config.block_size)
    return nearest(weight, config.bits, config.block_size, config.symmetric)
