"""The floor: token n-grams weighted by TF-IDF, and a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.peers.base import Peer

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint, Writer
    from compress.peers.linear import Linear
    from compress.steps.base import Context

__all__ = ["TfIdf"]

_MOST = 50_000
"""N-grams at most, the most frequent ones."""

_LENGTHS = (1, 2)
"""Longest n-grams that are tried."""


class TfIdf(Peer):
    """scikit-learn's ``TfidfVectorizer`` over the model's tokens and a logistic regression, in one graph of ONNX.

    Over tokens and not words, so that at a stated shape it reads what the others read. Lengths of n-grams and the
    penalty are chosen on validation.
    """

    name: ClassVar[str] = "tfidf"
    title: ClassVar[str] = "TF-IDF and a linear model"
    reads: ClassVar[str] = "torch"
    leaves: ClassVar[str] = "onnx"
    layers: ClassVar[int | None] = 0
    packages: ClassVar[tuple[str, ...]] = ("onnx", "scikit-learn")
    modules: ClassVar[tuple[str, ...]] = ("compress.onnx_graph", "compress.tasks")
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text_classification"})

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Fit, choose, write the graph."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        from compress.models.torch_io import load_tokenizer
        from compress.onnx_graph import save_graph
        from compress.peers.linear import best, fitted, judging, plain_tokens

        tokenizer, task = load_tokenizer(source.path), context.task
        train, validation = (
            task.encode(context.data.split(split), tokenizer, context.max_length) for split in ("train", "validation")
        )
        documents, held_out = (plain_tokens(rows, tokenizer.all_special_ids) for rows in (train, validation))
        tried: list[tuple[dict[str, Any], Linear, Any]] = []
        for longest in _LENGTHS:
            vectorizer = TfidfVectorizer(
                analyzer=lambda tokens, longest=longest: _grams(tokens, longest), max_features=_MOST, dtype=np.float32
            )
            features, judged = vectorizer.fit_transform(documents), vectorizer.transform(held_out)
            models = fitted(features, train.labels, judging(context, validation), judged, len(task.labels))
            tried += [({"longest": longest, "C": strength}, model, vectorizer) for strength, model in models.items()]
        settings, model, vectorizer = best(tried, task.higher_is_better)
        save_graph(_graph(vectorizer, model), out.path)
        out.facts["tfidf"] = {**settings, "ngrams": len(vectorizer.vocabulary_), "validation": model.validation}


def _grams(tokens: Sequence[int], longest: int) -> list[tuple[int, ...]]:
    return [
        tuple(tokens[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(tokens) - length + 1)
    ]


def _graph(vectorizer: Any, model: Linear) -> onnx.ModelProto:
    """Return ONNX's own ``TfIdfVectorizer``, the norm that scikit-learn divides by, and the linear model.

    Padding becomes -1, which is in no n-gram.
    """
    from onnx import TensorProto, helper

    from compress.peers.linear import graph_of

    grams = sorted(vectorizer.vocabulary_.items(), key=lambda entry: (len(entry[0]), entry[1]))
    lengths = [len(gram) for gram, _ in grams]
    columns = [int(column) for _, column in grams]
    counts = [0]
    for length in range(1, max(lengths)):
        counts.append(counts[-1] + length * lengths.count(length))
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.BOOL),
        helper.make_node("Where", ["real", "input_ids", "nothing"], ["tokens"]),
        helper.make_node(
            "TfIdfVectorizer",
            ["tokens"],
            ["weighted"],
            mode="TFIDF",
            min_gram_length=1,
            max_gram_length=max(lengths),
            max_skip_count=0,
            ngram_counts=counts,
            ngram_indexes=columns,
            pool_int64s=[int(token) for gram, _ in grams for token in gram],
            weights=[float(vectorizer.idf_[column]) for column in columns],
        ),
        helper.make_node("ReduceL2", ["weighted", "columns"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["weighted", "divisor"], ["features"]),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"]),
    ]
    weights: dict[str, np.ndarray] = {
        "nothing": np.asarray(-1, np.int64),
        "columns": np.asarray([1], np.int64),
        "least": np.asarray(1e-12, np.float32),
        "head.weight": model.weight,
        "head.bias": model.bias,
    }
    return graph_of(nodes, weights, len(model.bias))
