"""What a model is worth on the validation split, for steps that judge while they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.steps.base import Context

__all__ = ["validation_metric"]


def validation_metric(model: Any, tokenizer: Any, context: Context) -> float:
    """Return the task's metric on the validation split, to six digits."""
    from compress.tasks.padding import padding_of
    from compress.training import logits_of

    features = context.task.encode(context.data.validation, tokenizer, context.max_length)
    logits = logits_of(model, context.task, features, padding_of(tokenizer))
    return round(float(context.task.metrics(logits, features)[context.task.metric]), 6)
