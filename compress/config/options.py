"""Fields that carry their own help, bounds and choices, so that a schema is also its documentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import field
from typing import Any

__all__ = ["option"]


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    in_key: bool = True,
) -> Any:
    """Declare a config field.

    Parameters
    ----------
    default
        The default; a list, dict or dataclass instance is copied for each config.
    help
        One line shown by ``--help``.
    choices
        The strings that are allowed (for a list field: in each of its items).
    minimum, maximum
        Inclusive bounds of a number (for a list field: of each of its items).
    above, below
        Exclusive bounds of a number.
    in_key
        Whether the value can change a step's output; if false it stays out of the step's key.
    """
    metadata = {
        "help": help,
        "choices": None if choices is None else tuple(choices),
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "in_key": in_key,
    }
    if isinstance(default, list | dict) or hasattr(default, "__dataclass_fields__"):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)
