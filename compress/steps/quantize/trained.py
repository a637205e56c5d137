"""The graph of integers that computes what quantization-aware training saw."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import TrainedQuantization
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts
from compress.steps.quantize.aware import ENCODINGS_FILE
from compress.steps.quantize.blocks import Blocks
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from compress.checkpoint import Checkpoint
    from compress.onnx_graph import Product
    from compress.steps.quantize.placement import Placed

__all__ = ["TrainedStep"]

log = logging.getLogger(__name__)


class TrainedStep(GraphQuantization[TrainedQuantization]):
    """Write the graph of a model that quantization-aware training left: nothing is chosen, and nothing is rounded but
    the rows of embedding tables: those of tokens as training saw them, those of positions for the first time, since
    ``simplify`` adds token types to them, and so at 8 bits.
    """

    kind: ClassVar[str] = "quantize/trained"
    config: ClassVar[type] = TrainedQuantization
    method: ClassVar[str] = "trained"
    precision: ClassVar[str | None] = None

    def check(self, config: TrainedQuantization, source: SourceFacts) -> None:
        """Refuse a quantized source, other bits than training is to see, and a kernel's option without the kernel."""
        super().check(config, source)
        if source.grid_bits is not None and (refusal := _other_bits(source.grid_bits, config)):
            raise ConfigError(f"quantize: {refusal}")
        refuse_unread(config, ["activations" if config.bits == "8" else "kernels"], f"with bits={config.bits}")

    def cautions(self, config: TrainedQuantization, device: str) -> Sequence[str]:
        """Return what the kernels do not save here."""
        return cautions("onnx_int8" if config.bits == "8" else "onnx_blocks", device)

    def after(self, config: TrainedQuantization, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the precision of the weights."""
        return replace(source, format=self.leaves, precision=f"int{config.bits}")

    def gate(self, config: TrainedQuantization) -> float | None:
        """Return the config's."""
        return config.max_metric_drop

    def quantize(
        self, graph: onnx.ModelProto, config: TrainedQuantization, context: Context, source: Checkpoint
    ) -> Quantized:
        """Place the encodings that the checkpoint carries."""
        from compress.onnx_graph import canonicalise, products_of, quantize_tables
        from compress.steps.quantize.block_nodes import place_blocks, place_tables
        from compress.steps.quantize.placement import place

        bits, size, seen, known = _encodings(source.path, context)
        if bool(seen) != config.embeddings:
            log.warning(
                "%s: training saw token embeddings %s and embeddings=%s; set both alike, or accept what it costs",
                *(context.name, "rounded" if seen else "as floats", str(config.embeddings).lower()),
            )
        if refusal := _other_bits(bits, config):
            raise StepError(f"step {context.name}: {refusal}")
        found = [
            (product, entries)
            for product in products_of(graph)
            if (entries := _entries(product.name, known)) is not None
        ]
        if not found:
            raise StepError(f"step {context.name}: none of the products in the graph bears the name of a trained one")
        tables: list[str] = []
        if bits <= 4:
            if config.embeddings:
                tables = place_tables(graph, bits, size, False, only=[f"{name}.weight" for name in seen])
                tables += place_tables(graph, 8, size, False)
            placed = [(one, _blocks_on_grid(one, entries, bits, size, context)) for one, entries in found]
            place_blocks(graph, placed, config.activations)
        else:
            place(graph, [_placed(product, entries, bits, context) for product, entries in found], config.kernels)
            if config.embeddings:
                tables = quantize_tables(graph, per_row=True)
        canonicalise(graph)
        return Quantized(graph, tables, {"bits": bits, "trained": len(found)})


def _other_bits(seen: int, config: TrainedQuantization) -> str | None:
    """Return what is wrong with the config for a model that was trained with so many bits."""
    bits = str(seen) if seen <= 4 else "8"
    return (
        None if config.bits == bits else f"training sees weights of {seen} bits and bits={config.bits}; set bits={bits}"
    )


def _placed(product: Product, entries: list[Any], bits: int, context: Context) -> Placed:
    """Return a product with the encoding of its input and its integers."""
    from compress.steps.quantize.placement import Placed
    from compress.steps.quantize.ranges import Encoding

    code = Encoding(entries[0]["scale"], entries[0]["zero"])
    if any(entry["scale"] != code.scale or entry["zero"] != code.zero for entry in entries):
        raise StepError(
            f"step {context.name}: {product.name} joins products whose inputs were trained with different "
            f"ranges; leave simplify out of steps, or set simplify.merge=false"
        )
    levels = np.concatenate([np.asarray(entry["levels"]) for entry in entries])
    return Placed(product, code, _on_grid(product.name, product.weight, levels, bits, context))


def _encodings(directory: Path, context: Context) -> tuple[int, int, list[str], dict[str, Any]]:
    """Return the bits, the size of a block (0 without), the tables seen rounded, an entry per product."""
    path = directory / ENCODINGS_FILE
    if not path.is_file():
        raise StepError(
            f"step {context.name}: its source carries no {ENCODINGS_FILE}: quantize=trained follows quantization-aware "
            f"training, with nothing but export and simplify in between, as recipe=qat_int8 has it; for other models "
            f"use quantize=static"
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    return (
        int(content["bits"]),
        int(content.get("block_size", 0)),
        list(content.get("tables", [])),
        dict(content["products"]),
    )


def _entries(name: str, known: Mapping[str, Any]) -> list[Any] | None:
    """Return the entries of a product; of ``a.query_key_value`` those of ``a.query``, ``a.key`` and ``a.value``."""
    name = name.removesuffix("_MatMul")
    if name in known:
        return [known[name]]
    head, _, tail = name.rpartition(".")
    found, rest = [], tail
    while rest:
        part = next(
            (
                end
                for end in range(len(rest), 0, -1)
                if (end == len(rest) or rest[end] == "_") and f"{head}.{rest[:end]}" in known
            ),
            None,
        )
        if part is None:
            return None
        found.append(known[f"{head}.{rest[:part]}"])
        rest = rest[part + 1 :]
    return found or None


def _on_grid(name: str, weight: np.ndarray, levels: np.ndarray, bits: int, context: Context) -> Any:
    """Return the integers that a weight stands for, whatever its outputs have been multiplied by."""
    from compress.steps.quantize.weights import IntegerWeight

    largest = np.abs(weight).max(axis=0)
    scales = np.where(levels > 0, largest / np.maximum(levels, 1), 1.0).astype(np.float32)
    if len(levels) != weight.shape[1]:
        raise _left(name, "it has another shape", context)
    codes = _whole(name, weight / scales, context)
    most = 2 ** (bits - 1) - 1
    return IntegerWeight(np.clip(codes, -most, most).astype(np.int8), scales)


def _blocks_on_grid(product: Product, entries: list[Any], bits: int, size: int, context: Context) -> Blocks:
    """Return the numbers of few bits that a weight stands for, whatever its outputs have been multiplied by."""
    levels, zeros = (np.concatenate([np.asarray(entry[name]) for entry in entries]) for name in ("levels", "zeros"))
    weight = np.ascontiguousarray(product.weight.T)
    out, width = weight.shape
    parts = np.pad(weight, ((0, 0), (0, -width % size))).reshape(out, -1, size)
    if levels.shape != parts.shape[:2]:
        raise _left(product.name, "it has another shape", context)
    scales = np.where(levels > 0, np.abs(parts).max(axis=-1) / np.maximum(levels, 1), 1.0).astype(np.float32)
    codes = np.clip(_whole(product.name, parts / scales[..., None], context) + zeros[..., None], 0, 2**bits - 1)
    return Blocks(codes.reshape(out, -1)[:, :width].astype(np.uint8), scales, zeros.astype(np.uint8), bits, size)


def _whole(name: str, levels: np.ndarray, context: Context) -> np.ndarray:
    """Return the whole numbers that `levels` are but for rounding errors."""
    rounded: np.ndarray = np.rint(levels)
    off = float(np.abs(levels - rounded).max(initial=0.0))
    if off > 1e-2:
        raise _left(name, f"by {off:.2g} of a step", context)
    return rounded


def _left(name: str, how: str, context: Context) -> StepError:
    return StepError(
        f"step {context.name}: the weight of {name} has left its grid ({how}): nothing but export "
        f"and simplify may stand between quantization-aware training and quantize=trained"
    )
