"""One cut: layers, hidden width, heads and neurons go until a point on the way to the target is reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.steps.drawing import drawn_rows
from compress.steps.prune.choose import (
    Counts,
    check_ratio_reach,
    check_reach,
    copy_of,
    counts_within,
    counts_within_ratio,
    judge_of,
    losses_of,
)
from compress.steps.prune.cost import Cost, budget_of
from compress.steps.prune.measured import Stopwatch
from compress.steps.prune.targets import (
    MEASURED,
    asked,
    between,
    check_length,
    hidden_left,
    layers_left,
    nearest_target,
    plain_targets,
    shape_of,
)

if TYPE_CHECKING:
    from types import TracebackType

    from compress.config.schemas import Prune
    from compress.models.structure import Structure
    from compress.steps.base import Context
    from compress.steps.prune.choose import Judge, Losses
    from compress.steps.prune.cost import LinearCost
    from compress.tasks.base import Features

__all__ = ["Cutter"]

log = logging.getLogger(__name__)

_SHARES = (0.05, 0.95)
"""Between these lies the share that gates are learned down to."""


@dataclass(frozen=True)
class Goal:
    """What a cut may leave, in the unit of its target.

    Attributes
    ----------
    name, value
        The target, as it is given.
    cost
        Of structures of the model that is cut.
    budget : float
        What the whole model may cost after the cut.
    end : float
        What it may cost after the last one.
    whole : float
        What the reference costs.
    reach
        From the cost of the smallest structure to the target that would be just reached.
    """

    name: str
    value: float
    cost: Cost
    budget: float
    end: float
    whole: float
    reach: Callable[[float], str]

    def share(self, heads: Sequence[int], neurons: Sequence[int]) -> float:
        """Return the share of the cost of heads and neurons that stays, from a structure on."""
        fixed = self.cost.rest + self.cost.layer * len(heads)
        whole = self.cost.total(heads, neurons) - fixed
        return (self.budget - fixed) / whole if whole > 0 else 1.0


class Cutter:
    """Cuts models on their way from a step's source to its target.

    Parameters
    ----------
    source
        The model that the step reads; not changed.
    reference
        The model that the target is relative to; not changed.
    tokenizer
        Of the source.
    config, context
        Of the step.

    Raises
    ------
    ConfigError
        If the target's shape has more tokens than a model has positions.
    """

    def __init__(self, source: Any, reference: Any, tokenizer: Any, config: Prune, context: Context) -> None:
        from compress.models.examples import usable_positions
        from compress.models.structure import structure_of
        from compress.training.loop import task_loss

        for model in (source, reference):  # the vocabulary step may have cut the table
            check_length(config.target, usable_positions(model))
        self.config, self.context = config, context
        self.features, self.batches = _calibration(tokenizer, config, context)
        self._models = source, reference
        self._source: Structure = structure_of(source)
        self._loss = task_loss(context.task)
        self._opened = ExitStack()
        self._watch: Stopwatch | None = None

    def cut(self, model: Any, layers: Sequence[int], progress: float = 1.0) -> tuple[Any, list[int], dict[str, Any]]:
        """Return a smaller model, the source's layers that are left in it, and facts.

        Parameters
        ----------
        model
            The source, or what earlier cuts left of it; not changed.
        layers
            The source's layers that are left in it.
        progress
            Share of the way from source to target, on a geometric path.

        Raises
        ------
        ConfigError
            If the target is out of reach.
        StepError
            If the model that was cut is not the one that was masked.
        """
        from compress.models.checking import compared_cut
        from compress.models.surgery import Cut
        from compress.steps.prune.whole_parts import hidden_to_drop, layers_to_keep

        config, target, stay = self.config, self.config.target, list(layers)
        facts: dict[str, Any] = {}
        left = layers_left(target, self._source.layers, progress)
        if left < len(stay):
            kept = layers_to_keep(model, left, self.batches, self._loss)
            model, stay = compared_cut(model, Cut(layers=kept)), [stay[place] for place in kept]
        if len(stay) < self._source.layers:
            facts["layers"] = stay
        width = _structure(model).hidden_size
        left = hidden_left(target, self._source.hidden_size, config.multiple, progress)
        if left < width:
            gone = hidden_to_drop(model, width - left, self.batches, self._loss)
            model = compared_cut(model, Cut(hidden=gone))
        if target.ratio.heads or target.ratio.neurons or asked(target) is not None:
            model, met = self._narrowed(model, stay, progress)
            facts |= met
        sizes = _structure(model)
        return model, stay, {**facts, "heads": list(sizes.heads), "neurons": list(sizes.intermediate_size)}

    def _narrowed(self, model: Any, layers: Sequence[int], progress: float) -> tuple[Any, dict[str, Any]]:
        """Return the model with fewer heads and neurons."""
        config, ratio, sizes = self.config, self.config.target.ratio, _structure(model)
        goal = self._goal(model, progress)
        ratios = {"heads": ratio.heads, "neurons": ratio.neurons}
        wholes = {
            "heads": sum(self._source.heads[layer] for layer in layers),
            "neurons": sum(self._source.intermediate_size[layer] for layer in layers),
        }
        # Not only in the last of many rounds, nor after importance has been computed.
        if goal is not None:
            check_reach(
                model, config, goal.cost, goal.end, target=f"target.{goal.name}={goal.value:g}", reach=goal.reach
            )
        elif len(layers) == layers_left(config.target, self._source.layers):
            check_ratio_reach(model, config, ratios, wholes)
        if goal is None:
            given = [one for one in (ratio.heads, ratio.neurons) if one]
            share = sum(1 - one for one in given) / len(given)
        else:
            share = goal.share(sizes.heads, sizes.intermediate_size)
        share = min(max(share, _SHARES[0]), _SHARES[1])
        losses = losses_of(model, config, self.batches, self._loss, self.context.seed, share)
        judge = judge_of(model, losses, self.batches, self._loss) if config.allocation == "reweighted" else None
        if goal is None:
            counts = counts_within_ratio(losses, ratios, wholes, config.allocation, progress, judge)
            return _with(model, losses, counts), {}
        counts, facts = self._met(losses, goal, progress, judge)
        return _with(model, losses, counts), facts

    def _goal(self, model: Any, progress: float) -> Goal | None:
        """Return what heads and neurons of a model cost, and what all of it may cost after the cut; None for ratios."""
        given = asked(self.config.target)
        if given is None:
            return None
        name, value = given
        start: float
        if name in MEASURED:
            watch = self._stopwatch()
            cost: Cost = watch.table()
            whole = watch.reference_ms()
            start = cost.total(self._source.heads, self._source.intermediate_size)
        else:
            source, reference = (_counted(one, name, self.config) for one in self._models)
            cost = _linear_cost(model, name, self.config)
            start, whole = source, reference

        def reach(least: float) -> str:
            return nearest_target(name, least, whole)

        end = budget_of(plain_targets(self.config.target), whole)
        return Goal(name, value, cost, between(start, end, progress), end, whole, reach)

    def _met(self, losses: Losses, goal: Goal, progress: float, judge: Judge | None) -> tuple[Counts, dict[str, Any]]:
        """Return the heads and neurons that stay per layer, and facts of how the goal was met."""
        name, value = goal.name, goal.value

        def find(budget: float) -> Counts:
            return counts_within(
                losses,
                goal.cost,
                budget,
                self.config.allocation,
                target=f"target.{name}={value:g}",
                reach=goal.reach,
                judge=judge,
            )

        def predicted(counts: Counts) -> float:
            return goal.cost.total([pair[0] for pair in counts], [pair[1] for pair in counts])

        if name not in MEASURED:
            counts = find(goal.budget)
            return counts, {"target": name, "share": round(predicted(counts) / goal.whole, 6)}
        if progress < 1:  # what counts is measured at the end
            counts = find(goal.budget)
            return counts, {"target": name, "predicted_ms": round(predicted(counts), 4)}
        return self._timed(find, predicted, goal)

    def _timed(
        self, find: Callable[[float], Counts], predicted: Callable[[Counts], float], goal: Goal
    ) -> tuple[Counts, dict[str, Any]]:
        """Time what the search found, and correct the budget where it missed."""
        from compress.steps.prune.search import meet

        watch = self._stopwatch()
        met = meet(
            goal.budget,
            find,
            predicted,
            lambda counts: goal.whole * watch.ratio(counts),
            tolerance=self.config.target.tolerance,
        )
        speedup = goal.whole / met.measured
        log.info(
            "%s: %.3f ms, %.2fx, for %s=%g (the reference takes %.3f ms)",
            *(self.context.name, met.measured, speedup, goal.name, goal.value, goal.whole),
        )
        if not met.met:
            log.warning(
                "%s: %s=%g is missed by %.1f%% after %d attempts; the nearest structure is kept (prune.multiple and "
                "prune.target.tolerance say how near one can come)",
                *(self.context.name, goal.name, goal.value, 100 * abs(met.measured / goal.budget - 1), len(met.tried)),
            )
        return met.structure, {
            "target": goal.name,
            "asked": goal.value,
            "reference_ms": round(goal.whole, 4),
            "predicted_ms": round(met.predicted, 4),
            "measured_ms": round(met.measured, 4),
            "speedup": round(speedup, 3),
            "attempts": len(met.tried),
            "met": met.met,
        }

    def _stopwatch(self) -> Stopwatch:
        if self._watch is None:
            made = Stopwatch(*self._models, self.features, self.config, self.context)
            self._watch = self._opened.enter_context(made)
        return self._watch

    def __enter__(self) -> Cutter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def _structure(model: Any) -> Structure:
    from compress.models.checking import check

    return check(model)


def _calibration(tokenizer: Any, config: Prune, context: Context) -> tuple[Features, list[Any]]:
    """Return some training rows, tokenized, and batches of them of similar length."""
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches

    features = context.task.encode(drawn_rows(context, config.calibration_rows), tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    lengths = [len(row["input_ids"]) for row in features.inputs]
    return features, [collate(rows) for rows in sorted_batches(lengths, config.batch_size)]


def _counted(model: Any, name: str, config: Prune) -> float:
    """Return the parameters, multiply-accumulates or bytes of a model."""
    from compress.benchmark.size import macs_of_torch

    if name == "macs":
        return float(macs_of_torch(model, *shape_of(config.target), ("input_ids", "attention_mask")))
    numbers = sum(tensor.numel() for tensor in model.parameters())
    return float(numbers if name == "params" else 4 * numbers)


def _linear_cost(model: Any, name: str, config: Prune) -> LinearCost:
    """Return what heads and neurons cost in parameters, multiply-accumulates or bytes; the rest is the model's own."""
    from compress.models.families import family
    from compress.models.structure import structure_of
    from compress.steps.prune.cost import byte_cost, mac_cost, parameter_cost, with_rest

    structure = structure_of(model)
    assert structure.head_size is not None
    gated = len(family(model.config.model_type).ffn_inputs) > 1
    sizes = (structure.hidden_size, structure.head_size)
    if name == "macs":
        cost = mac_cost(*sizes, *shape_of(config.target), gated=gated)
    else:
        cost = parameter_cost(*sizes, gated=gated) if name == "params" else byte_cost(*sizes, "fp32", gated=gated)
    return with_rest(cost, _counted(model, name, config), structure.heads, structure.intermediate_size)


def _with(model: Any, losses: Losses, counts: Counts) -> Any:
    """Return the model with so many heads and neurons per layer."""
    from compress.models.checking import compared_cut
    from compress.models.surgery import Cut

    work = copy_of(model)
    kept = losses.apply(work, counts)
    gone = [
        {
            layer: sorted(set(range(most)) - set(stay[place].tolist()))
            for layer, (stay, most) in enumerate(zip(kept, dense, strict=True))
        }
        for place, dense in enumerate(([max(one) for one in losses.heads], [max(one) for one in losses.neurons]))
    ]
    return compared_cut(work, Cut(heads=gone[0], neurons=gone[1]))
