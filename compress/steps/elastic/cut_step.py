"""The step: cut a sub-network out of the model that holds it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from compress.config.elastic import Subnetwork
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["CutStep"]

log = logging.getLogger(__name__)


class CutStep(Step[Subnetwork]):
    """The first heads and neurons of some layers of what `ElasticStep` left: an ordinary pruned checkpoint."""

    kind: ClassVar[str] = "cut"
    config: ClassVar[type] = Subnetwork
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
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
        "compress.steps.elastic.cut_step",
        "compress.steps.validation",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True  # nothing; but threads and kernels shape the metric among the facts

    def check(self, config: Subnetwork, source: SourceFacts) -> None:
        """Refuse a source that holds no sub-networks, and one that was not trained."""
        if source.precision != "fp32":
            raise ConfigError(f"cut reads an fp32 model, this one is {source.precision}; put cut before it")
        if source.nested is None:
            raise ConfigError(
                "cut: what stands before it is no model that holds smaller ones; put elastic before it in steps (a "
                "model of any other kind is cut by prune)"
            )
        for name, known in zip(("width", "depth"), source.nested, strict=True):
            value = getattr(config, name)
            if value not in known:
                listed = ", ".join(f"{one:g}" for one in known)
                raise ConfigError(
                    f"cut: {name}={value:g} was not trained; choose one of {listed}, or add it to elastic.{name}s"
                )

    def after(self, config: Subnetwork, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the layers that stay, and how wide they are."""
        from compress.models.nested import layers_at, widths_at

        widths = None if source.widths is None else widths_at(source.widths, config.width)
        kept = len(layers_at(config.depth, source.layers))
        return replace(super().after(config, source), layers=kept, widths=widths)

    def run(self, source: Checkpoint | SourceModel, config: Subnetwork, context: Context, out: Writer) -> None:
        """Cut, compare with the masked model, judge, save."""
        from compress.checkpoint import Checkpoint
        from compress.models.checking import compared_cut
        from compress.models.nested import Size, layers_at, nested_cut
        from compress.models.structure import structure_of
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.validation import validation_metric
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: cut reads a checkpoint; {source.name} was never loaded into one")
        tokenizer = load_tokenizer(source.path)
        with reproducible(context.seed, context.threads):
            model = load_model(source)
            model = compared_cut(model, nested_cut(structure_of(model), Size(config.width, config.depth)))
            metric = validation_metric(model, tokenizer, context)
        sizes, kept = structure_of(model), list(layers_at(config.depth, source.layers))
        log.info(
            "%s: layers %s, heads %s, feed-forward %s; validation %s %.4f",
            *(context.name, kept, list(sizes.heads), list(sizes.intermediate_size), context.task.metric, metric),
        )
        out.facts["cut"] = {"layers": kept, "heads": list(sizes.heads), "neurons": list(sizes.intermediate_size)}
        out.facts["validation"] = {context.task.metric: metric}
        save_model(out, model, tokenizer, context.max_length)
