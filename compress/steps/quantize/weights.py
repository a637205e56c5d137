"""Integer weights: a scale per output channel, and how numbers are rounded to the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["IntegerWeight", "quantize_weight", "weight_scales"]

_SHRUNK = np.linspace(1.0, 0.5, 26)


@dataclass(frozen=True)
class IntegerWeight:
    """``W ≈ q s``, symmetric.

    Attributes
    ----------
    values : numpy.ndarray
        int8 ``[width, out]``.
    scales : numpy.ndarray
        float32 ``[out]``, or ``[1]`` for the whole matrix.
    """

    values: np.ndarray
    scales: np.ndarray

    def floats(self) -> np.ndarray:
        """Return float32 ``[width, out]``."""
        values: np.ndarray = self.values.astype(np.float32) * self.scales
        return values


def weight_scales(weight: np.ndarray, bits: int, per_channel: bool, method: str) -> np.ndarray:
    """Return the scale of every output channel, float32 ``[out]``, or of the matrix, ``[1]``.

    Parameters
    ----------
    weight : numpy.ndarray
        ``[width, out]``.
    bits : int
        Integers lie within ``±(2^(bits-1) - 1)``.
    per_channel : bool
        One scale per channel.
    method : str
        ``max``: the largest number is the last level. ``mse``: the range is drawn in where the squared error of
        the channel falls by it.
    """
    most = 2 ** (bits - 1) - 1
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max().reshape(1)
    full: np.ndarray = np.where(largest > 0, largest / most, 1).astype(np.float32)
    if method == "max":
        return full
    best: np.ndarray = full
    error = np.full(len(full), np.inf)
    for share in _SHRUNK:
        scales = (full * np.float32(share)).astype(np.float32)
        levels = np.clip(np.rint(weight / scales), -most, most)
        squared = np.square(levels * scales - weight)
        found = squared.sum(axis=0) if per_channel else squared.sum().reshape(1)
        best = np.where(found < error, scales, best)
        error = np.minimum(found, error)
    return best


def quantize_weight(weight: np.ndarray, scales: np.ndarray, bits: int) -> IntegerWeight:
    """Round to the nearest level."""
    most = 2 ** (bits - 1) - 1
    return IntegerWeight(np.clip(np.rint(weight / scales), -most, most).astype(np.int8), scales)
