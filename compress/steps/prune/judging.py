"""What a model is worth on validation, and whether it lost too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.errors import StepError

if TYPE_CHECKING:
    from compress.config.schemas import Prune
    from compress.steps.base import Context

__all__ = ["judge", "validation_metric"]


def validation_metric(model: Any, tokenizer: Any, context: Context) -> float:
    """Return the task's metric on the validation split, to six digits."""
    from compress.tasks.padding import padding_of
    from compress.training import logits_of

    features = context.task.encode(context.data.validation, tokenizer, context.max_length)
    logits = logits_of(model, context.task, features, padding_of(tokenizer))
    return round(float(context.task.metrics(logits, features)[context.task.metric]), 6)


def judge(before: float, after: float, config: Prune, context: Context) -> None:
    """Refuse a model that lost more of the metric than the step's gate allows.

    Raises
    ------
    StepError
        If it did.
    """
    allowed = config.max_metric_drop
    lost = before - after if context.task.higher_is_better else after - before
    if allowed is not None and not lost <= allowed + 1e-9:
        recovering = "longer" if config.recover.epochs else f"after each cut ({context.name}.recover.epochs)"
        raise StepError(
            f"step {context.name}: validation {context.task.metric} went from {before:.4f} to {after:.4f} on pruning, "
            f"a loss of {lost:.4f}; {context.name}.max_metric_drop allows {allowed:g}. Prune less, train {recovering}, "
            f"or raise the gate"
        )
