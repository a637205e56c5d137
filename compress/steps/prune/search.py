"""Choose a level per block: the least error that a budget allows, exactly, and correct what was predicted wrongly.

A block is whatever is decided by itself: the heads of a layer, its feed-forward width, or both at once. Its levels
each have a cost, in the unit of the budget, and an error, which adds up over blocks.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from compress.errors import ConfigError

__all__ = [
    "ALLOCATIONS",
    "Level",
    "Met",
    "Reweighted",
    "allocate",
    "check_reach",
    "exact",
    "lagrangian",
    "least_cost",
    "meet",
    "reweighted",
    "threshold",
    "total_cost",
    "total_error",
    "uniform",
    "useful",
]

log = logging.getLogger(__name__)

_STATES = 100_000
"""Partial choices that `exact` tells apart; beyond, those of nearly the same cost are one. Met only where costs and
errors are proportional and costs are no multiples of one number."""

_SLACK = 1e-9
"""Relative. Sums of floats in different orders differ by less."""


@dataclass(frozen=True)
class Level:
    """One possibility for a block.

    Attributes
    ----------
    name : hashable
        What is meant, e.g. 8 heads, or 8 heads and a width of 512 as ``(8, 512)``.
    cost : float
        What it takes of the budget, at least 0.
    error : float
        What it loses, of any sign.
    size : float
        Share of the block that is left, 0 to 1; `uniform` alone reads it.
    """

    name: Hashable
    cost: float
    error: float
    size: float = 1.0


Block = Sequence[Level]
Choice = tuple[int, ...]
"""Number of the level chosen for each block."""


def total_cost(blocks: Sequence[Block], choice: Choice) -> float:
    """Return what a choice costs."""
    return math.fsum(block[level].cost for block, level in zip(blocks, choice, strict=True))


def total_error(blocks: Sequence[Block], choice: Choice) -> float:
    """Return what a choice loses."""
    return math.fsum(block[level].error for block, level in zip(blocks, choice, strict=True))


def useful(block: Block) -> list[Level]:
    """Return the levels that no other beats in both cost and error, from the dearest to the cheapest.

    A width that runs slower than a larger one is among those that go: nothing would ever choose it.
    """
    kept: list[Level] = []
    for level in sorted(block, key=lambda level: (level.cost, level.error, -level.size)):
        if not kept or level.error < kept[-1].error:
            kept.append(level)
    return kept[::-1]


def least_cost(blocks: Sequence[Block]) -> float:
    """Return the cost of the cheapest choice."""
    return math.fsum(min(level.cost for level in block) for block in blocks)


def allocate(
    blocks: Sequence[Block],
    budget: float,
    allocation: str = "search",
    *,
    target: str = "budget",
    fixed: float = 0.0,
    reach: Callable[[float], str] | None = None,
    judge: Callable[[Choice], float] | None = None,
) -> Choice:
    """Choose a level for each block within a budget.

    Parameters
    ----------
    blocks
        Levels of each block; at least one each.
    budget
        What everything together may cost.
    allocation
        One of `ALLOCATIONS`: ``search`` is optimal; ``lagrangian`` nearly, and its time hardly grows with the number
        of blocks; ``global`` removes whatever loses least for what it saves, as one threshold for all blocks does;
        ``uniform`` leaves the same share of every block. Or ``reweighted``, see there.
    target
        What set the budget, e.g. ``target.speedup=4``, for the message.
    fixed
        What is spent whatever is chosen (embeddings, head); part of the budget.
    reach
        From the cost of the cheapest structure to the target that would be just reached, for the message.
    judge
        Returns the loss of a choice; ``reweighted`` alone asks it.

    Returns
    -------
    tuple of int
        Number of the level chosen for each block.

    Raises
    ------
    ConfigError
        If even the cheapest choice is dearer: names the nearest that can be reached.
    """
    if allocation not in ALLOCATIONS and (allocation != "reweighted" or judge is None):
        raise ConfigError(f"allocation={allocation!r}: choose one of {', '.join(ALLOCATIONS)}")
    check_reach(blocks, budget, target=target, fixed=fixed, reach=reach)
    if allocation in ALLOCATIONS:
        return ALLOCATIONS[allocation](blocks, budget - fixed)
    assert judge is not None
    found = reweighted(blocks, budget - fixed, judge)
    log.info(
        "%d structures tried: loss %.4f, that of the plain search %.4f", found.judged, found.loss, found.plain_loss
    )
    return found.choice


def check_reach(
    blocks: Sequence[Block],
    budget: float,
    *,
    target: str = "budget",
    fixed: float = 0.0,
    reach: Callable[[float], str] | None = None,
) -> None:
    """Refuse a budget that even the cheapest choice exceeds; parameters and error as of `allocate`, errors unread."""
    least = least_cost(blocks) + fixed
    if least > budget * (1 + _SLACK):
        nearest = f"{least:.4g}" if reach is None else reach(least)
        raise ConfigError(
            f"{target} is out of reach: the smallest structure that the levels allow costs {least:.4g}, the target "
            f"leaves {budget:.4g}; the nearest that can be reached is {nearest}. Ask for that, or allow smaller levels "
            f"(fewer heads, narrower widths, fewer layers)"
        )


def exact(blocks: Sequence[Block], budget: float) -> Choice:
    """Return the choice of least total error within a budget, by dynamic programming.

    The multiple-choice knapsack of ZipLM (arXiv 2302.04089, section 3.2) and SPDY (arXiv 2201.13096, section 3.1),
    without rounding costs: partial choices are kept sorted by cost, those dearer than another of no more error go
    (Nemhauser and Ullmann 1969), and so do those that cannot end better than what is found already, by the bound
    ``Σ_b min_l (e_bl + λ c_bl) - λ · budget`` over the blocks to come, at the multiplier that makes it tightest.

    Raises
    ------
    ConfigError
        If no choice is within the budget.
    """
    budget = _affordable(blocks, budget)
    multiplier, best = _relaxed(blocks, budget)
    known = total_error(blocks, best)
    costs = [np.array([level.cost for level in block]) for block in blocks]
    errors = [np.array([level.error for level in block]) for block in blocks]
    ahead_cost = _suffix_sums([cost.min() for cost in costs])
    ahead_bound = _suffix_sums([(error + multiplier * cost).min() for cost, error in zip(costs, errors, strict=True)])
    allowed = known + _SLACK * (abs(known) + sum(float(np.abs(error).max()) for error in errors))
    cost, error = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (levels, losses) in enumerate(zip(costs, errors, strict=True)):
        sums = (cost[:, None] + levels).ravel()
        lost = (error[:, None] + losses).ravel()
        bound = lost + ahead_bound[number + 1] - multiplier * (budget - sums)
        open_ = np.flatnonzero((sums + ahead_cost[number + 1] <= budget) & (bound <= allowed))
        order = open_[np.lexsort((lost[open_], sums[open_]))]
        before = np.concatenate([[np.inf], np.minimum.accumulate(lost[order])[:-1]])
        order = _thinned(order[lost[order] < before], sums, budget)
        steps.append((order // len(levels), order % len(levels)))
        cost, error = sums[order], lost[order]
    if len(error) == 0:  # the relaxation's own choice was the best, and rounding of sums cut its path
        return best
    at, choice = int(np.argmin(error)), []
    for parents, chosen in reversed(steps):
        choice.append(int(chosen[at]))
        at = int(parents[at])
    found = tuple(reversed(choice))
    return found if total_error(blocks, found) <= known else best


def _suffix_sums(values: Sequence[float]) -> np.ndarray:
    """Return for each position the sum of the values from there on, and 0 at the end."""
    sums: np.ndarray = np.append(np.cumsum(np.asarray(values, dtype=np.float64)[::-1])[::-1], 0.0)
    return sums


def _thinned(order: np.ndarray, sums: np.ndarray, budget: float) -> np.ndarray:
    """Return at most `_STATES` partial choices, of those of nearly the same cost the one of least error."""
    if len(order) <= _STATES:
        return order
    buckets = np.floor(sums[order] / budget * _STATES)
    last = np.append(buckets[1:] != buckets[:-1], True)  # sorted by cost, and errors fall as costs rise
    thinned: np.ndarray = order[last]
    return thinned


def lagrangian(blocks: Sequence[Block], budget: float) -> Choice:
    """Return a choice of nearly the least error: ``argmin_l e_bl + λ c_bl`` per block, at the least λ that fits.

    What is left of the budget then goes step by step to whatever gains most for its cost (Shoham and Gersho 1988). Its
    error is above the optimum by no more than one step of one block would gain.

    Raises
    ------
    ConfigError
        If no choice is within the budget.
    """
    return _relaxed(blocks, _affordable(blocks, budget))[1]


def _relaxed(blocks: Sequence[Block], budget: float) -> tuple[float, Choice]:
    """Return the multiplier of the tightest bound, and a choice within the budget made from it."""
    hulls = [_hull(block) for block in blocks]
    choice = [hull[0] for hull in hulls]
    spent = total_cost(blocks, tuple(choice))
    slopes: list[tuple[float, int, int]] = []
    for number, (block, hull) in enumerate(zip(blocks, hulls, strict=True)):
        for place, (cheap, dear) in enumerate(itertools.pairwise(hull)):
            gain = block[cheap].error - block[dear].error
            slopes.append((-gain / (block[dear].cost - block[cheap].cost), number, place + 1))
    multiplier = 0.0
    for slope, number, place in sorted(slopes):
        dear = hulls[number][place]
        more = blocks[number][dear].cost - blocks[number][choice[number]].cost
        if spent + more > budget:
            multiplier = -slope
            break
        choice[number] = dear
        spent += more
    return multiplier, _filled(blocks, choice, budget)


def _hull(block: Block) -> list[int]:
    """Return the levels on the lower convex hull of error over cost, from the cheapest on, errors falling."""
    hull: list[int] = []
    for at in sorted(range(len(block)), key=lambda at: (block[at].cost, block[at].error)):
        point = block[at]
        if hull and point.error >= block[hull[-1]].error:
            continue
        while len(hull) > 1:
            a, b = block[hull[-2]], block[hull[-1]]
            if (b.error - a.error) * (point.cost - a.cost) < (point.error - a.error) * (b.cost - a.cost):
                break
            hull.pop()
        if hull and point.cost == block[hull[-1]].cost:
            continue
        hull.append(at)
    return hull


def _filled(blocks: Sequence[Block], choice: Sequence[int], budget: float) -> Choice:
    """Spend what is left of a budget, each time on the step that gains most for its cost."""
    filled = list(choice)
    left = budget - total_cost(blocks, tuple(filled))
    while True:
        best: tuple[float, int, int] | None = None
        for number, block in enumerate(blocks):
            now = block[filled[number]]
            for at, level in enumerate(block):
                more, gain = level.cost - now.cost, now.error - level.error
                if gain > 0 and more <= left:
                    worth = gain / more if more > 0 else math.inf
                    if best is None or worth > best[0]:
                        best = worth, number, at
        if best is None:
            return tuple(filled)
        _, number, at = best
        left -= blocks[number][at].cost - blocks[number][filled[number]].cost
        filled[number] = at


def threshold(blocks: Sequence[Block], budget: float) -> Choice:
    """Return a choice by one threshold for all blocks: remove what loses least for what it saves, until it fits.

    From the level of least error on, each block goes down its levels in order; the next step of all blocks with the
    smallest ``Δerror / Δcost`` is taken. It never goes back, nor looks past a step, as `exact` does.

    Raises
    ------
    ConfigError
        If no choice is within the budget.
    """
    budget = _affordable(blocks, budget)
    ladders = [sorted(_front(block), key=lambda at, b=block: -b[at].cost) for block in blocks]  # type: ignore[misc]
    place = [0] * len(blocks)
    spent = math.fsum(block[ladder[0]].cost for block, ladder in zip(blocks, ladders, strict=True))
    while spent > budget:
        steps = []
        for number, (block, ladder) in enumerate(zip(blocks, ladders, strict=True)):
            if place[number] + 1 < len(ladder):
                now, then = block[ladder[place[number]]], block[ladder[place[number] + 1]]
                steps.append(((then.error - now.error) / (now.cost - then.cost), number))
        _, number = min(steps)
        place[number] += 1
        spent = total_cost(blocks, tuple(ladder[at] for ladder, at in zip(ladders, place, strict=True)))
    return tuple(ladder[at] for ladder, at in zip(ladders, place, strict=True))


def _front(block: Block) -> list[int]:
    """Return the numbers of the levels that `useful` keeps."""
    kept: list[int] = []
    for at in sorted(range(len(block)), key=lambda at: (block[at].cost, block[at].error)):
        if not kept or block[at].error < block[kept[-1]].error:
            kept.append(at)
    return kept


def uniform(blocks: Sequence[Block], budget: float) -> Choice:
    """Return the choice that leaves the same share of every block, the largest that the budget allows.

    Each block takes its largest level of at most that share, or its smallest one where all are larger.

    Raises
    ------
    ConfigError
        If no such choice is within the budget.
    """
    budget = _affordable(blocks, budget)
    for share in sorted({level.size for block in blocks for level in block}, reverse=True):
        choice = tuple(_at_share(block, share) for block in blocks)
        if total_cost(blocks, choice) <= budget:
            return choice
    raise ConfigError(
        f"allocation=uniform: no one share of all blocks costs {budget:.4g} or less; use allocation=search, or levels "
        f"that every block has"
    )


def _at_share(block: Block, share: float) -> int:
    below = [at for at, level in enumerate(block) if level.size <= share * (1 + _SLACK)]
    if below:
        return max(below, key=lambda at: (block[at].size, -block[at].cost))
    return min(range(len(block)), key=lambda at: (block[at].size, block[at].cost))


def _affordable(blocks: Sequence[Block], budget: float) -> float:
    """Return the budget with room for rounding; raise where nothing fits or a block is none."""
    if any(not block for block in blocks):
        raise ConfigError("a block without levels: nothing can be chosen for it; give it at least the level it has now")
    budget += _SLACK * abs(budget)
    least = least_cost(blocks)
    if least > budget:
        raise ConfigError(f"a budget of {budget:.4g} is out of reach: the cheapest choice costs {least:.4g}")
    return budget


ALLOCATIONS: Mapping[str, Callable[[Sequence[Block], float], Choice]] = {
    "search": exact,
    "lagrangian": lagrangian,
    "global": threshold,
    "uniform": uniform,
}
"""How a budget is divided among blocks."""


@dataclass(frozen=True)
class Reweighted:
    """What a search over the weights of blocks found.

    Attributes
    ----------
    choice : tuple of int
        The level of each block.
    loss : float
        As judged.
    plain_loss : float
        Of the choice that all weights 1 give, where it began.
    weights : tuple of float
        Of each block's errors.
    judged : int
        Choices that were judged.
    """

    choice: Choice
    loss: float
    plain_loss: float
    weights: tuple[float, ...]
    judged: int


def reweighted(
    blocks: Sequence[Block],
    budget: float,
    judge: Callable[[Choice], float],
    *,
    calls: int = 50,
    seed: int = 0,
    spread: float = 0.7,
    share: float = 0.25,
    groups: Sequence[int] | None = None,
) -> Reweighted:
    """Search the weights that blocks' errors should have, by what their best choice loses when it is tried.

    Errors of single blocks do not add up as they should: some layers forgive more than they seem to. So errors are
    multiplied by a weight per block, the optimum for them is found (`exact`) and judged, and random changes of some
    weights that do better are kept: the local search of SPDY (arXiv 2201.13096, section 3.2), from weights of 1 on,
    with changes that grow smaller as calls are spent.

    Parameters
    ----------
    blocks
        Levels of each block.
    budget
        What everything together may cost.
    judge
        Returns the loss of a choice, on data that judges nothing else; smaller is better. A loss that is no number
        counts as infinite. It is asked once for each different choice.
    calls
        How often it may be asked, at least 1.
    seed
        Of the changes.
    spread
        Standard deviation of the logarithm of the factor by which a weight changes at first; a third of it in the end.
    share
        Of the weights that change each time, at least one.
    groups
        A number per block; blocks of the same number share their weight. By default each has its own.

    Raises
    ------
    ConfigError
        If no choice is within the budget, or nothing may be judged.
    """
    if calls < 1:
        raise ConfigError(f"calls={calls}: a search needs to judge at least one choice")
    group = np.arange(len(blocks)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    weights = np.ones(int(group.max()) + 1 if len(blocks) else 0)
    judged: dict[Choice, float] = {}

    def loss_of(choice: Choice) -> float:
        if choice not in judged:
            loss = float(judge(choice))
            judged[choice] = loss if not math.isnan(loss) else math.inf
        return judged[choice]

    best = exact(blocks, budget)
    least = plain = loss_of(best)
    idle = 0
    while len(judged) < calls and idle < 20 * calls and len(blocks):
        step = spread * (1 - 2 / 3 * len(judged) / calls)
        changed = generator.random(len(weights)) < share
        changed[generator.integers(len(weights))] = True
        tried = weights * np.where(changed, np.exp(step * generator.standard_normal(len(weights))), 1.0)
        choice = exact(_weighted(blocks, tried[group]), budget)
        idle = idle + 1 if choice in judged else 0
        if (loss := loss_of(choice)) < least:
            best, least, weights = choice, loss, tried
    return Reweighted(best, least, plain, tuple(float(weight) for weight in weights[group]), len(judged))


def _weighted(blocks: Sequence[Block], weights: np.ndarray) -> list[list[Level]]:
    return [
        [Level(level.name, level.cost, float(weight) * level.error, level.size) for level in block]
        for block, weight in zip(blocks, weights, strict=True)
    ]


Found = TypeVar("Found")


@dataclass(frozen=True)
class Met(Generic[Found]):
    """A structure and how near it came.

    Attributes
    ----------
    structure
        What `find` returned.
    measured : float
        What it costs, measured.
    predicted : float
        What it was predicted to cost.
    met : bool
        Whether the measured cost is within the tolerance of the target.
    tried : tuple of dict
        Of each attempt the ``budget``, ``predicted`` and ``measured``.
    """

    structure: Found
    measured: float
    predicted: float
    met: bool
    tried: tuple[Mapping[str, float], ...]


def meet(
    target: float,
    find: Callable[[float], Found],
    predict: Callable[[Found], float],
    measure: Callable[[Found], float],
    *,
    tolerance: float = 0.03,
    corrections: int = 3,
) -> Met[Found]:
    """Find a structure for a budget, measure it, and correct the budget where it missed.

    Predictions are never quite what is measured in the end. The budget that is given to `find` is corrected by the
    secant through what the two nearest attempts were predicted and measured to cost, the first time through the origin:
    ``budget ← target · predicted / measured``. With equal measurements the result is the same.

    Parameters
    ----------
    target
        What the structure is to cost, in the unit of `measure`: milliseconds. For a speedup the dense model's
        milliseconds divided by it; `measure` then best returns the dense model's milliseconds times the measured
        ratio, which no drift of the machine between two measurements spoils.
    find
        From a budget to a structure, e.g. `allocate`.
    predict
        What a structure is predicted to cost.
    measure
        Measures it end to end.
    tolerance
        Relative distance from the target that is near enough.
    corrections
        How often the budget may be corrected.

    Returns
    -------
    Met
        The attempt nearest to the target.

    Raises
    ------
    ConfigError
        If `find` raises it for the target itself. Where a corrected budget is out of reach, what was found before
        stands.
    """
    attempts: list[tuple[Found, dict[str, float]]] = []
    budget = target
    for attempt in range(corrections + 1):
        try:
            found = find(budget)
        except ConfigError:
            if not attempts:
                raise
            break
        if any(found == before for before, _ in attempts):
            break
        facts = {"budget": budget, "predicted": predict(found), "measured": measure(found)}
        attempts.append((found, facts))
        if abs(facts["measured"] / target - 1) <= tolerance or attempt == corrections:
            break
        budget = _corrected(target, [facts for _, facts in attempts])
    found, facts = min(attempts, key=lambda tried: abs(math.log(tried[1]["measured"] / target)))
    return Met(
        found,
        facts["measured"],
        facts["predicted"],
        abs(facts["measured"] / target - 1) <= tolerance,
        tuple(facts for _, facts in attempts),
    )


def _corrected(target: float, attempts: Sequence[Mapping[str, Any]]) -> float:
    """Return the prediction at which the target would be measured, by the secant of the two attempts nearest to it."""
    nearest = sorted(attempts, key=lambda facts: abs(math.log(facts["measured"] / target)))
    last = nearest[0]
    if len(attempts) > 1:
        before = nearest[1]
        rise = last["measured"] - before["measured"]
        run = last["predicted"] - before["predicted"]
        if rise * run > 0:
            corrected = float(last["predicted"] + (target - last["measured"]) * run / rise)
            if corrected > 0:
                return corrected
    return float(target * last["predicted"] / last["measured"])
