"""How the times of single runs are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compress.errors import DataError
from compress.results.frame import shapes_of
from compress.results.plots.style import COLOURS, log_axis, new_figure, shape_label, styled
from compress.results.selection import names, variants

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_latency"]

_CURVES = 6
"""So many curves can be told apart in one picture."""


@styled
def plot_latency(
    frame: pd.DataFrame, *, shape: str | None = None, kind: Literal["auto", "ecdf", "range"] = "auto"
) -> Figure:
    """Draw the distribution of the latencies of single runs.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it; equal checkpoints are drawn once.
    shape
        Such as ``1x32``; by default the first whose distributions were kept.
    kind
        ``ecdf`` draws the share of runs that took at most so long, a curve per variant; ``range`` a row per variant,
        with the median, the middle half, the middle 95 % and the extremes, the fastest at the top. ``auto`` takes
        curves for up to six variants.

    Raises
    ------
    DataError
        If no distribution was kept, or the shape is not among those measured.
    """
    kept = [name for name in shapes_of(frame) if frame[f"quantiles_ms.{name}"].notna().any()]
    if not kept:
        raise DataError("these records keep no quantiles of single runs; measure again with this version")
    if shape is not None and shape not in kept:
        raise DataError(f"shape={shape!r} has no distribution; those that have: {', '.join(kept)}")
    at = shape or kept[0]
    rows = variants(frame)
    rows = rows[rows[f"quantiles_ms.{at}"].notna()]
    rows = rows.sort_values(f"p50_ms.{at}", kind="stable")
    curves = kind == "ecdf" or (kind == "auto" and len(rows) <= _CURVES)
    figure = new_figure(6.0, 3.2 if curves else 0.9 + 0.24 * len(rows))
    axes: Axes = figure.subplots()
    quantiles = [_array(values) for values in rows[f"quantiles_ms.{at}"]]
    (_draw_curves if curves else _draw_ranges)(axes, quantiles, list(names(rows)))
    if max(q[-1] for q in quantiles) / min(q[0] for q in quantiles) > 3:
        log_axis(axes, "x")
    axes.set_xlabel(f"latency of a single run at {shape_label(at)}, ms")
    return figure


def _array(values: object) -> np.ndarray:
    import numpy as np

    return np.asarray(values, dtype=float)


def _draw_curves(axes: Axes, quantiles: list[np.ndarray], labels: list[str]) -> None:
    import numpy as np

    styles = ("-", "--", "-.", ":")
    for number, (values, label) in enumerate(zip(quantiles, labels, strict=True)):
        share = np.linspace(0, 100, len(values))
        axes.plot(
            values,
            share,
            linewidth=1.5,
            label=f"{label}: {np.interp(50, share, values):.3g} ms",
            color=COLOURS[number % len(COLOURS)],
            linestyle=styles[number // len(COLOURS) % len(styles)],
        )
    axes.axhline(50, color="#888888", linewidth=0.6, zorder=1)
    axes.set_ylim(0, 101)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("runs that took at most so long, %")
    axes.legend(title="median", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, alignment="left")


def _draw_ranges(axes: Axes, quantiles: list[np.ndarray], labels: list[str]) -> None:
    import numpy as np

    for number, values in enumerate(quantiles):
        share = np.linspace(0, 100, len(values))
        low, first, median, third, high = np.interp((2.5, 25, 50, 75, 97.5), share, values)
        axes.plot([values[0], values[-1]], [number] * 2, "|", color="#999999", markersize=4, zorder=2)
        axes.hlines(number, low, high, color=COLOURS[0], linewidth=1.2, zorder=3)
        axes.hlines(number, first, third, color=COLOURS[0], linewidth=5, zorder=3)
        axes.plot([median], [number], "o", color="white", markeredgecolor=COLOURS[0], markersize=4, zorder=4)
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_title("median, middle half, middle 95 %, extremes", loc="left", fontsize=8)
