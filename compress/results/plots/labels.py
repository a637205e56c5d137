"""Labels beside points that cover neither each other nor a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["Segment", "place_labels"]

Segment = tuple[tuple[float, float], tuple[float, float]]
"""A straight line between two points in data coordinates."""

_DISTANCES = (3, 9, 16, 25, 36, 50, 66)
"""How far from the edge of its point a label may stand, in points (1/72 inch)."""

_ANGLES = (45, 135, 315, 225, 0, 180, 90, 270, 20, 160, 340, 200, 70, 110, 290, 250)
"""Degrees, in order of preference."""

_LEADER = 12
"""From this distance on a thin line leads from the label to its point."""

_NEAR = 25
"""Farther away nobody looks for the label of a point among many."""

_GOOD = 14.0
"""The cost of a place that is good enough: one short crossing of a line, not far away."""


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    radii: Sequence[float],
    *,
    must: Sequence[bool],
    lines: Sequence[Segment] = (),
    size: float = 7,
) -> None:
    """Write a label beside each point.

    The figure's layout is fixed by this: call it when all else is drawn.

    Parameters
    ----------
    axes
        Limits and scales are final.
    points
        In data coordinates.
    texts
        A label each.
    radii
        Of the markers, in points (1/72 inch).
    must
        Whether a label has to be written wherever it stands; the others only where they cover nothing, are near their
        point and cross next to no line.
    lines
        Segments in data coordinates (intervals, the front) that labels avoid where they can.
    size
        Of the type, in points.
    """
    import numpy as np
    from matplotlib.patheffects import withStroke

    figure = axes.figure.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    centres = axes.transData.transform(np.asarray(points, dtype=float)) if len(points) else np.empty((0, 2))
    frame = np.asarray(axes.get_window_extent().extents)
    marks = [_box(x, y, min(r, 4) * scale, min(r, 4) * scale) for (x, y), r in zip(centres, radii, strict=True)]
    strokes = _dots(axes, lines)
    taken: list[np.ndarray] = []
    for index in sorted(range(len(points)), key=lambda i: (not must[i], i)):
        note = axes.annotate(texts[index], points[index], fontsize=size, ha="center", va="center", zorder=6)
        extent = note.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 + 1.0 * scale
        best: tuple[float, np.ndarray, int] | None = None
        for distance in _DISTANCES:
            for rank, angle in enumerate(_ANGLES):
                offset = _offset(angle, (radii[index] + distance) * scale, half)
                box = _box(*(centres[index] + offset), *half)
                cost = _cost(box, index, taken, marks, strokes, frame) + distance / 8 + rank / 40
                if best is None or cost < best[0]:
                    best = (cost, offset, distance)
            if best is not None and best[0] < _GOOD:  # farther away is no better
                break
        note.remove()
        if best is None or (not must[index] and (best[0] >= _GOOD or best[2] > _NEAR)):
            continue
        _, offset, distance = best
        taken.append(_box(*(centres[index] + offset), *half))
        if distance >= _LEADER:
            strokes = np.concatenate([strokes, _dotted(centres[index], centres[index] + offset)])
        arrow = {"arrowstyle": "-", "linewidth": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            texts[index],
            points[index],
            xytext=tuple(offset / scale),
            textcoords="offset points",
            fontsize=size,
            ha="center",
            va="center",
            zorder=6,
            arrowprops=arrow if distance >= _LEADER else None,
            path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)],
        )


def _offset(angle: float, distance: float, half: np.ndarray) -> np.ndarray:
    """Return where the middle of a label stands whose nearest edge is that far away in a direction."""
    import numpy as np

    x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([x * distance + round(x, 3) * half[0], y * distance + round(y, 3) * half[1]])


def _box(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    import numpy as np

    return np.array([x - half_width, y - half_height, x + half_width, y + half_height])


def _cost(
    box: np.ndarray,
    index: int,
    taken: Sequence[np.ndarray],
    marks: Sequence[np.ndarray],
    strokes: np.ndarray,
    frame: np.ndarray,
) -> float:
    """Return how bad a place is: a thousand per label or point that is covered, or for leaving the axes."""
    covered = sum(_overlap(box, other) for other in taken)
    covered += sum(_overlap(box, mark) for number, mark in enumerate(marks) if number != index)
    covered += bool(box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3])
    inside = (strokes >= box[:2]).all(axis=1) & (strokes <= box[2:]).all(axis=1)
    return 1000.0 * covered + 4.0 * float(min(inside.sum(), 15))


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def _dots(axes: Axes, lines: Sequence[Segment]) -> np.ndarray:
    """Return points every few pixels along segments."""
    import numpy as np

    ends = [axes.transData.transform(np.asarray(line, dtype=float)) for line in lines]
    return np.concatenate([_dotted(start, end) for start, end in ends]) if ends else np.empty((0, 2))


def _dotted(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    import numpy as np

    number = max(2, int(math.hypot(*(end - start)) / 4))
    dots: np.ndarray = start + np.linspace(0, 1, number)[:, None] * (end - start)
    return dots
