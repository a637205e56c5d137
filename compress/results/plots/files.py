"""Which figures go with a run and with a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.frame import frame_of
from compress.results.front import default_objectives, on_front
from compress.results.plots.latency import plot_latency
from compress.results.plots.path import plot_path
from compress.results.plots.size import plot_size
from compress.results.plots.style import save
from compress.results.plots.tradeoff import plot_pareto, plot_tradeoff
from compress.results.selection import variants

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["write_plots", "write_sweep_plots"]

Draw = Callable[["pd.DataFrame"], "Figure"]


def write_plots(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``path.png``, ``tradeoff.png`` and ``latency.png`` of a run; one that lacks its numbers is left out.

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    frame = frame_of(record)
    draws = {"path.png": plot_path, "tradeoff.png": plot_tradeoff, "latency.png": plot_latency}
    return _write(folder, {name: (draw, frame) for name, draw in draws.items()})


def write_sweep_plots(frame: pd.DataFrame, folder: Path, *, suffix: str = "") -> list[Path]:
    """Write the figures of one group of a sweep; one that lacks its numbers is left out.

    ``pareto.png`` shows quality against latency, ``pareto_size.png`` against bytes, ``latency.png`` and ``size.png``
    the distributions and the sizes of what is on the front, beside the baseline.

    Parameters
    ----------
    frame
        Rows of one group.
    folder
        Where to write.
    suffix
        Put behind the names of the files, for a further group.

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    rows = variants(frame)
    front = rows
    if default_objectives(rows):
        front = rows[on_front(rows) | (rows["role"] == "baseline").to_numpy()]
    colour = next((name for name in ("precision", "runtime") if rows[name].nunique() > 1), "precision")
    draws: dict[str, tuple[Draw, pd.DataFrame]] = {
        f"pareto{suffix}.png": (lambda rows: plot_pareto(rows, colour=colour), rows),
        f"pareto_size{suffix}.png": (lambda rows: plot_pareto(rows, x="weights_bytes", size=None, colour=colour), rows),
        f"latency{suffix}.png": (plot_latency, front),
        f"size{suffix}.png": (plot_size, front),
    }
    return _write(folder, draws)


def _write(folder: Path, draws: Mapping[str, tuple[Draw, pd.DataFrame]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (draw, frame) in draws.items():
        target = folder / name
        try:
            figure = draw(frame)
        except DataError:  # its numbers were not measured
            target.unlink(missing_ok=True)
            continue
        written.append(save(figure, target))
    return written
