"""Which candidate to train in full next: a search over figures alone, which knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.sweeping.auto.figures import Figures, Limits

__all__ = ["best", "eligible", "following"]

_ERRORS_TO_THE_END = 1.96
"""Standard errors from a value to the end of its interval of 95 %, the default of `benchmark.confidence`."""


def eligible(trials: Mapping[int, Figures], limits: Limits) -> list[int]:
    """Return the candidates worth training in full, the fastest first.

    Speed and size do not depend on how long a model is trained, so what misses them in a trial is out; so is what
    another beats in speed and, by more than a standard error, in accuracy of the trial: size beyond the budget wins
    nothing, and after so short a training a small difference says little. Where all miss them, the nearest is left.

    Parameters
    ----------
    trials
        Figures after the short training, by candidate.
    limits
        The budget.
    """
    if not trials:
        return []
    missing = {number: limits.shortfall(figures) for number, figures in trials.items()}
    if min(missing.values()) > 0:
        return [min(missing, key=lambda number: (missing[number], number))]
    left = [number for number, miss in missing.items() if miss == 0]
    front = [n for n in left if not any(_beats(trials[o], trials[n], limits) for o in left if o != n)]
    return sorted(front, key=lambda number: (_slowness(trials[number]), number))


def following(
    ranked: Sequence[int], trials: Mapping[int, Figures], full: Mapping[int, Figures | None], limits: Limits, most: int
) -> int | None:
    """Return the candidate to train in full next, None where the search is over.

    Where the loss is bounded, the fastest that keeps it is looked for by bisection: a candidate that keeps it ends the
    search among slower ones, one that does not among faster ones. Of the last training that is allowed, one is kept
    for a candidate that was good enough in its trial, if none has shown to be in full. Without a bound the most
    accurate trials are trained.

    Parameters
    ----------
    ranked
        As `eligible` returns them.
    trials, full
        Figures of the trials, and of what was trained in full so far; None for what failed.
    limits
        The budget.
    most
        How many may be trained in full.
    """
    untried = [number for number in ranked if number not in full]
    if not untried or len(full) >= most:
        return None
    if limits.budget.max_metric_drop is None:
        return min(untried, key=lambda number: (limits.loss(trials[number]), ranked.index(number)))
    kept = [_keeps(number, trials, full, limits) for number in ranked]
    proven = any(figures is not None and limits.accurate(figures) for figures in full.values())
    first = next((place for place, keeps in enumerate(kept) if keeps), None)
    if len(full) == most - 1 and not proven and first is not None:
        return ranked[first]
    failed = [place for place, number in enumerate(ranked) if number in full and not kept[place]]
    end = len(ranked) if first is None else first
    start = max((place + 1 for place in failed if place < end), default=0)
    between = [place for place in range(start, end) if ranked[place] not in full]
    if between:
        return ranked[between[len(between) // 2]]
    if first is not None and not proven:
        return ranked[first]
    return None


def best(
    ranked: Sequence[int], trials: Mapping[int, Figures], full: Mapping[int, Figures | None], limits: Limits
) -> int | None:
    """Return what to ship of the candidates that were trained in full; None where every one failed.

    Within a bounded loss the fastest, by the trials, in which all took turns; else the most accurate.
    """
    done = {number: figures for number, figures in full.items() if figures is not None}
    within = [number for number in ranked if number in done and limits.accurate(done[number])]
    if limits.budget.max_metric_drop is not None and within:
        return within[0]
    return min(done, key=lambda number: (limits.loss(done[number]), _slowness(trials[number]), number), default=None)


def _keeps(number: int, trials: Mapping[int, Figures], full: Mapping[int, Figures | None], limits: Limits) -> bool:
    """Return whether a candidate keeps the loss: in full where that is known, else in its trial already."""
    if number in full:
        figures = full[number]
        return figures is not None and limits.accurate(figures)
    return limits.accurate(trials[number])


def _beats(other: Figures, one: Figures, limits: Limits) -> bool:
    """Return whether a candidate is as fast as one, and more accurate by more than a standard error of one's loss."""
    error = 0.0 if one.drop is None or one.drop_high is None else (one.drop_high - one.drop) / _ERRORS_TO_THE_END
    return _slowness(other) <= _slowness(one) and limits.loss(other) < limits.loss(one) - error


def _slowness(figures: Figures) -> float:
    """Return milliseconds; infinite where none were measured."""
    return float("inf") if figures.latency_ms is None else figures.latency_ms
