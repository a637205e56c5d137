"""The linear model on top of features without a transformer, and the graph that both are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from compress.steps.base import Context
    from compress.tasks.base import Features

__all__ = ["Linear", "best", "fitted", "graph_of", "judging", "plain_tokens"]

_STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse strengths of the penalty that are tried, scikit-learn's ``C``."""

_OPSET = 20
_IR = 10


@dataclass(frozen=True)
class Linear:
    """A multinomial logistic regression.

    Attributes
    ----------
    weight : numpy.ndarray
        float32 ``[features, classes]``.
    bias : numpy.ndarray
        float32 ``[classes]``.
    validation : float
        The task's metric on the validation split.
    """

    weight: np.ndarray
    bias: np.ndarray
    validation: float


def fitted(
    train: Any, labels: Sequence[int], judge: Callable[[np.ndarray], float], validation: Any, classes: int
) -> dict[float, Linear]:
    """Return a model fitted on training rows at each strength of its penalty.

    Parameters
    ----------
    train, validation
        Features ``[rows, features]``, an array or a sparse matrix of scipy.
    labels
        Of the training rows.
    judge
        From logits ``[rows, classes]`` of the validation rows to the metric.
    classes
        How many there are; one that no training row has gets logits that never win.
    """
    from sklearn.linear_model import LogisticRegression

    found = {}
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(train, labels)
        rows, bias = np.asarray(model.coef_, np.float32), np.asarray(model.intercept_, np.float32)
        if len(rows) == 1:  # two classes share one row: the second one's logit
            rows, bias = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-bias / 2, bias / 2])
        weight, offset = np.zeros((rows.shape[1], classes), np.float32), np.full(classes, -1e4, np.float32)
        weight[:, model.classes_], offset[model.classes_] = rows.T, bias
        found[strength] = Linear(weight, offset, judge(np.asarray(validation @ weight) + offset))
    return found


def best(tried: Iterable[tuple[Mapping[str, Any], Linear, Any]], higher_is_better: bool) -> tuple[Any, Any, Any]:
    """Return of settings, model and whatever goes with them the first with the best metric on validation."""
    sign = 1 if higher_is_better else -1
    return max(tried, key=lambda entry: sign * entry[1].validation)


def judging(context: Context, features: Features) -> Callable[[np.ndarray], float]:
    """Return a function from logits ``[rows, classes]`` of these rows to the task's metric."""
    task = context.task
    return lambda logits: float(task.metrics(list(logits), features)[task.metric])


def plain_tokens(features: Features, special: Sequence[int]) -> list[list[int]]:
    """Return the token ids of each row without special tokens."""
    dropped = set(special)
    return [[token for token in row["input_ids"] if token not in dropped] for row in features.inputs]


def graph_of(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], classes: int) -> onnx.ModelProto:
    """Return a graph from ``input_ids`` and ``attention_mask``, int64 ``[batch, sequence]``, to ``logits``.

    Parameters
    ----------
    nodes
        In order; the last one writes ``logits``.
    weights
        Initialisers by name.
    classes
        Columns of the logits.
    """
    from onnx import TensorProto, helper, numpy_helper

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "main", inputs, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
