"""What a study wants: figures of record.json that shall go up or down, and the front of runs that none beats in all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import ConfigError, DataError

__all__ = ["Objective", "front_of", "objectives_of"]

_PLACES = {
    "p50_ms": "latency.0.p50_ms",
    "p95_ms": "latency.0.p95_ms",
    "weights_bytes": "size.weights_bytes",
    "macs": "size.macs",
    "speedup": "comparison.speedup.0.value",
    "size_ratio": "comparison.size_ratio",
    "peak_rss_bytes": "memory.peak_rss_bytes",
}
"""Names for figures of the artifact; those of latency are at the first shape."""

_ALLOWED = (
    *("validation_metrics", "latency", "memory", "size", "cold_start"),
    *("comparison.speedup", "comparison.size_ratio", "comparison.memory_ratio", "comparison.validation_difference"),
)


@dataclass(frozen=True)
class Objective:
    """One figure.

    Attributes
    ----------
    name : str
        As given.
    up : bool
        Whether more is better.
    """

    name: str
    up: bool

    @property
    def direction(self) -> str:
        """As Optuna names it."""
        return "maximize" if self.up else "minimize"

    def value(self, record: Mapping[str, Any]) -> float:
        """Return the figure of a record's artifact.

        Raises
        ------
        DataError
            If it was not measured.
        """
        place = _PLACES.get(self.name, self.name)
        if place == "validation_metric":
            place = f"validation_metrics.{record['metric']['name']}"
        found: Any = {**record["variants"][record["candidate"]], "comparison": record["comparison"]}
        for part in place.split("."):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise DataError(f"hydra.sweeper.objectives: {self.name} is not in the record") from None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise DataError(f"hydra.sweeper.objectives: {self.name} is {found!r} in the record, not a number")
        return float(found)


def objectives_of(texts: Sequence[str]) -> tuple[Objective, ...]:
    """Read objectives as ``+validation_metric`` (up) and ``-p50_ms`` (down).

    Raises
    ------
    ConfigError
        For one without a sign, an unknown one, one twice, or one of the test split, which chooses nothing.
    """
    names = ("validation_metric", *_PLACES)
    found = []
    for text in texts:
        sign, name = text[:1], text[1:].strip()
        if sign not in ("+", "-") or not name:
            raise ConfigError(
                f"hydra.sweeper.objectives: {text!r} needs a sign: +{text} to go up or -{text} to go down"
            )
        place = _PLACES.get(name, name)
        if re.match(r"(metrics|report|comparison\.(metric|mcnemar|agreement))", place):
            raise ConfigError(
                f"hydra.sweeper.objectives: {name} is of the test split, which chooses nothing; "
                f"use validation_metric or validation_metrics.NAME"
            )
        if name != "validation_metric" and not any(place == key or place.startswith(f"{key}.") for key in _ALLOWED):
            raise ConfigError(
                f"hydra.sweeper.objectives: {name} is unknown; there are {', '.join(names)} and places in the "
                f"artifact's part of record.json, as latency.1.p95_ms"
            )
        found.append(Objective(name, sign == "+"))
    if not found:
        raise ConfigError("hydra.sweeper.objectives=[]: at least one objective is needed")
    if len({objective.name for objective in found}) < len(found):
        raise ConfigError(f"hydra.sweeper.objectives={list(texts)}: one stands there twice")
    return tuple(found)


def front_of(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[bool]:
    """Return which points no other point beats: at least as good in all objectives and better in one."""
    signed = [
        [value if objective.up else -value for value, objective in zip(point, objectives, strict=True)]
        for point in points
    ]

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)

    return [not any(beats(other, point) for other in signed) for point in signed]
