"""Quantization-aware training: products and embedding tables rounded as kernels and files will round them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.quantization import QuantizationAwareTraining
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.drawing import drawn_rows
from compress.steps.quantize.blocks import check_block_size
from compress.steps.quantize.saturation import pairs_saturate
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["ENCODINGS_FILE", "QuantizationAwareStep"]

ENCODINGS_FILE = "encodings.json"
"""Beside weights that training left on their grids: levels of each product's weight, the encoding of its input, the
embedding tables whose rows it saw rounded."""


class QuantizationAwareStep(Step[QuantizationAwareTraining]):
    """Train a model whose products compute as INT8, 4-bit or 2-bit kernels do, taught by the model as it was.

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
        check_terms(config, "qat")
        if config.bits in ("2", "4"):
            unread = ["calibration", "percentile", "calibration_rows"]
            refuse_unread(config, unread, f"with bits={config.bits}")
            check_block_size(config.block_size)
        else:
            refuse_unread(config, ["block_size"], f"with bits={config.bits}")
        if config.calibration != "percentile":
            refuse_unread(config, ["percentile"], f"with calibration={config.calibration}")

    def resolve(self, config: QuantizationAwareTraining) -> Mapping[str, Any]:
        """Return the bits of weights on this machine, and the content of the file of unlabelled texts."""
        from compress.training.distillation import unlabelled_key

        bits = (7 if pairs_saturate() else 8) if config.bits == "auto" else int(config.bits)
        return {"bits": bits, **unlabelled_key(config, "qat")}

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
            if bits <= 4:
                leave = _round_blocks(model, groups, bits, config)
            else:
                leave = _round_integers(model, groups, bits, _batches(tokenizer, config, context), config)
            tables = _tables(model) if config.embeddings else {}
            handles = wrap_tables(list(tables.values()), bits, config.block_size)
        lesson = teach(
            model,
            tokenizer,
            source,
            [teacher],
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
        for handle in handles:
            handle.remove()
        (out.path / ENCODINGS_FILE).write_bytes(canonical_json({"bits": bits, "tables": [*tables], **encodings}))
        out.facts.update(lesson.facts())
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
    model: Any, names: list[list[str]], bits: int, config: QuantizationAwareTraining
) -> Callable[[], dict[str, Any]]:
    """Have products round weights to so many bits in blocks; returns what ends that and tells the encodings."""
    from compress.steps.quantize.fake import unwrap_blocks, wrap_blocks

    flat = [name for group in names for name in group]
    linears = [model.get_submodule(name) for name in flat]
    wrap_blocks(linears, bits, config.block_size)

    def leave() -> dict[str, Any]:
        products = {
            name: {"levels": levels.tolist(), "zeros": zeros.tolist()}
            for name, (levels, zeros) in zip(flat, unwrap_blocks(linears), strict=True)
        }
        return {"block_size": config.block_size, "products": products}

    return leave


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


def _tables(model: Any) -> dict[str, Any]:
    """Return by name the tables of token embeddings that are large enough to be quantized."""
    import torch

    from compress.onnx_graph.tables import SMALLEST_TABLE

    tokens = set(model.get_input_embeddings().modules())
    return {
        name: module
        for name, module in model.named_modules()
        if module in tokens and isinstance(module, torch.nn.Embedding) and module.weight.numel() >= SMALLEST_TABLE
    }


def _batches(tokenizer: Any, config: QuantizationAwareTraining, context: Context) -> list[Any]:
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches

    features = context.task.encode(drawn_rows(context, config.calibration_rows), tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    return [collate(rows) for rows in sorted_batches(features.lengths, 16)]
