"""A target of pruning on the command line takes the place of the one that the chosen option has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from compress.config.nodes import filled, node_of
from compress.config.schemas import Prune, PruneRatio

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["keep_given_targets"]

_SINGLE = ("params", "macs", "size", "speedup", "latency_ms")
_RATIOS = tuple(PruneRatio.__dataclass_fields__)


def keep_given_targets(config: DictConfig, keys: Iterable[str]) -> None:
    """Set the targets of an option to null, in place, where the command line sets another: exactly one can be met.

    So ``prune.target.speedup=4`` needs no ``prune.target.macs=null`` beside it. Ratios of several dimensions are one
    target: those of the option stay beside those that are given.

    Parameters
    ----------
    config
        The composed config.
    keys
        Dotted keys of the overrides.
    """
    given = list(keys)
    for name in map(str, config):
        named = {key.removeprefix(f"{name}.target.") for key in given if key.startswith(f"{name}.target.")}
        if not named or not _prunes(node_of(config, name)):
            continue
        target = config[name].target
        ratios = any(f"ratio.{one}" in named and _is_set(target.ratio, one) for one in _RATIOS)
        if ratios or any(one in named and _is_set(target, one) for one in _SINGLE):
            for one in _SINGLE:
                if one not in named:
                    target[one] = None
            for one in _RATIOS:
                if not ratios and f"ratio.{one}" not in named:
                    target.ratio[one] = None


def _prunes(node: Any) -> bool:
    """Return whether a node is a whole config of pruning."""
    from omegaconf import OmegaConf

    return (
        filled(node)
        and OmegaConf.get_type(node) is Prune
        and filled(node_of(node, "target"))
        and filled(node_of(node.target, "ratio"))
    )


def _is_set(node: DictConfig, name: str) -> bool:
    """Return whether a key is there and not null; an interpolation is not resolved."""
    value = node_of(node, name)
    return value is not None and not value._is_none()  # noqa: SLF001
