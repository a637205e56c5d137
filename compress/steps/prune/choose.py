"""How many heads and neurons stay in each layer, and which: an importance, a cost and a budget make a choice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.steps.prune.cost import Cost
from compress.steps.prune.search import Level, allocate

if TYPE_CHECKING:
    import torch

    from compress.config.schemas import Prune
    from compress.steps.prune.importance import Batches, LossOf

__all__ = ["Counts", "Losses", "counts_within", "counts_within_ratio", "levels_of", "losses_of"]

Counts = list[tuple[int, int]]
"""Heads and feed-forward neurons that stay, per layer."""


@dataclass(frozen=True)
class Losses:
    """What is lost where so many structures stay, and how to make a model with so many.

    Attributes
    ----------
    heads, neurons : list of dict of int to float
        Per layer, by the number that stays.
    apply : callable
        From a copy of the model and counts to what stays, per layer the heads and the neurons; afterwards whatever
        does not stay has no effect on the copy's output.
    """

    heads: list[dict[int, float]]
    neurons: list[dict[int, float]]
    apply: Callable[[Any, Counts], list[tuple[torch.Tensor, torch.Tensor]]]


def levels_of(most: int, multiple: int, least: int | None = None) -> list[int]:
    """Return the numbers of structures that may stay, rising: multiples, and all of them."""
    first = multiple if least is None else least
    return sorted({*range(min(first, most), most, multiple), most})


def losses_of(model: Any, config: Prune, batches: Batches, loss: LossOf, seed: int) -> Losses:
    """Return what an importance says of every level of every layer.

    Parameters
    ----------
    model
        A transformers model of a known family; unchanged.
    config
        Names the importance, its repair, the levels.
    batches, loss
        Calibration.
    seed
        Of an importance that draws.
    """
    if config.importance == "ziplm":
        return _ziplm(model, config, batches, loss)
    return _scored(model, config, batches, loss, seed)


def _ziplm(model: Any, config: Prune, batches: Batches, loss: LossOf) -> Losses:
    from compress.steps.prune.calibration import sensitivity
    from compress.steps.prune.importance.gates import layout_of
    from compress.steps.prune.ziplm import prune_database, prune_sequentially

    layout = layout_of(model)
    felt = sensitivity(model, batches, loss)
    heads = sorted({one for most in layout.heads for one in levels_of(most, 1, config.least_heads)})
    neurons = sorted({one for most in layout.neurons for one in levels_of(most, config.multiple)})
    database = prune_database(model, batches, heads, neurons, sensitivity=felt)

    def apply(work: Any, counts: Counts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return prune_sequentially(work, batches, counts, sensitivity=felt)

    return Losses(
        [dict(module.losses) for module in database.heads], [dict(module.losses) for module in database.neurons], apply
    )


def _scored(model: Any, config: Prune, batches: Batches, loss: LossOf, seed: int) -> Losses:
    from compress.steps.prune.importance import Masks, gate_gradients, importance
    from compress.steps.prune.importance.gates import layout_of
    from compress.steps.prune.importance.kept import top_mask
    from compress.steps.prune.mask_search import rearrange, removal_losses
    from compress.steps.prune.reconstruction import apply_masks

    kwon = config.importance == "kwon"
    layout = layout_of(model)
    scores = importance("fisher" if kwon else config.importance, seed=seed).scores(model, batches, loss)
    lost_heads, lost_neurons = removal_losses(scores)
    compensate = config.compensate if config.compensate != "auto" else "masks" if kwon else "none"

    def apply(work: Any, counts: Counts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        masks = Masks(
            [top_mask(one, count) for one, (count, _) in zip(scores.heads, counts, strict=True)],
            [top_mask(one, count) for one, (_, count) in zip(scores.neurons, counts, strict=True)],
        )
        if kwon:
            masks = rearrange(masks, gate_gradients(model, batches, loss))
        apply_masks(work, masks, batches, compensate=compensate)
        return [
            (heads.nonzero().flatten(), neurons.nonzero().flatten())
            for heads, neurons in zip(masks.heads, masks.neurons, strict=True)
        ]

    return Losses(
        [
            {count: float(lost[count]) for count in levels_of(most, 1, config.least_heads)}
            for lost, most in zip(lost_heads, layout.heads, strict=True)
        ],
        [
            {count: float(lost[count]) for count in levels_of(most, config.multiple)}
            for lost, most in zip(lost_neurons, layout.neurons, strict=True)
        ],
        apply,
    )


def counts_within(
    losses: Losses,
    cost: Cost,
    budget: float,
    allocation: str,
    *,
    target: str,
    reach: Callable[[float], str] | None = None,
) -> Counts:
    """Return the counts that lose least within a budget.

    Parameters
    ----------
    losses
        By layer and level.
    cost
        Of a structure, in the budget's unit.
    budget
        What the whole model may cost.
    allocation
        As `allocate` has it.
    target, reach
        For the message where the budget is out of reach.

    Raises
    ------
    ConfigError
        If the cheapest structure is dearer.
    """
    heads = _blocks(losses.heads, cost.attention)
    neurons = _blocks(losses.neurons, cost.ffn)
    fixed = cost.rest + cost.layer * len(heads)
    choice = allocate([*heads, *neurons], budget, allocation, target=target, fixed=fixed, reach=reach)
    return list(zip(_named(heads, choice[: len(heads)]), _named(neurons, choice[len(heads) :]), strict=True))


def counts_within_ratio(losses: Losses, heads: float | None, neurons: float | None, allocation: str) -> Counts:
    """Return the counts that lose least where a share of all heads, and one of all neurons, goes."""
    found = []
    for name, levels, ratio in (("heads", losses.heads, heads), ("neurons", losses.neurons, neurons)):
        blocks = _blocks(levels, float)
        whole = sum(max(one) for one in levels)
        budget = whole * (1 - (ratio or 0.0))
        choice = allocate(
            blocks,
            budget,
            allocation,
            target=f"target.ratio.{name}={ratio}",
            reach=lambda least, whole=whole, name=name: f"target.ratio.{name}={1 - least / whole:.2f}",  # type: ignore[misc]
        )
        found.append(_named(blocks, choice))
    return list(zip(*found, strict=True))


def _blocks(levels: Sequence[dict[int, float]], cost: Callable[[int], float]) -> list[list[Level]]:
    return [
        [Level(count, cost(count), lost, count / max(layer)) for count, lost in sorted(layer.items())]
        for layer in levels
    ]


def _named(blocks: Sequence[Sequence[Level]], choice: Sequence[int]) -> list[int]:
    return [int(block[level].name) for block, level in zip(blocks, choice, strict=True)]  # type: ignore[call-overload]


def copy_of(model: Any) -> Any:
    """Return a copy that may be changed."""
    return copy.deepcopy(model).eval()
