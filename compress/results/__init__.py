"""Records, tables, plots and reports; stands on records alone and imports no torch.

>>> import compress
>>> frame = compress.results.load("runs/distill_int8")      # a row per measured variant
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load"]


def load(path: str | Path) -> pd.DataFrame:
    """Return one row per measured variant of a run, of a ``record.json`` or of every run below a folder.

    See `compress.results.frame.load` for the columns.
    """
    from compress.results.frame import load as load_frame

    return load_frame(path)
