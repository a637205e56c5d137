"""What to ship for a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import DataError
from compress.results.frame import shapes_of
from compress.results.selection import names, variants

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["choose"]

_TOLERANCE = 1e-9
"""As in `compress.results.budget`: what is exactly the limit is within it."""


@dataclass(frozen=True)
class _Limit:
    """One limit: its key, value, whether it is an upper one, and the figures that it is held against."""

    key: str
    value: float
    upper: bool
    what: str
    figures: pd.Series[float]

    @property
    def met(self) -> pd.Series[bool]:
        beyond = self.figures - self.value if self.upper else self.value - self.figures
        return beyond <= _TOLERANCE

    @property
    def nearest(self) -> float:
        """Return the best figure there is; not a number where none was measured."""
        return float(self.figures.min() if self.upper else self.figures.max())


def choose(
    frame: pd.DataFrame,
    *,
    max_metric_drop: float | None = None,
    min_speedup: float | None = None,
    min_size_ratio: float | None = None,
    max_latency_ms: float | None = None,
    shape: str | None = None,
    confident: bool = False,
) -> pd.DataFrame:
    """Return the variants that keep a budget, the one to ship first.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it.
    max_metric_drop
        Loss of the metric against the baseline that is accepted, absolute, on the validation split: the test split
        chooses nothing.
    min_speedup, max_latency_ms
        Limits of the ratio to the baseline and of the median in milliseconds, at `shape`.
    min_size_ratio
        Baseline bytes of weights over the variant's.
    shape
        Such as ``1x32``; by default the first that was measured.
    confident
        Judge the metric and the speedup by the worse end of their intervals, not by their values; what has no interval
        is then left out.

    Returns
    -------
    pandas.DataFrame
        Equal checkpoints once. With `max_metric_drop` the fastest first, for the quality is then settled; without it
        the best on validation first. The smaller goes first where that is equal.

    Raises
    ------
    DataError
        If nothing keeps the budget: says which limit nothing meets, and what comes nearest.
    """
    rows = variants(frame)
    shapes = shapes_of(frame)
    if shape is not None and shape not in shapes:
        raise DataError(f"shape={shape!r} was not measured; measured: {', '.join(shapes) or 'none'}")
    at = shape or (shapes[0] if shapes else None)
    asked = {
        "max_metric_drop": max_metric_drop,
        "min_speedup": min_speedup,
        "min_size_ratio": min_size_ratio,
        "max_latency_ms": max_latency_ms,
    }
    limits = [_limit(rows, key, value, at, confident) for key, value in asked.items() if value is not None]
    keep = rows["variant"].notna()
    for limit in limits:
        keep &= limit.met
    if not keep.any():
        raise DataError(_explained(rows, limits))
    found = rows[keep]
    speed = "p50_ms" if "measurement" in found and found["measurement"].nunique() == 1 else "speedup"
    fast = _figures(found, f"{speed}.{at}") * (1 if speed == "p50_ms" else -1)
    quality = -_figures(found, "validation_value") * (1 if _higher_is_better(found) else -1)
    keys = {"quality": quality, "fast": fast, "small": _figures(found, "weights_bytes")}
    first = ["fast", "quality"] if max_metric_drop is not None else ["quality", "fast"]
    ranks = found[[]].assign(**keys).reset_index(drop=True)
    order = ranks.sort_values([*first, "small"], kind="stable", na_position="last").index
    return found.iloc[order]


def _limit(rows: pd.DataFrame, key: str, value: float, shape: str | None, confident: bool) -> _Limit:
    at = "" if shape is None else f" at {shape}"
    is_baseline = rows["role"] == "baseline"
    if key == "max_metric_drop":
        sign = 1 if _higher_is_better(rows) else -1
        end = "" if not confident else "_low" if sign > 0 else "_high"
        drop = -sign * _figures(rows, f"validation_difference{end}")
        return _Limit(key, value, True, "loss on validation", drop)
    if key == "min_speedup":
        ratio = _figures(rows, f"speedup{'_low' if confident else ''}.{shape}")
        return _Limit(key, value, False, f"speedup{at}", ratio.where(~is_baseline, 1.0))
    if key == "min_size_ratio":
        return _Limit(key, value, False, "ratio of the weights' sizes", _figures(rows, "size_ratio"))
    return _Limit(key, value, True, f"median latency{at}", _figures(rows, f"p50_ms.{shape}"))


def _explained(rows: pd.DataFrame, limits: list[_Limit]) -> str:
    """Say which limit nothing meets, or, if each is met by something, how far off the others' best is."""
    if not len(rows) or not limits:
        return "no variant was measured in these runs"
    called = names(rows)
    alone = [limit for limit in limits if not limit.met.any()]
    lines = []
    for limit in alone or limits:
        others = rows["variant"].notna()
        for other in limits if not alone else ():
            if other is not limit:
                others &= other.met
        figures = limit.figures[others].dropna()
        if figures.empty:
            continue
        at = int(limit.figures.where(others).argmin() if limit.upper else limit.figures.where(others).argmax())
        among = "of all" if alone else "of those that meet the rest"
        best = f"the {'lowest' if limit.upper else 'highest'} {limit.what} {among} is {limit.figures.iloc[at]:.4g}"
        lines.append(f"{limit.key}={limit.value:g}: {best} ({called.iloc[at]})")
    unmeasured = [
        f"{limit.key}: the {limit.what} was not measured" for limit in alone if limit.nearest != limit.nearest
    ]
    start = "nothing meets" if alone else "each limit is met by something, nothing meets all"
    return f"{start} {'; '.join(lines + unmeasured)}" if alone else f"{start}; {'; '.join(lines)}"


def _higher_is_better(rows: pd.DataFrame) -> bool:
    return bool(rows["higher_is_better"].dropna().all())


def _figures(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    """Return a column as numbers; a column that is not there was not measured."""
    import pandas as pd

    if column not in rows:
        return pd.Series(float("nan"), index=rows.index)
    return pd.to_numeric(rows[column]).astype(float)
