"""Texts unlike those of a job: a part of a packaged source, for figures of how far a pruned vocabulary goes."""

from __future__ import annotations

from compress.config import schemas
from compress.data import bbc_news, tweets
from compress.data.rows import TEXT, Raw

__all__ = ["other_domain"]

_TEXTS = 500
"""Enough for a share to within 4 %, read and tokenized in under a second."""


def other_domain(name: str) -> tuple[str, list[str]]:
    """Return the name of a packaged source of another domain, and texts spread evenly over it.

    Parameters
    ----------
    name
        The ``data=`` option of the job: tweets stand against news, and news against everything else.

    Raises
    ------
    MachineError
        If the package is not installed.
    """
    if name == "bbc_news":
        found: Raw = tweets.read(schemas.TweetsData(), TEXT)
        other = "tweets"
    else:
        found = bbc_news.read(schemas.BBCNewsData(), TEXT)
        other = "bbc_news"
    rows = found.splits["train"]
    step = max(1, len(rows) // _TEXTS)
    return other, [row.inputs[0] for row in rows[::step][:_TEXTS]]
