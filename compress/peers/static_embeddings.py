"""The floor: a vector per token, distilled from the fine-tuned model, their mean, and a linear model."""

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

__all__ = ["StaticEmbeddings", "token_vectors"]

_DIMENSIONS = 256
"""Principal components that are kept, as model2vec does by default."""

_RARE = 1e-3
"""Of smooth inverse frequency: a token that makes up so much of the training rows counts half."""

_BATCH = 512
"""Tokens that the model is asked for at a time."""


class StaticEmbeddings(Peer):
    """Static embeddings in the manner of model2vec (https://github.com/MinishLab/model2vec).

    Each token of the vocabulary goes through the fine-tuned model alone, between its special tokens; the mean of the
    last hidden states is its vector. Principal components, perhaps smooth inverse frequency (Arora, Liang and Ma,
    *A simple but tough-to-beat baseline for sentence embeddings*, ICLR 2017), and a logistic regression on the mean
    over a row's tokens: weighting and penalty are chosen on validation.
    """

    name: ClassVar[str] = "static_embeddings"
    title: ClassVar[str] = "static embeddings of the model, linear head"
    reads: ClassVar[str] = "torch"
    leaves: ClassVar[str] = "onnx"
    layers: ClassVar[int | None] = 0
    packages: ClassVar[tuple[str, ...]] = ("onnx", "scikit-learn", "torch", "transformers")
    modules: ClassVar[tuple[str, ...]] = ("compress.models", "compress.onnx_graph", "compress.tasks")
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text_classification"})

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Distil, fit, choose, write the graph."""
        from sklearn.decomposition import PCA

        from compress.models.torch_io import load_model, load_tokenizer
        from compress.onnx_graph import save_graph
        from compress.peers.linear import best, fitted, judging, plain_tokens

        tokenizer, task, model = load_tokenizer(source.path), context.task, load_model(source)
        train, validation = (
            task.encode(context.data.split(split), tokenizer, context.max_length) for split in ("train", "validation")
        )
        special = tokenizer.all_special_ids
        rows, held_out = (plain_tokens(features, special) for features in (train, validation))
        vectors = token_vectors(model, tokenizer, context.threads)
        width = min(_DIMENSIONS, *vectors.shape)
        vectors = PCA(width, random_state=0).fit_transform(vectors).astype(np.float32)
        tried: list[tuple[dict[str, Any], Linear, Any]] = []
        for weighting in ("none", "inverse frequency"):
            table = vectors if weighting == "none" else vectors * _rarity(rows, len(vectors))[:, None]
            features, judged = _means(rows, table), _means(held_out, table)
            center, scale = features.mean(0), features.std(0) + 1e-6
            features, judged = (features - center) / scale, (judged - center) / scale
            models = fitted(features, train.labels, judging(context, validation), judged, len(task.labels))
            tried += [
                ({"weighting": weighting, "C": strength}, model, (table, center, scale))
                for strength, model in models.items()
            ]
        settings, chosen, (table, center, scale) = best(tried, task.higher_is_better)
        weight = chosen.weight / scale[:, None]
        save_graph(_graph(table, special, weight, chosen.bias - center @ weight), out.path)
        out.facts["static_embeddings"] = {**settings, "dimensions": width, "validation": chosen.validation}


def token_vectors(model: Any, tokenizer: Any, threads: int) -> np.ndarray:
    """Return a vector per token of a model: the mean of the last hidden states of the token between special ones.

    Parameters
    ----------
    model
        A transformers model of a known family with a task head.
    tokenizer
        Its tokenizer.
    threads
        Of torch.

    Returns
    -------
    numpy.ndarray
        float32 ``[vocabulary, hidden]``; zeros for ids that the tokenizer never gives.
    """
    import torch

    from compress.models.families import family

    body = family(model.config.model_type).base_model(model)
    empty = list(tokenizer("")["input_ids"])
    found = np.zeros((int(model.config.vocab_size), int(model.config.hidden_size)), np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for start in range(0, min(len(tokenizer), len(found)), _BATCH):
            tokens = range(start, min(start + _BATCH, len(tokenizer), len(found)))
            ids = torch.tensor([[*empty[:-1], token, *empty[-1:]] for token in tokens])
            with torch.inference_mode():
                states = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            found[start : start + len(tokens)] = states.mean(1).numpy()
    finally:
        torch.set_num_threads(before)
    return found


def _rarity(rows: Sequence[Sequence[int]], tokens: int) -> np.ndarray:
    """Return ``a / (a + p)`` of each token, ``p`` its share of the training rows' tokens; float32 ``[tokens]``."""
    counts = np.bincount([token for row in rows for token in row], minlength=tokens)
    rarity: np.ndarray = (_RARE / (_RARE + counts / max(1, counts.sum()))).astype(np.float32)
    return rarity


def _means(rows: Sequence[Sequence[int]], table: np.ndarray) -> np.ndarray:
    """Return the mean vector of each row's tokens, float32 ``[rows, dimensions]``; zeros for a row without any."""
    empty = np.zeros(table.shape[1], np.float32)
    return np.stack([table[row].mean(0) if len(row) else empty for row in rows])


def _graph(table: np.ndarray, special: Sequence[int], weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """Return the graph: look up, sum over what is neither padding nor special, divide by how many, multiply.

    The last column of the table is 1 for what counts.
    """
    from onnx import TensorProto, helper

    from compress.peers.linear import graph_of

    counts = np.ones((len(table), 1), np.float32)
    counts[[token for token in special if token < len(table)]] = 0
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["looked_up"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["real_column"]),
        helper.make_node("Mul", ["looked_up", "real_column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sums"], keepdims=0),
        helper.make_node("Split", ["sums", "parts"], ["vector", "count"], axis=1),
        helper.make_node("Max", ["count", "least"], ["divisor"]),
        helper.make_node("Div", ["vector", "divisor"], ["mean"]),
        helper.make_node("Gemm", ["mean", "head.weight", "head.bias"], ["logits"]),
    ]
    weights = {
        "embeddings": np.concatenate([table * counts, counts], axis=1),
        "last": np.asarray([2], np.int64),
        "tokens": np.asarray([1], np.int64),
        "parts": np.asarray([table.shape[1], 1], np.int64),
        "least": np.asarray(1, np.float32),
        "head.weight": weight.astype(np.float32),
        "head.bias": bias.astype(np.float32),
    }
    return graph_of(nodes, weights, len(bias))
