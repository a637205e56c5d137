"""Quality against what it costs: the Pareto plot."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.front import check_columns, direction_of, latency_column, non_dominated, on_front
from compress.results.plots.labels import Segment, place_labels
from compress.results.plots.style import (
    COLOURS,
    GREY,
    MARKERS,
    log_axis,
    metric_limits,
    new_figure,
    shape_label,
    styled,
)
from compress.results.selection import names, variants

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_pareto", "plot_tradeoff"]


@styled
def plot_pareto(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    y: str | None = None,
    size: str | None = "weights_bytes",
    colour: str = "precision",
    label: str | None = None,
    front: bool = True,
) -> Figure:
    """Draw quality against latency, speedup or size, with intervals and the Pareto front.

    Parameters
    ----------
    frame
        Rows of one group, as `compress.results.load` returns them; equal checkpoints are drawn once.
    x
        Column across: ``p50_ms.SHAPE``, ``speedup.SHAPE``, ``weights_bytes``, ... By default the median latency at the
        first shape, or the speedup where the rows were not all measured together.
    y
        Column upwards; by default ``validation_value``, which is what picks, or ``metric_value`` where validation was
        not measured.
    size
        Column of bytes that the area of a point shows, or None.
    colour
        Column whose values get a colour each.
    label
        Column with the labels; by default short names. Those on the front are always written, the rest where there is
        room.
    front
        Whether to draw the front of `x` and `y` as a staircase, with a dark rim around what is on the front of
        quality, latency and size together (`compress.results.pareto`).

    Raises
    ------
    DataError
        If the rows belong to several groups, or a column is missing or holds no number.
    """
    picture = _picture(frame, x, y, size, colour)
    best = on_front(picture.rows) if front else _none(picture)
    segments = _draw_intervals(picture, best if front else ~best)
    _set_axes(picture, segments)
    _draw_points(picture, best)
    if front:
        steps = _staircase(picture)
        segments = [*segments, *_draw_staircase(picture, steps)]
        best = best | steps
    _draw_legends(picture, colour, size)
    texts = names(picture.rows) if label is None else picture.rows[label].astype(str)
    place_labels(
        picture.axes,
        list(zip(picture.xs, picture.ys, strict=True)),
        list(texts),
        [area**0.5 / 2 for area in picture.areas],
        must=list(best | (picture.rows["role"] == "baseline").to_numpy()),
        lines=segments,
    )
    figure: Figure = picture.axes.figure.figure
    return figure


def plot_tradeoff(frame: pd.DataFrame) -> Figure:
    """Draw quality on the test split against latency at the first shape: a run's own picture, without a front.

    Parameters
    ----------
    frame
        Rows of one run, as `compress.results.load` returns them.

    Raises
    ------
    DataError
        If quality or latency was not measured.
    """
    return plot_pareto(frame, y="metric_value", front=False, colour="variant")


@dataclass(frozen=True)
class _Picture:
    """What is drawn: rows, their coordinates ``[rows]`` in the units of the axes, areas in square points, looks."""

    axes: Axes
    rows: pd.DataFrame
    across: str
    upward: str
    unit: float
    xs: np.ndarray
    ys: np.ndarray
    areas: list[float]
    looks: list[tuple[str, str]]


def _picture(frame: pd.DataFrame, x: str | None, y: str | None, size: str | None, colour: str) -> _Picture:
    rows = variants(frame)
    across = x or latency_column(rows)
    if across is None:
        raise DataError("no latency was measured; say what to draw against: x='weights_bytes'")
    upward = y or ("validation_value" if rows["validation_value"].notna().any() else "metric_value")
    check_columns(rows, [name for name in (across, upward, size, colour) if name])
    rows = rows[rows[across].notna() & rows[upward].notna()]
    if rows["group"].nunique() > 1:
        raise DataError(
            f"the frame holds {rows['group'].nunique()} groups with baselines of their own; draw one at a time: "
            "frame[frame['group'] == ...]"
        )
    if rows.empty:
        raise DataError(f"no row has both {across} and {upward}")
    unit = 1e-6 if across.endswith("_bytes") else 1.0
    kinds = list(dict.fromkeys(rows[colour].astype(str)))
    look = {
        kind: (COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)])
        for number, kind in enumerate(kinds)
    }
    return _Picture(
        axes=new_figure(6.6, 4.0).subplots(),
        rows=rows,
        across=across,
        upward=upward,
        unit=unit,
        xs=rows[across].to_numpy(dtype=float) * unit,
        ys=rows[upward].to_numpy(dtype=float),
        areas=_areas(rows, size),
        looks=[look[kind] for kind in rows[colour].astype(str)],
    )


def _none(picture: _Picture) -> np.ndarray:
    import numpy as np

    return np.zeros(len(picture.rows), dtype=bool)


def _areas(rows: pd.DataFrame, size: str | None) -> list[float]:
    """Return areas proportional to bytes, a small one where they are not known."""
    if size is None or not rows[size].notna().any():
        return [36.0] * len(rows)
    share = rows[size].astype(float) / float(rows[size].max())
    return [float(14 + 330 * value) if value == value else 14.0 for value in share]


def _draw_points(picture: _Picture, best: np.ndarray) -> None:
    """Draw the points, large ones below small ones; what is on the front gets a dark rim."""
    for number in sorted(range(len(picture.rows)), key=lambda i: -picture.areas[i]):
        tint, marker = picture.looks[number]
        point, area = ([picture.xs[number]], [picture.ys[number]]), picture.areas[number]
        rim: dict[str, Any] = {
            "facecolors": "none",
            "edgecolors": "#000000" if best[number] else tint,
            "linewidths": 1.0,
        }
        picture.axes.scatter(*point, s=area, color=tint, alpha=0.35, linewidths=0, marker=marker, zorder=3)
        picture.axes.scatter(*point, s=area, marker=marker, zorder=3.5, **rim)
        picture.axes.scatter(*point, s=8, color=tint, linewidths=0, zorder=5)


def _draw_intervals(picture: _Picture, strong: np.ndarray) -> list[Segment]:
    """Draw the intervals of both coordinates, some of them lightly, and return them."""
    found: list[Segment] = []
    for number, (_, row) in enumerate(picture.rows.iterrows()):
        x, y = float(picture.xs[number]), float(picture.ys[number])
        horizontal, vertical = _interval(row, picture.across), _interval(row, picture.upward)
        own: list[Segment] = []
        if horizontal:
            own.append(((horizontal[0] * picture.unit, y), (horizontal[1] * picture.unit, y)))
        if vertical:
            own.append(((x, vertical[0]), (x, vertical[1])))
        for start, end in own:
            picture.axes.plot(
                [start[0], end[0]],
                [start[1], end[1]],
                color=picture.looks[number][0],
                linewidth=1.0,
                alpha=0.85 if strong[number] else 0.3,
                zorder=4,
            )
        found += own
    return found


def _interval(row: pd.Series[Any], column: str) -> tuple[float, float] | None:
    """Return the interval of a figure: that of the ratio to the baseline, or of the difference from it, around it."""
    stem, _, shape = column.partition(".")
    value = float(row[column])
    if stem in ("p50_ms", "speedup"):
        low, ratio, high = _numbers(row, *(f"{name}.{shape}" for name in ("speedup_low", "speedup", "speedup_high")))
        if low is None or ratio is None or high is None:
            return None
        return (low, high) if stem == "speedup" else (value * ratio / high, value * ratio / low)
    difference = {"metric_value": "metric_difference", "validation_value": "validation_difference"}.get(column)
    if difference is None:
        return None
    low, middle, high = _numbers(row, f"{difference}_low", difference, f"{difference}_high")
    if low is None or middle is None or high is None or low == high:
        return None
    return value + low - middle, value + high - middle


def _numbers(row: pd.Series[Any], *columns: str) -> list[float | None]:
    found = [row.get(column) for column in columns]
    return [None if value is None or value != value else float(value) for value in found]


def _set_axes(picture: _Picture, segments: list[Segment]) -> None:
    """Set scales, limits and names of both axes."""
    axes = picture.axes
    across = [*picture.xs, *(x for segment in segments for x, _ in segment)]
    upward = [*picture.ys, *(y for segment in segments for _, y in segment)]
    low, high = min(across), max(across)
    if low > 0 and high / low > 2.5:
        log_axis(axes, "x")
        factor = (high / low) ** 0.14
        axes.set_xlim(low / factor, high * factor)
    else:
        space = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_xlim(low - space, high + space)
    axes.set_ylim(*metric_limits(upward))
    axes.set_xlabel(_axis_name(picture.rows, picture.across))
    axes.set_ylabel(_axis_name(picture.rows, picture.upward))


def _axis_name(rows: pd.DataFrame, column: str) -> str:
    stem, _, shape = column.partition(".")
    metric = next((str(name) for name in rows["metric"].dropna()), "metric")
    known = {
        "p50_ms": f"median latency at {shape_label(shape)}, ms",
        "speedup": f"speedup at {shape_label(shape)}",
        "weights_bytes": "weights on disk, MB",
        "artifact_bytes": "everything shipped, MB",
        "size_ratio": "times smaller than the baseline",
        "metric_value": f"{metric}, test split",
        "validation_value": f"{metric}, validation split",
    }
    return known.get(stem, column)


def _less_is_better(picture: _Picture) -> tuple[bool, bool]:
    across, upward = (direction_of(picture.rows, name) == "min" for name in (picture.across, picture.upward))
    return across, upward


def _staircase(picture: _Picture) -> np.ndarray:
    """Return which rows are on the front of the two columns that are drawn."""
    import numpy as np

    signs = [1.0 if less else -1.0 for less in _less_is_better(picture)]
    return non_dominated(np.column_stack([picture.xs, picture.ys]) * signs)


def _draw_staircase(picture: _Picture, corner: np.ndarray) -> list[Segment]:
    """Draw the front, lightly carried on to where it leaves the picture, and return its steps."""
    axes, (less_across, less_upward) = picture.axes, _less_is_better(picture)
    corners = sorted(
        {(float(x), float(y)) for x, y in zip(picture.xs[corner], picture.ys[corner], strict=True)},
        reverse=not less_across,
    )
    segments: list[Segment] = []
    for (x, y), (next_x, next_y) in itertools.pairwise(corners):
        segments += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    for (x, y), (next_x, next_y) in segments:
        axes.plot([x, next_x], [y, next_y], color=GREY, linewidth=1.2, zorder=2, solid_capstyle="round")
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    first, last = corners[0], corners[-1]
    for (x, y), (next_x, next_y) in (
        (first, (first[0], top if less_upward else bottom)),
        (last, (right if less_across else left, last[1])),
    ):
        axes.plot([x, next_x], [y, next_y], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=2)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return segments


def _draw_legends(picture: _Picture, colour: str, size: str | None) -> None:
    """Say what colours and areas mean, beside the axes."""
    from matplotlib.lines import Line2D

    kinds = dict(zip(picture.rows[colour].astype(str), picture.looks, strict=True))
    at: dict[str, Any] = {"frameon": False, "alignment": "left"}
    if len(kinds) > 1:
        handles = [
            Line2D([], [], marker=marker, linestyle="", color=tint, markersize=5, label=kind)
            for kind, (tint, marker) in kinds.items()
        ]
        title = colour.removeprefix("override.")
        shown = picture.axes.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), **at)
        picture.axes.add_artist(shown)
    if size is None or not picture.rows[size].notna().any():
        return
    values = picture.rows[size].to_numpy(dtype=float)
    handles = [
        Line2D(
            *([], []),
            marker="o",
            linestyle="",
            color=GREY,
            markerfacecolor="none",
            markersize=picture.areas[number] ** 0.5,
            label=f"{values[number] / 1e6:.3g} MB",
        )
        for number in dict.fromkeys((int(_least(values)), int(_most(values))))
    ]
    picture.axes.legend(
        handles=handles,
        title="area: weights" if size == "weights_bytes" else f"area: {size}",
        loc="lower left",
        bbox_to_anchor=(1.0, 0.0),
        labelspacing=1.5,
        borderpad=0.8,
        handletextpad=1.0,
        **at,
    )


def _least(values: np.ndarray) -> int:
    import numpy as np

    return int(np.nanargmin(values))


def _most(values: np.ndarray) -> int:
    import numpy as np

    return int(np.nanargmax(values))
