"""Intervals by the bootstrap (Efron 1979), tests of paired answers, and how figures are rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "difference_interval",
    "half_width",
    "mcnemar",
    "percentiles",
    "quantiles",
    "ratio_interval",
    "rounded",
    "verdict",
]

_RESAMPLES = 2000
_LAUNCHES = 4
"""Launches from which on they, and not their rounds, are what is resampled."""
_PROCESS = 0.01
"""Standard deviation of the logarithm of what still sets two processes of one artifact apart, however often they open
it anew: twenty A/A measurements in one pair gave 1.010 on average, where each by itself was known to 1.4 %."""
_QUANTILES = 41


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p95, p99 and the mean of latencies in milliseconds."""
    values = np.asarray(milliseconds, dtype=np.float64)
    found = {f"p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 95, 99)}
    return {**found, "mean_ms": float(values.mean())}


def quantiles(milliseconds: Sequence[float]) -> list[float]:
    """Return 41 quantiles from the least to the greatest, 2.5 % apart, with four significant digits."""
    found = np.quantile(np.asarray(milliseconds, dtype=np.float64), np.linspace(0, 1, _QUANTILES))
    return [float(f"{value:.4g}") for value in found]


def ratio_interval(
    baseline: Sequence[Sequence[float]],
    candidate: Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return how many times faster the candidate is, with an interval from bootstrap standard errors.

    Of each launch (the artifacts opened anew) the rounds are paired, so that a drift of the machine that hits both
    cancels, and two rounds of opposite order are one, so that it does not matter who follows whom. The launch's figure
    is the interquartile mean of the logarithms of these ratios: a moment's disturbance leaves it as it is. Where a
    process finds its memory makes it some per cent faster or slower for as long as it holds it, so launches are
    resampled and not rounds, apart for either order of opening; as they are few, their standard error is multiplied by
    Student's t (Efron and Tibshirani 1993, chapter 12). With fewer than four launches rounds are resampled. What sets
    two processes apart for as long as they live is added (`_PROCESS`).

    Parameters
    ----------
    baseline, candidate
        Latency of the same rounds, in order, by launch; every other launch opened in reverse order.
    confidence
        Of the interval.
    seed
        Of the resampling.

    Returns
    -------
    tuple of float
        Ratio, lower and upper bound.
    """
    launches = [
        _paired_logs(slow, fast) for slow, fast in zip(baseline, candidate, strict=True) if len(slow) and len(fast)
    ]
    if len(launches) >= _LAUNCHES:
        figures = np.asarray([_midmean(launch) for launch in launches])
        strata = [figures[::2], figures[1::2]]
    else:
        strata = [np.concatenate(launches)]
    generator = np.random.default_rng(seed)
    value = float(np.mean([_centre(stratum, len(strata)) for stratum in strata]))
    variance, freedom = 0.0, 0
    for stratum in strata:
        size = len(stratum)
        resampled = stratum[generator.integers(0, size, (_RESAMPLES, size))]
        centres = resampled.mean(axis=1) if len(strata) > 1 else _midmean(resampled)
        variance += float(centres.var()) * size / max(size - 1, 1) / len(strata) ** 2
        freedom += size - 1
    if freedom < 1:
        return float(np.exp(value)), 0.0, float("inf")
    from scipy.stats import norm, t

    upper = (1 + confidence) / 2
    reach = float(np.hypot(t.ppf(upper, freedom) * np.sqrt(variance), norm.ppf(upper) * _PROCESS))
    return float(np.exp(value)), float(np.exp(value - reach)), float(np.exp(value + reach))


def _paired_logs(slow: Sequence[float], fast: Sequence[float]) -> np.ndarray:
    """Return the logarithm of the ratio of each pair of rounds (the last one alone where they are odd)."""
    logs = np.log(np.asarray(slow, dtype=np.float64)) - np.log(np.asarray(fast, dtype=np.float64))
    whole = len(logs) // 2 * 2
    return logs if whole == 0 else logs[:whole].reshape(-1, 2).mean(axis=1)


def _midmean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of the last axis."""
    ordered, cut = np.sort(values, axis=-1), values.shape[-1] // 4
    middle: np.ndarray = ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return middle


def _centre(stratum: np.ndarray, strata: int) -> float:
    return float(stratum.mean() if strata > 1 else _midmean(stratum))


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


def mcnemar(baseline: np.ndarray, candidate: np.ndarray) -> dict[str, Any]:
    """Return McNemar's exact test (1947) that two classifiers are right equally often on the same rows.

    Parameters
    ----------
    baseline, candidate
        Whether each row was answered rightly, bool ``[rows]``.

    Returns
    -------
    dict
        ``only_baseline`` and ``only_candidate``, the rows that only one of the two gets right, and the two-sided
        ``p_value`` of so uneven a split by chance; 1 where they never differ.
    """
    from scipy.stats import binomtest

    lost, won = int(np.sum(baseline & ~candidate)), int(np.sum(~baseline & candidate))
    p_value = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    return {"only_baseline": lost, "only_candidate": won, "p_value": float(f"{p_value:.4g}")}


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
