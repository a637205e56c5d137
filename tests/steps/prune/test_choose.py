"""Choices that are tried on calibration rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.config.schemas import Prune, PruneTarget
from compress.models.torch_io import load_model
from compress.steps.prune.choose import Counts, counts_within, counts_within_ratio, judge_of, losses_of
from compress.steps.prune.cost import LinearCost
from compress.training.loop import task_loss

COST = LinearCost(0.0, 0.0, 16.0, 1.0)


@pytest.fixture
def batches(world: Any, tuned: Checkpoint) -> list[dict[str, torch.Tensor]]:
    from compress.models.torch_io import load_tokenizer
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator

    context, tokenizer = world.context("prune"), load_tokenizer(tuned.path)
    features = context.task.encode(world.data.train, tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    return [collate(list(range(start, start + 9))) for start in range(0, 72, 9)]


@pytest.mark.parametrize("importance", ["magnitude_l2", "ziplm"])
def test_what_is_reweighted_is_judged_no_worse_than_the_plain_search(
    importance: str, world: Any, tuned: Checkpoint, batches: list[Any]
) -> None:
    """Losses are told wrongly, those of the first layer too small: the judge tries what the sum of them hides."""
    model, loss = load_model(tuned), task_loss(world.context("prune").task)
    config = Prune(PruneTarget(macs=0.5), importance=importance, multiple=8)
    losses = losses_of(model, config, batches, loss, 0)
    for blocks in (losses.heads, losses.neurons):
        for levels, factor in zip(blocks, (0.7, 1.4), strict=True):
            levels.update({count: factor * lost for count, lost in levels.items()})
    judge, asked = judge_of(model, losses, batches, loss), []

    def counted(counts: Counts) -> float:
        asked.append(tuple(counts))
        return judge(counts)

    plain = counts_within(losses, COST, 100.0, "search", target="target.macs=0.5")
    found = counts_within(losses, COST, 100.0, "reweighted", target="target.macs=0.5", judge=counted)
    assert sum(16 * heads + neurons for heads, neurons in found) <= 100
    assert len(set(asked)) > 1
    assert judge(found) == min(judge(list(counts)) for counts in asked) <= judge(plain)


def test_ratios_are_judged_with_the_other_dimension_as_it_is(world: Any, tuned: Checkpoint, batches: list[Any]) -> None:
    model, loss = load_model(tuned), task_loss(world.context("prune").task)
    config = Prune(PruneTarget(macs=0.5), importance="magnitude_l2", multiple=8)
    losses, asked = losses_of(model, config, batches, loss, 0), []
    judge = judge_of(model, losses, batches, loss)

    def counted(counts: Counts) -> float:
        asked.append(counts)
        return judge(counts)

    ratios, wholes = {"heads": 0.5, "neurons": 0.5}, {"heads": 4, "neurons": 128}
    found = counts_within_ratio(losses, ratios, wholes, "reweighted", judge=counted)
    assert [sum(one) for one in zip(*found, strict=True)] == [2, 64]
    heads_first = [neurons == (64, 64) for _, neurons in (tuple(zip(*counts, strict=True)) for counts in asked)]
    assert heads_first[0]
    assert not heads_first[-1]


def test_a_rearrangement_that_raises_the_loss_is_not_taken(
    world: Any, tuned: Checkpoint, batches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.steps.importance import Masks
    from compress.steps.prune import mask_search

    model, loss = load_model(tuned), task_loss(world.context("prune").task)
    config = Prune(PruneTarget(macs=0.5), importance="kwon", multiple=8)
    plain: list[Masks] = []

    def rearrange(masks: Masks, gradients: Any) -> Masks:
        plain.append(masks)
        return Masks(masks.heads, [1 - one for one in masks.neurons])  # those that matter go

    monkeypatch.setattr(mask_search, "rearrange", rearrange)
    kept = losses_of(model, config, batches, loss, 0).apply(load_model(tuned), [(1, 32), (1, 32)])
    for mask, (_, neurons) in zip(plain[0].neurons, kept, strict=True):
        assert neurons.tolist() == mask.nonzero().flatten().tolist()
