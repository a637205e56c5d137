"""What every quantization of an exported graph shares: what it reads, what it refuses, how it is judged and saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.quantize.capability import cautions

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["GraphQuantization", "Quantized"]

C = TypeVar("C")


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, canonical (see `compress.onnx_graph.canonicalise`), and what is to be told of it.

    Attributes
    ----------
    graph : onnx.ModelProto
        The graph.
    tables : list of str
        Embedding tables that hold integers now.
    facts : mapping
        For the checkpoint's facts, under ``quantize``.
    """

    graph: onnx.ModelProto
    tables: list[str] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


class GraphQuantization(Step[C]):
    """An fp32 ONNX checkpoint becomes one of fewer bits; the gate reads the validation split."""

    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str | None] = "int8"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "tokenizers", "transformers")
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.quantize",
        "compress.steps.companions",
        "compress.steps.drawing",
        "compress.onnx_graph",
        "compress.runtime",
        "compress.tasks",
    )
    method: ClassVar[str]
    """Name of the method in the checkpoint's facts."""

    @abstractmethod
    def quantize(self, graph: onnx.ModelProto, config: C, context: Context, source: Checkpoint) -> Quantized:
        """Return the quantized graph; `graph` may be changed."""

    @abstractmethod
    def gate(self, config: C) -> float | None:
        """Return the validation metric that may be lost; None is off."""

    def check(self, config: C, source: SourceFacts) -> None:
        """Refuse a source that is quantized already."""
        if source.precision != "fp32":
            raise ConfigError(
                f"quantize reads an fp32 checkpoint, this one is {source.precision}: quantizing twice loses twice; "
                f"let the step follow export"
            )

    def cautions(self, config: C, device: str) -> Sequence[str]:
        """Return whether this machine multiplies integers faster than floats."""
        return cautions("onnx_int8", device)

    def run(self, source: Checkpoint | SourceModel, config: C, context: Context, out: Writer) -> None:
        """Quantize, save, count what became integers and what the runtime makes of it, and judge."""
        from compress.checkpoint import Checkpoint
        from compress.onnx_graph import float_products, load_graph, save_graph
        from compress.steps.companions import copy_companions
        from compress.steps.quantize.executed import executed_kernels
        from compress.steps.quantize.gate import judge, source_metric, validation_metric

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: quantize reads an exported checkpoint; {source.name} is not one")
        quantized = self.quantize(load_graph(source.path), config, context, source)
        products = _quantized_products(quantized.graph)
        if not products and not quantized.tables:
            raise StepError(
                f"step {context.name}: nothing in {source.architecture} could be quantized: "
                f"no product by a stored weight was found in its graph"
            )
        save_graph(quantized.graph, out.path)
        copy_companions(source, out)
        facts: dict[str, Any] = {
            "method": self.method,
            **quantized.facts,
            "integer_products": products,
            "integer_tables": len(quantized.tables),
            "float_products": sorted(node.name for node in float_products(quantized.graph)),
            "executed": executed_kernels(out.path),
        }
        allowed = self.gate(config)
        if allowed is not None:
            before = source_metric(source, context)
            after = validation_metric(out.path, context)
            judge(before, after, allowed, context)
            facts["validation"] = {"metric": context.task.metric, "source": before, "quantized": after}
        out.facts["quantize"] = facts


def _quantized_products(graph: onnx.ModelProto) -> int:
    from compress.onnx_graph import block_products, dequantized_products, integer_products

    return len(integer_products(graph)) + len(dequantized_products(graph)) + len(block_products(graph))
