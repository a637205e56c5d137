"""Whether a model lost too much on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import StepError

if TYPE_CHECKING:
    from compress.config.schemas import Prune
    from compress.steps.base import Context

__all__ = ["judge"]


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
