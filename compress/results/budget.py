"""Whether the artifact reached what was asked of it: the judgement behind exit status 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.results.rows import describe, metric_of

if TYPE_CHECKING:
    from compress.config.schemas import Budget

__all__ = ["judge"]

_TOLERANCE = 1e-9
"""A drop of exactly the budget is within it, whatever binary fractions make of the subtraction."""


def judge(record: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """Compare a record with a budget; latency and speedup count at the first shape, point estimates decide.

    Parameters
    ----------
    record
        As `compress.results.record.build` returns it.
    budget
        Limits; those that are None are not judged.

    Returns
    -------
    dict
        ``{"met": bool, "missed": [{"key", "limit", "value", "message"}], "asked": {key: limit}}``; `value` is None
        for what was not measured, which counts as missed.
    """
    rows = {row.name: row for row in describe(record)}
    baseline, candidate = rows[record["baseline"]], rows[record["candidate"]]
    metric, higher_is_better = metric_of(record)
    first = candidate.timings[0] if candidate.timings else None
    drop = None
    if baseline.metric is not None and candidate.metric is not None:
        sign = 1 if higher_is_better else -1
        drop = sign * (baseline.metric - candidate.metric)
    shape = f" at {first.label}" if first else ""
    # key, limit, value, whether less is better, what it is, unit
    checks = (
        ("max_metric_drop", budget.max_metric_drop, drop, True, f"loss of {metric or 'quality'} on the test split", ""),
        ("min_speedup", budget.min_speedup, first.speedup if first else None, False, f"speedup{shape}", "x"),
        ("min_size_ratio", budget.min_size_ratio, candidate.size_ratio, False, "ratio of the weights' sizes", "x"),
        ("max_latency_ms", budget.max_latency_ms, first.p50 if first else None, True, f"median latency{shape}", " ms"),
    )
    asked = {key: limit for key, limit, *_ in checks if limit is not None}
    missed = []
    for key, limit, value, less_is_better, what, unit in checks:
        if limit is None:
            continue
        if value is None:
            message = f"budget.{key}={limit:g}: the {what} was not measured"
        else:
            beyond = value - limit if less_is_better else limit - value
            if beyond <= _TOLERANCE:
                continue
            over = "above the limit" if less_is_better else "short of it"
            message = f"budget.{key}={limit:g} missed: the {what} is {value:.4g}{unit}, {beyond:.3g}{unit} {over}"
        missed.append({"key": key, "limit": limit, "value": value, "message": message})
    return {"met": not missed, "missed": missed, "asked": asked}
