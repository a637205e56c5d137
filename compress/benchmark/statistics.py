"""Intervals by the bootstrap (Efron 1979), for medians, ratios and paired metric differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["difference_interval", "half_width", "percentiles", "ratio_interval", "rounded", "verdict"]

_RESAMPLES = 2000


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p95, p99 and the mean of latencies in milliseconds."""
    values = np.asarray(milliseconds, dtype=np.float64)
    found = {f"p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 95, 99)}
    return {**found, "mean_ms": float(values.mean())}


def ratio_interval(
    baseline: Sequence[float], candidate: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return how many times faster the candidate is, with a percentile-bootstrap interval.

    Parameters
    ----------
    baseline, candidate
        Latency of the same rounds, in order, equally long: rounds are resampled in pairs, so that a drift of the
        machine that hits both cancels.
    confidence
        Of the interval.
    seed
        Of the resampling.

    Returns
    -------
    tuple of float
        Ratio of medians, lower and upper bound.
    """
    slow, fast = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    value = float(np.median(slow) / np.median(fast))
    picks = np.random.default_rng(seed).integers(0, len(slow), (_RESAMPLES, len(slow)))
    ratios = np.median(slow[picks], axis=1) / np.median(fast[picks], axis=1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return value, float(min(low, value)), float(max(high, value))


def difference_interval(
    baseline: np.ndarray,
    candidate: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Return candidate minus baseline of a metric, with a paired bootstrap interval over rows.

    Parameters
    ----------
    baseline, candidate
        Statistics per row, ``[rows, k]``, of the same rows.
    metric
        From column sums ``[..., k]`` to the metric.
    """
    rows = len(baseline)
    value = float(metric(candidate.sum(0)) - metric(baseline.sum(0)))
    generator = np.random.default_rng(seed)
    differences = []
    for _ in range(_RESAMPLES):
        counts = np.bincount(generator.integers(0, rows, rows), minlength=rows).astype(np.float64)
        differences.append(float(metric(counts @ candidate) - metric(counts @ baseline)))
    low, high = np.nanquantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def verdict(low: float, high: float) -> str:
    """Return ``faster`` or ``slower`` only where the whole interval of the speedup lies on that side of 1."""
    return "faster" if low > 1 else "slower" if high < 1 else "inconclusive"


def half_width(interval: tuple[float, float, float]) -> float:
    """Return half an interval's width relative to its value."""
    value, low, high = interval
    return (high - low) / 2 / value


def rounded(values: dict[str, Any], digits: int = 6) -> dict[str, Any]:
    """Return the same figures with that many significant digits."""
    return {name: float(f"{v:.{digits}g}") if isinstance(v, float) else v for name, v in values.items()}
