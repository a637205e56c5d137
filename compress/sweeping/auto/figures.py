"""What is known of a candidate, and what the budget asks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.results.rows import describe, metric_of

if TYPE_CHECKING:
    from compress.config.schemas import Budget

__all__ = ["Figures", "Limits", "figures_of"]

_TOLERANCE = 1e-9
"""As in `compress.results.budget`: what is exactly the limit is within it."""


@dataclass(frozen=True)
class Figures:
    """One measurement of a candidate's artifact; None for what was not measured.

    Attributes
    ----------
    value, drop : float or None
        The metric on validation, and how much less it is than the baseline's, paired over rows.
    drop_high : float or None
        Upper end of the interval of `drop`.
    speedup, latency_ms : float or None
        At the first shape.
    size_ratio : float or None
        The baseline's bytes of weights over the candidate's.
    """

    value: float | None = None
    drop: float | None = None
    drop_high: float | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    size_ratio: float | None = None

    def facts(self) -> dict[str, float | None]:
        """Return the figures for the record."""
        return dataclasses.asdict(self)


def figures_of(record: Mapping[str, Any]) -> Figures:
    """Return what a record says of its candidate; the test split is not looked at."""
    _, higher_is_better = metric_of(record)
    row = next(row for row in describe(record) if row.name == record["candidate"])
    span, sign = row.validation_difference, -1 if higher_is_better else 1
    worse = span.low if higher_is_better else span.high
    timing = row.timings[0] if row.timings else None
    return Figures(
        value=row.validation,
        drop=None if span.value is None else sign * span.value,
        drop_high=None if worse is None else sign * worse,
        speedup=timing.speedup if timing else None,
        latency_ms=timing.p50 if timing else None,
        size_ratio=row.size_ratio,
    )


@dataclass(frozen=True)
class Limits:
    """A budget, as a search holds candidates against it.

    Attributes
    ----------
    budget : Budget
        Limits; those that are None are not judged.
    slack : float
        Share by which what was measured shortly may miss a limit of speed or size.
    confident : bool
        Whether the loss is judged by the worse end of its interval.
    """

    budget: Budget
    slack: float = 0.0
    confident: bool = False

    def shortfall(self, figures: Figures) -> float:
        """Return the largest relative miss of speed, latency or size; 0 where all are kept, with slack."""
        budget = self.budget
        found = [0.0]
        for limit, value in ((budget.min_speedup, figures.speedup), (budget.min_size_ratio, figures.size_ratio)):
            if limit is not None:
                found.append(float("inf") if not value else limit / value - 1 - self.slack)
        if budget.max_latency_ms is not None:
            value = figures.latency_ms
            found.append(float("inf") if value is None else value / budget.max_latency_ms - 1 - self.slack)
        return max(one if one > _TOLERANCE else 0.0 for one in found)

    def loss(self, figures: Figures) -> float:
        """Return the loss of the metric that counts; infinite where it was not measured."""
        loss = figures.drop_high if self.confident else figures.drop
        return float("inf") if loss is None else loss

    def accurate(self, figures: Figures) -> bool:
        """Return whether the loss is within the budget."""
        limit = self.budget.max_metric_drop
        return limit is None or self.loss(figures) - limit <= _TOLERANCE
