"""What a target asks for, before any model is read, and what of it is due after each round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compress.config.shapes import expand
from compress.errors import ConfigError
from compress.steps.prune.cost import share_of

if TYPE_CHECKING:
    from compress.config.schemas import PruneTarget

__all__ = [
    "MEASURED",
    "asked",
    "between",
    "check_length",
    "check_target",
    "hidden_left",
    "layers_left",
    "nearest_ratio",
    "nearest_target",
    "plain_targets",
    "shape_of",
]

RATIOS = ("heads", "neurons", "layers", "hidden")
MEASURED = ("speedup", "latency_ms")
"""Targets that are met by timing."""


def plain_targets(target: PruneTarget) -> dict[str, float | None]:
    """Return every target beside the ratios, by name."""
    return {name: getattr(target, name) for name in ("params", "macs", "size", *MEASURED)}


def asked(target: PruneTarget) -> tuple[str, float] | None:
    """Return the one target that is given and its value; None for ratios.

    Raises
    ------
    ConfigError
        If none or several are given, or the value cannot be.
    """
    plain = plain_targets(target)
    if all(getattr(target.ratio, name) is None for name in RATIOS):
        return share_of(plain)
    given = [f"target.{name}={value:g}" for name, value in plain.items() if value is not None]
    if given:
        name = given[0].partition("=")[0]
        raise ConfigError(
            f"prune: target.ratio and {given[0]} are both set; exactly one target is needed, set {name}=null or the "
            f"ratios to null"
        )
    return None


def shape_of(target: PruneTarget) -> tuple[int, int]:
    """Return the one batch and number of tokens of a target.

    Raises
    ------
    ConfigError
        If it is no single shape of stated lengths.
    """
    try:
        shapes = expand([target.shape])
    except ValueError:
        shapes = []
    if len(shapes) != 1 or shapes[0].sequence is None:
        raise ConfigError(f"target.shape={target.shape}: one shape BATCHxTOKENS is needed, e.g. 1x32")
    return shapes[0].batch, shapes[0].sequence


def check_target(target: PruneTarget, layers: int, positions: int | None = None) -> None:
    """Refuse anything but exactly one target that a model of so many layers and positions can have."""
    asked(target)
    for name, unit in (("params", "parameters"), ("macs", "multiply-accumulates"), ("size", "bytes")):
        value = getattr(target, name)
        if value is not None and 1 <= value < 1000:
            raise ConfigError(f"prune: target.{name}={value:g}: {unit} that stay; below 1 a share, 0.5 for half")
    check_length(target, positions)
    layers_left(target, layers)


def check_length(target: PruneTarget, positions: int | None) -> None:
    """Refuse a shape, where the target has one, of more tokens than a model has positions; raises ConfigError."""
    _, tokens = shape_of(target)
    counts = any(getattr(target, name) is not None for name in ("macs", *MEASURED))
    if counts and positions is not None and tokens > positions:
        raise ConfigError(f"target.shape={target.shape}: the model takes at most {positions} tokens")


def between(start: float, end: float, progress: float) -> float:
    """Return the point of the geometric path from a start to an end: each round changes by the same ratio.

    Parameters
    ----------
    start, end
        Above 0.
    progress
        Share of the rounds that are over, 0 to 1.
    """
    return end if progress >= 1 else start * (end / start) ** progress


def layers_left(target: PruneTarget, layers: int, progress: float = 1.0) -> int:
    """Return how many of the source's layers stay.

    Raises
    ------
    ConfigError
        If none would, or all.
    """
    ratio = target.ratio.layers
    if not ratio:
        return layers
    left = round(between(1.0, 1 - ratio, progress) * layers)
    if left < 1:
        raise ConfigError(
            f"prune: target.ratio.layers={ratio:g} leaves none of {layers} layers; "
            f"at most {1 - 1 / layers:.2f} leaves one"
        )
    if left == layers and progress >= 1:
        raise ConfigError(
            f"prune: target.ratio.layers={ratio:g} takes none of {layers} layers; {1 / layers:.2f} takes one, null none"
        )
    return left


def hidden_left(target: PruneTarget, width: int, multiple: int, progress: float = 1.0) -> int:
    """Return how much of the source's hidden width stays, a multiple, at least one."""
    ratio = target.ratio.hidden
    if not ratio:
        return width
    return max(1, round(between(1.0, 1 - ratio, progress) * width / multiple)) * multiple


def nearest_target(name: str, least: float, whole: float) -> str:
    """Return the target that the smallest structure just meets, rounded to the side that it does meet.

    Parameters
    ----------
    name
        One of `plain_targets`.
    least, whole
        What the smallest structure and the reference cost.
    """
    if name == "speedup":
        return f"target.speedup={_rounded(whole / least, 2, up=False):.2f}"
    if name == "latency_ms":
        digits = 2 - math.floor(math.log10(least))
        return f"target.latency_ms={_rounded(least, digits, up=True):.{max(0, digits)}f}"
    return f"target.{name}={_rounded(least / whole, 3, up=True):.3f} (a share)"


def nearest_ratio(name: str, least: float, whole: float) -> str:
    """Return the ratio of a dimension that leaves the smallest structure, rounded down."""
    return f"target.ratio.{name}={_rounded(1 - least / whole, 2, up=False):.2f}"


def _rounded(value: float, digits: int, *, up: bool) -> float:
    scaled = value * 10.0**digits
    return (math.ceil(scaled - 1e-9) if up else math.floor(scaled + 1e-9)) / 10.0**digits
