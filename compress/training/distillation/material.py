"""What a student reads: the labelled rows, and texts without labels after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.config.training import Taught
from compress.tasks.base import IGNORED, Features, Task

if TYPE_CHECKING:
    from compress.data.base import Data

__all__ = ["Material", "material", "unlabelled_key"]


@dataclass(frozen=True)
class Material:
    """Rows under one tokenizer.

    Attributes
    ----------
    features : Features
        Labelled rows first.
    gold : int
        How many have labels.
    """

    features: Features
    gold: int

    @property
    def labelled(self) -> Features:
        """The rows that have labels."""
        found = self.features
        if self.gold == len(found):
            return found
        references = None if found.references is None else found.references[: self.gold]
        return Features(found.inputs[: self.gold], found.labels[: self.gold], found.truncated, references)


def material(task: Task, data: Data, texts: Sequence[Any], tokenizer: Any, max_length: int) -> Material:
    """Return the training rows and further texts, tokenized.

    Parameters
    ----------
    task, data, tokenizer, max_length
        As of `Task.encode`.
    texts
        What `compress.data.unlabelled.read_unlabelled` returns; empty for none.
    """
    labelled = task.encode(data.train, tokenizer, max_length)
    if not texts:
        return Material(labelled, len(labelled))
    more = task.encode_raw(texts, tokenizer, max_length)
    features = Features(
        [*labelled.inputs, *more.inputs],
        [*labelled.labels, *(more.labels or [IGNORED] * len(more))],
        labelled.truncated + more.truncated,
        None if labelled.references is None else [*labelled.references, *(more.references or [])],
    )
    return Material(features, len(labelled))


def unlabelled_key(config: Taught, node: str) -> Mapping[str, Any]:
    """Return what a file of unlabelled texts adds to a step's key: the SHA-256 of its bytes.

    Raises
    ------
    DataError
        If it is not there, or of a kind that is not read.
    """
    from compress.data.unlabelled import unlabelled_file

    return {} if config.unlabelled is None else {"unlabelled": unlabelled_file(config.unlabelled, node)[1]}
