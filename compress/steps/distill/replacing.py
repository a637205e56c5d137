"""The option of progressive replacement: what it refuses, and what it makes of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.config.training import Replacement
from compress.errors import ConfigError

if TYPE_CHECKING:
    from compress.config.schemas import Distill
    from compress.training.distillation import Way

__all__ = ["check_replacement", "way_of"]


def check_replacement(config: Distill) -> None:
    """Refuse, while planning, what a student whose layers stand in for its teacher's cannot be taught."""
    replace = config.replace
    if not replace.rate:
        if replace.full_at != Replacement().full_at:
            raise ConfigError(
                f"distill: replace.full_at={replace.full_at:g} is read only where replace.rate is above 0; "
                f"set replace.rate=0.3, or leave full_at as it is"
            )
        return
    if config.teachers is not None:
        raise ConfigError(
            f"distill: replace.rate={replace.rate:g} and teachers={list(config.teachers)}: the layers of one teacher "
            f"can be replaced; name it by teacher, or set replace.rate=null"
        )
    weights = config.weights
    if config.relations.layer is not None and (weights.relations > 0 or weights.minilm > 0):
        raise ConfigError(
            f"distill: replace.rate={replace.rate:g} and relations.layer={config.relations.layer}: while the teacher's "
            f"last layers stand in for the student's last, their relations are those of the teacher's last layer; set "
            f"relations.layer=null"
        )


def way_of(config: Distill) -> Way | None:
    """Return how the student runs while it learns; None where it is as ever."""
    if not config.replace.rate:
        return None
    from compress.training.distillation.replacement import Replacing

    return Replacing(config.replace)
