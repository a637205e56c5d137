"""The Pareto front: what nothing else beats in every respect at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.frame import shapes_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "check_columns",
    "default_objectives",
    "direction_of",
    "latency_column",
    "non_dominated",
    "on_front",
    "pareto",
]

_BETTER_LESS = (
    *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "device_p50_ms", "energy_j", "cold_start_ms", "open_ms"),
    *("import_ms", "first_answer_ms", "parameters", "macs"),
)
_BETTER_MORE = ("speedup", "throughput_per_s", "size_ratio", "memory_ratio", "metric_retained", "agreement")
_METRICS = ("metric_value", "validation_value", "metric_difference", "validation_difference", "metrics", "validation")


def pareto(frame: pd.DataFrame, objectives: Mapping[str, str] | None = None) -> pd.DataFrame:
    r"""Return the rows that no other row of their group dominates.

    Row :math:`a` dominates row :math:`b` if it is at least as good in every objective and better in one.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it, perhaps filtered; ``variants(frame)`` keeps equal checkpoints once.
    objectives
        ``{column: "max" or "min"}``. By default the metric on the validation split, the median latency at the first
        shape (the speedup instead, where a group's rows come from several measurements) and the bytes of weights,
        of these what was measured.

    Returns
    -------
    pandas.DataFrame
        The rows of the front, in the order of `frame`. Rows that tie are all kept; a row that lacks an objective is
        on no front. Groups (column ``group``) never compete: their ratios have different baselines.

    Raises
    ------
    DataError
        For an unknown column or direction, or a column without numbers.
    """
    return frame[on_front(frame, objectives)]


def on_front(frame: pd.DataFrame, objectives: Mapping[str, str] | None = None) -> np.ndarray:
    """Return for each row whether `pareto` keeps it, ``[rows]``."""
    import numpy as np

    chosen = dict(default_objectives(frame) if objectives is None else objectives)
    if not chosen:
        raise DataError("no objective was measured; give objectives={column: 'max' or 'min'}")
    wrong = {name: way for name, way in chosen.items() if way not in ("max", "min")}
    if wrong:
        raise DataError(f"objectives={wrong}: a direction is 'max' or 'min'")
    check_columns(frame, list(chosen))
    signs = np.array([1.0 if way == "min" else -1.0 for way in chosen.values()])
    costs = np.column_stack([_numbers(frame, name) for name in chosen]) * signs
    whole = ~np.isnan(costs).any(axis=1)
    groups = frame["group"].astype(str).to_numpy() if "group" in frame else np.zeros(len(frame))
    keep = np.zeros(len(frame), dtype=bool)
    for group in dict.fromkeys(groups):
        rows = np.flatnonzero((groups == group) & whole)
        keep[rows[non_dominated(costs[rows])]] = True
    return keep


def non_dominated(costs: np.ndarray) -> np.ndarray:
    """Return which points no other point dominates.

    Parameters
    ----------
    costs : array, [points, objectives]
        Finite or infinite, less is better.

    Returns
    -------
    array of bool, [points]
        Equal points do not dominate each other.

    Notes
    -----
    A point can only be dominated by one that comes before it in lexicographic order, and then also by one of the
    front: each point is compared with the front so far (Kung et al. 1975 call this the maxima of a set of vectors).
    """
    import numpy as np

    keep = np.zeros(len(costs), dtype=bool)
    front = np.empty((0, costs.shape[1]))
    for index in np.lexsort(costs.T[::-1]):
        point = costs[index]
        dominated = ((front <= point).all(axis=1) & (front < point).any(axis=1)).any()
        if not dominated:
            keep[index] = True
            front = np.vstack([front, point])
    return keep


def default_objectives(frame: pd.DataFrame) -> dict[str, str]:
    """Return the metric on validation, latency and bytes of weights with their directions, of what was measured."""
    latency = latency_column(frame)
    wanted = ["validation_value", *([latency] if latency else []), "weights_bytes"]
    found = [name for name in wanted if name in frame and frame[name].notna().any()]
    return {name: direction_of(frame, name) for name in found}


def latency_column(frame: pd.DataFrame, shape: str | None = None) -> str | None:
    """Return the column to compare times by.

    Medians where all rows of a group were measured together; else the speedup, which each run measured against the
    same baseline for itself.

    Parameters
    ----------
    frame
        Rows of variants.
    shape
        Such as ``1x32``; by default the first.

    Raises
    ------
    DataError
        If the shape was not measured.
    """
    shapes = shapes_of(frame)
    if shape is not None and shape not in shapes:
        raise DataError(f"shape={shape!r} was not measured; measured: {', '.join(shapes) or 'none'}")
    if not shapes:
        return None
    together = "measurement" not in frame or frame.groupby("group")["measurement"].nunique().max() == 1
    return f"{'p50_ms' if together else 'speedup'}.{shape or shapes[0]}"


def direction_of(frame: pd.DataFrame, column: str) -> str:
    """Return ``max`` or ``min``: which is better in a column.

    Raises
    ------
    DataError
        Where that is not known.
    """
    stem = column.partition(".")[0]
    if stem in _METRICS:
        higher = frame["higher_is_better"].dropna() if "higher_is_better" in frame else ()
        return "max" if all(higher) else "min"
    if stem in _BETTER_MORE:
        return "max"
    if stem in _BETTER_LESS or stem.endswith("_bytes"):
        return "min"
    raise DataError(f"{column}: whether more or less of it is better is not known; say so: {{{column!r}: 'max'}}")


def check_columns(frame: pd.DataFrame, columns: list[str]) -> None:
    """Refuse columns that a frame lacks.

    Raises
    ------
    DataError
        Names the column, and one that is near.
    """
    import difflib

    for column in columns:
        if column not in frame:
            near = difflib.get_close_matches(column, [str(name) for name in frame], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"the frame has no column {column!r}{hint}")


def _numbers(frame: pd.DataFrame, column: str) -> Any:
    import pandas as pd

    try:
        return pd.to_numeric(frame[column]).to_numpy(dtype=float, na_value=float("nan"))
    except (ValueError, TypeError) as error:
        raise DataError(f"{column}: holds what is no number ({error}); an objective is a column of numbers") from error
