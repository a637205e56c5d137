"""Accuracy and macro F1 by scikit-learn, as an ``evaluate`` module: ``evaluate.load("<this folder>")``."""

from __future__ import annotations

import datasets
import evaluate

from compress.tasks.metrics.classification.scores import classification_scores

__all__ = ["Classification"]


class Classification(evaluate.Metric):  # type: ignore[misc, unused-ignore]
    """`evaluate.Metric` over class indices; ``compute`` returns accuracy and f1_macro."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, and the unweighted mean of F1 over the classes that occur in either.",
            citation="",
            inputs_description="predictions, references: class indices.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return classification_scores(references, predictions)
