"""Every term against a reference in numpy and float64, with padding; gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compress.training.distillation import losses

BATCH, LAYERS, TOKENS, WIDTH, HEADS, CLASSES = 3, 2, 6, 8, 4, 5
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]])


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum())


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64)


mask = torch.tensor(MASK)


def per_layer(states: np.ndarray) -> list[torch.Tensor]:
    return [tensor(states[:, layer]) for layer in range(states.shape[1])]


# --- logits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_logits_loss_is_the_scaled_divergence(temperature: float) -> None:
    student, teacher = drawn(2, 7, CLASSES, scale=3)
    rows = [
        divergence(softmax(t / temperature), softmax(s / temperature)) for s, t in zip(student, teacher, strict=True)
    ]
    found = losses.logits_loss(tensor(student), tensor(teacher), temperature)
    assert found.item() == pytest.approx(temperature**2 * np.mean(rows), rel=1e-9)
    assert losses.logits_loss(tensor(teacher), tensor(teacher), temperature).item() == pytest.approx(0, abs=1e-12)


def test_mse_of_logits_leaves_a_shift_of_all_classes_out() -> None:
    student, teacher = drawn(2, 7, CLASSES, scale=3)
    centred = [s - s.mean() - (t - t.mean()) for s, t in zip(student, teacher, strict=True)]
    found = losses.logits_mse_loss(tensor(student), tensor(teacher))
    assert found.item() == pytest.approx(np.mean(np.square(centred)), rel=1e-9)
    assert losses.logits_mse_loss(tensor(teacher + 3), tensor(teacher)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_loss_weighs_the_target_and_the_others(temperature: float) -> None:
    student, teacher = drawn(2, 7, CLASSES, scale=3)
    target = np.random.default_rng(1).integers(0, CLASSES, 7)
    expected = []
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        pairs = [np.array([v[y], 1 - v[y]]) for v in (p, q)]
        others = [np.delete(v, y) / (1 - v[y]) for v in (p, q)]
        expected.append(1.5 * divergence(*pairs) + 4.0 * divergence(*others))
    found = losses.decoupled_loss(
        tensor(student), tensor(teacher), torch.tensor(target), temperature, alpha=1.5, beta=4.0
    )
    assert found.item() == pytest.approx(temperature**2 * np.mean(expected), rel=1e-9)


def test_decoupled_with_the_teachers_own_weight_of_the_others_is_the_plain_divergence() -> None:
    """KD = TCKD + (1 - p_target) NCKD, equation 5 of the paper."""
    student, teacher = drawn(2, 1, CLASSES, scale=2)
    rest = 1 - softmax(teacher)[0, 3]
    found = losses.decoupled_loss(tensor(student), tensor(teacher), torch.tensor([3]), 1.0, alpha=1.0, beta=rest)
    assert found.item() == pytest.approx(losses.logits_loss(tensor(student), tensor(teacher), 1.0).item(), rel=1e-9)


def test_of_two_classes_the_others_among_themselves_say_nothing() -> None:
    student, teacher = drawn(2, 4, 2)
    target = torch.tensor([0, 1, 1, 0])
    values = [
        losses.decoupled_loss(tensor(student), tensor(teacher), target, 1.0, alpha=1.0, beta=beta) for beta in (0, 9)
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    assert values[0].item() == pytest.approx(losses.logits_loss(tensor(student), tensor(teacher), 1.0).item(), rel=1e-9)


def test_symmetric_divergence_is_the_mean_of_both_ways() -> None:
    first, second = drawn(2, 7, CLASSES)
    both = [
        (divergence(softmax(a), softmax(b)) + divergence(softmax(b), softmax(a))) / 2
        for a, b in zip(first, second, strict=True)
    ]
    assert losses.symmetric_divergence(tensor(first), tensor(second)).item() == pytest.approx(np.mean(both), rel=1e-9)


# --- hidden states ----------------------------------------------------------------------------


def over_tokens(student: np.ndarray, teacher: np.ndarray, what: Callable[[Any, Any], float]) -> float:
    return float(
        np.mean(
            [
                what(student[b, layer, t], teacher[b, layer, t])
                for b in range(BATCH)
                for layer in range(LAYERS)
                for t in range(TOKENS)
                if MASK[b, t]
            ]
        )
    )


STATES = drawn(2, BATCH, LAYERS, TOKENS, WIDTH, seed=2)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (losses.hidden_loss, lambda s, t: np.mean((s - t) ** 2)),
        (losses.token_loss, lambda s, t: np.sqrt(np.mean((s - t) ** 2) + 1e-12)),
        (losses.cosine_loss, lambda s, t: 1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t)),
    ],
    ids=["hidden", "tokens", "cosine"],
)
def test_losses_of_states_are_means_over_tokens_that_are_no_padding(loss: Any, reference: Any) -> None:
    student, teacher = STATES
    found = loss(per_layer(student), tensor(teacher), mask)
    assert found.item() == pytest.approx(over_tokens(student, teacher, reference), rel=1e-9)
    moved = np.where(MASK[:, None, :, None] == 1, teacher, 1e3)
    assert loss(per_layer(student), tensor(moved), mask).item() == pytest.approx(found.item(), rel=1e-9)


def test_half_precision_states_are_compared_as_they_are_stored() -> None:
    student, teacher = STATES
    half = teacher.astype(np.float16)
    found = losses.hidden_loss(per_layer(student), torch.tensor(half), mask)
    reference = over_tokens(student, half.astype(np.float64), lambda s, t: np.mean((s - t) ** 2))
    assert found.item() == pytest.approx(reference, rel=1e-9)


def test_contrastive_loss_tells_a_text_from_the_others_of_its_batch() -> None:
    student, teacher = drawn(2, BATCH, TOKENS, WIDTH, seed=3)
    texts = [np.stack([x[b][MASK[b] == 1].mean(0) for b in range(BATCH)]) for x in (student, teacher)]
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in texts]
    likely = softmax(unit[0] @ unit[1].T / 0.2)
    pooled = [losses.mean_over_tokens(tensor(x), mask) for x in (student, teacher)]
    found = losses.contrastive_loss(*pooled, 0.2)
    assert found.item() == pytest.approx(-np.mean(np.log(np.diag(likely))), rel=1e-9)


# --- attention --------------------------------------------------------------------------------


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """Return ``[batch, heads, tokens, width / heads]``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def scores_of(q: np.ndarray, k: np.ndarray, heads: int) -> np.ndarray:
    a, b = heads_of(q, heads), heads_of(k, heads)
    return a @ b.transpose(0, 1, 3, 2) / np.sqrt(a.shape[-1])


def mean_divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    apart = [
        divergence(softmax(teacher[b, head, t][MASK[b] == 1]), softmax(student[b, head, t][MASK[b] == 1]))
        for b in range(BATCH)
        for head in range(student.shape[1])
        for t in np.flatnonzero(MASK[b])
    ]
    return float(np.mean(apart))


def test_scores_are_scaled_products_of_each_head() -> None:
    q, k = drawn(2, BATCH, TOKENS, WIDTH, seed=4)
    found = losses.attention_scores(tensor(q), tensor(k), HEADS)
    np.testing.assert_allclose(found.numpy(), scores_of(q, k, HEADS), rtol=1e-12)


def test_loss_of_scores_is_the_mean_over_pairs_of_tokens() -> None:
    q, k, p, m = drawn(4, BATCH, TOKENS, WIDTH, seed=5)
    ours, theirs = scores_of(q, k, HEADS), scores_of(p, m, HEADS)
    squares = [
        (ours[b, h, i, j] - theirs[b, h, i, j]) ** 2
        for b in range(BATCH)
        for h in range(HEADS)
        for i in range(TOKENS)
        for j in range(TOKENS)
        if MASK[b, i] and MASK[b, j]
    ]
    found = losses.attention_score_loss(tensor(ours), tensor(theirs), mask)
    assert found.item() == pytest.approx(np.mean(squares), rel=1e-9)


def test_loss_of_distributions_is_the_mean_over_heads_and_tokens_that_attend() -> None:
    q, k, p, m = drawn(4, BATCH, TOKENS, WIDTH, seed=6)
    ours, theirs = scores_of(q, k, HEADS), scores_of(p, m, HEADS)
    found = losses.attention_distribution_loss(tensor(ours), tensor(theirs), mask)
    assert found.item() == pytest.approx(mean_divergence(ours, theirs), rel=1e-9)


@pytest.mark.parametrize(("width", "heads"), [(8, 2), (12, 4), (4, 1)])
def test_relations_compare_models_of_other_widths_and_heads(width: int, heads: int) -> None:
    student, teacher = drawn(BATCH, TOKENS, width, seed=7), drawn(BATCH, TOKENS, WIDTH, seed=8)
    ours, theirs = scores_of(student, student, heads), scores_of(teacher, teacher, heads)
    found = losses.relation_loss(tensor(student), tensor(teacher), mask, heads)
    assert found.item() == pytest.approx(mean_divergence(ours, theirs), rel=1e-9)


# --- gradients --------------------------------------------------------------------------------


def test_gradients_are_those_of_the_values() -> None:
    def leaf(*shape: int, seed: int) -> torch.Tensor:
        return tensor(drawn(*shape, seed=seed)).requires_grad_()

    logits, states, values = leaf(4, CLASSES, seed=9), leaf(BATCH, 1, TOKENS, WIDTH, seed=10), leaf(3, 6, 8, seed=11)
    teacher, target = tensor(drawn(4, CLASSES, seed=12)), torch.tensor([0, 2, 4, 1])
    theirs, other = tensor(drawn(BATCH, 1, TOKENS, WIDTH, seed=13)), tensor(drawn(3, 6, 8, seed=14))
    cases: list[tuple[Any, torch.Tensor]] = [
        (lambda x: losses.logits_loss(x, teacher, 3.0), logits),
        (lambda x: losses.logits_mse_loss(x, teacher), logits),
        (lambda x: losses.decoupled_loss(x, teacher, target, 2.0, alpha=1.0, beta=3.0), logits),
        (lambda x: losses.symmetric_divergence(x, teacher), logits),
        (lambda x: losses.hidden_loss([x[:, 0]], theirs, mask), states),
        (lambda x: losses.token_loss([x[:, 0]], theirs, mask), states),
        (lambda x: losses.cosine_loss([x[:, 0]], theirs, mask), states),
        (
            lambda x: losses.contrastive_loss(
                losses.mean_over_tokens(x[:, 0], mask), losses.mean_over_tokens(theirs[:, 0], mask), 0.5
            ),
            states,
        ),
        (lambda x: losses.relation_loss(x, other, mask, 2), values),
        (
            lambda x: losses.attention_score_loss(
                losses.attention_scores(x, x, 2), losses.attention_scores(other, other, 2), mask
            ),
            values,
        ),
    ]
    for loss, at in cases:
        assert torch.autograd.gradcheck(loss, (at,), eps=1e-6, atol=1e-6)


def test_a_state_that_is_the_teachers_has_a_finite_gradient() -> None:
    same = tensor(drawn(BATCH, 1, TOKENS, WIDTH)).requires_grad_()
    losses.token_loss([same[:, 0]], same.detach(), mask).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
