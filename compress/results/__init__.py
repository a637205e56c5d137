"""Records, tables, plots and reports; stands on records alone and imports no torch.

>>> import compress
>>> frame = compress.results.load("multirun/today")     # a row per measured variant
>>> compress.results.pareto(compress.results.variants(frame))
>>> compress.results.choose(frame, max_metric_drop=0.01, min_speedup=4)
>>> compress.results.compare("outputs/one", "outputs/two")
>>> compress.results.plot_pareto(frame).savefig("pareto.pdf")

Everything works on data frames; pandas filters them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.results.choice import choose
    from compress.results.comparison import compare
    from compress.results.frame import frame_of, load
    from compress.results.front import pareto
    from compress.results.plots import (
        plot_latency,
        plot_pareto,
        plot_path,
        plot_seeds,
        plot_sensitivity,
        plot_size,
        plot_tradeoff,
    )
    from compress.results.seeds import over_seeds
    from compress.results.selection import artifacts, failed, names, variants

__all__ = [
    "artifacts",
    "choose",
    "compare",
    "failed",
    "frame_of",
    "load",
    "names",
    "over_seeds",
    "pareto",
    "plot_latency",
    "plot_pareto",
    "plot_path",
    "plot_seeds",
    "plot_sensitivity",
    "plot_size",
    "plot_tradeoff",
    "variants",
]

_MODULES = {
    **dict.fromkeys(("artifacts", "failed", "names", "variants"), "selection"),
    **dict.fromkeys(("frame_of", "load"), "frame"),
    "choose": "choice",
    "compare": "comparison",
    "over_seeds": "seeds",
    "pareto": "front",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'compress.results' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"compress.results.{_MODULES.get(name, 'plots')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
