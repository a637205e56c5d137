"""One predictor per checkpoint format, all of one shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import CheckpointError, DataError, UnsupportedError
from compress.tasks.padding import padding_of

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.tasks.base import Features, Task

__all__ = ["MODEL_INPUTS", "Predictor"]

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Every input a model of ours may take, in the order in which it takes them."""


class Predictor(ABC):
    """A model opened for inference.

    Attributes
    ----------
    runtime : str
        ``torch``, ``onnxruntime``, ``openvino`` or ``torch.compile``.
    checkpoint : Checkpoint or None
        What was opened; None for a model that this project did not write.
    task : Task or None
        With the checkpoint's labels; None for a bare ``.onnx`` file.
    tokenizer
        The checkpoint's tokenizer, or None for a bare ``.onnx`` file.
    threads : int
        Intra-op threads.
    device : str
        ``cpu`` or ``cuda[:N]``.
    input_names : tuple of str
        Inputs that `logits` takes.
    max_length : int
        Longest input in tokens; `predict` truncates there.
    """

    runtime: str
    checkpoint: Checkpoint | None
    task: Task | None
    tokenizer: Any
    threads: int
    device: str
    input_names: tuple[str, ...]
    max_length: int

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

    def sessions(self, batches: Sequence[Mapping[str, np.ndarray]]) -> list[Callable[[], Any]]:
        """Return `session` of each batch; what was handed out before need not run any more."""
        return [self.session(batch) for batch in batches]

    def device_timer(self, batch: Mapping[str, np.ndarray]) -> Callable[[], float] | None:
        """Return a function that runs one prepared batch and returns the device's own milliseconds; None on a CPU."""
        return None

    @abstractmethod
    def set_threads(self, threads: int) -> None:
        """Change the intra-op threads (reopens the session where the runtime needs that)."""

    def logits_of(self, features: Features, batch_size: int = 32) -> list[np.ndarray]:
        """Run tokenized rows in batches of similar length; one array per row, in the order given.

        Raises
        ------
        DataError
            If a row holds an input that the model has no use for and that says something.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}; at least 1 row is needed per batch")
        task, padding = self._task(), padding_of(self.tokenizer)
        order = sorted(range(len(features)), key=lambda row: features.lengths[row])
        found: list[np.ndarray | None] = [None] * len(features)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = task.collate([features.inputs[row] for row in rows], None, padding)
            for row, logits in zip(rows, task.unbatch(self.logits(batch), batch), strict=True):
                found[row] = logits
        return [logits for logits in found if logits is not None]

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> list[Any]:
        """Label texts, pairs of texts or lists of words as the task defines.

        Parameters
        ----------
        items : sequence of str, of pairs of str, or of lists of str
            At least one.
        batch_size : int
            Rows per batch.

        Returns
        -------
        list
            Per item ``{"label", "score", "scores"}``, or a list of entities.

        Raises
        ------
        DataError
            If there is no item, or one is neither a text nor a list of texts.
        """
        task = self._task()
        items = checked_items(items)
        features = task.encode_raw(items, self.tokenizer, self.max_length)
        return task.predictions(items, self.logits_of(features, batch_size), features, self.tokenizer)

    def close(self) -> None:
        """Free the model."""
        return

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _task(self) -> Task:
        if self.task is None or self.tokenizer is None:
            raise UnsupportedError(
                "this model came without a task and a tokenizer, so it takes numbers only: use logits(batch), "
                "or open the directory that also holds its config.json and tokenizer"
            )
        return self.task

    def _prepare(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Check a batch and bring it to the model's inputs, int64 ``[batch, sequence]``, in the model's order."""
        if "input_ids" not in batch:
            raise DataError(f"a batch needs input_ids; this one has {', '.join(batch) or 'nothing'}")
        ids = np.asarray(batch["input_ids"])
        if ids.ndim != 2 or 0 in ids.shape:
            raise DataError(f"input_ids has the shape {list(ids.shape)}; needed is [batch, sequence], none of them 0")
        if np.issubdtype(ids.dtype, np.integer) and ids.min() < 0:
            raise DataError(f"input_ids holds {ids.min()}; a token id is 0 or higher")
        for name, values in batch.items():
            values = np.asarray(values)
            if name not in self.input_names and name not in MODEL_INPUTS:
                raise DataError(f"a batch with {name!r}; this model takes {', '.join(self.input_names)}")
            if values.shape != ids.shape:
                raise DataError(f"{name} has the shape {list(values.shape)}, input_ids {list(ids.shape)}")
            if not np.issubdtype(values.dtype, np.integer) and values.dtype != np.bool_:
                raise DataError(f"{name} holds {values.dtype}; needed are integers")
            if name not in self.input_names and np.any(values != (1 if name == "attention_mask" else 0)):
                raise DataError(
                    f"this model takes no {name}: it was made for "
                    f"{'single texts, not pairs' if name == 'token_type_ids' else 'inputs without padding'}"
                )
        missing = {"attention_mask": np.ones_like, "token_type_ids": np.zeros_like}
        return {
            name: np.ascontiguousarray(batch[name] if name in batch else missing[name](ids), dtype=np.int64)
            for name in self.input_names
        }


def checked_inputs(path: Path, types: Mapping[str, str], integers: str) -> tuple[str, ...]:
    """Return the inputs of a model file in the order of `MODEL_INPUTS`.

    Parameters
    ----------
    path
        The file, for messages.
    types
        Type of each input by its name, as its runtime calls it.
    integers
        What that runtime calls int64.

    Raises
    ------
    CheckpointError
        If there is no ``input_ids``, an input that is not known, or one of another type.
    """
    unknown = [name for name in types if name not in MODEL_INPUTS]
    if "input_ids" not in types or unknown or any(kind != integers for kind in types.values()):
        raise CheckpointError(
            f"{path}: its inputs are {', '.join(types) or 'none'}; needed are input_ids and at most "
            f"{', '.join(MODEL_INPUTS[1:])}, each int64 [batch, sequence]"
        )
    return tuple(name for name in MODEL_INPUTS if name in types)


def checked_items(items: Any) -> list[Any]:
    """Return what a user wants labelled as a list, or raise DataError saying which item is wrong."""
    if isinstance(items, str | bytes | Mapping) or not hasattr(items, "__iter__"):
        raise DataError(f"predict takes a list of texts, not {type(items).__name__}: write predict([text])")
    listed = list(items)
    if not listed:
        raise DataError("predict was given no texts; it takes a list with at least one")
    for number, item in enumerate(listed):
        whole = isinstance(item, str) or (
            isinstance(item, list | tuple) and len(item) > 0 and all(isinstance(part, str) for part in item)
        )
        if not whole:
            raise DataError(
                f"item {number} is {item!r:.60} ({type(item).__name__}); needed is a text, a pair of texts "
                f"or a list of words"
            )
    return listed
