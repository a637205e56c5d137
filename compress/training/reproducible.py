"""Settings under which equal work gives equal bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["reproducible"]


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed every generator and make torch deterministic; torch's global settings return on leaving.

    Parameters
    ----------
    seed
        Seed of Python's, numpy's and torch's generators.
    threads
        Intra-op threads of torch. The order in which sums are split among threads is part of the result,
        so equal bytes need equal threads.
    """
    import torch
    from transformers import set_seed

    # cuBLAS is deterministic only with a fixed workspace, read when its handle is made:
    # https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling every fresh tensor with NaN finds bugs in kernels and costs time in each step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.utils.deterministic.fill_uninitialized_memory = before[3]  # type: ignore[attr-defined]
