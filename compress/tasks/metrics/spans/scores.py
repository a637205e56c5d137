"""The same figures as plain functions: importing ``evaluate`` costs seconds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

__all__ = ["span_report", "span_scores"]

Tags = Sequence[Sequence[str]]


def span_scores(references: Tags, predictions: Tags) -> dict[str, float]:
    """Return micro-averaged precision, recall and f1 of entity spans (seqeval, default mode)."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "f1": float(f1_score(references, predictions, zero_division=0)),
            "precision": float(precision_score(references, predictions, zero_division=0)),
            "recall": float(recall_score(references, predictions, zero_division=0)),
        }


def span_report(references: Tags, predictions: Tags) -> dict[str, dict[str, float]]:
    """Return precision, recall, f1 and support (spans) per entity type."""
    from seqeval.metrics import classification_report

    if not any(tag != "O" for row in (*references, *predictions) for tag in row):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = classification_report(references, predictions, output_dict=True, zero_division=0)
    return {
        name: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "support": float(row["support"]),
        }
        for name, row in full.items()
        if not name.endswith(" avg")
    }
