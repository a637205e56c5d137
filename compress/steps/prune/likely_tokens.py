"""Which tokens that training texts do not have are likely to come in other texts of the same source.

A few thousand texts show a part of the tokens that their source uses. Of the others the model knows something: tokens
that are used alike have embeddings alike, and tokenizers number frequent tokens first. A ridge regression from both to
whether a token was seen ranks those that were not (a linear classifier of domains, over tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

__all__ = ["fewest", "likeliest", "places_needed", "upper_bound"]

_RIDGE = 0.01
"""Per row of standardised features; from 0.001 to 0.1 the ranks hardly differ (2 % more or fewer tokens needed)."""
_CONFIDENCE = 0.95
"""Of how often a prediction changes that lacks a token, judged from the few validation texts that do."""
_ROWS = 8192
"""Rows of the embedding that are taken to double precision at a time."""


def likeliest(embedding: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the tokens that were not seen, the likeliest first.

    Parameters
    ----------
    embedding : numpy.ndarray
        ``[vocabulary, hidden]``: the model's token embedding.
    seen : numpy.ndarray
        bool ``[vocabulary]``: whether training texts have the token.

    Returns
    -------
    numpy.ndarray
        int64 ``[not seen]``: ids; of equal ones the lower first.
    """
    count = len(seen)
    blocks = [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]
    mean = sum(_features(embedding, block).sum(0) for block in blocks) / count
    spread = np.sqrt(sum(np.square(_features(embedding, block) - mean).sum(0) for block in blocks) / count)
    spread[spread == 0] = 1.0
    target = seen.astype(np.float64)
    gram: np.ndarray = _RIDGE * count * np.eye(len(mean))
    products = np.zeros(len(mean))
    for block in blocks:
        rows = (_features(embedding, block) - mean) / spread
        gram += rows.T @ rows
        products += rows.T @ (target[block] - target.mean())
    weights = np.linalg.solve(gram, products)
    scores = np.concatenate([(_features(embedding, block) - mean) / spread @ weights for block in blocks])
    order = np.argsort(-scores, kind="stable")
    unseen: np.ndarray = order[~seen[order]]
    return unseen


def _features(embedding: np.ndarray, block: slice) -> np.ndarray:
    """Return float64 ``[rows, hidden + 3]``: the embedding, its norm, the logarithm of the rank and its square."""
    rows = embedding[block].astype(np.float64)
    rank = np.log1p(np.arange(block.start, block.start + len(rows), dtype=np.float64))
    return np.column_stack([rows, np.linalg.norm(rows, axis=1), rank, rank**2])


def places_needed(texts: Iterable[Sequence[int]], order: np.ndarray, kept: np.ndarray) -> Iterator[int]:
    """Yield for each text how many tokens of `order` must stay, the first ones, for all of its tokens to stay.

    Parameters
    ----------
    texts
        Token ids of each.
    order
        Ids that may stay beside those that do.
    kept : numpy.ndarray
        bool ``[vocabulary]``: the tokens that stay anyway.
    """
    places = np.where(kept, 0, len(order) + 1)
    places[order] = np.arange(1, len(order) + 1)
    for ids in texts:
        yield int(places[np.asarray(ids, dtype=np.int64)].max(initial=0))


def fewest(needed: Sequence[int], broken: float, most: int) -> int:
    """Return how many tokens must stay, at most `most`, so that no more than a share `broken` of texts lacks one."""
    allowed = int(np.floor(broken * len(needed) + 1e-9))
    return min(most, int(np.sort(needed)[len(needed) - 1 - allowed])) if allowed < len(needed) else 0


def upper_bound(changed: int, of: int) -> float:
    """Return the share that `changed` events of `of` leave possible, at a confidence of 95 %.

    One-sided, exact for independent events: the 0.95 quantile of ``Beta(changed + 1, of - changed)`` (Clopper and
    Pearson, Biometrika 26, 1934).
    """
    from scipy.stats import beta

    return 1.0 if changed >= of else float(beta.ppf(_CONFIDENCE, changed + 1, of - changed))
