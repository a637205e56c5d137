"""Importance criteria on small random BERTs: against finite differences, by brute force, under exact budgets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from compress.errors import ConfigError
from compress.steps.importance import (
    CRITERIA,
    Costs,
    FisherImportance,
    Masks,
    Scores,
    TaylorImportance,
    importance,
    keep_per_cost,
    keep_uniform,
    learn_gates,
    mac_costs,
)
from compress.steps.importance.gates import gated, outputs_of
from compress.steps.importance.gradients import GateGradients, gate_gradients
from compress.steps.prune.mask_search import rearrange, removal_losses, search_masks

LAYERS, HEADS, SIZE, WIDTH = 2, 4, 4, 12
DATA_DRIVEN = ("taylor", "fisher", "activation", "activation_variance")


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return torch.nn.functional.cross_entropy(model(**inputs).logits, batch["labels"])


def make_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40,
        hidden_size=HEADS * SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=WIDTH,
        max_position_embeddings=16,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


def make_batches(count: int = 3, rows: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    batches = []
    for length in range(5, 5 + count):
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[0, -2:] = 0
        ids = torch.randint(1, 40, (rows, length), generator=generator) * mask
        labels = torch.randint(0, 3, (rows,), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are faster without a second thread to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> Any:
    return make_model()


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    return make_batches()


def difference(model: Any, batch: dict[str, torch.Tensor], kind: int, layer: int, index: int) -> torch.Tensor:
    """Return the central difference of every example's loss with respect to one gate, ``[rows]``."""
    losses = []
    for step in (1e-4, -1e-4):
        gates = [[torch.ones(n, dtype=torch.float64) for _ in range(LAYERS)] for n in (HEADS, WIDTH)]
        gates[kind][layer][index] += step
        with gated(model, *gates), torch.no_grad():
            logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        losses.append(torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none"))
    return (losses[0] - losses[1]) / 2e-4


@pytest.mark.parametrize(("kind", "layer", "index"), [(0, 0, 1), (0, 1, 3), (1, 0, 0), (1, 1, 11)])
def test_gate_gradients_equal_finite_differences(
    kind: int, layer: int, index: int, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    model.double()
    found = gate_gradients(model, batches, loss_of)
    expected = torch.cat([difference(model, batch, kind, layer, index) for batch in batches])
    column = (found.heads, found.neurons)[kind][layer][:, index]
    torch.testing.assert_close(column.double(), expected, atol=1e-5, rtol=1e-4)


def test_taylor_and_fisher_are_moments_of_the_gate_gradients(
    model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    rows = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for batch in batches for row in range(4)]
    single = [gate_gradients(model, [row], loss_of) for row in rows]
    columns = torch.cat([one.neurons[1] for one in single]).double()
    taylor = TaylorImportance().scores(model, batches, loss_of)
    fisher = FisherImportance().scores(model, batches, loss_of)
    torch.testing.assert_close(taylor.neurons[1], columns.abs().mean(0), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(fisher.neurons[1], columns.square().mean(0), rtol=1e-3, atol=1e-9)
    whole = TaylorImportance("sum").scores(model, batches, loss_of)
    torch.testing.assert_close(whole.neurons[1], columns.mean(0).abs(), rtol=1e-2, atol=1e-6)


def test_fisher_per_batch_squares_the_sum_of_a_batch(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    rows = 4
    sums = [gate_gradients(model, [batch], loss_of).heads[0].double().sum(0) for batch in batches]
    expected = sum(one.square() for one in sums) / (rows * len(batches))
    found = FisherImportance("batch").scores(model, batches, loss_of).heads[0]
    torch.testing.assert_close(found, expected)


def test_magnitude_is_the_size_of_all_weights_of_a_structure(model: Any) -> None:
    layer = model.bert.encoder.layer[0]
    attention = layer.attention.self
    rows = slice(SIZE, 2 * SIZE)
    parts = [
        part
        for linear in (attention.query, attention.key, attention.value)
        for part in (linear.weight[rows].flatten(), linear.bias[rows])
    ]
    parts.append(layer.attention.output.dense.weight[:, rows].flatten())
    weights = torch.cat(parts).detach().double()
    first, second = (importance(f"magnitude_l{power}").scores(model, [], loss_of) for power in (1, 2))
    assert float(first.heads[0][1]) == pytest.approx(float(weights.abs().mean()), rel=1e-6)
    assert float(second.heads[0][1]) == pytest.approx(float(weights.square().mean().sqrt()), rel=1e-6)
    assert second.neurons[1].shape == (WIDTH,)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_scores_have_one_entry_per_structure_and_the_model_is_left_as_it_was(
    name: str, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    scores = importance(name).scores(model, batches, loss_of)
    assert [one.shape for one in scores.heads] == [(HEADS,)] * LAYERS
    assert [one.shape for one in scores.neurons] == [(WIDTH,)] * LAYERS
    assert all(torch.isfinite(one).all() and (one >= 0).all() for one in (*scores.heads, *scores.neurons))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_equal_inputs_give_equal_scores(name: str, model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    first, second = (importance(name, seed=3).scores(model, batches, loss_of) for _ in range(2))
    assert all(
        torch.equal(one, two)
        for one, two in zip((*first.heads, *first.neurons), (*second.heads, *second.neurons), strict=True)
    )


def test_random_scores_depend_on_the_seed(model: Any) -> None:
    first, second = (importance("random", seed=seed).scores(model, [], loss_of) for seed in range(2))
    assert not torch.equal(first.neurons[0], second.neurons[0])


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_a_structure_without_output_weights_leaves_first(
    name: str, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    attention, ffn = outputs_of(model)[1]
    with torch.no_grad():
        attention.weight[:, 2 * SIZE : 3 * SIZE] = 0
        ffn.weight[:, 5] = 0
    scores = importance(name).scores(model, batches, loss_of)
    assert int(scores.heads[1].argmin()) == 2
    assert int(scores.neurons[1].argmin()) == 5
    assert float(scores.heads[1][2]) == float(scores.neurons[1][5]) == 0


def test_importance_without_batches_is_an_error(model: Any) -> None:
    for name in (*DATA_DRIVEN, "hard_concrete"):
        with pytest.raises(ConfigError, match="calibration"):
            importance(name).scores(model, [], loss_of)


def test_an_unknown_criterion_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="'tailor'.*taylor"):
        importance("tailor")


# --- budgets ----------------------------------------------------------------------------------


def some_scores(seed: int, unit: Any = "loss") -> Scores:
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.rand(HEADS, generator=generator, dtype=torch.float64) for _ in range(LAYERS)]
    neurons = [torch.rand(WIDTH, generator=generator, dtype=torch.float64) for _ in range(LAYERS)]
    return Scores(heads, neurons, unit)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 1), head=st.integers(1, 60), unit=st.sampled_from(["loss", "own"]))
def test_budgets_are_met_and_used_up(seed: int, share: float, head: int, unit: str) -> None:
    scores, costs = some_scores(seed, unit), Costs(float(head), 7.0)
    total = costs.total(LAYERS * HEADS, LAYERS * WIDTH)
    budget = share * total
    found = [keep_per_cost(scores, costs, budget), keep_uniform(scores, costs, budget)]
    if unit == "loss":
        found.append(search_masks(scores, costs, budget))
    for masks in found:
        assert masks.cost(costs) <= budget * (1 + 1e-9)
    left = budget - found[0].cost(costs)
    missing = [(costs.head, one) for one in found[0].heads] + [(costs.neuron, one) for one in found[0].neurons]
    assert not any(cost <= left * (1 - 1e-9) and bool((one == 0).any()) for cost, one in missing)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), budget=st.integers(0, 40))
def test_mask_search_finds_the_best_masks_there_are(seed: int, budget: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads, neurons = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (4, 6))
    scores, costs = Scores([heads[:2], heads[2:]], [neurons[:3], neurons[3:]], "loss"), Costs(7.0, 3.0)
    values = torch.cat([heads, neurons]).tolist()
    prices = [costs.head] * 4 + [costs.neuron] * 6
    best = max(
        sum(value for value, kept in zip(values, choice, strict=True) if kept)
        for choice in itertools.product((0, 1), repeat=10)
        if sum(price for price, kept in zip(prices, choice, strict=True) if kept) <= budget
    )
    masks = search_masks(scores, costs, budget)
    assert float(torch.cat([*masks.heads, *masks.neurons]) @ torch.cat([heads, neurons])) == pytest.approx(best)


def test_mask_search_refuses_scores_without_a_common_unit() -> None:
    with pytest.raises(ConfigError, match="fisher"):
        search_masks(some_scores(0, "own"), Costs(1, 1), 3)


def test_removal_losses_sum_what_is_not_kept() -> None:
    heads, neurons = removal_losses(Scores([torch.tensor([3.0, 1.0, 2.0])], [torch.tensor([5.0])], "loss"))
    assert heads[0].tolist() == [6, 3, 1, 0]
    assert neurons[0].tolist() == [5, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), removed=st.integers(0, 6))
def test_rearranging_keeps_the_number_and_never_loses_more(seed: int, removed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(20, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    fisher = gradients.double().T @ gradients.double()
    order = fisher.diagonal().argsort()
    mask = torch.ones(6, dtype=torch.float64)
    mask[order[:removed]] = 0
    found = rearrange(Masks([mask], [mask]), GateGradients([gradients], [gradients])).neurons[0]

    def lost(one: torch.Tensor) -> float:
        return float((1 - one) @ fisher @ (1 - one))

    assert int((found == 0).sum()) == removed
    assert lost(found) <= lost(mask) + 1e-6


def test_macs_of_a_head_and_a_neuron(model: Any) -> None:
    costs = mac_costs(model, sequence=8)
    assert costs.head == 4 * 16 * 4 * 8 + 2 * 8 * 8 * 4
    assert costs.neuron == 2 * 16 * 8


# --- learned gates ----------------------------------------------------------------------------


@pytest.mark.slow
def test_learned_gates_reach_the_share_of_the_cost_and_repeat(
    model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    found = [
        learn_gates(model, batches, loss_of, costs=mac_costs(model, 6), keep=0.5, updates=120, seed=1) for _ in range(2)
    ]
    assert found[0].kept == pytest.approx(0.5, abs=0.08)
    assert found[0].history == found[1].history
    assert found[0].history[0]["kept"] > 0.9


def test_learned_gates_can_train_the_weights_with_them(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    before = model.classifier.weight.clone()
    learn_gates(model, batches, loss_of, costs=mac_costs(model, 6), keep=0.9, updates=3, weights_learning_rate=1e-2)
    assert not torch.equal(model.classifier.weight, before)


def test_a_share_that_keeps_all_or_nothing_is_refused(model: Any) -> None:
    for keep in (0.0, 1.0):
        with pytest.raises(ConfigError, match="keep"):
            learn_gates(model, [], loss_of, costs=Costs(1, 1), keep=keep)
