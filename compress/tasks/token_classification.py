"""One BIO tag per word; the first piece of a word carries its label, the others are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.errors import DataError
from compress.tasks.base import IGNORED, Features, Task
from compress.tasks.padding import pad_inputs, pad_rows

if TYPE_CHECKING:
    import pandas as pd
    import torch

__all__ = ["TokenClassificationTask"]

_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
"""Words of a raw text: runs of word characters, inner hyphens and apostrophes included, else single signs."""


class TokenClassificationTask(Task):
    """Tag words; judged by precision, recall and F1 of whole spans (seqeval)."""

    name: ClassVar[str] = "token_classification"
    metrics_known: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall")
    reads_words: ClassVar[bool] = True
    unit_is_token: ClassVar[bool] = True

    def model_class(self) -> Any:
        """Return AutoModelForTokenClassification."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def encode(self, frame: pd.DataFrame, tokenizer: Any, max_length: int) -> Features:
        """Tokenize the columns ``tokens`` (list of words) and, where present, ``tags``."""
        words = [list(row) for row in frame["tokens"]]
        tags = [list(row) for row in frame["tags"]] if "tags" in frame.columns else None
        return self._encode(words, tags, tokenizer, max_length)

    def encode_raw(self, items: Sequence[Any], tokenizer: Any, max_length: int) -> Features:
        """Tokenize texts, or lists of words."""
        for number, item in enumerate(items):
            listed = isinstance(item, list | tuple) and all(isinstance(word, str) for word in item)
            if not (isinstance(item, str) or listed):
                raise DataError(f"predict: item {number} is {item!r}; expected a text or a list of words")
        return self._encode([[word for word, _, _ in _words(item)] for item in items], None, tokenizer, max_length)

    def _encode(
        self, words: list[list[str]], tags: list[list[str]] | None, tokenizer: Any, max_length: int
    ) -> Features:
        if not words:
            return Features([], [], 0, [])
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        truncated = sum(1 for encoding in encoded.encodings if encoding.overflowing)
        names = list(encoded)
        inputs = [{name: encoded[name][row] for name in names} for row in range(len(words))]
        index = {label: number for number, label in enumerate(self.labels)}
        labels = []
        for row in range(len(words)):
            previous, marks = None, []
            for word in encoded.word_ids(row):
                first = word is not None and word != previous
                marks.append((index[tags[row][word]] if tags else 0) if first and word is not None else IGNORED)
                previous = word
            labels.append(marks)
        # Where the first pieces are is kept in `labels` also when no tag is known (then as class 0); which word
        # each belongs to is `word_of`, so that words cut off or without a piece count as predicted O.
        word_of = [_first_words(encoded.word_ids(row)) for row in range(len(words))]
        references = [
            {"words": len(row), "word_of": word_of[number], "tags": tags[number] if tags else None}
            for number, row in enumerate(words)
        ]
        return Features(inputs, labels, truncated, references)

    def collate(
        self, inputs: Sequence[Mapping[str, list[int]]], labels: Sequence[Any] | None, padding: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Pad to ``[batch, sequence]``, labels too (with `IGNORED`)."""
        batch = pad_inputs(inputs, padding)
        if labels is not None:
            batch["labels"] = pad_rows(labels, IGNORED)
        return batch

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean cross-entropy over labelled tokens of ``[batch, sequence, classes]``."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
        )

    def distillation_rows(
        self, logits: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of labelled tokens, ``[N, classes]``."""
        return logits[labels != IGNORED]

    def aligned(self, features: Features, others: Features) -> list[np.ndarray] | None:
        """Return per row the first pieces of the words that both have, ``[words, 2]``."""
        pairs = []
        for row in range(len(features)):
            ours, theirs = _first_pieces(features, row), _first_pieces(others, row)
            common = [(place, theirs[word]) for word, place in ours.items() if word in theirs]
            pairs.append(np.asarray(common, dtype=np.int64).reshape(-1, 2))
        return pairs

    def unbatch(self, logits: np.ndarray, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return ``[tokens, classes]`` per row, padding removed."""
        lengths = batch["attention_mask"].sum(axis=1)
        return [row[: int(length)] for row, length in zip(logits, lengths, strict=True)]

    def _tags(self, logits: Sequence[np.ndarray], features: Features) -> list[list[str]]:
        """Return a tag for every word; ``O`` for words that truncation cut off."""
        tagged = []
        for number, (row, reference) in enumerate(zip(logits, features.references or [], strict=True)):
            tags = ["O"] * reference["words"]
            for word, position in _first_pieces(features, number).items():
                tags[word] = self.labels[int(row[position].argmax())]
            tagged.append(tags)
        return tagged

    def metrics(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, float]:
        """Return f1, precision and recall of spans, and the accuracy over words."""
        from compress.tasks.metrics.spans.scores import span_scores

        gold, predicted = self._gold(features), self._tags(logits, features)
        pairs = [(g == p) for row, other in zip(gold, predicted, strict=True) for g, p in zip(row, other, strict=True)]
        return {**span_scores(gold, predicted), "accuracy": float(np.mean(pairs)) if pairs else 0.0}

    def _gold(self, features: Features) -> list[list[str]]:
        return [list(reference["tags"]) for reference in features.references or []]

    def report(self, logits: Sequence[np.ndarray], features: Features) -> dict[str, dict[str, float]]:
        """Return precision, recall, f1 and support per entity type."""
        from compress.tasks.metrics.spans.scores import span_report

        return span_report(self._gold(features), self._tags(logits, features))

    def decisions(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return the predicted class of every word that has a piece, all rows one after the other."""
        parts = [
            row[np.asarray(marks) != IGNORED].argmax(-1) for row, marks in zip(logits, features.labels, strict=True)
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def row_scores(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return spans predicted rightly, wrongly and missed, per row."""
        from seqeval.metrics.sequence_labeling import get_entities

        rows = []
        for gold, predicted in zip(self._gold(features), self._tags(logits, features), strict=True):
            wanted, found = set(get_entities(gold)), set(get_entities(predicted))
            rows.append((len(wanted & found), len(found - wanted), len(wanted - found)))
        return np.asarray(rows, dtype=np.float64).reshape(-1, 3)

    def correct(self, logits: Sequence[np.ndarray], features: Features) -> np.ndarray:
        """Return whether every tag of the row is right, those of words that truncation cut off included."""
        pairs = zip(self._gold(features), self._tags(logits, features), strict=True)
        return np.asarray([gold == predicted for gold, predicted in pairs], dtype=bool)

    def metric_from_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the span metric from sums ``[..., 3]``; 0 where nothing was predicted or there."""
        right, wrong, missed = sums[..., 0], sums[..., 1], sums[..., 2]
        whole = {"f1": right + (wrong + missed) / 2, "precision": right + wrong, "recall": right + missed}[self.metric]
        value: np.ndarray = np.divide(right, whole, out=np.zeros_like(right), where=whole > 0)
        return value

    def predictions(
        self, items: Sequence[Any], logits: Sequence[np.ndarray], features: Features, tokenizer: Any
    ) -> list[Any]:
        """Return the entities of each item: ``entity``, ``text``, ``start``, ``end`` (characters of the text, or of
        the words joined by blanks) and ``score`` (the least probability of its words).
        """
        from seqeval.metrics.sequence_labeling import get_entities

        answers = []
        for number, (item, tags) in enumerate(zip(items, self._tags(logits, features), strict=True)):
            words = _words(item)
            text = item if isinstance(item, str) else " ".join(item)
            scores = self._word_scores(logits[number], features, number, len(words))
            entities = []
            for kind, first, last in get_entities(tags):
                start, end = words[first][1], words[last][2]
                entities.append(
                    {
                        "entity": kind,
                        "text": text[start:end],
                        "start": start,
                        "end": end,
                        "score": float(min(scores[first : last + 1])),
                    }
                )
            answers.append(entities)
        return answers

    def _word_scores(self, row: np.ndarray, features: Features, number: int, words: int) -> list[float]:
        scores = [0.0] * words
        for word, position in _first_pieces(features, number).items():
            shifted = np.exp(row[position].astype(np.float64) - row[position].max())
            scores[word] = float(shifted.max() / shifted.sum())
        return scores


def _first_words(word_ids: Sequence[int | None]) -> list[int]:
    """Return the word of each first piece, in order."""
    found, previous = [], None
    for word in word_ids:
        if word is not None and word != previous:
            found.append(word)
        previous = word
    return found


def _first_pieces(features: Features, row: int) -> dict[int, int]:
    """Return the token of the first piece of each word that has one and was not cut off."""
    positions = [position for position, mark in enumerate(features.labels[row]) if mark != IGNORED]
    return dict(zip((features.references or [])[row]["word_of"], positions, strict=True))


def _words(item: str | Sequence[str]) -> list[tuple[str, int, int]]:
    """Return words with their start and end: of a text, or of a list of words joined by blanks."""
    if isinstance(item, str):
        return [(match.group(), match.start(), match.end()) for match in _WORD.finditer(item)]
    words, start = [], 0
    for word in item:
        words.append((word, start, start + len(word)))
        start += len(word) + 1
    return words
