"""bitsandbytes: NF4, FP4 and LLM.int8() weights in a torch checkpoint, saved as they are computed with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.quantization import BitsAndBytes
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.quantized.model import Quantized

__all__ = ["BitsAndBytesStep"]

_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Block sizes that the library's kernels know."""


class BitsAndBytesStep(Step[BitsAndBytes]):
    """Quantize the Linear and Embedding modules of a torch checkpoint, dense or pruned; it stays one that torch runs.

    The tensors in model.safetensors are those that the products read, and quantization.json says what they mean:
    opening the checkpoint quantizes nothing. Weights are quantized on the CPU whatever the device, so that equal work
    gives equal bytes.
    """

    kind: ClassVar[str] = "quantize/bitsandbytes"
    config: ClassVar[type] = BitsAndBytes
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = (
        "bitsandbytes",
        "numpy",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.quantize.bitsandbytes",
        "compress.steps.quantize.gate",
        "compress.steps.quantize.unread",
        "compress.steps.companions",
        "compress.models",
        "compress.quantized",
        "compress.runtime",
        "compress.tasks",
    )

    def check(self, config: BitsAndBytes, source: SourceFacts) -> None:
        """Refuse a source that is no fp32 torch checkpoint, a block size that no kernel has, and an absent package."""
        from compress.quantized import require_bitsandbytes

        if source.format not in self.accepts:
            raise ConfigError(
                f"quantize with method={config.method} reads a torch checkpoint, this one is {source.format}; "
                f"let it stand before export"
            )
        if source.precision != "fp32":
            raise ConfigError(
                f"quantize reads an fp32 checkpoint, this one is {source.precision}: quantizing twice loses twice"
            )
        if config.block_size not in _BLOCKS:
            raise ConfigError(
                f"quantize.block_size={config.block_size}: allowed are {', '.join(map(str, _BLOCKS))}, "
                f"the blocks that bitsandbytes has kernels for"
            )
        unread = ["double_quant", "block_size", "compute"] if config.method == "int8" else ["threshold"]
        refuse_unread(config, unread, f"with method={config.method}")
        require_bitsandbytes()

    def after(self, config: BitsAndBytes, source: SourceFacts) -> SourceFacts:
        """Return that the weights are of the config's method."""
        return replace(source, precision=config.method)

    def cautions(self, config: BitsAndBytes, device: str) -> Sequence[str]:
        """Return what of this method saves no time on this machine."""
        products = "4bit_bf16" if config.compute == "bf16" else "4bit"
        return cautions(f"bitsandbytes_{'int8' if config.method == 'int8' else products}", device)

    def run(self, source: Checkpoint | SourceModel, config: BitsAndBytes, context: Context, out: Writer) -> None:
        """Quantize, save, and judge what was saved."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import load_model
        from compress.models.weights import write_tensors
        from compress.quantized import QUANTIZATION, Quantization
        from compress.quantized.model import quantize_model
        from compress.steps.companions import copy_companions
        from compress.steps.quantize.gate import judge, source_metric, torch_validation_metric

        if not isinstance(source, Checkpoint):
            raise StepError(
                f"step {context.name}: quantize reads a checkpoint; {source.name} was never loaded into one"
            )
        how = Quantization(config.method)
        if config.method == "int8":
            how = replace(how, threshold=config.threshold)
        else:
            how = replace(how, block_size=config.block_size, double_quant=config.double_quant, compute=config.compute)
        model = load_model(source)
        quantized = quantize_model(model, how, embeddings=config.embeddings, head=config.head)
        copy_companions(source, out)
        (out.path / QUANTIZATION).write_bytes(quantized.how.to_bytes())
        write_tensors(model, out.path / "model.safetensors")
        facts = _facts(quantized)
        if config.max_metric_drop is not None:
            before = source_metric(source, context)
            after = torch_validation_metric(out.path, context)
            judge(before, after, config.max_metric_drop, context, _advice(config))
            facts["validation"] = {"metric": context.task.metric, "source": before, "quantized": after}
        out.facts["quantize"] = facts


def _facts(quantized: Quantized) -> dict[str, Any]:
    how = quantized.how
    kinds = [layer.kind for layer in how.layers.values()]
    numbers: dict[str, Any] = (
        {"threshold": how.threshold}
        if how.method == "int8"
        else {"block_size": how.block_size, "double_quant": how.double_quant, "compute": how.compute}
    )
    return {
        "method": how.method,
        **numbers,
        "linears": kinds.count("linear"),
        "tables": kinds.count("embedding"),
        "weights": sum(layer.rows * layer.columns for layer in how.layers.values()),
        "padding": quantized.padding,
        "left_out": dict(sorted(quantized.left_out.items())),
    }


def _advice(config: BitsAndBytes) -> list[str]:
    less = ["embeddings=false"] if config.embeddings else []
    if config.method == "int8":
        return [*less, "threshold=3"]
    return [*less, *(["block_size=32"] if config.block_size > 32 else []), "method=int8"]
