"""An exponential moving average of the weights of a training, which is judged and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["Average"]


class Average:
    """The average of a model's parameters over the updates of a training; training goes on with the parameters.

    After update t it is ``d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``: the iterate average of Polyak
    and Juditsky (1992) as Mean Teacher keeps it (arXiv 1703.01780), with a decay that grows from 2/11, so that the
    weights a training began with are soon forgotten.

    Parameters
    ----------
    model
        In training, on its device.
    decay
        Above 0 and below 1.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self.decay = decay
        self._parameters = list(model.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @property
    def nbytes(self) -> int:
        """Bytes of the averages."""
        return sum(tensor.nbytes for tensor in self._averages)

    def update(self, updates: int) -> None:
        """Take the weights after so many updates, counted from 1, into the average."""
        weight = 1 - min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averages, [parameter.detach() for parameter in self._parameters], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the model's parameters be the averages while the context is open."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.data, average.data = average.data, parameter.data

    def save(self, path: Path) -> None:
        """Write the averages."""
        torch.save(self._averages, path)

    def load(self, path: Path) -> None:
        """Take the averages from a file that `save` wrote."""
        for average, kept in zip(self._averages, torch.load(path, map_location="cpu", weights_only=True), strict=True):
            average.copy_(kept)
