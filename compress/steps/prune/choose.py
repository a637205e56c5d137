"""How many heads and neurons stay in each layer, and which: an importance, a cost and a budget make a choice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from compress.steps.prune import search
from compress.steps.prune.cost import Cost
from compress.steps.prune.search import Level, allocate
from compress.steps.prune.targets import between, nearest_ratio

if TYPE_CHECKING:
    import torch

    from compress.config.schemas import Prune
    from compress.steps.importance import Batches, Importance, LossOf, Masks

__all__ = [
    "Counts",
    "Judge",
    "Losses",
    "check_ratio_reach",
    "check_reach",
    "counts_within",
    "counts_within_ratio",
    "judge_of",
    "levels_of",
    "losses_of",
]

Counts = list[tuple[int, int]]
"""Heads and feed-forward neurons that stay, per layer."""

Judge = Callable[[Counts], float]
"""From counts to a loss."""

Reach = Callable[[float], str]
"""From the cost of the smallest structure to the target that it just meets."""

_JUDGED = 4
"""Every which calibration batch a sketch is judged on: 256 rows of 1,024."""


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
    sketch : callable
        Does the same to a copy in less time and less well: what each layer loses by itself is seen, not how the layers
        after it make up for it.
    """

    heads: list[dict[int, float]]
    neurons: list[dict[int, float]]
    apply: Callable[[Any, Counts], list[tuple[torch.Tensor, torch.Tensor]]]
    sketch: Callable[[Any, Counts], None]


def levels_of(most: int, multiple: int, least: int | None = None) -> list[int]:
    """Return the numbers of structures that may stay, rising: multiples, and all of them."""
    first = multiple if least is None else least
    return sorted({*range(min(first, most), most, multiple), most})


def losses_of(model: Any, config: Prune, batches: Batches, loss: LossOf, seed: int, share: float = 0.5) -> Losses:
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
    share
        Of the cost of heads and neurons, what is to stay: gates are learned down to it.
    """
    if config.importance == "ziplm":
        return _ziplm(model, config, batches, loss)
    return _scored(model, config, batches, loss, _criterion(config, seed, share))


def _criterion(config: Prune, seed: int, share: float) -> Importance:
    from compress.steps.importance import HardConcreteImportance, importance

    if config.importance == "hard_concrete":
        return HardConcreteImportance(share, config.gates.updates, config.gates.learning_rate, seed)
    return importance("fisher" if config.importance == "kwon" else config.importance, seed=seed)


def _ziplm(model: Any, config: Prune, batches: Batches, loss: LossOf) -> Losses:
    from compress.steps.importance.gates import layout_of
    from compress.steps.prune.calibration import sensitivity
    from compress.steps.prune.ziplm import prune_database, prune_sequentially

    layout = layout_of(model)
    felt = sensitivity(model, batches, loss)
    heads = sorted({one for most in layout.heads for one in levels_of(most, 1, config.least_heads)})
    neurons = sorted({one for most in layout.neurons for one in levels_of(most, config.multiple)})
    database = prune_database(model, batches, heads, neurons, sensitivity=felt)

    def apply(work: Any, counts: Counts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return prune_sequentially(work, batches, counts, sensitivity=felt)

    # The database has the levels of all layers, those of another layer's own width among them.
    own = _unjudged(model, config)
    judged = [
        [{count: module.losses[count] for count in levels} for module, levels in zip(modules, kind, strict=True)]
        for modules, kind in zip((database.heads, database.neurons), own, strict=True)
    ]
    return Losses(judged[0], judged[1], apply, database.apply)


def _scored(model: Any, config: Prune, batches: Batches, loss: LossOf, criterion: Importance) -> Losses:
    from compress.steps.importance import Masks, gate_gradients
    from compress.steps.importance.gates import layout_of
    from compress.steps.importance.kept import top_mask
    from compress.steps.prune.mask_search import rearrange, removal_losses
    from compress.steps.prune.reconstruction import apply_masks

    kwon = config.importance == "kwon"
    layout = layout_of(model)
    scores = criterion.scores(model, batches, loss)
    lost_heads, lost_neurons = removal_losses(scores)
    compensate = config.compensate if config.compensate != "auto" else "masks" if kwon else "none"

    def masks_of(counts: Counts) -> Masks:
        return Masks(
            [top_mask(one, count) for one, (count, _) in zip(scores.heads, counts, strict=True)],
            [top_mask(one, count) for one, (_, count) in zip(scores.neurons, counts, strict=True)],
        )

    def sketch(work: Any, counts: Counts) -> None:
        apply_masks(work, masks_of(counts), batches, compensate="none")

    def apply(work: Any, counts: Counts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        masks = masks_of(counts)
        if kwon:
            masks = _of_less_loss(model, [masks, rearrange(masks, gate_gradients(model, batches, loss))], batches, loss)
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
        sketch,
    )


def _of_less_loss(model: Any, candidates: Sequence[Masks], batches: Batches, loss: LossOf) -> Masks:
    """Return the masks with which the model has the least loss over every fourth calibration batch.

    Gradients of single examples can be made to cancel where much is removed, and the loss then rises all the same: of
    MiniLM on tweets at 35 % of the MACs from 0.60 to 0.69 over the very rows that a rearrangement was made for.
    """
    import torch

    from compress.steps.prune.reconstruction import apply_masks

    some = list(batches)[::_JUDGED]

    def lost(masks: Masks) -> float:
        work = copy_of(model)
        apply_masks(work, masks, compensate="none")
        with torch.no_grad():
            return sum(float(loss(work, dict(batch))) for batch in some)

    return min(candidates, key=lost)


def judge_of(model: Any, losses: Losses, batches: Batches, loss: LossOf) -> Judge:
    """Return the mean loss of a sketch of counts over every fourth calibration batch; asked again it remembers."""
    import torch

    some = list(batches)[::_JUDGED]
    known: dict[tuple[tuple[int, int], ...], float] = {}

    def judge(counts: Counts) -> float:
        if tuple(counts) not in known:
            work = copy_of(model)
            losses.sketch(work, counts)
            with torch.no_grad():
                known[tuple(counts)] = sum(float(loss(work, dict(batch))) for batch in some) / len(some)
        return known[tuple(counts)]

    return judge


def check_reach(model: Any, config: Prune, cost: Cost, budget: float, *, target: str, reach: Reach) -> None:
    """Refuse a budget that the smallest heads and neurons of a model exceed, before anything is judged.

    Parameters
    ----------
    model
        Whose heads and neurons are to go.
    config
        Its levels.
    cost, budget, target, reach
        As of `counts_within`.

    Raises
    ------
    ConfigError
        If they do.
    """
    heads, neurons = _unjudged(model, config)
    blocks = [*_blocks(heads, cost.attention), *_blocks(neurons, cost.ffn)]
    search.check_reach(blocks, budget, target=target, fixed=cost.rest + cost.layer * len(heads), reach=reach)


def check_ratio_reach(model: Any, config: Prune, ratios: Mapping[str, float | None], wholes: Mapping[str, int]) -> None:
    """Refuse ratios that the smallest heads, or neurons, of a model exceed; parameters as of `counts_within_ratio`."""
    for name, levels in zip(("heads", "neurons"), _unjudged(model, config), strict=True):
        budget = wholes[name] * (1 - (ratios[name] or 0.0))
        search.check_reach(_blocks(levels, float), budget, **_ratio_words(name, ratios[name], wholes[name]))


def _unjudged(model: Any, config: Prune) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
    """Return the levels of heads and of neurons of every layer, of no loss."""
    from compress.steps.importance.gates import layout_of

    layout = layout_of(model)
    return (
        [dict.fromkeys(levels_of(most, 1, config.least_heads), 0.0) for most in layout.heads],
        [dict.fromkeys(levels_of(most, config.multiple), 0.0) for most in layout.neurons],
    )


def counts_within(
    losses: Losses,
    cost: Cost,
    budget: float,
    allocation: str,
    *,
    target: str,
    reach: Reach | None = None,
    judge: Judge | None = None,
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
    judge
        Asked by ``reweighted`` alone.

    Raises
    ------
    ConfigError
        If the cheapest structure is dearer.
    """
    heads = _blocks(losses.heads, cost.attention)
    neurons = _blocks(losses.neurons, cost.ffn)
    fixed = cost.rest + cost.layer * len(heads)

    def counts_of(choice: Sequence[int]) -> Counts:
        return list(zip(_named(heads, choice[: len(heads)]), _named(neurons, choice[len(heads) :]), strict=True))

    choice = allocate(
        [*heads, *neurons],
        budget,
        allocation,
        target=target,
        fixed=fixed,
        reach=reach,
        judge=None if judge is None else lambda choice: judge(counts_of(choice)),
    )
    return counts_of(choice)


def counts_within_ratio(
    losses: Losses,
    ratios: Mapping[str, float | None],
    wholes: Mapping[str, int],
    allocation: str,
    progress: float = 1.0,
    judge: Judge | None = None,
) -> Counts:
    """Return the counts that lose least where a share of all heads, and one of all neurons, goes.

    Parameters
    ----------
    losses
        By layer and level.
    ratios
        The share of ``heads`` and of ``neurons`` that goes in the end; None for none.
    wholes
        What the shares are of: those of the source, over the layers that stay.
    allocation
        As `allocate` has it.
    progress
        See `compress.steps.prune.targets.between`.
    judge
        Asked by ``reweighted`` alone, of heads with all neurons and then of neurons with the heads that stay.

    Raises
    ------
    ConfigError
        If the levels cannot be so few.
    """
    found = [[max(one) for one in losses.heads], [max(one) for one in losses.neurons]]
    for place, (name, levels) in enumerate((("heads", losses.heads), ("neurons", losses.neurons))):
        ratio, whole, blocks = ratios[name], wholes[name], _blocks(levels, float)
        choice = allocate(
            blocks,
            whole * between(1.0, 1 - (ratio or 0.0), progress),
            allocation,
            **_ratio_words(name, ratio, whole),
            judge=None if judge is None else partial(_judged, judge, found, place, blocks),
        )
        found[place] = _named(blocks, choice)
    return list(zip(*found, strict=True))


def _ratio_words(name: str, ratio: float | None, whole: int) -> dict[str, Any]:
    return {"target": f"target.ratio.{name}={ratio}", "reach": partial(nearest_ratio, name, whole=whole)}


def _judged(judge: Judge, found: list[list[int]], place: int, blocks: Sequence[Sequence[Level]], choice: Any) -> float:
    """Return the loss of a choice of heads, or of neurons, beside the others that were found."""
    tried = list(found)
    tried[place] = _named(blocks, choice)
    return judge(list(zip(*tried, strict=True)))


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
