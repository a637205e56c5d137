"""Which rows form a batch, in which order, and how they become tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from compress.tasks.base import Features, Task

__all__ = ["Augmenter", "BatchSampler", "Changed", "Collator", "Extras", "batch_order", "logits_of", "sorted_batches"]

Extras = Callable[[Sequence[int], int], Mapping[str, np.ndarray]]
"""From the rows of a batch and its padded length to further arrays, each ``[batch, ...]``."""


@dataclass(frozen=True)
class Changed:
    """A batch some of whose rows were changed.

    Attributes
    ----------
    inputs : list of dict
        As in `compress.tasks.base.Features`.
    labels : list
        As there, those of changed tokens moved along; what a changed row means only a teacher can say.
    changed : numpy.ndarray
        bool ``[batch]``.
    arrays : dict
        Further entries of the batch.
    """

    inputs: list[dict[str, list[int]]]
    labels: list[Any]
    changed: np.ndarray
    arrays: dict[str, np.ndarray]


class Augmenter(Protocol):
    """Changes rows as they are drawn; what comes out depends on the epoch and the rows alone."""

    @property
    def token_ids(self) -> list[int]:
        """Tokens that changed rows may hold and rows as they are may not."""

    def __call__(self, rows: Sequence[int], epoch: int) -> Changed:
        """Return the rows of a batch, some of them changed; epochs are counted from 0."""


_BATCHES_PER_BUCKET = 50
"""Rows are sorted by length within buckets of so many batches: 1-2 % padding on short texts, still shuffled."""


def batch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch: a function of its arguments alone.

    Rows are shuffled, cut into buckets of 50 batches, sorted by length within a bucket, cut into batches,
    and the batches are shuffled. Every row is in exactly one batch; at most one batch is short.

    Parameters
    ----------
    lengths
        Tokens per row.
    batch_size
        Rows per batch.
    seed, epoch
        What the order depends on; `epoch` counts from 0.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    sizes = np.asarray(lengths)
    shuffled = generator.permutation(len(sizes))
    bucket = batch_size * _BATCHES_PER_BUCKET
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), bucket):
        rows = shuffled[start : start + bucket]
        rows = rows[np.argsort(sizes[rows], kind="stable")]
        batches.extend(rows[first : first + batch_size].tolist() for first in range(0, len(rows), batch_size))
    return [batches[position] for position in generator.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of rows of similar length, longest first, for inference."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[first : first + batch_size].tolist() for first in range(0, len(order), batch_size)]


class BatchSampler:
    """`batch_order` as torch's ``batch_sampler``; `epoch` is set before each pass."""

    # accelerate's skip_first_batches reads these two.
    drop_last = False

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(batch_order(self.lengths, self.batch_size, self.seed, self.epoch))


class Collator:
    """From row numbers to a batch of tensors, padded to the longest row of the batch.

    Parameters
    ----------
    task
        Pads and stacks.
    features
        The tokenized rows.
    padding
        See `compress.tasks.padding.padding_of`.
    extras
        Further arrays per row, a teacher's outputs for instance; zeros for rows that were changed.
    augmenter
        Changes rows.
    sampler
        Knows the epoch.
    """

    def __init__(
        self,
        task: Task,
        features: Features,
        padding: Mapping[str, int],
        extras: Extras | None = None,
        augmenter: Augmenter | None = None,
        sampler: BatchSampler | None = None,
    ) -> None:
        self.task = task
        self.features = features
        self.padding = dict(padding)
        self.extras = extras
        self.augmenter = augmenter
        self.sampler = sampler

    def arrays(self, rows: Sequence[int], with_labels: bool = True) -> dict[str, np.ndarray]:
        """Return the batch as numpy arrays."""
        inputs = [self.features.inputs[row] for row in rows]
        labels = [self.features.labels[row] for row in rows] if with_labels and self.features.labels else None
        return self.task.collate(inputs, labels, self.padding)

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the batch as tensors on the CPU, with labels and extras."""
        import torch

        if self.augmenter is None:
            arrays: dict[str, np.ndarray] = dict(self.arrays(rows))
            if self.extras is not None:
                arrays.update(self.extras(rows, arrays["input_ids"].shape[1]))
        else:
            arrays = self._changed(rows, self.augmenter(rows, 0 if self.sampler is None else self.sampler.epoch))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _changed(self, rows: Sequence[int], found: Changed) -> dict[str, np.ndarray]:
        """Return a batch with changed rows, and of the others what `extras` says."""
        arrays = {**self.task.collate(found.inputs, found.labels, self.padding), **found.arrays}
        if self.extras is not None:
            kept = np.flatnonzero(~found.changed).tolist()
            of_kept = self.extras([rows[place] for place in kept], arrays["input_ids"].shape[1])
            for name, values in of_kept.items():
                whole = np.zeros((len(rows), *values.shape[1:]), values.dtype)
                whole[kept] = values
                arrays[name] = whole
        return arrays


def logits_of(
    model: Any,
    task: Task,
    features: Features,
    padding: Mapping[str, int],
    *,
    device: str = "cpu",
    batch_size: int = 64,
    precision: str = "fp32",
) -> list[np.ndarray]:
    """Run tokenized rows through a torch model in evaluation mode.

    Parameters
    ----------
    model
        A transformers model with a task head; its training mode is left as it was.
    task, features, padding
        As in `Collator`.
    device
        Where the model is.
    batch_size
        Rows per batch; batches hold rows of similar length.
    precision
        ``fp32``, or ``bf16`` or ``fp16`` for autocast.

    Returns
    -------
    list of numpy.ndarray
        float32 ``[classes]`` or ``[tokens, classes]`` per row, in the order of the rows.
    """
    import torch

    collator = Collator(task, features, padding)
    found: list[np.ndarray | None] = [None] * len(features)
    was_training = model.training
    model.eval()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    cast = torch.autocast(device.partition(":")[0], dtype=half) if half is not None else nullcontext()
    try:
        with torch.inference_mode(), cast:
            for rows in sorted_batches(features.lengths, batch_size):
                arrays = collator.arrays(rows, with_labels=False)
                batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
                logits = model(**batch).logits.float().cpu().numpy()
                for row, answer in zip(rows, task.unbatch(logits, arrays), strict=True):
                    found[row] = np.array(answer, dtype=np.float32)
    finally:
        model.train(was_training)
    return [answer for answer in found if answer is not None]
