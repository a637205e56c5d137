"""Quality over seeds against one setting, a line per value of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import DataError
from compress.results.plots.style import COLOURS, GREY, MARKERS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_seeds"]


@styled
def plot_seeds(table: pd.DataFrame, *, x: str | None, series: str, y: str = "metric_difference") -> Figure:
    """Draw the median over seeds, against a column or name by name, with a bar from the worst to the best seed.

    Parameters
    ----------
    table
        As `compress.results.over_seeds` returns it; baselines are left out.
    x
        Column of numbers, for instance ``macs_ratio``; None for a row per value of `series`, the best above.
    series
        Column whose values get a line each, best first in the legend.
    y
        One of the columns with a ``_low`` and a ``_high``; in percentage points.

    Raises
    ------
    DataError
        If a column is missing, or there is no row.
    """
    needed = [name for name in (x, series, y, f"{y}_low", f"{y}_high") if name is not None]
    missing = [name for name in needed if name not in table]
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    rows = table[table[needed].notna().all(axis=1) & (table["role"] != "baseline")]
    if rows.empty:
        raise DataError(f"no row has all of {', '.join(needed)}")
    if x is None:
        return _by_name(rows, series, y)
    figure = new_figure(6.4, 4.2)
    axes: Axes = figure.subplots()
    order = rows.groupby(series)[y].mean().sort_values(ascending=False).index
    for number, name in enumerate(order):
        group = rows[rows[series] == name].sort_values(x)
        middle = 100 * group[y].astype(float)
        axes.errorbar(
            group[x].astype(float) * (1 + 0.004 * (number - len(order) / 2)),
            middle,
            yerr=[middle - 100 * group[f"{y}_low"].astype(float), 100 * group[f"{y}_high"].astype(float) - middle],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if number < len(COLOURS) else "--",
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=str(name),
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel(_label(x))
    axes.set_ylabel(f"{y.replace('_', ' ')}, points")
    axes.legend(title=series.removeprefix("override."), loc="best")
    return figure


def _by_name(rows: pd.DataFrame, series: str, y: str) -> Figure:
    rows = rows.assign(_=rows[y].astype(float)).sort_values("_", kind="stable")
    middle, low, high = (100 * rows[name].astype(float) for name in (y, f"{y}_low", f"{y}_high"))
    figure = new_figure(6.4, 0.9 + 0.27 * len(rows))
    axes: Axes = figure.subplots()
    axes.errorbar(
        middle, range(len(rows)), xerr=[middle - low, high - middle], color=COLOURS[0], fmt="o", markersize=4, capsize=2
    )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [str(name) for name in rows[series]])
    axes.set_xlabel(f"{y.replace('_', ' ')}, points")
    return figure


def _label(column: str) -> str:
    if column.startswith("speedup."):
        return f"times faster at {column.removeprefix('speedup.').replace('x', ' × ')}"
    return column.replace("_", " ").replace("macs ratio", "times fewer multiply-accumulates")
