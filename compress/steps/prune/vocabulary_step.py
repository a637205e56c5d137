"""The step: remove tokens that training texts do not use, and rows of other tables that no input reaches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Vocabulary
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["VocabularyStep"]

log = logging.getLogger(__name__)


class VocabularyStep(Step[Vocabulary]):
    """The same model with a smaller vocabulary and the tokenizer for it; nothing is trained.

    Texts all of whose tokens stay get the same logits, but for what `rank` loses.
    """

    kind: ClassVar[str] = "vocabulary"
    config: ClassVar[type] = Vocabulary
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.prune.vocabulary",
        "compress.steps.prune.vocabulary_step",
        "compress.models",
        "compress.tasks",
        "compress.training",
    )
    trains: ClassVar[bool] = True

    def check(self, config: Vocabulary, source: SourceFacts) -> None:
        """Refuse a source that is not fp32."""
        if source.precision != "fp32":
            raise ConfigError(
                f"vocabulary reads an fp32 model, this one is {source.precision}; put vocabulary before it"
            )

    def run(self, source: Checkpoint | SourceModel, config: Vocabulary, context: Context, out: Writer) -> None:
        """Choose the tokens, cut the tables, factorize, check, save."""
        from compress.checkpoint import Checkpoint
        from compress.models.checking import check
        from compress.models.factorized import factorize_embeddings
        from compress.models.structure import structure_of
        from compress.models.surgery import Cut, cut
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.prune.vocabulary import coverage, kept_tokens, prune_tokenizer, texts_of
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(
                f"step {context.name}: vocabulary reads a checkpoint; {source.name} was never loaded into one"
            )
        data, tokenizer = context.data, load_tokenizer(source.path)
        kept = kept_tokens(tokenizer, texts_of(data.train), config.tokens)
        pruned_tokenizer = prune_tokenizer(tokenizer, kept)
        with reproducible(context.seed, context.threads):
            model = load_model(source)
            before = structure_of(model)
            pairs = "text_pair" in data.train.columns
            pruned = cut(
                model,
                Cut(
                    vocabulary=kept.ids.tolist(),
                    positions=context.max_length if config.positions and before.positions else None,
                    fold_token_types=config.fold_token_types and bool(before.token_types) and not pairs,
                ),
            )
            facts: dict[str, Any] = {"tokens_before": kept.size, "tokens": len(kept), "kept_for": dict(kept.reasons)}
            if config.rank is not None:
                found = factorize_embeddings(pruned, config.rank, counts=kept.counts)
                facts["rank"], facts["relative_error"] = config.rank, float(f"{found.error:.4g}")
            check(pruned)
            facts["validation_coverage"] = {
                name: round(value, 6)
                for name, value in coverage(tokenizer, kept, texts_of(data.validation), pruned=pruned_tokenizer).items()
            }
            metrics = [_validation(one, its, context) for one, its in ((model, tokenizer), (pruned, pruned_tokenizer))]
        facts["validation"] = {"before": metrics[0], "after": metrics[1]}
        log.info(
            "%s: %d of %d tokens stay; %.1f%% of validation texts keep all of theirs; validation %s %.4f -> %.4f",
            *(context.name, len(kept), kept.size, 100 * facts["validation_coverage"]["whole"]),
            *(context.task.metric, *metrics),
        )
        lost = metrics[0] - metrics[1] if context.task.higher_is_better else metrics[1] - metrics[0]
        if config.max_metric_drop is not None and not lost <= config.max_metric_drop + 1e-9:
            raise StepError(
                f"step {context.name}: validation {context.task.metric} went from {metrics[0]:.4f} to "
                f"{metrics[1]:.4f}, a loss of {lost:.4f}; {context.name}.max_metric_drop allows "
                f"{config.max_metric_drop:g}. Keep more tokens or a larger rank, or raise the gate and train afterwards"
            )
        out.facts["vocabulary"] = facts
        out.facts["validation"] = {context.task.metric: metrics[1]}
        save_model(out, pruned, pruned_tokenizer, context.max_length)


def _validation(model: Any, tokenizer: Any, context: Context) -> float:
    from compress.tasks.padding import padding_of
    from compress.training import logits_of

    features = context.task.encode(context.data.validation, tokenizer, context.max_length)
    logits = logits_of(model, context.task, features, padding_of(tokenizer))
    return round(float(context.task.metrics(logits, features)[context.task.metric]), 6)
