"""Options that a choice of other options leaves without a reader are refused, not ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from compress.errors import ConfigError

__all__ = ["refuse_unread"]


def refuse_unread(config: Any, names: Iterable[str], because: str) -> None:
    """Raise ConfigError if one of these fields of a config dataclass is not as its schema has it.

    Parameters
    ----------
    config
        The config.
    names
        Fields that nothing reads as the others are set.
    because
        What leaves them unread, for the message: ``with calibration=mse``.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        value = getattr(config, name)
        if value != defaults[name]:
            raise ConfigError(f"{name}={value}: {because} nothing reads it; leave {name} as it is")
