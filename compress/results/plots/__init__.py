"""Figures fit for a paper, each a function of a data frame as `compress.results.load` returns it.

Every function returns a `matplotlib.figure.Figure`: ``figure.savefig("name.pdf")``. In a notebook, run
``%matplotlib inline`` once.
"""

from __future__ import annotations

from compress.results.plots.files import write_plots, write_sweep_plots
from compress.results.plots.latency import plot_latency
from compress.results.plots.path import plot_path
from compress.results.plots.seeds import plot_seeds
from compress.results.plots.sensitivity import plot_sensitivity
from compress.results.plots.size import plot_size
from compress.results.plots.tradeoff import plot_pareto, plot_tradeoff

__all__ = [
    "plot_latency",
    "plot_pareto",
    "plot_path",
    "plot_seeds",
    "plot_sensitivity",
    "plot_size",
    "plot_tradeoff",
    "write_plots",
    "write_sweep_plots",
]
