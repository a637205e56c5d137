"""4-bit and 8-bit weights in an ONNX graph: fewer bytes, products of floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import WeightOnlyQuantization
from compress.errors import ConfigError
from compress.steps.base import Context, SourceFacts
from compress.steps.quantize.blocks import Blocks, gptq_blocks, half_quadratic, nearest, packed
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.observing import Calibration, Watch, hessians
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint
    from compress.onnx_graph import Product

__all__ = ["WeightOnlyStep", "quantize_weights"]

_INT8_ACTIVATIONS = 4
"""``accuracy_level`` of MatMulNBits that multiplies integers, activations quantized block by block."""

DOMAIN = "com.microsoft"


class WeightOnlyStep(GraphQuantization[WeightOnlyQuantization]):
    """Store weights and token embeddings in 4 or 8 bits, block by block.

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
        if config.bits not in (4, 8):
            raise ConfigError(f"bits={config.bits}; the runtime's kernels have 4 and 8")
        if config.block_size & (config.block_size - 1):
            raise ConfigError(f"block_size={config.block_size}; it must be a power of two from 16 to 256")
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
        Changed; gains the operator set ``com.microsoft``. A table of odd width gets 8 bits whatever `config` says.
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
    from onnx import helper

    from compress.onnx_graph import replace_initializers, replace_nodes
    from compress.onnx_graph.tables import lookups_of

    values: dict[str, np.ndarray] = {}
    instead: dict[str, onnx.NodeProto] = {}
    tables = lookups_of(graph) if config.embeddings else {}
    for product in products:
        blocks = _blocks(np.ascontiguousarray(product.weight.T), config, sums.get(product.input))
        out, width = blocks.codes.shape
        name = f"{product.name}.weight"
        padded = np.pad(blocks.codes, ((0, 0), (0, -width % config.block_size)))
        per_block = padded.reshape(out, -1, config.block_size)
        values[f"{name}_quantized"] = packed(per_block, config.bits)
        values[f"{name}_scale"] = blocks.scales
        inputs = [product.input, f"{name}_quantized", f"{name}_scale"]
        if blocks.zeros is not None:
            floats = blocks.zeros.dtype == np.float32
            values[f"{name}_zero"] = blocks.zeros if floats else packed(blocks.zeros, config.bits)
            inputs.append(f"{name}_zero")
        instead[product.node.output[0]] = helper.make_node(
            "MatMulNBits",
            inputs,
            [product.node.output[0]],
            product.name,
            domain=DOMAIN,
            K=width,
            N=out,
            bits=config.bits,
            block_size=config.block_size,
            accuracy_level=_INT8_ACTIVATIONS if config.activations == "int8" else 0,
        )
    for table, (weights, nodes) in tables.items():
        # The operator takes a row of packed 4-bit numbers to be of even width.
        bits = 8 if weights.shape[1] % 2 else config.bits
        blocks = nearest(weights, bits, config.block_size, config.symmetric)
        values[f"{table}_quantized"] = packed(blocks.codes, bits)
        values[f"{table}_scale"] = blocks.scales
        inputs = [f"{table}_quantized", "", f"{table}_scale"]
        if blocks.zeros is not None:
            values[f"{table}_zero"] = packed(blocks.zeros, bits)
            inputs.append(f"{table}_zero")
        for node in nodes:
            inputs[1] = node.input[1]
            instead[node.output[0]] = helper.make_node(
                "GatherBlockQuantized",
                inputs,
                list(node.output),
                node.name,
                domain=DOMAIN,
                bits=bits,
                block_size=config.block_size,
                gather_axis=0,
                quantize_axis=1,
            )
    replace_nodes(graph, [instead.get(node.output[0], node) for node in graph.graph.node])
    if not any(entry.domain == DOMAIN for entry in graph.opset_import):
        entry = graph.opset_import.add()
        entry.domain, entry.version = DOMAIN, 1
    replace_initializers(graph, values)
    return sorted(tables)


def _blocks(weight: np.ndarray, config: WeightOnlyQuantization, hessian: np.ndarray | None) -> Blocks:
    if hessian is not None:
        return gptq_blocks(weight, hessian, config.bits, config.block_size, config.symmetric)
    if config.rounding == "hqq":
        return half_quadratic(weight, config.bits, config.block_size)
    return nearest(weight, config.bits, config.block_size, config.symmetric)
