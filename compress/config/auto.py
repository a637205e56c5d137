"""Schema of the search that ``recipe=auto`` is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from compress.config.options import option

__all__ = ["Auto"]


@dataclass
class Auto:
    """Try recipes shortly, train the likeliest in full, leave the best that keeps the budget."""

    candidates: list[str] = option(MISSING, "what is tried: overrides, as 'recipe=fast distill.epochs=8'")
    trial_epochs: int = option(
        1, "passes over the training split that a trial takes at most in each step after fine-tuning", minimum=1
    )
    finalists: int = option(3, "candidates that are trained in full at most", minimum=1)
    slack: float = option(
        0.1, "share by which a trial may miss a budget of speed or size, measured shortly, and still go on", minimum=0
    )
    confident: bool = option(
        False, "judge the loss of the metric by the worse end of its interval on validation, not by its value"
    )
    minutes: float | None = option(90.0, "after so many no further candidate is begun; null is no bound", above=0)
