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
_KIN = 0.005
"""Standard deviation of the logarithm of what a variant's processes have in common, as they are forked from one: of 24
A/A measurements of twelve launches each, the two halves of the launches agreed with a correlation of 0.28."""
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

    Rounds are paired, so that a drift of the machine that hits both cancels, and two rounds of opposite order are one,
    so that it does not matter who follows whom. The figure is the interquartile mean of the logarithms of all these
    ratios: a moment's disturbance leaves it as it is. Where a process finds its memory may make it some per cent faster
    or slower for as long as it lives, so launches, with all their rounds, are resampled and not rounds (the cluster
    bootstrap; Davison and Hinkley 1997, section 3.8), apart for either order of opening; as they are few, the standard
    error is multiplied by Student's t (Efron and Tibshirani 1993, chapter 12). With fewer than four launches rounds are
    resampled. What a variant's processes have in common (`_KIN`) is added.

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
    logs = np.concatenate(launches)
    if len(launches) >= _LAUNCHES:
        clusters = np.repeat(np.arange(len(launches)), [len(launch) for launch in launches])
        strata = [np.arange(len(launches))[order::2] for order in (0, 1)]
    else:
        clusters = np.arange(len(logs))
        strata = [clusters]
    value = float(_midmean(logs, np.ones((1, len(logs))))[0])
    freedom = sum(len(stratum) - 1 for stratum in strata)
    if freedom < 1:
        return float(np.exp(value)), 0.0, float("inf")
    generator = np.random.default_rng(seed)
    times = np.zeros((_RESAMPLES, clusters[-1] + 1))
    for stratum in strata:
        drawn = stratum[generator.integers(0, len(stratum), (_RESAMPLES, len(stratum)))]
        np.add.at(times, (np.arange(_RESAMPLES)[:, None], drawn), 1)
    spread = float(_midmean(logs, times[:, clusters]).std()) * np.sqrt((clusters[-1] + 1) / freedom)
    from scipy.stats import norm, t

    upper = (1 + confidence) / 2
    reach = float(np.hypot(t.ppf(upper, freedom) * spread, norm.ppf(upper) * _KIN))
    return float(np.exp(value)), float(np.exp(value - reach)), float(np.exp(value + reach))


def _paired_logs(slow: Sequence[float], fast: Sequence[float]) -> np.ndarray:
    """Return the logarithm of the ratio of each pair of rounds (the last one alone where they are odd)."""
    logs = np.log(np.asarray(slow, dtype=np.float64)) - np.log(np.asarray(fast, dtype=np.float64))
    whole = len(logs) // 2 * 2
    return logs if whole == 0 else logs[:whole].reshape(-1, 2).mean(axis=1)


def _midmean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of values that each occur so many times, ``[resamples, values]``."""
    order = np.argsort(values)
    reached = np.cumsum(times[:, order], axis=1)
    whole = reached[:, -1:]
    inside = np.diff(np.clip(reached, whole / 4, 3 * whole / 4), axis=1, prepend=whole / 4)
    middle: np.ndarray = inside @ values[order] / inside.sum(axis=1)
    return middle


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
