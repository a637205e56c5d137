"""Weights of few bits in blocks that share a scale and a zero point, as ONNX Runtime's block kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.errors import ConfigError
from compress.steps.quantize.rounding import gptq

__all__ = [
    "Blocks",
    "bits_of_table",
    "check_block_size",
    "gptq_blocks",
    "half_quadratic",
    "nearest",
    "of_table",
    "packed",
]


_TRIES = 16


def check_block_size(size: int) -> None:
    """Raise ConfigError for a size of blocks that the runtime's kernels do not have."""
    if size & (size - 1):
        raise ConfigError(f"block_size={size}; it must be a power of two from 16 to 256")


@dataclass(frozen=True)
class Blocks:
    """``W[n, k] ≈ s[n, b] (q[n, k] - z[n, b])`` with ``b = k // size``.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8 ``[out, width]``, each below ``2 ** bits``.
    scales : numpy.ndarray
        float32 ``[out, blocks]``.
    zeros : numpy.ndarray or None
        uint8 or float32 ``[out, blocks]``; None stands for the middle, ``2 ** (bits - 1)``.
    bits, size : int
        Of a weight; of a block, whose last may be shorter.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    bits: int
    size: int

    def floats(self) -> np.ndarray:
        """Return float32 ``[out, width]``."""
        width = self.codes.shape[1]
        scales = np.repeat(self.scales, self.size, axis=1)[:, :width]
        zeros = np.full_like(self.scales, 2 ** (self.bits - 1)) if self.zeros is None else self.zeros
        offsets = np.repeat(zeros.astype(np.float32), self.size, axis=1)[:, :width]
        values: np.ndarray = (self.codes.astype(np.float32) - offsets) * scales
        return values


def nearest(weight: np.ndarray, bits: int, size: int, symmetric: bool) -> Blocks:
    """Quantize ``[out, width]``, every number to its nearest level.

    The levels of a block span all of its numbers; at 2 bits they are those of least squared error.
    """
    parts = _parts(weight, size)
    scales, zeros = _grid(parts, bits, symmetric)
    codes = _codes(parts, scales, zeros, bits)
    return Blocks(codes.reshape(len(weight), -1)[:, : weight.shape[1]], scales, zeros, bits, size)


def of_table(table: np.ndarray, bits: int, size: int, symmetric: bool) -> Blocks:
    """Quantize the rows ``[rows, width]`` of an embedding table, every number to its nearest level.

    ``GatherBlockQuantized`` takes a row of packed numbers to be as wide as its bytes hold: where they would hold more,
    a number gets as many bits as fill them (`bits_of_table`).
    """
    return nearest(table, bits_of_table(table.shape[1], bits), size, symmetric)


def bits_of_table(width: int, bits: int) -> int:
    """Return the bits of a number in a table: at least `bits`, of 2, 4 and 8, so that a row fills whole bytes."""
    return next(few for few in (2, 4, 8) if few >= bits and width * few % 8 == 0)


def half_quadratic(weight: np.ndarray, bits: int, size: int, rounds: int = 20) -> Blocks:
    """Quantize ``[out, width]`` with zero points that are fitted so that most numbers stay near, outliers not.

    Half-quadratic quantization (Badri and Shaji, 2023, https://mobiusml.github.io/hqq_blog/): the error is split into
    a sparse part, shrunk in the norm p = 0.7, and the rest, which the zero point, a float, is the mean of.
    """
    parts = _parts(weight, size).astype(np.float64)
    scales, whole = _grid(parts.astype(np.float32), bits, False)
    assert whole is not None
    zeros, best, least = whole.astype(np.float64), whole.astype(np.float64), np.inf
    steps = scales.astype(np.float64)[..., None]
    beta, power = 10.0, 0.7
    for _ in range(rounds):
        codes = np.clip(np.rint(parts / steps + zeros[..., None]), 0, 2**bits - 1)
        rest = parts - (codes - zeros[..., None]) * steps
        error = float(np.abs(rest).mean())
        if error >= least:
            break
        best, least = zeros.copy(), error
        size_of = np.abs(rest)
        shrunk = np.maximum(size_of - np.power(np.maximum(size_of, 1e-8), power - 1) / beta, 0)
        sparse = np.sign(rest) * shrunk
        zeros = (codes - (parts - sparse) / steps).mean(axis=-1)
        beta *= 1.01
    zeros32 = best.astype(np.float32)
    codes = _codes(parts, scales, zeros32, bits)
    return Blocks(codes.reshape(len(weight), -1)[:, : weight.shape[1]], scales, zeros32, bits, size)


def gptq_blocks(weight: np.ndarray, hessian: np.ndarray, bits: int, size: int, symmetric: bool) -> Blocks:
    """Quantize ``[out, width]`` column after column, errors made up for (arXiv 2210.17323).

    A block's scale is set when its first column's turn comes, from the weights as they stand then.
    """
    blocks = -(-weight.shape[1] // size)
    scales = np.ones((len(weight), blocks), dtype=np.float32)
    middle = 2 ** (bits - 1)
    zeros = np.full((len(weight), blocks), middle, dtype=np.uint8)

    def begin(start: int, rows: np.ndarray) -> None:
        block = start // size
        found, offsets = _grid(np.ascontiguousarray(rows.T, dtype=np.float32)[:, None, :], bits, symmetric)
        scales[:, block] = found[:, 0]
        if offsets is not None:
            zeros[:, block] = offsets[:, 0]

    codes = np.zeros(weight.shape, dtype=np.uint8)

    def round_row(column: int, row: np.ndarray) -> np.ndarray:
        scale, zero = scales[:, column // size].astype(np.float64), zeros[:, column // size].astype(np.float64)
        codes[:, column] = np.clip(np.rint(row / scale) + zero, 0, 2**bits - 1)
        values: np.ndarray = (codes[:, column] - zero) * scale
        return values

    gptq(np.ascontiguousarray(weight.T), hessian, round_row, block=size, begin=begin)
    return Blocks(codes, scales, None if symmetric else zeros, bits, size)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes ``[..., n]`` as bytes, ``8 / bits`` to a byte, the first in the lowest bits; padded by zeros."""
    share = 8 // bits
    missing = -codes.shape[-1] % share
    padded = np.pad(codes, [*[(0, 0)] * (codes.ndim - 1), (0, missing)])
    found = np.zeros((*padded.shape[:-1], padded.shape[-1] // share), dtype=np.uint8)
    for place in range(share):
        found |= padded[..., place::share] << (bits * place)
    return found


def _parts(weight: np.ndarray, size: int) -> np.ndarray:
    """Return ``[out, blocks, size]``; the last block is filled up with its own last number, which moves no edge."""
    missing = -weight.shape[1] % size
    return np.pad(weight, ((0, 0), (0, missing)), mode="edge").reshape(len(weight), -1, size)


def _grid(parts: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return float32 scales and uint8 zero points ``[out, blocks]``; for symmetric ones None."""
    if bits == 2:
        return _fitted(parts, symmetric)
    if symmetric:
        # The number that is furthest out becomes the lowest code, of which there is one more than of the highest.
        place = np.abs(parts).argmax(axis=-1)[..., None]
        extreme = np.take_along_axis(parts, place, axis=-1)[..., 0]
        scales = -extreme / 2 ** (bits - 1)
        return np.where(scales == 0, 1, scales).astype(np.float32), None
    low, high = np.minimum(parts.min(axis=-1), 0), np.maximum(parts.max(axis=-1), 0)
    scales = (high - low) / (2**bits - 1)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, 2**bits - 1).astype(np.uint8)


def _fitted(parts: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the grid of 2 bits of least squared error; a span of all numbers would leave most of them at one level.

    `_TRIES` scales of either sign are tried, each replaced by the best one for the codes that it leads to. A negative
    scale turns ``-2 -1 0 1`` into ``-1 0 1 2``, which zero point 1 does as well; others gain nothing on weights.
    """
    largest = np.abs(parts).max(axis=-1)
    scales, least = np.where(largest > 0, largest, 1), np.full_like(largest, np.inf)
    for share in np.linspace(0.25, 1.05, _TRIES):
        for sign in (-1, 1):
            found = _levels(parts, largest * np.float32(sign * share / 2))
            size = np.einsum("obs,obs->ob", found, found)
            fitted = np.einsum("obs,obs->ob", found, parts) / np.where(size > 0, size, 1)
            rest = _levels(parts, fitted) * fitted[..., None] - parts
            error = np.einsum("obs,obs->ob", rest, rest)
            better = (error < least) & (fitted != 0)
            scales, least = np.where(better, fitted, scales), np.where(better, error, least)
    if symmetric:
        return scales.astype(np.float32), None
    return np.abs(scales).astype(np.float32), np.where(scales > 0, 2, 1).astype(np.uint8)


def _levels(parts: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the nearest of -2, -1, 0 and 1 to each number in units of its block's scale ``[out, blocks]``."""
    found: np.ndarray = np.clip(np.rint(parts / np.where(scales == 0, 1, scales)[..., None]), -2, 1)
    return found


def _codes(parts: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int) -> np.ndarray:
    offset = np.float64(2 ** (bits - 1)) if zeros is None else zeros[..., None].astype(np.float64)
    codes: np.ndarray = np.clip(np.rint(parts / scales[..., None] + offset), 0, 2**bits - 1).astype(np.uint8)
    return codes
