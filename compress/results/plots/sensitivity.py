"""What each part of a model costs when it alone is compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import DataError
from compress.results.plots.style import COLOURS, GREY, MARKERS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_sensitivity"]


@styled
def plot_sensitivity(frame: pd.DataFrame, *, metric: str = "metric") -> Figure:
    """Draw the loss of quality per layer and part, each alone compressed.

    Parameters
    ----------
    frame
        A row per measurement, with ``drop`` (what is lost; a gain is negative), ``layer`` or ``part`` or both, and
        perhaps ``low`` and ``high``, the interval of the drop. With both, layers are rows and parts colours; rows
        come in the order of the frame.
    metric
        What the drop is of, for the axis.

    Raises
    ------
    DataError
        If a column is missing or there is no row.
    """
    from matplotlib.ticker import MaxNLocator

    keys = [name for name in ("layer", "part") if name in frame]
    if not keys or "drop" not in frame:
        raise DataError(f"columns {list(frame)}: needed are drop, and layer or part or both")
    if frame.empty:
        raise DataError("the frame has no rows")
    places = list(dict.fromkeys(frame[keys[0]].astype(str)))
    parts = list(dict.fromkeys(frame["part"].astype(str))) if len(keys) > 1 else [""]
    figure = new_figure(5.6, 0.9 + max(0.24, 0.11 * len(parts)) * len(places))
    axes: Axes = figure.subplots()
    spread = 0.6 if len(parts) > 1 else 0.0
    for number, part in enumerate(parts):
        rows = frame[frame["part"].astype(str) == part] if len(keys) > 1 else frame
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        shift = spread * (number / max(len(parts) - 1, 1) - 0.5)
        where = [places.index(place) + shift for place in rows[keys[0]].astype(str)]
        drop = rows["drop"].to_numpy(dtype=float)
        axes.hlines(where, 0, drop, color=colour, linewidth=1.0, alpha=0.35)
        if {"low", "high"} <= set(rows):
            axes.hlines(where, rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float), color=colour)
        axes.plot(drop, where, linestyle="", marker=marker, markersize=4.5, color=colour, label=part)
    axes.axvline(0, color=GREY, linewidth=0.8)
    prefix = "layer " if keys[0] == "layer" and all(place.isdecimal() for place in places) else ""
    axes.set_yticks(range(len(places)), [f"{prefix}{place}" for place in places], fontsize=7.5)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"loss of {metric} when it alone is compressed")
    if len(parts) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, alignment="left")
    return figure
