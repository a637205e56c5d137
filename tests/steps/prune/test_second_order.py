"""Optimal brain surgeon and reconstruction: against closed forms, monotone, without effect of what is removed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from compress.errors import ConfigError
from compress.steps.importance import Masks, everything
from compress.steps.importance.gates import gated, outputs_of
from compress.steps.prune.calibration import Moments, input_moments, logit_probe, sensitivity
from compress.steps.prune.reconstruction import COMPENSATIONS, apply_masks, least_squares
from compress.steps.prune.replay import Replay
from compress.steps.prune.ziplm import prune_database, prune_sequentially, removal_order

LAYERS, HEADS, SIZE, WIDTH = 2, 4, 4, 24
LEVELS = (0, 2, 4), (0, 8, 16, 24)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are faster without a second thread to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
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
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for length in range(8, 14):
        mask = torch.ones(16, length, dtype=torch.long)
        mask[:4, -3:] = 0
        ids = torch.randint(1, 60, (16, length), generator=generator) * mask
        made.append({"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(16, dtype=torch.long)})
    return made


def logits(model: Any, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in batches])


def problem(seed: int, width: int, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight and a positive definite Hessian."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(200, width, generator=generator, dtype=torch.float64) @ torch.randn(
        width, width, generator=generator, dtype=torch.float64
    )
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), inputs.T @ inputs / 200


def best_error(weight: torch.Tensor, hessian: torch.Tensor, kept: list[int]) -> float:
    """Return the least ``tr(dW H dW^T)`` that weights of the kept columns alone reach."""
    update = torch.zeros_like(weight)
    if kept:
        update[:, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight.T).T
    change = weight - update
    return float(((change @ hessian) * change).sum())


# --- removal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_first_to_leave_is_the_one_whose_removal_costs_least(seed: int) -> None:
    weight, hessian = problem(seed, 8)
    removal = removal_order(weight, hessian, 1, range(8), step=1)
    errors = {gone: best_error(weight, hessian, [c for c in range(8) if c != gone]) for gone in range(8)}
    assert removal.order[0] == min(errors, key=errors.__getitem__)
    assert removal.errors[7] == pytest.approx(min(errors.values()))


@pytest.mark.parametrize("width", [1, 2])
def test_errors_along_the_whole_sequence_are_those_of_least_squares(width: int) -> None:
    weight, hessian = problem(3, 12)
    removal = removal_order(weight, hessian, width, range(12), step=1)
    for count, error in removal.errors.items():
        kept = sorted(removal.order[len(removal.order) - count :]) if count else []
        columns = [structure * width + place for structure in kept for place in range(width)]
        assert error == pytest.approx(best_error(weight, hessian, columns), rel=1e-8, abs=1e-10)
    assert sorted(removal.order) == list(range(12 // width))


def test_greedy_choice_is_the_best_next_one_at_every_step() -> None:
    weight, hessian = problem(4, 9)
    removal = removal_order(weight, hessian, 1, range(9), step=1)
    left = list(range(9))
    for gone in removal.order:
        errors = {one: best_error(weight, hessian, [c for c in left if c != one]) for one in left}
        assert gone == min(errors, key=errors.__getitem__)
        left.remove(gone)


def test_a_pool_as_large_as_all_columns_is_exact() -> None:
    weight, hessian = problem(5, 16)
    one, many = (removal_order(weight, hessian, 1, [8, 0], step=step) for step in (1, 8))
    assert one.order[:8] == many.order[:8]
    assert one.errors[8] == pytest.approx(many.errors[8])


def test_of_two_equal_neurons_one_stays() -> None:
    weight, hessian = problem(6, 24)
    root = torch.linalg.cholesky(hessian)
    root[1] = root[0]  # input 1 is input 0
    twins = root @ root.T + 1e-6 * torch.eye(24, dtype=torch.float64)
    weight[:, :2] *= 3
    removal = removal_order(weight, twins, 1, [20, 0], step=4)
    assert len({0, 1} & set(removal.order[:4])) == 1


def test_curvature_decides_what_leaves_but_not_how_the_rest_is_updated() -> None:
    weight, hessian = problem(7, 8, rows=2)
    curvature = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    removal = removal_order(weight, hessian, 1, range(8), curvature, step=1)
    first = removal_order(weight[:1], hessian, 1, range(8), step=1)
    assert removal.order == first.order
    assert removal.losses[3] == pytest.approx(first.errors[3])
    kept = sorted(removal.order[5:])
    assert removal.errors[3] == pytest.approx(best_error(weight, hessian, kept))


# --- moments ----------------------------------------------------------------------------------


def test_moments_stream_to_weighted_means_and_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator), torch.randn(50, 2, generator=generator)
    weights = torch.rand(50, generator=generator)
    weights[:5] = 0
    moments = Moments(3, 2)
    for part in range(5):
        rows = slice(10 * part, 10 * part + 10)
        moments.add(x[rows], weights[rows], y[rows])
    share = (weights / weights.sum()).double()
    mean, target = share @ x.double(), share @ y.double()
    torch.testing.assert_close(moments.mean, mean, atol=1e-6, rtol=1e-5)
    centred, moved = x.double() - mean, y.double() - target
    torch.testing.assert_close(moments.covariance, centred.T @ (share[:, None] * centred), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moments.cross, moved.T @ (share[:, None] * centred), atol=1e-6, rtol=1e-5)


def test_padding_does_not_count(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    longer = []
    for batch in batches:
        more = torch.zeros(16, 2, dtype=torch.long)
        wider = {name: torch.cat([batch[name], more], 1) for name in ("input_ids", "attention_mask")}
        longer.append({**wider, "labels": batch["labels"]})
    for one, two in zip(input_moments(model, batches), input_moments(model, longer), strict=True):
        assert one.weight == two.weight
        torch.testing.assert_close(one.covariance, two.covariance, atol=1e-5, rtol=1e-4)


def test_sensitivity_is_the_gradient_at_each_token(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    model.double()
    found = sensitivity(model, batches[:1], logit_probe(3))
    batch = batches[0]
    linear = outputs_of(model)[0][1]
    step, losses = 1e-5, []
    for sign in (1, -1):
        handle = linear.register_forward_hook(lambda m, i, o, s=sign: _nudged(o, s * step))
        losses.append(float(logit_probe(3)(model, batch)))
        handle.remove()
    gradient = 16 * (losses[0] - losses[1]) / (2 * step)
    assert found.curvature[1].shape == (16, 16)
    weights = found.weights[1][0]
    assert float(weights[batch["attention_mask"] == 1].mean()) == pytest.approx(1, rel=1e-5)
    assert float(weights[batch["attention_mask"] == 0].abs().sum()) == 0
    assert float(found.curvature[1].trace()) > gradient**2 / 16  # one token's share of the sum over all
    assert all(float(one[:, 1:].abs().max()) < 1e-9 for one in found.weights[3])  # only [CLS] is read after layer 1


def _nudged(output: torch.Tensor, step: float) -> torch.Tensor:
    nudged = output.clone()
    nudged[5, 2, 3] += step
    return nudged


# --- database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("aware", [False, True])
def test_errors_fall_with_what_is_kept_and_end_at_nothing(
    aware: bool, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    known = sensitivity(model, batches, logit_probe()) if aware else None
    database = prune_database(model, batches, *LEVELS, sensitivity=known, step=4)
    for module in (*database.heads, *database.neurons):
        for values in (module.errors, module.losses) if aware else (module.errors,):
            series = [values[level] for level in module.levels]
            assert series == sorted(series, reverse=True)
            assert series[-1] == 0
            assert series[0] > 0


def test_a_database_says_what_its_weights_do(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    database = prune_database(model, batches, *LEVELS, damping=1e-5, step=1)
    linear, moments = outputs_of(model)[1][1], input_moments(model, batches)[3]
    weight = linear.weight.detach().double()
    for level in (8, 16):
        fit = database.neurons[1].fit(level)
        change, shift = fit.weight - weight, fit.bias - linear.bias.detach().double()
        mean = change @ moments.mean + shift
        error = ((change @ moments.covariance) * change).sum() + mean.square().sum()
        whole = ((weight @ moments.second) * weight).sum()
        assert database.neurons[1].errors[level] == pytest.approx(float(error / whole), rel=1e-2, abs=1e-6)
        assert sorted(database.neurons[1].kept(level).tolist()) == fit.weight.abs().sum(0).nonzero().flatten().tolist()


def test_what_a_choice_removes_has_no_effect(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    database = prune_database(model, batches, *LEVELS)
    choice = [(2, 8), (0, 24)]
    database.apply(model, choice)
    before = logits(model, batches)
    heads = [torch.zeros(HEADS) for _ in range(LAYERS)]
    neurons = [torch.zeros(WIDTH) for _ in range(LAYERS)]
    for layer, (head, width) in enumerate(choice):
        heads[layer][database.heads[layer].kept(head)] = 1
        neurons[layer][database.neurons[layer].kept(width)] = 1
    with gated(model, heads, neurons):
        assert torch.equal(logits(model, batches), before)


def test_keeping_everything_changes_no_bit(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    database = prune_database(model, batches, *LEVELS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    database.apply(model, [(HEADS, WIDTH)] * LAYERS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_structure_without_output_weights_leaves_first(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    attention, ffn = outputs_of(model)[0]
    with torch.no_grad():
        attention.weight[:, SIZE : 2 * SIZE] = 0
        ffn.weight[:, 7] = 0
    for known in (None, sensitivity(model, batches, logit_probe())):
        database = prune_database(model, batches, *LEVELS, sensitivity=known)
        assert database.heads[0].order[0] == 1
        assert database.neurons[0].order[0] == 7


def test_a_level_that_is_not_there_is_an_error(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    database = prune_database(model, batches, *LEVELS)
    with pytest.raises(ConfigError, match="3 structures.*0, 2, 4"):
        database.apply(model, [(3, 8), (4, 8)])
    with pytest.raises(ConfigError, match="layers"):
        database.apply(model, [(2, 8)])


def test_databases_repeat(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    one, two = (
        prune_database(model, batches, *LEVELS, sensitivity=sensitivity(model, batches, logit_probe(1)))
        for _ in range(2)
    )
    assert [module.order for module in one.neurons] == [module.order for module in two.neurons]
    assert torch.equal(one.neurons[0].fit(8).weight, two.neurons[0].fit(8).weight)


# --- reconstruction ---------------------------------------------------------------------------


def half() -> Masks:
    heads = [torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64) for _ in range(LAYERS)]
    neurons = [(torch.arange(WIDTH) % 2).double() for _ in range(LAYERS)]
    return Masks(heads, neurons)


def test_replay_repeats_the_model(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    replay = Replay(model, batches)
    for number, batch in enumerate(batches):
        states = replay.states[number]
        for layer in range(LAYERS):
            states = replay.run(layer, number, states)
        with torch.no_grad():
            expected = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert torch.equal(states, expected.last_hidden_state)


@pytest.mark.parametrize("compensate", COMPENSATIONS)
def test_keeping_all_is_a_fixed_point_of_every_compensation(
    compensate: str, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    before = logits(model, batches)
    apply_masks(model, everything(model), batches, compensate=compensate)
    torch.testing.assert_close(logits(model, batches), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("compensate", COMPENSATIONS)
def test_what_masks_remove_has_no_effect_afterwards(
    compensate: str, model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    masks = half()
    apply_masks(model, masks, batches, compensate=compensate)
    before = logits(model, batches)
    with gated(model, masks.heads, masks.neurons):
        assert torch.equal(logits(model, batches), before)


def test_masks_scale_what_stays_and_leave_biases_as_they_were(
    model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    """As Kwon et al. have it: ``m = argmin |y - b - sum m_j w_j x_j|^2``, seen where the inputs are known."""
    whole = copy.deepcopy(model)
    apply_masks(model, half(), batches, compensate="masks", damping=1e-9)
    for pair, before in zip(outputs_of(model), outputs_of(whole), strict=True):
        for linear, old in zip(pair, before, strict=True):
            assert torch.equal(linear.bias, old.bias)
    seen: list[torch.Tensor] = []
    old = outputs_of(whole)[0][0]
    handle = old.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    for batch in batches:
        logits(whole, [batch])
        seen[-1] = seen[-1][batch["attention_mask"] == 1]
    handle.remove()
    x, weight = torch.cat(seen).double(), old.weight.detach().double()
    size = x.shape[1] // 4
    parts = [x[:, at : at + size] @ weight[:, at : at + size].T for at in (0, 2 * size)]
    design = torch.stack([part.flatten() for part in parts], 1)
    factors = torch.linalg.lstsq(design, (x @ weight.T).flatten()[:, None]).solution.flatten()
    new = outputs_of(model)[0][0].weight.detach().double()
    for at, factor in zip((0, 2 * size), factors, strict=True):
        torch.testing.assert_close(new[:, at : at + size], factor * weight[:, at : at + size], atol=1e-4, rtol=1e-4)


def test_compensations_are_nearer_to_the_whole_model_than_none_and_least_squares_is_nearest(
    model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    def hidden(one: Any) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat(
                [
                    one.bert(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).last_hidden_state[
                        b["attention_mask"] == 1
                    ]
                    for b in batches
                ]
            )

    distances = {}
    for compensate in COMPENSATIONS:
        pruned = copy.deepcopy(model)
        apply_masks(pruned, half(), batches, compensate=compensate)
        distances[compensate] = float((hidden(pruned) - hidden(model)).square().mean())
    assert max(distances, key=distances.__getitem__) == "none"
    assert min(distances, key=distances.__getitem__) == "least_squares"


def test_real_valued_masks_are_folded_into_the_weights(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    masks = Masks([one * 0.5 for one in half().heads], [one * 1.5 for one in half().neurons])
    with gated(model, masks.heads, masks.neurons):
        expected = logits(model, batches)
    apply_masks(model, masks, compensate="none")
    torch.testing.assert_close(logits(model, batches), expected, atol=1e-5, rtol=1e-5)


def test_least_squares_without_damping_is_the_normal_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 5, generator=generator), torch.randn(90, 2, generator=generator)
    moments = Moments(5, 2)
    moments.add(x, torch.ones(90), y)
    found = least_squares(torch.zeros(2, 5, dtype=torch.float64), moments, 1e-12)
    design = torch.cat([x, torch.ones(90, 1)], 1).double()
    expected = torch.linalg.lstsq(design, y.double()).solution[:5].T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_pruning_in_sequence_keeps_what_was_asked_and_beats_pruning_each_module_alone(
    model: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    whole, choice = logits(model, batches), [(2, 8), (2, 8)]
    alone, sequence = copy.deepcopy(model), copy.deepcopy(model)
    prune_database(model, batches, *LEVELS, step=1).apply(alone, choice)
    kept = prune_sequentially(sequence, batches, choice, step=1)
    assert [(len(heads), len(neurons)) for heads, neurons in kept] == choice
    errors = [float((logits(one, batches) - whole).square().mean()) for one in (alone, sequence)]
    assert errors[1] < errors[0]


def test_a_choice_of_more_than_there_is_is_an_error(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    with pytest.raises(ConfigError, match="layers have"):
        prune_sequentially(model, batches, [(2, 8), (5, 8)])


def test_an_unknown_compensation_is_an_error(model: Any) -> None:
    with pytest.raises(ConfigError, match="least_squares"):
        apply_masks(model, half(), compensate="all")
