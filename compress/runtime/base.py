"""One predictor per checkpoint format, all of one shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.tasks.base import Features, Task

__all__ = ["Predictor"]


class Predictor(ABC):
    """A model opened for inference.

    Attributes
    ----------
    checkpoint : Checkpoint
        What was opened.
    task : Task
        With the checkpoint's labels.
    tokenizer
        The checkpoint's tokenizer.
    threads : int
        Intra-op threads.
    device : str
        ``cpu`` or ``cuda[:N]``.
    input_names : tuple of str
        Inputs that `logits` takes.
    """

    runtime: str
    checkpoint: Checkpoint
    task: Task
    tokenizer: Any
    threads: int
    device: str
    input_names: tuple[str, ...]

    @abstractmethod
    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one batch of int64 arrays ``[batch, sequence]``; unknown keys are an error, missing masks are ones.

        Returns float32 ``[batch, classes]`` or ``[batch, sequence, classes]``.
        """

    @abstractmethod
    def session(self, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """Return a function that runs one prepared batch and waits for it: what the benchmark times.

        Inputs are converted once, outside of what is timed, as a server would have them at hand.
        """

    @abstractmethod
    def set_threads(self, threads: int) -> None:
        """Change the intra-op threads (reopens the session where the runtime needs that)."""

    def logits_of(self, features: Features, batch_size: int = 32) -> list[np.ndarray]:
        """Run tokenized rows in batches of similar length; one array per row, in the order given."""
        raise NotImplementedError

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> list[Any]:
        """Label texts, pairs of texts or lists of words as the task defines."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the model."""
        return None
