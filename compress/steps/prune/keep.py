"""The family of models on the way to a target: each a step of its own, cut from the one before."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.errors import ConfigError
from compress.steps.base import Link
from compress.steps.prune.targets import asked

if TYPE_CHECKING:
    from compress.config.schemas import Prune

__all__ = ["links_of"]

_MEMBER = re.compile(r"\d+(\.\d+)?x")
_SAME = 0.01
"""Relative. A target this near to a member is that member: 0.1667 is 6x."""


def links_of(name: str, config: Prune, before: str) -> list[Link[Prune]]:
    """Return a step per model that is kept on the way, and last the step itself.

    ``4x`` is a quarter of the reference's parameters, multiply-accumulates or bytes, or four times its speed, as the
    target has it. Every member is cut from the one before; its target is relative to the reference, which teaches it.

    Parameters
    ----------
    name, config, before
        As of `compress.steps.base.Step.chain`.

    Raises
    ------
    ConfigError
        If a member is malformed, does not rise, lies beyond the target, or if the target has no factor.
    """
    if config.keep is None:
        return [Link(name, config)]
    what = f"{name}.keep=[{','.join(config.keep)}]"
    end, shown = _factor(config, what)
    factors = _factors(config.keep, what)
    last = factors[-1]
    if last > end * (1 + _SAME):
        way_out = f"target.speedup={last:g}" if config.target.speedup is not None else _share(config, last)
        raise ConfigError(
            f"{what}: {config.keep[-1]} lies beyond {name}.{shown}, which is {end:.3g}x; "
            f"set {name}.{way_out}, or leave out what is beyond"
        )
    reference = config.reference or before
    found = [
        Link(f"{name}_{member.replace('.', '_')}", _at(config, factor, reference), member)
        for member, factor in zip(config.keep, factors, strict=True)
    ]
    if last >= end / (1 + _SAME):
        found.pop()
        folder = config.keep[-1]
    else:
        folder = None
    whole = replace(config, keep=None, reference=reference if found else config.reference)
    if found:  # the first one reads its reference itself: the same step as one without a family
        found[0] = replace(found[0], config=replace(found[0].config, reference=config.reference))
    return [*found, Link(name, whole, folder)]


def _factor(config: Prune, what: str) -> tuple[float, str]:
    """Return how many times smaller or faster the target is, and the target as it is given."""
    target = asked(config.target)
    if target is None:
        raise ConfigError(
            f"{what}: target.ratio has no one factor; set target.macs, params or size to a share, or target.speedup"
        )
    name, value = target
    if name == "latency_ms" or (name != "speedup" and value >= 1):
        instead = "target.speedup" if name == "latency_ms" else f"target.{name} as a share below 1"
        raise ConfigError(f"{what}: target.{name}={value:g} is no factor of the source; set {instead}")
    return (value if name == "speedup" else 1 / value), f"target.{name}={value:g}"


def _factors(members: list[str], what: str) -> list[float]:
    if not members:
        raise ConfigError(f"{what}: name at least one model, as [2x,4x], or set null")
    for member in members:
        if not _MEMBER.fullmatch(member) or float(member[:-1]) <= 1:
            raise ConfigError(f"{what}: {member!r} is no factor above 1 such as 2x or 1.5x")
    factors = [float(member[:-1]) for member in members]
    for place, (one, two) in enumerate(itertools.pairwise(factors)):
        if two <= one:
            raise ConfigError(f"{what}: {members[place + 1]} does not rise above {members[place]}; list them rising")
    return factors


def _share(config: Prune, factor: float) -> str:
    name = next(name for name in ("params", "macs", "size") if getattr(config.target, name) is not None)
    return f"target.{name}={1 / factor:.4g}"


def _at(config: Prune, factor: float, reference: str) -> Prune:
    """Return the config of a member."""
    if config.target.speedup is not None:
        target = replace(config.target, speedup=factor)
    elif config.target.params is not None:
        target = replace(config.target, params=1 / factor)
    elif config.target.macs is not None:
        target = replace(config.target, macs=1 / factor)
    else:
        target = replace(config.target, size=1 / factor)
    return replace(config, keep=None, reference=reference, target=target)
