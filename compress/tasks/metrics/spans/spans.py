"""Span precision, recall and F1 by seqeval, as an ``evaluate`` module: ``evaluate.load("<this folder>")``."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from compress.tasks.metrics.spans.scores import span_report, span_scores

__all__ = ["Spans"]

_DESCRIPTION = "Precision, recall and F1 of whole entity spans in the BIO scheme, micro-averaged, by seqeval."
_INPUTS = "predictions, references: per sentence the list of BIO tags, equally long."


class Spans(evaluate.Metric):  # type: ignore[misc, unused-ignore]
    """`evaluate.Metric` over BIO tags; ``compute`` returns precision, recall, f1 and a report per entity type."""

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        return {**span_scores(references, predictions), "report": span_report(references, predictions)}
