"""A token embedding as the product of two small matrices.

Lan et al., ALBERT, ICLR 2020 (arXiv 1909.11942), section 3.1: ``[V, H]`` becomes ``[V, r] [r, H]``, which is smaller
for ``r < V H / (V + H)``. This module imports torch: import it where a model is already at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compress.errors import ConfigError, UnsupportedError
from compress.models.families import family

__all__ = ["Factorization", "FactorizedEmbedding", "factorize_embeddings", "largest_rank", "put_factorized_embeddings"]


class FactorizedEmbedding(torch.nn.Module):
    """Looks a token up in ``[vocabulary, rank]`` and projects it to the hidden width, without bias.

    Its tensors are ``factors.weight`` ``[vocabulary, rank]`` and ``projection.weight`` ``[hidden, rank]``.

    Parameters
    ----------
    vocabulary, rank, hidden : int
        Tokens, width in between, hidden width.
    padding_idx : int, optional
        Token whose factors get no gradient, as in ``torch.nn.Embedding``.
    """

    def __init__(self, vocabulary: int, rank: int, hidden: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.factors = torch.nn.Embedding(vocabulary, rank, padding_idx=padding_idx)
        self.projection = torch.nn.Linear(rank, hidden, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return ``[..., hidden]`` for ids ``[...]``."""
        projected: torch.Tensor = self.projection(self.factors(input_ids))
        return projected

    @property
    def num_embeddings(self) -> int:
        """Tokens of the vocabulary."""
        return self.factors.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """The hidden width."""
        return self.projection.out_features

    @property
    def rank(self) -> int:
        """The width in between."""
        return self.factors.embedding_dim

    @property
    def padding_idx(self) -> int | None:
        """Token whose factors get no gradient."""
        return self.factors.padding_idx

    @property
    def weight(self) -> torch.Tensor:
        """The product, ``[vocabulary, hidden]``: computed at each call, no parameter."""
        return self.factors.weight @ self.projection.weight.T


@dataclass(frozen=True)
class Factorization:
    """What a factorization lost.

    Attributes
    ----------
    rank : int
        Width in between.
    error : float
        ``|E - A B| / |E|`` in the Frobenius norm, over all rows alike.
    weighted_error : float
        The same with each row weighted as it was for the factorization; equal to `error` without counts.
    """

    rank: int
    error: float
    weighted_error: float


def largest_rank(vocabulary: int, hidden: int) -> int:
    """Return the largest rank at which the two matrices have fewer entries than the one."""
    return (vocabulary * hidden - 1) // (vocabulary + hidden)


def factorize_embeddings(model: Any, rank: int, *, counts: np.ndarray | None = None) -> Factorization:
    """Put a factorized token embedding in place of a model's, as near to it as the rank allows.

    Minimises ``sum_v w_v |E_v - A_v B|^2``. With ``E' diag(w) E = V S V'``, the best ``B`` are the ``r`` columns of
    ``V`` of the largest values, transposed, and ``A = E B'``: a truncated SVD (Eckart and Young, 1936), row-weighted as
    in Hsu et al., Language model compression with weighted low-rank factorization, ICLR 2022 (arXiv 2207.00112), which
    takes Fisher information for the weights.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, with or without a head; changed in place.
    rank
        Width in between, at most `largest_rank`.
    counts : numpy.ndarray, optional
        ``[vocabulary]``: how often each token occurs in training; its row weighs that and one more. By default all
        rows weigh the same.

    Returns
    -------
    Factorization
        The relative error.

    Raises
    ------
    ConfigError
        A rank that saves nothing, an embedding that is factorized already, or counts of another length.
    UnsupportedError
        A model that reads no tokens, or whose output layer is its embedding.
    """
    embedding = _embedding(model)
    output = model.get_output_embeddings()
    if output is not None and output.weight is embedding.weight:
        raise UnsupportedError(
            f"{type(model).__name__} predicts tokens with its embedding, which can then not be factorized; "
            f"untie the two first"
        )
    if isinstance(embedding, FactorizedEmbedding):
        raise ConfigError(f"embedding_rank={rank}: the embedding is factorized already, with rank {embedding.rank}")
    vocabulary, hidden = embedding.weight.shape
    if not 1 <= rank <= largest_rank(vocabulary, hidden):
        raise ConfigError(
            f"embedding_rank={rank}: the two matrices would be no smaller than the one of {vocabulary} x {hidden}; "
            f"allowed are 1 to {largest_rank(vocabulary, hidden)}"
        )
    if counts is not None and len(counts) != vocabulary:
        raise ConfigError(
            f"embedding_rank={rank}: {len(counts)} counts for an embedding of {vocabulary} tokens; count them with the "
            f"tokenizer of this model"
        )
    # In double precision: the Gram matrix squares the ratio of the largest to the smallest singular value.
    table = embedding.weight.detach().double().cpu()
    weights = torch.ones(vocabulary, dtype=torch.float64)
    if counts is not None:
        weights = torch.as_tensor(np.asarray(counts, dtype=np.float64) + 1.0)
    basis = _principal_directions(table * weights.sqrt()[:, None], rank)
    factors = table @ basis
    put_factorized_embeddings(model, rank)
    replaced = _embedding(model)
    with torch.no_grad():
        replaced.factors.weight.copy_(factors)
        replaced.projection.weight.copy_(basis)
    lost = (table - factors @ basis.T).square().sum(1)
    whole = table.square().sum(1)
    return Factorization(rank, _ratio(lost.sum(), whole.sum()), _ratio((weights * lost).sum(), (weights * whole).sum()))


def put_factorized_embeddings(model: Any, rank: int) -> None:
    """Put a factorized embedding of the same vocabulary in place, its values still to be loaded."""
    embedding = _embedding(model)
    factorized = FactorizedEmbedding(embedding.num_embeddings, rank, embedding.embedding_dim, embedding.padding_idx)
    places = family(model.config.model_type)
    parent, _, name = str(places.word_embeddings).rpartition(".")
    setattr(
        places.base_model(model).get_submodule(parent), name, factorized.to(embedding.weight).train(embedding.training)
    )


def _embedding(model: Any) -> Any:
    embedding = family(model.config.model_type).words(model)
    if embedding is None:
        raise UnsupportedError(f"{type(model).__name__} reads no tokens: it has no embedding of them to factorize")
    return embedding


def _principal_directions(table: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the right singular vectors of the largest values, ``[hidden, rank]``, each with its largest entry > 0."""
    _, vectors = torch.linalg.eigh(table.T @ table)
    basis: torch.Tensor = vectors.flip(1)[:, :rank]
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    directions: torch.Tensor = basis * largest.sign()
    return directions


def _ratio(part: torch.Tensor, whole: torch.Tensor) -> float:
    return float((part / whole).sqrt()) if float(whole) else 0.0
