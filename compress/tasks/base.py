"""What a batch, a loss, a distillation target, a metric and a prediction are: the seam every step uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.errors import UnsupportedError

if TYPE_CHECKING:
    import pandas as pd
    import torch

__all__ = ["IGNORED", "Features", "Task"]

IGNORED = -100
"""Label of a position that carries no target (the value torch's cross-entropy ignores)."""


@dataclass(frozen=True)
class Features:
    """Tokenized rows, not padded.

    Attributes
    ----------
    inputs : list of dict
        Per row the model's inputs (``input_ids``, ``attention_mask``, perhaps ``token_type_ids``),
        each a list of int as long as the row has tokens.
    labels : list
        Per row an int (text classification) or a list of int, one per token, with `IGNORED` where a
        token has none; empty where the rows have no labels.
    truncated : int
        Rows that were longer than ``max_length`` and were cut.
    references : list
        Per row what the metric compares with, where that is not `labels`: for token classification
        ``words`` (how many), ``word_of`` (the word of each first piece) and ``tags`` (of all words, those that
        truncation cut off included).
    """

    inputs: list[dict[str, list[int]]]
    labels: list[Any]
    truncated: int = 0
    references: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def lengths(self) -> list[int]:
        """Tokens per row."""
        return [len(row["input_ids"]) for row in self.inputs]


class Task(ABC):
    """A task over labels. Instances are cheap and hold no model; nothing here imports torch at import time."""

    name: ClassVar[str]
    metrics_known: ClassVar[tuple[str, ...]]
    """Names that `metrics` returns and that may be the main metric."""
    reads_words: ClassVar[bool] = False
    """Whether the tokenizer is given lists of words instead of texts."""
    unit_is_token: ClassVar[bool] = False
    """Whether a prediction is a token's; else it is a row's."""

    def __init__(self, labels: Sequence[str], *, metric: str) -> None:
        self.labels = tuple(labels)
        self.metric = metric
        self.higher_is_better = True

    # --- model ---------------------------------------------------------------------------------

    @abstractmethod
    def model_class(self) -> Any:
        """Return the transformers auto class with this task's head, e.g. AutoModelForTokenClassification."""

    # --- batch ---------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, frame: pd.DataFrame, tokenizer: Any, max_length: int) -> Features:
        """Tokenize rows of a data frame (see `compress.data.Data`); labels are encoded where present."""

    @abstractmethod
    def encode_raw(self, items: Sequence[Any], tokenizer: Any, max_length: int) -> Features:
        """Tokenize what a user passes to ``predict``: texts, pairs of texts, or lists of words."""

    @abstractmethod
    def collate(
        self, inputs: Sequence[Mapping[str, list[int]]], labels: Sequence[Any] | None, padding: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Pad rows to the longest of the batch.

        Returns int64 arrays: each input ``[batch, sequence]`` and, where labels are given, ``labels``
        of ``[batch]`` or ``[batch, sequence]``. `padding` gives the padding value of each input name.
        """

    # --- learning ------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean cross-entropy over the positions that carry a label (a scalar)."""

    @abstractmethod
    def distillation_rows(
        self, logits: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits that a student must match, ``[N, classes]``: all of them, or the labelled tokens'."""

    def aligned(self, features: Features, others: Features) -> list[np.ndarray] | None:
        """Return which units of equal rows under two tokenizers are the same.

        Parameters
        ----------
        features, others
            The same rows from `encode`, each with a tokenizer of its own.

        Returns
        -------
        list of numpy.ndarray or None
            Per row int64 ``[common, 2]``: the token of `features` and that of `others` that carry the prediction of
            one unit; units that truncation took from either are left out. None where a row is the unit.

        Raises
        ------
        UnsupportedError
            If the task does not say so.
        """
        raise UnsupportedError(
            f"task {self.name}: which tokens of two tokenizers stand for the same is not known (Task.aligned); "
            f"leave out the vocabulary step, and choose a teacher that has its student's tokenizer"
        )

    # --- judging -------------------------------------------------------------------------------

    @abstractmethod
    def unbatch(self, logits: np.ndarray, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Split a batch's logits into one array per row, padding removed: ``[classes]`` or ``[tokens, classes]``."""

    @abstractmethod
    def metrics(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, float]:
        """Return every metric of the task over rows as `unbatch` gives them."""

    @abstractmethod
    def report(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, dict[str, float]]:
        """Return precision, recall, f1 and support per label or per entity type."""

    @abstractmethod
    def decisions(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return the predicted class of every judged unit (rows or labelled tokens), flat, int64."""

    @abstractmethod
    def row_scores(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return per-row statistics ``[rows, k]`` whose column sums determine the metric (for paired bootstraps)."""

    @abstractmethod
    def correct(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return per row whether it is answered entirely right, bool ``[rows]`` (for tests of paired proportions)."""

    @abstractmethod
    def metric_from_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the main metric from column sums of `row_scores`; `sums` is ``[..., k]``."""

    @abstractmethod
    def predictions(
        self, items: Sequence[Any], logits: Sequence[np.ndarray], features: Features, tokenizer: Any
    ) -> list[Any]:
        """Return what a user reads: ``{"label", "score", "scores"}`` per text, or a list of entities with
        ``{"entity", "text", "start", "end", "score"}``.
        """
