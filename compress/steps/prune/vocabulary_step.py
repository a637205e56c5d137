"""The step: remove tokens that training texts do not use, and rows of other tables that no input reaches."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.schemas import Vocabulary
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    import pandas as pd

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.steps.prune.vocabulary import KeptVocabulary
    from compress.tasks.base import Features, Task

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
    packages: ClassVar[tuple[str, ...]] = ("numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.prune.likely_tokens",
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

    def after(self, config: Vocabulary, source: SourceFacts) -> SourceFacts:
        """Return the source's facts; models within it stay models."""
        return replace(super().after(config, source), nested=source.nested)

    def run(self, source: Checkpoint | SourceModel, config: Vocabulary, context: Context, out: Writer) -> None:
        """Choose the tokens, cut the tables, factorize, check, save."""
        from compress.checkpoint import Checkpoint
        from compress.models.checking import check, compared_cut
        from compress.models.factorized import factorize_embeddings
        from compress.models.structure import structure_of
        from compress.models.surgery import Cut
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.prune.vocabulary import coverage, kept_tokens, prune_tokenizer, texts_of
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(
                f"step {context.name}: vocabulary reads a checkpoint; {source.name} was never loaded into one"
            )
        data, tokenizer = context.data, load_tokenizer(source.path)
        kept = kept_tokens(tokenizer, texts_of(data.train), config.tokens)
        with reproducible(context.seed, context.threads):
            model = load_model(source)
            whole = _answers(model, tokenizer, context)
            if config.max_changed is not None:
                kept = _with_likely(model, tokenizer, kept, whole, config, context)
            pruned_tokenizer = prune_tokenizer(tokenizer, kept)
            before = structure_of(model)
            pairs = "text_pair" in data.train.columns
            pruned = compared_cut(
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
            smaller = _answers(pruned, pruned_tokenizer, context)
            facts["validation_changed"] = round(_changed(whole, smaller, context.task), 6)
        metrics = [_metric(answers, context.task) for answers in (whole, smaller)]
        facts["validation"] = {"before": metrics[0], "after": metrics[1]}
        log.info(
            "%s: %d of %d tokens stay; %.1f%% of validation texts keep all of theirs, %.2f%% of predictions change; "
            "validation %s %.4f -> %.4f",
            *(context.name, len(kept), kept.size, 100 * facts["validation_coverage"]["whole"]),
            100 * facts["validation_changed"],
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


@dataclass(frozen=True)
class _Answers:
    """Rows of the validation split as a model reads them, and its logits on them."""

    features: Features
    logits: list[np.ndarray]


def _answers(
    model: Any, tokenizer: Any, context: Context, rows: pd.DataFrame | None = None, ids: np.ndarray | None = None
) -> _Answers:
    """Return a model's answers; with `ids`, those of a model that knows the tokenizer's token ``n`` as ``ids[n]``."""
    from compress.tasks.padding import padding_of
    from compress.training import logits_of

    features = context.task.encode(context.data.validation if rows is None else rows, tokenizer, context.max_length)
    read, padding = features, padding_of(tokenizer)
    if ids is not None:
        padding = {**padding, "input_ids": int(ids[padding["input_ids"]])}
        named = [{**row, "input_ids": ids[np.asarray(row["input_ids"])].tolist()} for row in features.inputs]
        read = replace(features, inputs=named)
    return _Answers(features, logits_of(model, context.task, read, padding))


def _metric(answers: _Answers, task: Task) -> float:
    return round(float(task.metrics(answers.logits, answers.features)[task.metric]), 6)


def _changed(one: _Answers, other: _Answers, task: Task) -> float:
    """Return the share of predictions that differ; one that only the first has does too."""
    pairs = task.aligned(one.features, other.features)
    if pairs is None:
        return float(np.mean(task.decisions(one.logits, one.features) != task.decisions(other.logits, other.features)))
    alike = sum(
        int((ours[both[:, 0]].argmax(-1) == theirs[both[:, 1]].argmax(-1)).sum())
        for ours, theirs, both in zip(one.logits, other.logits, pairs, strict=True)
    )
    return 1 - alike / max(1, len(task.decisions(one.logits, one.features)))


def _with_likely(
    model: Any, tokenizer: Any, kept: KeptVocabulary, whole: _Answers, config: Vocabulary, context: Context
) -> KeptVocabulary:
    """Return the kept tokens and as few unseen ones, the likeliest, as it takes for predictions to stay.

    Validation texts that lack a token are answered once with only the seen ones. The share of them whose prediction
    changes is taken to be the same for any larger vocabulary, and as large as those few texts leave it possible
    (`upper_bound`), so that ``max_changed`` bounds how many texts may lack one.
    """
    from compress.models.families import family
    from compress.steps.prune.likely_tokens import fewest, likeliest, places_needed, upper_bound
    from compress.steps.prune.vocabulary import prune_tokenizer, texts_of, token_ids, with_tokens

    assert config.max_changed is not None
    task, validation = context.task, context.data.validation
    embedding = family(model.config.model_type).words(model).weight.detach().cpu().numpy()[: kept.size]
    seen = np.zeros(len(embedding), dtype=bool)
    seen[kept.ids] = True
    order = likeliest(embedding, seen)
    needed = list(places_needed(token_ids(tokenizer, texts_of(validation)), order, seen))
    broken = np.flatnonzero(needed)
    if not len(broken):
        return kept
    rows = validation.iloc[broken].reset_index(drop=True)
    again = _answers(model, prune_tokenizer(tokenizer, kept), context, rows, kept.ids)
    before = _Answers(task.encode(rows, tokenizer, context.max_length), [whole.logits[row] for row in broken])
    judged, all_judged = (len(task.decisions(one.logits, one.features)) for one in (before, whole))
    changed = round(_changed(before, again, task) * judged)
    feared = upper_bound(changed, judged) * judged / all_judged
    share = len(broken) / len(needed)
    most = len(order) if config.tokens is None else max(0, config.tokens - int((kept.counts > 0).sum()))
    more = 0 if feared <= config.max_changed else fewest(needed, share * config.max_changed / feared, most)
    log.info(
        "%s: %d tokens seen; without the others %.1f%% of validation texts lack one and %.2f%% of predictions change, "
        "at most %.2f%% of others with a confidence of 95%%: %d more stay",
        *(context.name, len(kept), 100 * share, 100 * changed / all_judged, 100 * feared, more),
    )
    return with_tokens(tokenizer, kept, order[:more].tolist()) if more else kept
