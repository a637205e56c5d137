"""Which unseen tokens stay: the likeliest, and no more than it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.steps.prune.likely_tokens import fewest, likeliest, places_needed, upper_bound


def domains(tokens: int = 20_000, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return an embedding in which a direction tells a domain, and which tokens belong to it."""
    generator = np.random.default_rng(0)
    inside = generator.random(tokens) < 0.4
    embedding = generator.normal(0, 1, (tokens, width)).astype(np.float32)
    embedding[:, 3] += np.where(inside, 1.5, -1.5)
    return embedding, inside


def test_tokens_of_the_domain_come_before_others() -> None:
    embedding, inside = domains()
    seen = inside & (np.random.default_rng(1).random(len(inside)) < 0.3)
    order = likeliest(embedding, seen)
    assert sorted([*order, *np.flatnonzero(seen)]) == list(range(len(seen)))
    hidden = int((inside & ~seen).sum())
    assert inside[order[:hidden]].mean() > 0.85, "of all unseen tokens less than a third are of the domain"
    assert np.array_equal(order, likeliest(embedding, seen))


def test_where_embeddings_say_nothing_frequent_tokens_come_first() -> None:
    generator = np.random.default_rng(2)
    tokens = 9000
    embedding = generator.normal(0, 1, (tokens, 4)).astype(np.float32)
    seen = generator.random(tokens) < 1 / (1 + np.arange(tokens) / 100)
    order = likeliest(embedding, seen)
    assert order[:500].mean() < 0.3 * order[-500:].mean()


def test_an_embedding_without_any_spread_is_ranked_too() -> None:
    seen = np.zeros(6, dtype=bool)
    seen[:2] = True
    assert sorted(likeliest(np.ones((6, 3), dtype=np.float32), seen)) == [2, 3, 4, 5]


@given(
    texts=st.lists(st.lists(st.integers(0, 19), max_size=6), min_size=1, max_size=12),
    kept=st.sets(st.integers(0, 19)),
    broken=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_no_more_stay_than_it_takes(texts: list[list[int]], kept: set[int], broken: float, seed: int) -> None:
    stays = np.isin(np.arange(20), list(kept))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~stays))

    def lacking(count: int) -> float:
        there = kept | set(order[:count].tolist())
        return float(np.mean([not set(text) <= there for text in texts]))

    count = fewest(list(places_needed(texts, order, stays)), broken, len(order))
    assert lacking(count) <= broken + 1e-9
    assert count == 0 or lacking(count - 1) > broken


@pytest.mark.parametrize("most", [0, 3])
def test_a_bound_holds(most: int) -> None:
    assert fewest([9, 9, 0], 0.0, most) == most


def test_an_upper_bound_leaves_five_per_cent() -> None:
    assert upper_bound(0, 50) == pytest.approx(1 - 0.05 ** (1 / 50)), "none of fifty: the closed form"
    assert upper_bound(5, 5) == 1.0
    share = upper_bound(3, 40)
    below = sum(math.comb(40, k) * share**k * (1 - share) ** (40 - k) for k in range(4))
    assert below == pytest.approx(0.05), "at the bound so few events have a probability of 5 %"
