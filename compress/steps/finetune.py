"""Train a model with a task head on the training split; the best epoch by validation is kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from compress.config.schemas import Finetune
from compress.errors import ConfigError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["FinetuneStep"]

log = logging.getLogger(__name__)


class FinetuneStep(Step[Finetune]):
    """Fine-tune a Hugging Face model under a fresh head, or train a torch checkpoint on."""

    kind: ClassVar[str] = "finetune"
    config: ClassVar[type] = Finetune
    accepts: ClassVar[frozenset[str]] = frozenset({"source", "torch"})
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
        "compress.steps.finetune",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def check(self, config: Finetune, source: SourceFacts) -> None:
        """Refuse a source that is not fp32."""
        if source.precision != "fp32":
            raise ConfigError(f"finetune trains an fp32 model, this one is {source.precision}; put finetune before it")

    def run(self, source: Checkpoint | SourceModel, config: Finetune, context: Context, out: Writer) -> None:
        """Build or load the model, train it, save its best epoch."""
        from compress.models.source import SourceModel
        from compress.models.torch_io import build_model, load_model, load_tokenizer, save_model
        from compress.training import reproducible, train

        task = context.task
        with reproducible(context.seed, context.threads):
            if isinstance(source, SourceModel):
                model, tokenizer = build_model(source, task, context.data, context.seed)
            else:
                model, tokenizer = load_model(source), load_tokenizer(source.path)
        features = task.encode(context.data.train, tokenizer, context.max_length)
        judged = task.encode(context.data.validation, tokenizer, context.max_length)
        if features.truncated:
            cut = (features.truncated, len(features), context.max_length)
            log.info("%d of %d training rows are cut at %d tokens", *cut)
        result = train(
            model,
            tokenizer,
            task,
            features,
            judged,
            config,
            seed=context.seed,
            device=context.device,
            threads=context.threads,
            scratch=context.scratch,
            description=context.name,
        )
        out.facts["truncated"] = {"train": features.truncated, "validation": judged.truncated}
        out.facts["best_epoch"] = result.epoch
        out.facts["validation"] = {task.metric: result.metric}
        out.facts["history"] = result.history
        save_model(out, model, tokenizer, context.max_length)
