"""Which heads and neurons to keep under a budget, from Fisher information alone (Kwon et al., arXiv 2204.09656)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import ConfigError
from compress.steps.importance.kept import Masks, top_mask
from compress.steps.importance.scores import Costs, Scores

if TYPE_CHECKING:
    import torch

    from compress.steps.importance.gradients import GateGradients

__all__ = ["rearrange", "removal_losses", "search_masks"]


def search_masks(scores: Scores, costs: Costs, budget: float) -> Masks:
    """Return the masks under a budget that lose the least score: algorithm 1 of Kwon et al.

    For every number of heads, those with the highest scores are kept and what is left of the budget buys the neurons
    with the highest scores. Optimal, as a head costs the same in every layer and so does a neuron.

    Parameters
    ----------
    scores
        In units of the loss, the diagonal Fisher information for instance.
    costs
        Of one head and one neuron.
    budget
        What the kept structures may cost together, in the unit of `costs`.

    Raises
    ------
    ConfigError
        The scores cannot be summed over kinds and layers, or the budget is negative.
    """
    import torch

    if scores.unit != "loss":
        raise ConfigError("mask search sums scores of heads and neurons; use a criterion in units of the loss: fisher")
    if budget < 0:
        raise ConfigError(f"pruning to a cost of {budget:g}: a budget is 0 or more")
    heads, neurons = torch.cat(scores.heads), torch.cat(scores.neurons)
    kept_heads, kept_neurons = (
        torch.cat([torch.zeros(1, dtype=torch.float64), one.sort(descending=True).values.cumsum(0)])
        for one in (heads, neurons)
    )
    best, most = (0, 0), -1.0
    for count in range(heads.numel() + 1):
        left = budget * (1 + 1e-12) - count * costs.head
        if left < 0:
            break
        room = min(neurons.numel(), int(left // costs.neuron))
        value = float(kept_heads[count] + kept_neurons[room])
        if value > most:
            best, most = (count, room), value
    return Masks(_split(top_mask(heads, best[0]), scores.heads), _split(top_mask(neurons, best[1]), scores.neurons))


def removal_losses(scores: Scores) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the score that is lost when so many structures of a layer are kept, the highest ones.

    Returns
    -------
    tuple of list of torch.Tensor
        For heads and for neurons, per layer, ``[structures + 1]``: entry k is the sum of all but the k highest scores.
        With measured costs of each number, what a search over both chooses from. Scores without a common unit are
        `normalized` first.
    """
    import torch

    def losses(one: torch.Tensor) -> torch.Tensor:
        lost = one.sort().values.cumsum(0).flip(0)
        return torch.cat([lost, torch.zeros(1, dtype=lost.dtype)])

    units = scores.normalized() if scores.unit == "own" else scores
    return [losses(one) for one in units.heads], [losses(one) for one in units.neurons]


def rearrange(masks: Masks, gradients: GateGradients) -> Masks:
    """Swap removed for kept structures within a layer, interactions counted (equations 9 and 10 of Kwon et al.).

    Minimises ``(1 - m)^T F (1 - m)`` with F the Fisher information of one layer's heads, or neurons, at a fixed number
    of removed ones: greedily, each kept structure joins the removed ones in order of its own information and the one
    whose return lowers the sum most comes back.

    Parameters
    ----------
    masks
        Of zeros and ones.
    gradients
        Of each example, from `gate_gradients`.
    """
    return Masks(
        [_swap(mask, one) for mask, one in zip(masks.heads, gradients.heads, strict=True)],
        [_swap(mask, one) for mask, one in zip(masks.neurons, gradients.neurons, strict=True)],
    )


def _swap(mask: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    import torch

    removed = int((mask == 0).sum())
    if removed in (0, mask.numel()):
        return mask.clone()
    examples = gradients.double()
    fisher = examples.T @ examples / max(1, len(examples))
    own = fisher.diagonal().clone()
    order = torch.sort(own, stable=True).indices.tolist()
    gone = torch.zeros(mask.numel(), dtype=torch.bool)
    gone[order[:removed]] = True
    pull = fisher[:, gone].sum(1)  # F (1 - m)
    for index in order[removed:]:
        gone[index] = True
        pull += fisher[:, index]
        # (1 - m)^T F (1 - m) falls by 2 pull_i - F_ii when i comes back.
        gain = torch.where(gone, 2 * pull - own, torch.full_like(own, -torch.inf))
        back = int(gain.argmax())
        gone[back] = False
        pull -= fisher[:, back]
    return (~gone).double()


def _split(mask: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    import torch

    return list(torch.split(mask, [one.numel() for one in like]))
