"""Which of the two neighbouring levels a weight goes to: chosen so that the product stays near on real inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compress.steps.quantize.weights import IntegerWeight

__all__ = ["adaround", "gptq", "inverse_cholesky", "mean_error"]

Grid = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]


def inverse_cholesky(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Return upper triangular U, ``U^T U`` the inverse of a Hessian that is damped by a share of its mean diagonal."""
    side = len(hessian)
    damped = hessian.astype(np.float64) + np.eye(side) * max(damping * float(np.diag(hessian).mean()), 1e-10)
    inverse = np.linalg.inv(damped)
    factor: np.ndarray = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return factor


def gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    round_row: Callable[[int, np.ndarray], np.ndarray],
    *,
    damping: float = 0.01,
    block: int = 64,
    begin: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Round row after row of a weight; what a row loses is made up for by those that are still to come.

    Frantar et al., arXiv 2210.17323, algorithm 1, with the input dimension along the rows.

    Parameters
    ----------
    weight : numpy.ndarray
        ``[width, out]``.
    hessian : numpy.ndarray
        ``sum of x x^T`` of the inputs, ``[width, width]``.
    round_row : callable
        From the number of a row and its numbers ``[out]`` to what stands for them on the grid.
    damping : float
        Added to the diagonal, as a share of its mean.
    block : int
        Rows whose updates are applied at once to those after them.
    begin : callable, optional
        Called with the first row's number and the rows ``[block, out]`` as they stand, before each block: the moment to
        set the scale of a group of rows.

    Returns
    -------
    numpy.ndarray
        float32 ``[width, out]``, every number on the grid.
    """
    work = weight.astype(np.float64)
    dead = np.diag(hessian) <= 0
    factor = inverse_cholesky(hessian, damping)
    found = np.empty_like(work)
    for start in range(0, len(work), block):
        end = min(start + block, len(work))
        if begin is not None:
            begin(start, work[start:end])
        errors = np.zeros((end - start, work.shape[1]))
        for row in range(start, end):
            found[row] = round_row(row, work[row])
            errors[row - start] = 0.0 if dead[row] else (work[row] - found[row]) / factor[row, row]
            work[row + 1 : end] -= np.outer(factor[row, row + 1 : end], errors[row - start])
        work[end:] -= factor[start:end, end:].T @ errors
    return found.astype(np.float32)


def adaround(
    weight: np.ndarray,
    scales: np.ndarray,
    bits: int,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    seed: int,
    updates: int = 600,
    rows: int = 256,
) -> IntegerWeight:
    """Learn for every weight whether it is rounded up or down (Nagel et al., arXiv 2004.10568, equations 21 to 24).

    Parameters
    ----------
    weight : numpy.ndarray
        ``[width, out]``.
    scales : numpy.ndarray
        ``[out]`` or ``[1]``.
    bits : int
        Integers lie within ``±(2^(bits-1) - 1)``.
    inputs : numpy.ndarray
        Quantized and multiplied out, ``[tokens, width]``.
    targets : numpy.ndarray
        What the product should be, ``[tokens, out]``.
    seed : int
        Of the order of the tokens.
    updates : int
        Of Adam, each on `rows` tokens.
    """
    import torch

    most = 2 ** (bits - 1) - 1
    with torch.enable_grad():
        x, y, step = (torch.from_numpy(np.ascontiguousarray(one, np.float32)) for one in (inputs, targets, scales))
        exact = torch.from_numpy(weight.astype(np.float32)) / step
        floor = exact.floor()
        rest = (exact - floor).clamp(1e-3, 1 - 1e-3)
        # h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1) begins as the fraction itself: nothing is rounded yet.
        v = torch.logit((rest + 0.1) / 1.2).requires_grad_()
        optimizer = torch.optim.Adam([v], lr=1e-2)
        random = torch.Generator().manual_seed(seed)
        norm = y.square().mean().clamp_min(1e-12)
        for update in range(updates):
            chosen = torch.randint(len(x), (min(rows, len(x)),), generator=random)
            soft = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
            levels = (floor + soft).clamp(-most, most)
            loss = (x[chosen] @ (levels * step) - y[chosen]).square().mean() / norm
            share = update / updates
            if share > 0.2:  # beta falls from 20 to 2 along a cosine, as the authors do it
                beta = 2 + 9 * (1 + np.cos(np.pi * (share - 0.2) / 0.8))
                loss = loss + 1e-2 * (1 - (2 * soft - 1).abs().pow(beta)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        up = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1) >= 0.5
        levels = (floor + up).clamp(-most, most)
    return IntegerWeight(levels.detach().numpy().astype(np.int8), scales)


def mean_error(inputs: np.ndarray, rounded: np.ndarray, weight: np.ndarray, floats: np.ndarray) -> np.ndarray:
    """Return what must be added to a bias for the mean of the outputs to stay: ``E[x W] - E[x' W']``, ``[out]``.

    Bias correction of Nagel et al., arXiv 1906.04721, section 4.2, from data.
    """
    difference: np.ndarray = inputs.mean(axis=0, dtype=np.float64) @ weight - (
        rounded.mean(axis=0, dtype=np.float64) @ floats
    )
    return difference
