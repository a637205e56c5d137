"""Where the bytes are: embeddings and everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.plots.style import COLOURS, new_figure, styled
from compress.results.selection import names, variants

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_sizes", "plot_size"]


@styled
def plot_size(frame: pd.DataFrame) -> Figure:
    """Draw the bytes of weights of each variant, embeddings and the rest stacked, the largest first.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it; equal checkpoints are drawn once.

    Raises
    ------
    DataError
        If no size was measured.
    """
    rows = variants(frame)
    rows = rows[rows["weights_bytes"].notna()].sort_values("weights_bytes", ascending=False, kind="stable")
    if rows.empty:
        raise DataError("no size was measured")
    figure = new_figure(6.0, 0.9 + 0.24 * len(rows))
    axes: Axes = figure.subplots()
    draw_sizes(axes, rows, horizontal=True)
    axes.set_yticks(range(len(rows)), list(names(rows)), fontsize=7.5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


def draw_sizes(axes: Axes, rows: pd.DataFrame, *, horizontal: bool) -> None:
    """Draw stacked bars, one per row, at 0, 1, 2, ..."""
    total = rows["weights_bytes"].to_numpy(dtype=float) / 1e6
    embeddings = rows["embedding_bytes"].fillna(0).to_numpy(dtype=float) / 1e6
    rest = (total - embeddings).clip(min=0)
    where = range(len(rows))
    bar = axes.barh if horizontal else axes.bar
    start = "left" if horizontal else "bottom"
    shared: dict[str, Any] = {"height" if horizontal else "width": 0.62}
    bar(where, rest, color=COLOURS[0], label="other weights", **shared)
    shared |= {start: rest, "edgecolor": "white", "linewidth": 0, "hatch": "////"}
    bar(where, embeddings, color=COLOURS[4], label="embeddings", **shared)
    for number, (value, ratio) in enumerate(zip(total, rows["size_ratio"], strict=True)):
        if value != value:
            continue
        shown = f"{value:.3g} MB" + (f", {ratio:.3g}x" if ratio == ratio and ratio is not None else "")
        axes.annotate(
            shown if horizontal else f"{value:.3g}",
            (value, number) if horizontal else (number, value),
            xytext=(3, 0) if horizontal else (0, 2),
            textcoords="offset points",
            ha="left" if horizontal else "center",
            va="center" if horizontal else "bottom",
            fontsize=7,
        )
    axes.margins(x=0.17 if horizontal else None, y=None if horizontal else 0.17)
    axes.set_title("weights on disk, MB")
    axes.legend(loc="lower right" if horizontal else "upper right")
