"""A factorized embedding is as near as its rank allows, smaller, and rebuilt from sizes alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from compress.errors import ConfigError, UnsupportedError
from compress.models.factorized import (
    FactorizedEmbedding,
    factorize_embeddings,
    largest_rank,
    put_factorized_embeddings,
)
from compress.models.families import families, family

VOCABULARY, HIDDEN = 60, 32
KINDS = sorted(name for name, known in families().items() if "text_classification" in known.tasks)


def made(kind: str = "bert") -> Any:
    names = family(kind)
    sizes = {names.config_hidden: HIDDEN, names.config_layers: 1, names.config_heads: 2, names.config_intermediate: 16}
    electra = {"embedding_size": HIDDEN} if kind == "electra" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, max_position_embeddings=40, **sizes, **electra)
    return AutoModelForSequenceClassification.from_config(config).eval()


def table(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.get_input_embeddings().weight.detach().clone()
    return weight


def test_the_error_is_that_of_the_truncated_singular_values() -> None:
    model = made()
    values = torch.linalg.svdvals(table(model).double())
    found = factorize_embeddings(model, 12)
    assert found.error == pytest.approx(float((values[12:].square().sum() / values.square().sum()).sqrt()), rel=1e-6)
    assert found.weighted_error == pytest.approx(found.error)


def test_counts_make_frequent_tokens_nearer() -> None:
    plain, weighted = made(), made()
    before = table(plain)
    counts = np.where(np.arange(VOCABULARY) < 8, 1000, 0)
    whole = factorize_embeddings(plain, 8)
    found = factorize_embeddings(weighted, 8, counts=counts)
    frequent = [(table(model) - before)[:8].norm() for model in (plain, weighted)]
    assert frequent[1] < 0.2 * frequent[0]
    assert found.error > whole.error
    assert found.weighted_error < whole.error


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_family_runs_with_it_and_is_rebuilt_from_sizes(kind: str) -> None:
    model = made(kind)
    before = table(model)
    factorize_embeddings(model, 16)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, FactorizedEmbedding)
    assert (embedding.num_embeddings, embedding.rank, embedding.embedding_dim) == (VOCABULARY, 16, HIDDEN)
    assert sum(tensor.numel() for tensor in embedding.parameters()) < before.numel()
    ids = torch.arange(4, 24).reshape(2, 10)
    with torch.no_grad():
        assert torch.allclose(embedding(ids), embedding.weight[ids], atol=1e-6)
        expected = model(ids).logits

    other = made(kind)
    put_factorized_embeddings(other, 16)
    place = f"{family(kind).base}.{family(kind).word_embeddings}"
    state = model.state_dict()
    assert {f"{place}.factors.weight", f"{place}.projection.weight"} == {name for name in state if place in name}
    other.load_state_dict(copy.deepcopy(state), strict=True, assign=True)
    with torch.no_grad():
        assert torch.equal(other.eval()(ids).logits, expected)


def test_equal_models_give_equal_bits() -> None:
    first, second = made(), made()
    factorize_embeddings(first, 10)
    factorize_embeddings(second, 10)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("rank", [0, largest_rank(VOCABULARY, HIDDEN) + 1])
def test_a_rank_that_saves_nothing_is_refused(rank: int) -> None:
    assert largest_rank(VOCABULARY, HIDDEN) == 20
    with pytest.raises(ConfigError, match=f"embedding_rank={rank}: .* allowed are 1 to 20"):
        factorize_embeddings(made(), rank)


def test_what_does_not_fit_is_refused() -> None:
    model = made()
    with pytest.raises(ConfigError, match="3 counts for an embedding of 60 tokens"):
        factorize_embeddings(model, 8, counts=np.ones(3))
    factorize_embeddings(model, 8)
    with pytest.raises(ConfigError, match="factorized already, with rank 8"):
        factorize_embeddings(model, 4)


def test_models_without_an_embedding_of_their_own_are_refused() -> None:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = AutoConfig.for_model("vit", image_size=8, patch_size=4, **sizes)
    with pytest.raises(UnsupportedError, match="reads no tokens"):
        factorize_embeddings(AutoModelForImageClassification.from_config(vision), 8)
    tied = AutoConfig.for_model("bert", vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes)
    with pytest.raises(UnsupportedError, match="predicts tokens with its embedding"):
        factorize_embeddings(AutoModelForMaskedLM.from_config(tied), 8)


def test_a_model_without_a_head_is_factorized_too() -> None:
    model = made().base_model
    factorize_embeddings(model, 8)
    assert isinstance(model.get_input_embeddings(), FactorizedEmbedding)
