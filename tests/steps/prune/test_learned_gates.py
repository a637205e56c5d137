"""Learned gates on a small trained model, of which it is known what does no work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.config.schemas import Prune, PruneTarget
from compress.models.torch_io import load_model, load_tokenizer
from compress.steps.importance import HardConcreteImportance, Scores, importance
from compress.steps.importance.gates import gated, layout_of, outputs_of
from compress.steps.importance.kept import top_mask
from compress.steps.prune.choose import losses_of
from compress.tasks.padding import padding_of
from compress.training.batches import Collator
from compress.training.loop import task_loss

NEURONS, IDLE = 64, 32


@pytest.fixture
def batches(world: Any, tuned: Checkpoint) -> list[dict[str, torch.Tensor]]:
    context, tokenizer = world.context("prune"), load_tokenizer(tuned.path)
    features = context.task.encode(world.data.train, tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    return [collate(list(range(start, start + 12))) for start in range(0, 72, 12)]


def partly_idle(tuned: Checkpoint) -> tuple[Any, list[torch.Tensor], list[int]]:
    """Return the trained model with half of the neurons, and a head, of each layer next to useless; and which."""
    model, generator, neurons, heads = load_model(tuned), torch.Generator().manual_seed(5), [], []
    size = layout_of(model).head_size
    for layer, (attention, ffn) in enumerate(outputs_of(model)):
        places = torch.randperm(NEURONS, generator=generator)[:IDLE]
        with torch.no_grad():
            ffn.weight[:, places] = 1e-3 * torch.randn(ffn.weight.shape[0], IDLE, generator=generator)
            attention.weight[:, layer * size : (layer + 1) * size] *= 1e-3
        neurons.append(places)
        heads.append(layer)
    return model, neurons, heads


def ranked_above(scores: torch.Tensor, idle: torch.Tensor) -> float:
    """Return how often a neuron that works scores above one that does not: 0.5 is chance, 1 is right."""
    works = torch.ones(len(scores), dtype=torch.bool)
    works[idle] = False
    return float((scores[works][:, None] > scores[~works][None, :]).double().mean())


def loss_without_half(model: Any, scores: Scores, batches: list[Any], task: Any) -> float:
    """Return the loss where half of each layer's neurons, those that score least, are masked."""
    neurons = [top_mask(one, len(one) // 2).float() for one in scores.neurons]
    heads = [torch.ones(len(one)) for one in scores.heads]
    with torch.no_grad(), gated(model, heads, neurons):
        return sum(float(task_loss(task)(model, dict(batch))) for batch in batches) / len(batches)


def test_learned_gates_know_what_does_no_work_and_random_scores_do_not(
    world: Any, sure: Checkpoint, batches: list[Any]
) -> None:
    task, defaults = world.context("prune").task, Prune().gates
    model, neurons, heads = partly_idle(sure)
    criterion = HardConcreteImportance(0.5, defaults.updates, defaults.learning_rate, seed=1)
    learned = criterion.scores(model, batches, task_loss(task))
    drawn = [importance("random", seed=seed).scores(model, batches, task_loss(task)) for seed in range(5)]

    def right(scores: Scores) -> float:
        return sum(ranked_above(one, idle) for one, idle in zip(scores.neurons, neurons, strict=True)) / len(neurons)

    assert max(map(right, drawn)) < 0.65
    assert right(learned) > 0.8
    assert [int(one.argmin()) for one in learned.heads] == heads
    lost = loss_without_half(model, learned, batches, task)
    assert lost < min(loss_without_half(model, scores, batches, task) for scores in drawn)


def test_gates_are_learned_down_to_the_share_that_the_target_leaves(
    tuned: Checkpoint, batches: list[Any], world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    class Criterion(HardConcreteImportance):
        def __init__(self, *arguments: Any) -> None:
            asked.append(arguments)
            super().__init__(arguments[0], 1, 0.1, 0)

    monkeypatch.setattr("compress.steps.importance.HardConcreteImportance", Criterion)
    config = Prune(PruneTarget(macs=0.5), importance="hard_concrete", multiple=8)
    losses_of(load_model(tuned), config, batches, task_loss(world.context("prune").task), 7, 0.3)
    assert asked == [(0.3, config.gates.updates, config.gates.learning_rate, 7)]
    world.run(tuned, Prune(PruneTarget(macs=0.5), importance="hard_concrete", multiple=8, calibration_rows=32))
    (share, *_) = asked[-1]
    assert 0.35 < share < 0.5, "embeddings and head keep theirs, so heads and neurons go further down"
