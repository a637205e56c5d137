"""Figures of one run, fit for a paper: the path from baseline to artifact, and quality against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.results.variants import VariantRow, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["plot_path", "plot_tradeoff", "write_plots"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, told apart by readers of every colour vision and in grey."""

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}


def write_plots(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``path.png`` and ``tradeoff.png``; one that lacks its numbers is left out.

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(_STYLE):
        for name, draw in (("path.png", plot_path), ("tradeoff.png", plot_tradeoff)):
            figure = draw(record)
            target = folder / name
            if figure is None:
                target.unlink(missing_ok=True)
                continue
            FigureCanvasAgg(figure)
            figure.savefig(target, metadata={"Software": None})
            written.append(target)
    return written


def plot_path(record: Mapping[str, Any]) -> Figure | None:
    """Draw quality, latency and size after each step, baseline first; None without any numbers."""
    from matplotlib.figure import Figure

    rows = describe(record)
    metric = record["metric"]["name"]
    labels = list(dict.fromkeys(timing.label for row in rows for timing in row.timings))
    has_metric = any(row.metric is not None for row in rows)
    panels = has_metric + bool(labels) + any(row.weights_bytes is not None for row in rows)
    if not panels:
        return None
    figure = Figure(figsize=(3.1 * panels, 3.0), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
    where = range(len(rows))
    if has_metric:
        axis = axes.pop(0)
        _line(axis, where, [row.metric for row in rows], _COLOURS[0], "{:.3f}")
        axis.set_title(f"{metric}, test split")
        _margin(axis, [row.metric for row in rows if row.metric is not None])
    if labels:
        axis = axes.pop(0)
        for index, label in enumerate(labels):
            values = [next((t.p50 for t in row.timings if t.label == label), None) for row in rows]
            marker = "os^Dv"[index % 5]
            _line(axis, where, values, _COLOURS[index % len(_COLOURS)], "{:.3g}", label=label, marker=marker)
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
        axis.margins(y=0.18)
        axis.set_title("median latency, ms per batch")
        axis.legend(title="batch × tokens", fontsize=7, title_fontsize=7, framealpha=0.6)
    if axes:
        _size_panel(axes[0], rows)
    for axis in figure.axes:
        axis.set_xticks(list(where), [_tick(row) for row in rows], fontsize=7, rotation=20, ha="right")
        axis.set_xlim(-0.5, len(rows) - 0.5)
    return figure


def plot_tradeoff(record: Mapping[str, Any]) -> Figure | None:
    """Draw quality against latency at the first shape; the area of a bubble is the weights' size.

    Horizontal bars show the relative interval of the measured ratio to the baseline, vertical bars
    the interval of the metric's difference. None where latency or quality was not measured.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row for row in describe(record) if row.metric is not None and row.timings and row.timings[0].p50]
    if not rows:
        return None
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axis = figure.subplots()
    handles: list[Line2D] = []
    largest = max(row.weights_bytes or 0 for row in rows) or 1
    base = next((row for row in rows if row.role == "baseline"), None)
    for index, row in enumerate(rows):
        colour = _COLOURS[index % len(_COLOURS)]
        timing, x, y = row.timings[0], row.timings[0].p50 or 0.0, row.metric or 0.0
        area = 40 + 760 * (row.weights_bytes or 0) / largest
        axis.scatter([x], [y], s=area, color=colour, alpha=0.45, edgecolors=colour, linewidths=1.2, zorder=3)
        axis.scatter([x], [y], s=6, color=colour, zorder=5)
        if timing.speedup and timing.low and timing.high:
            ends = [x * timing.speedup / timing.high, x * timing.speedup / timing.low]
            axis.plot(ends, [y, y], color=colour, linewidth=1.4, zorder=4)
        if base is not None and base.metric is not None:
            low_high = _metric_interval(record, row, base.metric)
            if low_high is not None:
                axis.plot([x, x], low_high, color=colour, linewidth=1.4, zorder=4)
        size = "" if row.weights_bytes is None else f", {row.weights_bytes / 1e6:.1f} MB"
        handles.append(Line2D([], [], marker="o", linestyle="", color=colour, label=f"{_tick(row)}{size}"))
    axis.set_xscale("log")
    _plain_ticks(axis.xaxis)
    axis.margins(x=0.2, y=0.2)
    axis.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axis.set_xlabel(f"median latency at {rows[0].timings[0].label}, ms (log)")
    axis.set_ylabel(f"{record['metric']['name']}, test split")
    axis.set_title("area of a bubble: bytes of weights", loc="left", fontsize=8)
    return figure


def _metric_interval(record: Mapping[str, Any], row: VariantRow, reference: float) -> list[float] | None:
    """Return the metric's interval where the difference to the baseline has one around what was measured."""
    comparison = record["comparison"] if row.role == "artifact" else (record.get("comparisons") or {}).get(row.name, {})
    difference = comparison.get("metric_difference") or {}
    low, high, value = difference.get("low"), difference.get("high"), difference.get("value")
    if low is None or high is None or value is None or row.metric is None:
        return None
    return [row.metric + low - value, row.metric + high - value]


def _size_panel(axis: Axes, rows: Sequence[VariantRow]) -> None:
    """Stack the bytes of embeddings and of everything else."""
    embeddings = [(row.embedding_bytes or 0) / 1e6 for row in rows]
    rest = [max((row.weights_bytes or 0) / 1e6 - e, 0.0) for row, e in zip(rows, embeddings, strict=True)]
    where = list(range(len(rows)))
    axis.bar(where, rest, width=0.6, color=_COLOURS[0], label="other weights")
    axis.bar(where, embeddings, width=0.6, bottom=rest, color=_COLOURS[4], label="embeddings", hatch="//", alpha=0.85)
    for x, (a, b) in enumerate(zip(rest, embeddings, strict=True)):
        axis.annotate(f"{a + b:.3g}", (x, a + b), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
    axis.margins(y=0.15)
    axis.set_title("weights on disk, MB")
    axis.legend(fontsize=7, framealpha=0.6)


def _line(
    axis: Axes,
    where: Sequence[int],
    values: Sequence[float | None],
    colour: str,
    text: str,
    *,
    label: str | None = None,
    marker: str = "o",
) -> None:
    points = [(x, y) for x, y in zip(where, values, strict=True) if y is not None]
    axis.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=marker, markersize=5, label=label)
    for x, y in points:
        axis.annotate(
            text.format(y), (x, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7, color=colour
        )


def _margin(axis: Axes, values: Sequence[float]) -> None:
    """Leave at least two points of metric in view, so that noise does not look like a cliff."""
    low, high = min(values), max(values)
    space = max(0.25 * (high - low), 0.01)
    axis.set_ylim(low - space, high + space)


def _plain_ticks(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as 1, 2, 5, 10 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _tick(row: VariantRow) -> str:
    return f"{row.name} {row.precision}".strip()
