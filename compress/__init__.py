"""Make a fine-tuned transformer smaller and faster, and prove on the files that ship what it still can do.

>>> import compress
>>> model = compress.load("artifact")        # any checkpoint this project wrote, any format
>>> model.predict(["some text"])             # labels, scores, entities, as the task defines
>>> compress.results.load("runs")            # a DataFrame, a row per measured variant
>>> compress.run("distill_int8", ["distill.temperature=4"])

Importing is light: torch and transformers are loaded by the first call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress import errors, results
    from compress.library import Run, run
    from compress.runtime.opening import load

__all__ = ["Run", "__version__", "errors", "load", "results", "run"]

_ATTRIBUTES = {
    "Run": "compress.library",
    "load": "compress.runtime.opening",
    "run": "compress.library",
}
_MODULES = frozenset({"errors", "results"})


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        return getattr(import_module(_ATTRIBUTES[name]), name)
    if name in _MODULES:
        return import_module(f"compress.{name}")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("compress-transformers")
        except PackageNotFoundError:
            return "0.0.0"
    raise AttributeError(f"module 'compress' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
