"""Quantization-aware training, and the graph of integers that computes what it saw."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import QuantizationAwareTraining, TrainedQuantization
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.drawing import drawn_rows
from compress.steps.quantize.blocks import Blocks, check_block_size
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.saturation import pairs_saturate
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.onnx_graph import Product
    from compress.steps.quantize.placement import Placed

__all__ = ["ENCODINGS_FILE", "QuantizationAwareStep", "TrainedStep"]

log = logging.getLogger(__name__)

ENCODINGS_FILE = "encodings.json"
"""Beside weights that training left on their grids: levels of each product's weight, the encoding of its input."""


class QuantizationAwareStep(Step[QuantizationAwareTraining]):
    """Train a model whose products compute as INT8 or 4-bit kernels do, taught by the model as it was.

    Leaves a torch checkpoint whose weights lie on their grids, and ``encodings.json``. After ``export`` (and
    ``simplify``), ``quantize=trained`` writes the graph of integers. Other steps in between would leave the grids, and
    do not hand the encodings on.
    """

    kind: ClassVar[str] = "quantize/aware"
    config: ClassVar[type] = QuantizationAwareTraining
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
        "accelerate",
        "evaluate",
        "numpy",
        "safetensors",
        "seqeval",
        "tokenizers",
        "torch",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.drawing",
        "compress.steps.quantize",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def inputs(self, config: QuantizationAwareTraining) -> tuple[str, ...]:
        """Return the teacher's step, if one is named and its answers are asked for."""
        from compress.training.distillation import asks_teacher

        return () if config.teacher is None or not asks_teacher(config) else (config.teacher,)

    def check(self, config: QuantizationAwareTraining, source: SourceFacts) -> None:
        """Refuse a source that is no fp32 model, and a loss without terms."""
        from compress.training.distillation import check_terms

        if source.precision != "fp32":
            raise ConfigError(
                f"quantization-aware training trains an fp32 model, this one is {source.precision}; put it before "
                f"export and quantize"
            )
        check_terms(config)
        if config.bits == "4":
            refuse_unread(config, ["calibration", "percentile", "calibration_rows"], "with bits=4")
            check_block_size(config.block_size)
        else:
            refuse_unread(config, ["block_size"], f"with bits={config.bits}")
        if config.calibration != "percentile":
            refuse_unread(config, ["percentile"], f"with calibration={config.calibration}")

    def resolve(self, config: QuantizationAwareTraining) -> Mapping[str, Any]:
        """Return the bits of weights on this machine."""
        return {"bits": (7 if pairs_saturate() else 8) if config.bits == "auto" else int(config.bits)}

    def after(self, config: QuantizationAwareTraining, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the bits of the grids."""
        return replace(super().after(config, source), grid_bits=int(self.resolve(config)["bits"]))

    def run(
        self, source: Checkpoint | SourceModel, config: QuantizationAwareTraining, context: Context, out: Writer
    ) -> None:
        """Calibrate, train, leave the weights on their grids."""
        from compress.checkpoint import Checkpoint
        from compress.files import canonical_json
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.quantize.fake import wrap_tables
        from compress.training import reproducible
        from compress.training.distillation import check_teacher, teach

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: it reads a checkpoint; {source.name} was never loaded into one")
        teacher = context.inputs[config.teacher] if self.inputs(config) and config.teacher is not None else source
        check_teacher(
            teacher,
            source,
            config,
            context.task.labels,
            layers=source.layers,
            named=f"{context.name}.teacher={config.teacher or 'the source'}",
            where=context.name,
        )
        model, tokenizer = load_model(source), load_tokenizer(source.path)
        bits = int(self.resolve(config)["bits"])
        groups = _products(model, head=config.head)
        if not groups:
            raise StepError(f"step {context.name}: {source.architecture} has no linear module to quantize")
        with reproducible(context.seed, context.threads):
            if bits == 4:
                leave = _round_blocks(model, groups, config)
            else:
                leave = _round_integers(model, groups, bits, _batches(tokenizer, config, context), config)
            tables = wrap_tables(_tables(model), bits, config.block_size) if config.embeddings else []
        lesson = teach(
            model,
            tokenizer,
            source,
            teacher,
            context.task,
            context.data,
            config,
            max_length=context.max_length,
            seed=context.seed,
            device=context.device,
            threads=context.threads,
            scratch=context.scratch,
            cache=context.cache,
            where=context.name,
            description=context.name,
        )
        encodings = leave()
        for handle in tables:
            handle.remove()
        (out.path / ENCODINGS_FILE).write_bytes(
            canonical_json({"bits": bits, "embeddings": config.embeddings, **encodings})
        )
        out.facts["truncated"] = lesson.truncated
        out.facts["best_epoch"] = lesson.result.epoch
        out.facts["validation"] = {context.task.metric: lesson.result.metric}
        out.facts["history"] = lesson.result.history
        out.facts["quantize"] = {"method": "aware", "bits": bits, "products": len(encodings["products"])}
        save_model(out, model, tokenizer, context.max_length)


def _round_integers(
    model: Any, names: list[list[str]], bits: int, batches: list[Any], config: QuantizationAwareTraining
) -> Callable[[], dict[str, Any]]:
    """Have products compute as INT8 kernels do; returns what ends that and tells the encodings."""
    from compress.steps.quantize.fake import observe, unwrap, wrap

    groups = [[model.get_submodule(name) for name in group] for group in names]
    starts = observe(model, [group[0] for group in groups], batches, config.calibration, config.percentile)
    handles = wrap(groups, starts, bits)

    def leave() -> dict[str, Any]:
        encodings, levels = unwrap(groups, handles)
        products = {
            name: {"scale": code.scale, "zero": code.zero, "levels": most.tolist()}
            for group, code, of_group in zip(names, encodings, levels, strict=True)
            for name, most in zip(group, of_group, strict=True)
        }
        return {"products": products}

    return leave


def _round_blocks(
    model: Any, names: list[list[str]], config: QuantizationAwareTraining
) -> Callable[[], dict[str, Any]]:
    """Have products round weights to 4 bits in blocks; returns what ends that and tells the encodings."""
    from compress.steps.quantize.fake import unwrap_blocks, wrap_blocks

    flat = [name for group in names for name in group]
    linears = [model.get_submodule(name) for name in flat]
    wrap_blocks(linears, config.block_size)

    def leave() -> dict[str, Any]:
        products = {
            name: {"levels": levels.tolist(), "zeros": zeros.tolist()}
            for name, (levels, zeros) in zip(flat, unwrap_blocks(linears), strict=True)
        }
        return {"block_size": config.block_size, "products": products}

    return leave


class TrainedStep(GraphQuantization[TrainedQuantization]):
    """Write the graph of a model that quantization-aware training left: nothing is chosen, and nothing is rounded but
    the rows of token embeddings, as training saw them.
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
        return cautions("onnx_blocks" if config.bits == "4" else "onnx_int8", device)

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

        bits, size, embeddings, known = _encodings(source.path, context)
        if embeddings != config.embeddings:
            log.warning(
                "%s: training saw token embeddings %s and embeddings=%s; set both alike, or accept what it costs",
                *(context.name, "rounded" if embeddings else "as floats", str(config.embeddings).lower()),
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
        if bits == 4:
            if config.embeddings:
                tables = place_tables(graph, bits, size, False)
            of_blocks = [(product, _blocks_on_grid(product, entries, size, context)) for product, entries in found]
            place_blocks(graph, of_blocks, config.activations)
        else:
            place(graph, [_placed(product, entries, bits, context) for product, entries in found], config.kernels)
            if config.embeddings:
                tables = quantize_tables(graph, per_row=True)
        canonicalise(graph)
        return Quantized(graph, tables, {"bits": bits, "trained": len(found)})


def _other_bits(seen: int, config: TrainedQuantization) -> str | None:
    """Return what is wrong with the config for a model that was trained with so many bits."""
    bits = "4" if seen == 4 else "8"
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


def _products(model: Any, *, head: bool) -> list[list[str]]:
    """Return names of the linear modules to quantize, those that read one value together."""
    import torch

    from compress.models.families import family

    places = family(model.config.model_type)
    base, layers = f"{places.base}.", f"{places.base}.{places.layers}."
    together = (places.query, places.key, places.value)
    groups: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or not (head or name.startswith(base)):
            continue
        key = name
        if name.startswith(layers):
            number, _, path = name.removeprefix(layers).partition(".")
            key = f"{number}.attention" if path in together else f"{number}.ffn" if path in places.ffn_inputs else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _tables(model: Any) -> list[Any]:
    """Return the tables of token embeddings that are large enough to be quantized."""
    import torch

    from compress.onnx_graph.tables import SMALLEST_TABLE

    return [
        module
        for module in model.get_input_embeddings().modules()
        if isinstance(module, torch.nn.Embedding) and module.weight.numel() >= SMALLEST_TABLE
    ]


def _batches(tokenizer: Any, config: QuantizationAwareTraining, context: Context) -> list[Any]:
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches

    features = context.task.encode(drawn_rows(context, config.calibration_rows), tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    return [collate(rows) for rows in sorted_batches(features.lengths, 16)]


def _encodings(directory: Path, context: Context) -> tuple[int, int, bool, dict[str, Any]]:
    """Return the bits, the size of a block (0 without), whether token embeddings were rounded, an entry per product."""
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
        bool(content.get("embeddings", False)),
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


def _blocks_on_grid(product: Product, entries: list[Any], size: int, context: Context) -> Blocks:
    """Return the 4-bit numbers that a weight stands for, whatever its outputs have been multiplied by."""
    levels, zeros = (np.concatenate([np.asarray(entry[name]) for entry in entries]) for name in ("levels", "zeros"))
    weight = np.ascontiguousarray(product.weight.T)
    out, width = weight.shape
    parts = np.pad(weight, ((0, 0), (0, -width % size))).reshape(out, -1, size)
    if levels.shape != parts.shape[:2]:
        raise _left(product.name, "it has another shape", context)
    scales = np.where(levels > 0, np.abs(parts).max(axis=-1) / np.maximum(levels, 1), 1.0).astype(np.float32)
    codes = np.clip(_whole(product.name, parts / scales[..., None], context) + zeros[..., None], 0, 15)
    return Blocks(codes.reshape(out, -1)[:, :width].astype(np.uint8), scales, zeros.astype(np.uint8), 4, size)


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
