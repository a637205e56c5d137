"""Looking at config nodes without resolving or copying them, which OmegaConf's public functions do."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

__all__ = ["filled", "node_of"]


def node_of(config: DictConfig, key: Any) -> Any:
    """Return the node of a key as it is, typed and unresolved; None if there is no such key."""
    return config._get_node(key)  # noqa: SLF001


def filled(node: Any) -> bool:
    """Return whether a node is a mapping that is neither null nor missing."""
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()  # noqa: SLF001
