"""ONNX Runtime dynamic INT8: weights stored as integers, activations quantized as they come."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import DynamicQuantization
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["DynamicStep", "quantize_graph"]


class DynamicStep(Step[DynamicQuantization]):
    """Quantize an exported model to INT8 without calibration.

    ``x W ≈ s_x s_w (q_x - z_x) q_w``: ``q_w`` is stored, ``s_x`` and ``z_x`` come from each batch's own range.
    Token embeddings are stored as INT8 too; the task head stays fp32 unless the config says otherwise.
    """

    kind: ClassVar[str] = "quantize"
    config: ClassVar[type] = DynamicQuantization
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str | None] = "int8"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "tokenizers", "transformers")
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.quantize",
        "compress.steps.companions",
        "compress.onnx_graph",
        "compress.runtime",
        "compress.tasks",
    )

    def check(self, config: DynamicQuantization, source: SourceFacts) -> None:
        """Refuse a source that is quantized already."""
        if source.precision != "fp32":
            raise ConfigError(
                f"quantize reads an fp32 checkpoint, this one is {source.precision}: quantizing twice loses twice; "
                f"let the step follow export"
            )

    def resolve(self, config: DynamicQuantization) -> Mapping[str, Any]:
        """Return whether weights are kept to 7 bits on this machine.

        On x86 without VNNI, products of unsigned activations and signed weights are summed in pairs in 16 bits
        and saturate: 255 * 127 * 2 > 32767. With 7-bit weights they fit. Unsigned weights take another kernel.
        """
        if config.reduce_range != "auto":
            return {"reduce_range": config.reduce_range == "true"}
        return {"reduce_range": config.weight_type == "int8" and _pairs_saturate()}

    def run(self, source: Checkpoint | SourceModel, config: DynamicQuantization, context: Context, out: Writer) -> None:
        """Quantize, save, count what became integers, and judge on the validation split."""
        from compress.checkpoint import Checkpoint
        from compress.onnx_graph import float_products, integer_products, load_graph, save_graph
        from compress.steps.companions import copy_companions
        from compress.steps.quantize.gate import judge, source_metric, validation_metric

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: quantize reads an exported checkpoint; {source.name} is not one")
        reduce_range = bool(self.resolve(config)["reduce_range"])
        graph, tables = quantize_graph(load_graph(source.path), config, reduce_range)
        products = integer_products(graph)
        if not products and not tables:
            raise StepError(
                f"step {context.name}: nothing in {source.architecture} could be quantized: "
                f"no product by a stored weight was found in its graph"
            )
        save_graph(graph, out.path)
        copy_companions(source, out)
        facts: dict[str, Any] = {
            "method": "dynamic",
            "weight_type": config.weight_type,
            "per_channel": config.per_channel,
            "reduce_range": reduce_range,
            "integer_products": len(products),
            "integer_tables": len(tables),
            "float_products": sorted(node.name for node in float_products(graph)),
        }
        if config.max_metric_drop is not None:
            before = source_metric(source, context)
            after = validation_metric(out.path, context)
            judge(before, after, config.max_metric_drop, context)
            facts["validation"] = {"metric": context.task.metric, "source": before, "quantized": after}
        out.facts["quantize"] = facts


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


def _pairs_saturate() -> bool:
    """Whether this machine's signed 8-bit kernel sums pairs of products in 16 bits."""
    if platform.machine().lower() not in {"x86_64", "amd64", "i686"}:
        return False
    from compress.machine import has_vnni

    return not has_vnni()
