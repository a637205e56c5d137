"""Between which numbers a value is represented: the calibration methods, from one histogram each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress.steps.quantize.observing import Histogram

__all__ = ["METHODS", "Encoding", "encoding", "find_range"]

METHODS = ("min_max", "percentile", "mse", "entropy")

_SHRUNK = np.linspace(1.0, 0.1, 46)
"""Shares of each edge that a search tries."""


_LEAST_STEP = 1e-30


@dataclass(frozen=True)
class Encoding:
    """``x ≈ scale (q - zero)`` with q from 0 to 255.

    Attributes
    ----------
    scale : float
        Above 0.
    zero : int
        What stands for 0.0, which is always exact: padding, ReLU and masked positions are made of it.
    """

    scale: float
    zero: int

    @property
    def low(self) -> float:
        """Smallest number that can be represented."""
        return -self.scale * self.zero

    @property
    def high(self) -> float:
        """Largest number that can be represented."""
        return self.scale * (255 - self.zero)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return what stands for values once they have been quantized and multiplied out again."""
        levels = np.clip(np.rint(values / self.scale) + self.zero, 0, 255)
        rounded: np.ndarray = (levels - self.zero) * self.scale
        return rounded


def encoding(low: float, high: float, symmetric: bool) -> Encoding:
    """Return the encoding of a range, widened to hold 0; symmetric ones have 128 for 0.0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        largest = max(-low, high)
        return Encoding(_step(largest / 127), 128)
    scale = _step((high - low) / 255)
    return Encoding(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def _step(exact: float) -> float:
    """Return a step as float32; 1 for one that is 0 or has lost its digits: all that is there is as good as 0."""
    return float(np.float32(exact)) if exact > _LEAST_STEP else 1.0


def find_range(method: str, seen: Histogram, percentile: float, symmetric: bool) -> tuple[float, float]:
    """Return the range that a calibration method takes for a value.

    Parameters
    ----------
    method : str
        ``min_max``: all that was seen. ``percentile``: without the outermost numbers. ``mse``: the least mean squared
        error of the quantized value. ``entropy``: the least Kullback-Leibler divergence of its distribution (Migacz,
        8-bit inference with TensorRT, GTC 2017), among ranges whose squared error is no larger than that of all that
        was seen. Without that bound it cuts off the few large numbers that a transformer depends on (arXiv 2004.09602
        reports it of BERT; MiniLM lost 50 points of accuracy).
    seen : Histogram
        Of the value.
    percentile : float
        Per cent of all numbers that stay inside, for ``percentile``.
    symmetric : bool
        Whether the encoding will be symmetric.

    Raises
    ------
    ValueError
        Another method.
    """
    if method not in METHODS:
        raise ValueError(f"calibration {method!r}; known: {', '.join(METHODS)}")
    if method == "min_max" or seen.high <= seen.low:
        return seen.low, seen.high
    if method == "percentile":
        outside = (100 - percentile) / 200
        share = seen.counts.cumsum() / max(1, seen.counts.sum())
        edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
        first = int(np.searchsorted(share, outside, side="right"))
        last = int(np.searchsorted(share, 1 - outside, side="left"))
        return float(edges[first]), float(edges[last + 1])
    return _search(seen, symmetric, _squared_error if method == "mse" else _bounded_divergence(seen, symmetric))


def _search(seen: Histogram, symmetric: bool, loss: Callable[[Histogram, Encoding], float]) -> tuple[float, float]:
    """Draw in the edges, one after the other, as long as the loss falls."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if symmetric:
        largest = max(-low, high)
        best = min(_SHRUNK, key=lambda share: (loss(seen, encoding(-share * largest, share * largest, True)), -share))
        return float(-best * largest), float(best * largest)
    shares = [1.0, 1.0]
    for _ in range(3):
        before = list(shares)
        for side, edge in enumerate((low, high)):
            if edge == 0.0:
                continue

            def tried(share: float, side: int = side) -> float:
                both = [share if one == side else shares[one] for one in range(2)]
                return loss(seen, encoding(both[0] * low, both[1] * high, False))

            shares[side] = float(min(_SHRUNK, key=lambda share: (tried(share), -share)))
        if shares == before:
            break
    return shares[0] * low, shares[1] * high


def _squared_error(seen: Histogram, code: Encoding) -> float:
    centres = seen.centres
    return float((seen.counts * np.square(code.apply(centres) - centres)).sum())


def _bounded_divergence(seen: Histogram, symmetric: bool) -> Callable[[Histogram, Encoding], float]:
    """Return the divergence as a loss that no range has whose squared error is larger than that of the whole."""
    bound = _squared_error(seen, encoding(min(seen.low, 0.0), max(seen.high, 0.0), symmetric)) * (1 + 1e-9)

    def loss(seen: Histogram, code: Encoding) -> float:
        return _divergence(seen, code) if _squared_error(seen, code) <= bound else float("inf")

    return loss


def _divergence(seen: Histogram, code: Encoding) -> float:
    """Return KL(P, Q): P what is inside, what is outside added to the outermost bins; Q the same in 256 levels."""
    centres = seen.centres
    levels = np.clip(np.rint(centres / code.scale) + code.zero, 0, 255).astype(np.int64)
    inside = (centres >= code.low - code.scale / 2) & (centres <= code.high + code.scale / 2)
    counts = seen.counts.astype(np.float64)
    reference = np.where(inside, counts, 0.0)
    places = np.flatnonzero(inside)
    if not len(places):
        return float("inf")
    reference[places[0]] += counts[: places[0]].sum()
    reference[places[-1]] += counts[places[-1] + 1 :].sum()
    filled = inside & (counts > 0)
    per_level = np.bincount(levels[inside], weights=counts[inside], minlength=256)
    bins_of_level = np.bincount(levels[filled], minlength=256)
    spread = np.where(filled, per_level[levels] / np.maximum(bins_of_level[levels], 1), 0.0)
    one, two = reference / reference.sum(), spread / max(spread.sum(), 1.0)
    kept = one > 0
    return float((one[kept] * np.log(one[kept] / np.maximum(two[kept], 1e-12))).sum())
