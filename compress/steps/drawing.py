"""Training rows that a step looks at without training on them: calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import StepError

if TYPE_CHECKING:
    import pandas as pd

    from compress.steps.base import Context

__all__ = ["drawn_rows"]


def drawn_rows(context: Context, count: int) -> pd.DataFrame:
    """Return training rows drawn by the seed, in their order; all of them where there are no more.

    Raises
    ------
    StepError
        If there are none.
    """
    import numpy as np

    train = context.data.train
    if not len(train):
        raise StepError(f"step {context.name}: calibration needs training rows and there are none; give data.train")
    chosen = np.sort(np.random.default_rng(context.seed).permutation(len(train))[:count])
    return train.iloc[chosen].reset_index(drop=True)
