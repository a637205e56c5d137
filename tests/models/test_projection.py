"""A residual stream made narrower by projection: what is exact, what reloads, what is refused."""

from __future__ import annotations

from pathlib import Path

import kinds
import pytest
import torch

from compress.errors import ConfigError, UnsupportedError
from compress.models.attributes import stale
from compress.models.coupling import stream_sites
from compress.models.examples import example_inputs
from compress.models.observed import observe
from compress.models.projection import principal_basis, project_hidden
from compress.models.pruned import load_pruned, save_pruned
from compress.models.structure import structure_of

CLASSIFIERS = [
    *("bert", "bert tagger", "roberta", "xlm-roberta tagger", "electra", "electra of one width"),
    *("mpnet", "distilbert", "bert without head"),
]


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_at_full_width_a_projected_model_answers_as_before(kind: str) -> None:
    model = kinds.make(kind)
    whole, share = project_hidden(model, 32, [example_inputs(model, padded=True)])
    assert share == pytest.approx(1)
    for answer, expected in zip(kinds.answer(whole), kinds.answer(model), strict=True):
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_projected_model_reloads_bit_equal_and_learns(kind: str, tmp_path: Path) -> None:
    model = kinds.make(kind)
    half, share = project_hidden(model, 13, [example_inputs(model, padded=True)])
    assert 0 < share < 1
    assert structure_of(half).hidden_size == 13
    assert structure_of(model).hidden_size == 32
    assert stale(half) == []
    save_pruned(half, tmp_path / "half")
    for answer, expected in zip(kinds.answer(load_pruned(tmp_path / "half")), kinds.answer(half), strict=True):
        assert torch.equal(answer, expected)
    kinds.train_one_step(half)


@pytest.mark.parametrize(("size", "width"), [(12, 12), (12, 11), (12, 5), (12, 2), (12, 1)])
def test_a_basis_is_orthonormal_and_gives_each_coordinate_its_share_of_the_mean(size: int, width: int) -> None:
    torch.manual_seed(width)
    states = torch.randn(40, size, dtype=torch.float64) * torch.arange(1, size + 1)
    basis, share = principal_basis(states.T @ states / 40, width)
    torch.testing.assert_close(basis.T @ basis, torch.eye(width, dtype=torch.float64))
    torch.testing.assert_close(basis.sum(1), torch.full((size,), (width / size) ** 0.5, dtype=torch.float64))
    assert 0 < share <= 1 + 1e-12
    if width == size:
        torch.testing.assert_close(basis, torch.eye(size, dtype=torch.float64))


def test_states_that_lie_in_few_directions_lose_nothing() -> None:
    torch.manual_seed(0)
    states = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 20, dtype=torch.float64)
    basis, share = principal_basis(states.T @ states, 5)
    assert share == pytest.approx(1)
    torch.testing.assert_close(states @ basis @ basis.T, states)


def test_padding_is_not_observed() -> None:
    model = kinds.make("bert")
    seen: dict[str, list[int]] = {"query": [], "pooler": []}
    modules = {"query": model.bert.encoder.layer[0].attention.self.query, "pooler": model.bert.pooler.dense}
    observe(model, [example_inputs(model, padded=True)], modules, lambda name, x, _: seen[name].append(len(x)))
    assert seen == {"query": [14], "pooler": [2]}


def test_the_stream_is_what_the_layers_share() -> None:
    sites = stream_sites(kinds.make("bert"))
    assert ("bert.embeddings.word_embeddings", "out") in sites
    assert ("bert.pooler.dense", "in") in sites
    assert ("bert.pooler.dense", "out") not in sites
    assert ("bert.encoder.layer.2.output.LayerNorm", "out") in sites


@pytest.mark.parametrize("kind", ["llama classifier", "vit"])
def test_other_parts_on_the_stream_are_refused(kind: str) -> None:
    model = kinds.make(kind)
    with pytest.raises(UnsupportedError, match="neither a Linear, an Embedding nor a LayerNorm"):
        project_hidden(model, 16, [])


@pytest.mark.parametrize("width", [0, 33])
def test_a_width_that_is_not_there_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=r"is 32 wide; allowed are 1 to 32"):
        project_hidden(kinds.make("bert"), width, [])
