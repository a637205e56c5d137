"""Training rows that a quantizer looks at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compress.steps.base import Context

__all__ = ["rows_alone"]


def rows_alone(context: Context, tokenizer: Path, count: int) -> list[dict[str, np.ndarray]]:
    """Return training rows drawn by the seed, each a batch of its own and so without padding.

    Parameters
    ----------
    context
        Its data and task.
    tokenizer
        Directory that holds it.
    count
        Rows; all of them where there are no more.

    Returns
    -------
    list of dict of str to numpy.ndarray
        int64 ``[1, tokens]`` per input that the tokenizer gives.
    """
    from compress.runtime.encoder import TextEncoder
    from compress.steps.drawing import drawn_rows

    features = context.task.encode(drawn_rows(context, count), TextEncoder(tokenizer), context.max_length)
    return [{name: np.asarray([values], dtype=np.int64) for name, values in row.items()} for row in features.inputs]
