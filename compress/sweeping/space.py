"""The search space of a study, in the syntax of a sweep: ``a,b``, ``range(1,5)``, ``tag(log,interval(0.1,1))``."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

__all__ = ["Parameter", "Space", "space_of"]

_ENUMERABLE = 10_000
"""Points up to which a finite space is listed to find one that was not tried."""


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space.

    Attributes
    ----------
    key : str
        What is overridden.
    values : tuple
        Every value of a finite dimension, in order: strings of a choice, numbers of a range.
    low, high : float or int or None
        Ends of an interval.
    log : bool
        Whether an interval is drawn on a logarithmic scale.
    """

    key: str
    values: tuple[str | int | float, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether an interval holds integers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.values:
            return len(self.values)
        assert self.low is not None
        assert self.high is not None
        return self.high - self.low + 1 if self.whole else math.inf

    def samples(self) -> list[str | int | float]:
        """Return values whose being allowed makes all allowed: each choice, the ends of a range."""
        if self.values:
            return list(self.values) if isinstance(self.values[0], str) else [self.values[0], self.values[-1]]
        assert self.low is not None
        assert self.high is not None
        return [self.low, self.high]

    def listed(self) -> Sequence[str | int | float]:
        """Return every value of a finite dimension."""
        if self.values:
            return self.values
        assert self.whole
        return range(int(self.low or 0), int(self.high or 0) + 1)

    def line(self, value: Any) -> str:
        """Return the override that gives a value."""
        if self.values and not isinstance(self.values[0], str):
            value = min(self.values, key=lambda known: abs(float(known) - value))  # binary fractions of a step
        return f"{self.key}={value}"

    def distribution(self) -> BaseDistribution:
        """Return the dimension as Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values and isinstance(self.values[0], str):
            return CategoricalDistribution(self.values)
        if self.values:
            numbers = [float(value) for value in self.values if not isinstance(value, str)]
            step = numbers[1] - numbers[0] if len(numbers) > 1 else 1.0
            if all(isinstance(value, int) for value in self.values):
                return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(step))
            return FloatDistribution(numbers[0], numbers[0] + step * (len(numbers) - 1), step=step)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        if self.values and isinstance(self.values[0], str):
            return f"{self.key}: {', '.join(map(str, self.values))}"
        if self.values:
            return f"{self.key}: {self.values[0]} to {self.values[-1]}, {len(self.values)} values"
        kind = "whole numbers" if self.whole else "real numbers"
        return f"{self.key}: {kind} from {self.low} to {self.high}{', log scale' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """What a study varies, and what it does not.

    Attributes
    ----------
    parameters : tuple of Parameter
        In the order given.
    fixed : tuple of str
        Overrides that every trial has.
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]

    @property
    def size(self) -> float:
        """How many points there are."""
        return math.prod(parameter.size for parameter in self.parameters)

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a point."""
        return [*self.fixed, *self.point(values)]

    def point(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what tells a point from others."""
        return tuple(parameter.line(values[parameter.key]) for parameter in self.parameters)

    def first(self) -> dict[str, Any]:
        """Return a point: the first value of each parameter."""
        return {parameter.key: parameter.samples()[0] for parameter in self.parameters}

    def untried(self, tried: Collection[tuple[str, ...]], generator: random.Random) -> dict[str, Any] | None:
        """Return a random point of a finite space that is not among those tried (by `point`), if one is found."""
        if not math.isfinite(self.size):
            return None
        dimensions = [parameter.listed() for parameter in self.parameters]
        points: Iterable[tuple[Any, ...]]
        if self.size <= _ENUMERABLE:
            points = itertools.product(*dimensions)
        else:
            points = (tuple(generator.choice(values) for values in dimensions) for _ in range(100))
        keys = [parameter.key for parameter in self.parameters]
        left = [found for values in points if self.point(found := dict(zip(keys, values, strict=True))) not in tried]
        return generator.choice(left) if left else None


def space_of(overrides: Sequence[Override]) -> Space:
    """Divide parsed overrides into what is searched and what is fixed; of two of the same key the later holds.

    Raises
    ------
    ConfigError
        For a sweep that is empty or out of bounds, or if nothing is searched.
    """
    last = {override.get_key_element(): override for override in overrides}
    parameters = tuple(_parameter(key, item) for key, item in last.items() if item.is_sweep_override())
    fixed = tuple(
        str(item.input_line) if item.is_delete() else f"{key}={item.get_value_element_as_str()}"
        for key, item in last.items()
        if not item.is_sweep_override()
    )
    if not parameters:
        raise ConfigError(
            "hydra/sweeper=optuna: nothing to search; give at least one key a range of values, as "
            "'distill.student.layers=range(1,5)' or 'distill.learning_rate=tag(log,interval(1e-5,1e-3))'"
        )
    return Space(parameters, fixed)


def _parameter(key: str, override: Override) -> Parameter:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        assert low is not None
        assert high is not None
        if not low < high:
            raise ConfigError(f"{override.input_line}: the first end of an interval must be below the second")
        if log and low <= 0:
            raise ConfigError(f"{override.input_line}: a logarithmic interval must lie above 0")
        return Parameter(key, low=low, high=high, log=log)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        # 0.1 added up three times is 0.30000000000000004.
        values: tuple[str | int | float, ...] = tuple(n if isinstance(n, int) else float(f"{n:.12g}") for n in numbers)
    else:
        values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise ConfigError(f"{override.input_line}: holds no value")
    return Parameter(key, values)
