"""ONNX Runtime dynamic INT8: weights stored as integers, activations quantized as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.quantization import DynamicQuantization
from compress.steps.base import Context
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.saturation import seven_bits

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint

__all__ = ["DynamicStep", "quantize_graph"]


class DynamicStep(GraphQuantization[DynamicQuantization]):
    """Quantize an exported model to INT8 without calibration.

    ``x W ≈ s_x s_w (q_x - z_x) q_w``: ``q_w`` is stored, ``s_x`` and ``z_x`` come from each batch's own range.
    Token embeddings are stored as INT8 too; the task head stays fp32 unless the config says otherwise.
    """

    kind: ClassVar[str] = "quantize"
    config: ClassVar[type] = DynamicQuantization
    method: ClassVar[str] = "dynamic"

    def resolve(self, config: DynamicQuantization) -> Mapping[str, Any]:
        """Return whether weights are kept to 7 bits on this machine."""
        return {"reduce_range": seven_bits(config.reduce_range, signed=config.weight_type == "int8")}

    def gate(self, config: DynamicQuantization) -> float | None:
        """Return the config's."""
        return config.max_metric_drop

    def quantize(
        self, graph: onnx.ModelProto, config: DynamicQuantization, context: Context, source: Checkpoint
    ) -> Quantized:
        """Quantize the products by weights and the embedding tables."""
        reduce_range = bool(self.resolve(config)["reduce_range"])
        quantized, tables = quantize_graph(graph, config, reduce_range)
        facts = {"weight_type": config.weight_type, "per_channel": config.per_channel, "reduce_range": reduce_range}
        return Quantized(quantized, tables, facts)


def quantize_graph(
    graph: onnx.ModelProto, config: DynamicQuantization, reduce_range: bool
) -> tuple[onnx.ModelProto, list[str]]:
    """Quantize the products by weights of a graph and, if asked to, its embedding tables.

    Returns
    -------
    graph : onnx.ModelProto
        Canonical (see `compress.onnx_graph.canonicalise`).
    tables : list of str
        Embedding tables that are integers now.
    """
    import tempfile
    from pathlib import Path

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from compress.onnx_graph import canonicalise, find_head, quantize_tables

    tables = quantize_tables(graph, per_row=config.per_channel) if config.embeddings else []
    head = None if config.head else find_head(graph)
    marker = graph.metadata_props.add()  # as its own preparation marks a model: keeps it from asking for that
    marker.key, marker.value = "onnx.quant.pre_process", "onnxruntime.quant"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8 if config.weight_type == "int8" else QuantType.QUInt8,
            per_channel=config.per_channel,
            reduce_range=reduce_range,
            nodes_to_exclude=[] if head is None else [head, f"{head}_MatMul"],  # what it rewrites a Gemm into
            use_external_data_format=True,
        )
        quantized = onnx.load(str(path))
    canonicalise(quantized)
    return quantized, tables
