"""What each step of a recipe did to quality, latency and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import DataError
from compress.results.frame import shapes_of
from compress.results.plots.size import draw_sizes
from compress.results.plots.style import COLOURS, MARKERS, log_axis, metric_limits, new_figure, shape_label, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_path"]


@styled
def plot_path(frame: pd.DataFrame) -> Figure:
    """Draw quality, latency and size after each step of one run, baseline first.

    Parameters
    ----------
    frame
        Rows of one run, as `compress.results.load` returns them.

    Raises
    ------
    DataError
        If the rows belong to several runs, or nothing was measured.
    """
    rows = frame[frame["variant"].notna()]
    if rows["run"].nunique() > 1:
        raise DataError("a path is that of one run: frame[frame['run'] == ...]")
    splits = [name for name in ("metric_value", "validation_value") if rows[name].notna().any()]
    shapes = [shape for shape in shapes_of(rows) if rows[f"p50_ms.{shape}"].notna().any()]
    panels = bool(splits) + bool(shapes) + bool(rows["weights_bytes"].notna().any())
    if not panels:
        raise DataError("neither quality nor latency nor size was measured")
    figure = new_figure(3.1 * panels, 3.1)
    axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
    if splits:
        _draw_quality(axes.pop(0), rows, splits)
    if shapes:
        _draw_latency(axes.pop(0), rows, shapes)
    if axes:
        draw_sizes(axes[0], rows, horizontal=False)
    ticks = [f"{row['variant']}\n{row['precision']}".strip() for _, row in rows.iterrows()]
    crowded = len(rows) > 4
    for axis in figure.axes:
        axis.set_xticks(
            range(len(rows)),
            [tick.replace("\n", " ") for tick in ticks] if crowded else ticks,
            fontsize=7,
            rotation=30 if crowded else 0,
            ha="right" if crowded else "center",
        )
        axis.set_xlim(-0.5, len(rows) - 0.5)
        axis.grid(visible=False, axis="x")
    return figure


def _draw_quality(axes: Axes, rows: pd.DataFrame, splits: Sequence[str]) -> None:
    """Draw the metric on both splits; bars hold the paired interval of the difference from the baseline."""
    ends: list[float] = []
    upper = max(splits, key=lambda split: float(rows[split].to_numpy(dtype=float).mean()))
    for number, split in enumerate(splits):
        colour, marker = COLOURS[number], MARKERS[number]
        values = rows[split].to_numpy(dtype=float)
        stem = split.replace("_value", "_difference")
        low = values + (rows[f"{stem}_low"] - rows[stem]).to_numpy(dtype=float)
        high = values + (rows[f"{stem}_high"] - rows[stem]).to_numpy(dtype=float)
        where = [x + 0.12 * number for x in range(len(values))]
        axes.vlines(where, low, high, color=colour, linewidth=1.0, alpha=0.7)
        name = split.replace("_value", "").replace("metric", "test")
        _line(axes, where, list(values), colour, marker, name, "{:.3f}", above=split == upper)
        ends += [value for value in (*values, *low, *high) if value == value]
    low_end, high_end = metric_limits(ends)
    axes.set_ylim(low_end, high_end + (0.2 if len(splits) > 1 else 0) * (high_end - low_end))
    axes.set_title(f"{rows['metric'].iloc[0]}")
    if len(splits) > 1:
        axes.legend(loc="upper right", title="split", ncols=2)


def _draw_latency(axes: Axes, rows: pd.DataFrame, shapes: Sequence[str]) -> None:
    for number, shape in enumerate(shapes):
        values = rows[f"p50_ms.{shape}"].to_numpy(dtype=float)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        _line(axes, range(len(rows)), list(values), colour, marker, shape_label(shape), "{:.3g}")
    log_axis(axes, "y")
    axes.margins(y=0.18)
    axes.set_title("median latency, ms per batch")
    axes.legend(title="batch × tokens")


def _line(
    axes: Axes,
    where: Sequence[float],
    values: Sequence[float],
    colour: str,
    marker: str,
    label: str,
    text: str,
    *,
    above: bool = True,
) -> None:
    points = [(x, y) for x, y in zip(where, values, strict=True) if y == y]
    axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=marker, markersize=4.5, label=label)
    for x, y in points:
        axes.annotate(
            text.format(y),
            (x, y),
            xytext=(4, 6) if above else (-4, -6),
            textcoords="offset points",
            ha="left" if above else "right",
            va="bottom" if above else "top",
            fontsize=7,
            color=colour,
        )
