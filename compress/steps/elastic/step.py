"""The step: put heads and neurons in order, train every size at once, list what each is worth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.elastic import Elastic
from compress.config.shapes import expand
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.training.distillation import check_teacher, check_terms, teach, unlabelled_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.nested import Size, SubNetworks
    from compress.models.source import SourceModel

__all__ = ["ElasticStep"]

log = logging.getLogger(__name__)

_BY_HEAD = ("attention", "minilm", "relations")


class ElasticStep(Step[Elastic]):
    """A model of its source's size whose first heads and neurons, and every so many layers, are models too.

    DynaBERT (Hou et al., arXiv 2004.04037), width and depth trained together, taught by the step's source. The last
    epoch is kept: validation of the whole model does not judge what is within it.
    """

    kind: ClassVar[str] = "elastic"
    config: ClassVar[type] = Elastic
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
        "torch-pruning",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.drawing",
        "compress.steps.elastic",
        "compress.steps.importance",
        "compress.steps.validation",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def check(self, config: Elastic, source: SourceFacts) -> None:
        """Refuse a source that is not fp32, sizes without the whole one, and terms that sub-networks cannot serve."""
        if source.precision != "fp32":
            raise ConfigError(f"elastic trains an fp32 model, this one is {source.precision}; put elastic before it")
        for name in ("widths", "depths"):
            shares = list(getattr(config, name))
            if 1.0 not in shares or len(set(shares)) < len(shares):
                raise ConfigError(
                    f"elastic: {name}={shares}: list shares of the whole, each once, 1.0 among them: the checkpoint is "
                    f"of full size"
                )
        for name in _BY_HEAD:
            weight = getattr(config.weights, name)
            if weight > 0:
                raise ConfigError(
                    f"elastic: weights.{name}={weight:g} compares what heads do, and sub-networks have fewer; set it "
                    f"to 0 and weights.hidden above 0"
                )
        if config.layer_map != "uniform" or config.teacher_layers is not None:
            given = f"layer_map={config.layer_map}" if config.layer_map != "uniform" else "teacher_layers"
            raise ConfigError(
                f"elastic: {given} is set, and what a sub-network's layers are compared with follows from its depth; "
                f"leave layer_map and teacher_layers as they are"
            )
        if config.patience is not None:
            raise ConfigError(
                f"elastic: patience={config.patience}: validation of the whole model does not judge what is within it, "
                f"and the last epoch is kept; set patience=null"
            )
        check_terms(config, "elastic")
        check_length(config, source.positions)

    def after(self, config: Elastic, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the sizes that can be cut out."""
        nested = tuple(sorted(map(float, config.widths))), tuple(sorted(map(float, config.depths)))
        return replace(super().after(config, source), nested=nested)

    def resolve(self, config: Elastic) -> Mapping[str, Any]:
        """Return the source of what counts multiply-accumulates, and the content of unlabelled texts."""
        from compress.keys import source_digest

        return {"counted by": source_digest("compress.benchmark.size"), **unlabelled_key(config, "elastic")}

    def run(self, source: Checkpoint | SourceModel, config: Elastic, context: Context, out: Writer) -> None:
        """Reorder, train, judge every sub-network, save the whole."""
        from compress.checkpoint import Checkpoint
        from compress.models.examples import usable_positions
        from compress.models.nested import SubNetworks
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.elastic.rewiring import rewired
        from compress.steps.elastic.sandwich import Sandwich
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: elastic reads a checkpoint; {source.name} was never loaded into one")
        check_teacher(
            source,
            source,
            config,
            context.task.labels,
            layers=source.layers,
            named=f"{context.name}: the source",
            where=context.name,
        )
        tokenizer = load_tokenizer(source.path)
        with reproducible(context.seed, context.threads):
            model = rewired(load_model(source), tokenizer, config, context)
            networks = SubNetworks(model, config.widths)
        check_length(config, usable_positions(model))
        sizes = sizes_of(config)
        lesson = teach(
            model,
            tokenizer,
            source,
            [source],
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
            way=Sandwich(networks, sizes, config.drawn),
        )
        with reproducible(context.seed, context.threads):
            listed = [_entry(networks, size, tokenizer, config, context) for size in sizes]
        out.facts.update(lesson.facts())
        out.facts["elastic"] = {
            "widths": sorted(map(float, config.widths)),
            "depths": sorted(map(float, config.depths)),
            "macs_shape": list(shape_of(config)),
            "subnetworks": listed,
        }
        out.facts["best_epoch"] = lesson.result.epoch
        out.facts["validation"] = {context.task.metric: lesson.result.metric}
        out.facts["history"] = lesson.result.history
        save_model(out, model, tokenizer, context.max_length)


def sizes_of(config: Elastic) -> list[Size]:
    """Return every sub-network, by width and then by depth, rising."""
    from compress.models.nested import Size

    return [Size(float(width), float(depth)) for width in sorted(config.widths) for depth in sorted(config.depths)]


def shape_of(config: Elastic) -> tuple[int, int]:
    """Return the batch and the number of tokens that multiply-accumulates are counted at.

    Raises
    ------
    ConfigError
        If it is no single shape of stated lengths.
    """
    try:
        shapes = expand([config.shape])
    except ValueError:
        shapes = []
    if len(shapes) != 1 or shapes[0].sequence is None:
        raise ConfigError(f"elastic: shape={config.shape}: one shape BATCHxTOKENS is needed, e.g. 1x32")
    return shapes[0].batch, shapes[0].sequence


def check_length(config: Elastic, positions: int | None) -> None:
    """Refuse what is no shape, and one of more tokens than a model has positions; raises ConfigError."""
    _, tokens = shape_of(config)
    if positions is not None and tokens > positions:
        raise ConfigError(f"elastic: shape={config.shape}: the model takes at most {positions} tokens")


def _entry(networks: SubNetworks, size: Size, tokenizer: Any, config: Elastic, context: Context) -> dict[str, Any]:
    """Return what a sub-network is, costs and is worth."""
    from compress.benchmark.size import macs_of_torch
    from compress.models.nested import layers_at
    from compress.models.structure import structure_of
    from compress.steps.validation import validation_metric

    with networks.at(size) as model:
        sizes = structure_of(model)
        metric = validation_metric(model, tokenizer, context)
        macs = macs_of_torch(model, *shape_of(config), ("input_ids", "attention_mask"))
    parameters = networks.parameters(size)
    log.info(
        "%s: width %g, depth %g: %d parameters, validation %s %.4f",
        *(context.name, size.width, size.depth, parameters, context.task.metric, metric),
    )
    return {
        "width": size.width,
        "depth": size.depth,
        "layers": list(layers_at(size.depth, networks.structure.layers)),
        "heads": list(sizes.heads),
        "neurons": list(sizes.intermediate_size),
        "parameters": parameters,
        "macs": macs,
        "validation": {context.task.metric: metric},
    }
