"""What all figures share: colours, type, axes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "GREY",
    "MARKERS",
    "log_axis",
    "metric_limits",
    "new_figure",
    "save",
    "shape_label",
    "styled",
]

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, told apart by readers of every colour vision and in grey."""

MARKERS = "osD^vPX"

GREY = "#555555"

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.framealpha": 0.6,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the style of all figures, whatever the caller's matplotlib is set to."""

    @functools.wraps(draw)
    def drawn(*arguments: P.args, **keywords: P.kwargs) -> R:
        from matplotlib import style

        with style.context(["default", _STYLE]):
            return draw(*arguments, **keywords)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; it needs no window and touches no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG: the same bytes for the same figure."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        figure.savefig(path, metadata={"Software": None})
    return path


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with ticks written as 1, 2, 5, 10 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def metric_limits(values: Iterable[float]) -> tuple[float, float]:
    """Return limits that leave at least two points of metric in view, so that noise does not look like a cliff."""
    found = [value for value in values if value == value]
    low, high = min(found), max(found)
    space = max(0.12 * (high - low), 0.01 - (high - low) / 2, 0.002)
    return low - space, high + space


def shape_label(shape: str) -> str:
    """Write ``1x32`` as ``1 × 32``, and ``cuda:1x32`` as ``1 × 32 (cuda)``."""
    device, _, rest = shape.rpartition(":")
    text = rest.replace("x", " × ", 1)
    return f"{text} ({device})" if device else text
