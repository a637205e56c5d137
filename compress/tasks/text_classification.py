"""One label for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.errors import DataError
from compress.tasks.base import Features, Task
from compress.tasks.padding import pad_inputs

if TYPE_CHECKING:
    import pandas as pd
    import torch

__all__ = ["TextClassificationTask"]


class TextClassificationTask(Task):
    """Classify single texts or pairs; judged by accuracy and macro F1."""

    name: ClassVar[str] = "text_classification"
    metrics_known: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")

    def model_class(self) -> Any:
        """Return AutoModelForSequenceClassification."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def encode(self, frame: pd.DataFrame, tokenizer: Any, max_length: int) -> Features:
        """Tokenize the columns ``text``, ``text_pair`` and ``label``, where present."""
        pairs = frame["text_pair"].tolist() if "text_pair" in frame.columns else None
        index = {label: number for number, label in enumerate(self.labels)}
        labels = [index[label] for label in frame["label"]] if "label" in frame.columns else []
        inputs, truncated = _tokenize(frame["text"].tolist(), pairs, tokenizer, max_length)
        return Features(inputs, labels, truncated)

    def encode_raw(self, items: Sequence[Any], tokenizer: Any, max_length: int) -> Features:
        """Tokenize texts, or pairs of texts."""
        pairs = [isinstance(item, tuple | list) for item in items]
        if any(pairs) and not all(pairs):
            raise DataError("predict: texts and pairs of texts cannot be mixed in one call")
        for number, item in enumerate(items):
            parts = item if pairs[number] else (item,)
            if len(parts) != (2 if pairs[number] else 1) or not all(isinstance(part, str) for part in parts):
                raise DataError(f"predict: item {number} is {item!r}; expected a text, or a pair of texts")
        first = [item[0] for item in items] if any(pairs) else list(items)
        second = [item[1] for item in items] if any(pairs) else None
        inputs, truncated = _tokenize(first, second, tokenizer, max_length)
        return Features(inputs, [], truncated)

    def collate(
        self, inputs: Sequence[Mapping[str, list[int]]], labels: Sequence[Any] | None, padding: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Pad to ``[batch, sequence]``; labels are ``[batch]``."""
        batch = pad_inputs(inputs, padding)
        if labels is not None:
            batch["labels"] = np.asarray(labels, dtype=np.int64)
        return batch

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean cross-entropy of ``[batch, classes]`` with ``[batch]``."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

    def distillation_rows(
        self, logits: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits as they are: every row carries a prediction."""
        return logits

    def aligned(self, features: Features, others: Features) -> list[np.ndarray] | None:
        """Return None: a row is the unit, however it is tokenized."""
        return None

    def unbatch(self, logits: np.ndarray, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return one array ``[classes]`` per row."""
        return list(logits)

    def metrics(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, float]:
        """Return accuracy and f1_macro."""
        from compress.tasks.metrics.classification.scores import classification_scores

        return classification_scores(features.labels, self.decisions(logits, features))

    def report(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, dict[str, float]]:
        """Return precision, recall, f1 and support per label."""
        from sklearn.metrics import precision_recall_fscore_support

        numbers = list(range(len(self.labels)))
        columns = precision_recall_fscore_support(
            features.labels, self.decisions(logits, features), labels=numbers, zero_division=0
        )
        names = ("precision", "recall", "f1", "support")
        return {
            label: {name: float(column[number]) for name, column in zip(names, columns, strict=True)}
            for number, label in enumerate(self.labels)
        }

    def decisions(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return the predicted class per row."""
        return np.stack(list(logits)).argmax(-1).astype(np.int64) if len(logits) else np.zeros(0, np.int64)

    def row_scores(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return ``[correct, 1]`` per row; for macro F1 true positives, false positives and negatives of each class."""
        predicted, gold = self.decisions(logits, features), np.asarray(features.labels)
        if self.metric == "accuracy":
            return np.stack([predicted == gold, np.ones(len(gold))], axis=1).astype(np.float64)
        classes = np.arange(len(self.labels))
        is_predicted, is_gold = predicted[:, None] == classes, gold[:, None] == classes
        columns = (is_predicted & is_gold, is_predicted & ~is_gold, ~is_predicted & is_gold)
        return np.concatenate(columns, axis=1).astype(np.float64)

    def correct(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return whether the predicted class is the label's."""
        right: np.ndarray = self.decisions(logits, features) == np.asarray(features.labels, dtype=np.int64)
        return right

    def metric_from_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return accuracy or macro F1 from sums ``[..., k]``; classes that never occur are left out of the mean."""
        if self.metric == "accuracy":
            accuracy: np.ndarray = sums[..., 0] / sums[..., 1]
            return accuracy
        positive, wrong, missed = np.split(sums, 3, axis=-1)
        whole = 2 * positive + wrong + missed
        f1 = np.divide(2 * positive, whole, out=np.full_like(whole, np.nan), where=whole > 0)
        mean: np.ndarray = np.nanmean(f1, axis=-1)
        return mean

    def predictions(
        self, items: Sequence[Any], logits: Sequence[np.ndarray], features: Features, tokenizer: Any
    ) -> list[Any]:
        """Return ``label``, ``score`` (probability) and ``scores`` per text."""
        answers = []
        for row in logits:
            shifted = np.exp(row.astype(np.float64) - row.max())
            probabilities = shifted / shifted.sum()
            best = int(probabilities.argmax())
            scores = {label: float(p) for label, p in zip(self.labels, probabilities, strict=True)}
            answers.append({"label": self.labels[best], "score": float(probabilities[best]), "scores": scores})
        return answers


def _tokenize(
    texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Return the model inputs per text, and how many were cut at `max_length`."""
    if not texts:
        return [], 0
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    truncated = sum(1 for encoding in encoded.encodings if encoding.overflowing)
    inputs = [{name: encoded[name][row] for name in encoded} for row in range(len(texts))]
    return inputs, truncated
