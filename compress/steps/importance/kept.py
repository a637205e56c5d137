"""Which structures remain: masks, and the ways from scores and a budget to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.steps.importance.scores import Costs, Scores

if TYPE_CHECKING:
    import torch

__all__ = ["Masks", "everything", "keep_per_cost", "keep_uniform", "top_mask"]


@dataclass(frozen=True)
class Masks:
    """A factor per head and neuron: 0 is removed; anything else is kept, scaled by it.

    Attributes
    ----------
    heads, neurons : list of torch.Tensor
        Per layer ``[heads]`` and ``[neurons]``, float64 on the CPU.
    """

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]

    @property
    def counts(self) -> list[tuple[int, int]]:
        """Heads and neurons kept per layer."""
        return [
            (int((one != 0).sum()), int((two != 0).sum())) for one, two in zip(self.heads, self.neurons, strict=True)
        ]

    def cost(self, costs: Costs) -> float:
        """Return the cost of what is kept."""
        return costs.total(sum(heads for heads, _ in self.counts), sum(neurons for _, neurons in self.counts))


def keep_per_cost(scores: Scores, costs: Costs, budget: float) -> Masks:
    """Keep what scores highest per unit of cost, over all layers and both kinds, as long as it fits the budget.

    What no longer fits is passed over for cheaper structures behind it, so less than the cheapest structure's cost of
    the budget stays unused, unless everything is kept. Equal scores: the earlier layer and index is kept.

    Parameters
    ----------
    scores
        Of any criterion.
    costs
        Of one head and one neuron.
    budget
        What the kept structures may cost together, in the unit of `costs`.

    Raises
    ------
    ConfigError
        The budget is negative.
    """
    if budget < 0:
        raise ConfigError(f"pruning to a cost of {budget:g}: a budget is 0 or more")
    ratio = scores.per_cost(costs)
    entries = [
        (-value, kind, layer, index)
        for kind, lists in enumerate((ratio.heads, ratio.neurons))
        for layer, one in enumerate(lists)
        for index, value in enumerate(one.tolist())
    ]
    masks = _nothing(scores)
    prices, left = (costs.head, costs.neuron), budget * (1 + 1e-12)
    for _, kind, layer, index in sorted(entries):
        if prices[kind] <= left:
            (masks.heads, masks.neurons)[kind][layer][index] = 1.0
            left -= prices[kind]
    return masks


def keep_uniform(scores: Scores, costs: Costs, budget: float) -> Masks:
    """Keep the same share of heads and of neurons in every layer, those that score highest within it.

    The share is the largest whose structures, counts rounded to the nearest, fit the budget.
    """
    total = costs.total(sum(one.numel() for one in scores.heads), sum(one.numel() for one in scores.neurons))
    share = min(1.0, budget / total)
    while share > 0:
        masks = Masks([_top(one, share) for one in scores.heads], [_top(one, share) for one in scores.neurons])
        if masks.cost(costs) <= budget * (1 + 1e-12):
            return masks
        share -= 1 / 256
    return _nothing(scores)


def top_mask(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the `count` highest scores; of equal ones the first."""
    import torch

    mask = torch.zeros(scores.numel(), dtype=torch.float64)
    mask[torch.sort(scores, descending=True, stable=True).indices[:count]] = 1.0
    return mask


def _top(scores: torch.Tensor, share: float) -> torch.Tensor:
    return top_mask(scores, round(share * scores.numel()))


def _nothing(scores: Scores) -> Masks:
    import torch

    heads = [torch.zeros(one.numel(), dtype=torch.float64) for one in scores.heads]
    return Masks(heads, [torch.zeros(one.numel(), dtype=torch.float64) for one in scores.neurons])


def everything(model: Any) -> Masks:
    """Return masks that keep all of a model."""
    import torch

    from compress.steps.importance.gates import layout_of

    layout = layout_of(model)
    heads = [torch.ones(count, dtype=torch.float64) for count in layout.heads]
    return Masks(heads, [torch.ones(count, dtype=torch.float64) for count in layout.neurons])
