"""Shapes of a latency measurement as they are written in a config: ``1x32``, ``1/8x32/128``, ``natural``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NATURAL", "Shape", "expand"]

NATURAL = "natural"
"""Real texts at their real lengths, one by one."""

_SHAPE = re.compile(r"([1-9]\d*(?:/[1-9]\d*)*)x([1-9]\d*(?:/[1-9]\d*)*)")


@dataclass(frozen=True)
class Shape:
    """What one batch of a measurement looks like.

    Attributes
    ----------
    batch : int
        Rows.
    sequence : int or None
        Tokens per row, special tokens included and no padding; None for texts at their natural lengths.
    """

    batch: int
    sequence: int | None

    def __str__(self) -> str:
        return NATURAL if self.sequence is None else f"{self.batch}x{self.sequence}"


def expand(texts: Sequence[str]) -> list[Shape]:
    """Return the shapes that a list names, in order; a grid gives every batch with every length.

    Parameters
    ----------
    texts
        ``BATCHxTOKENS``, where both may be several numbers parted by slashes, or ``natural``.

    Raises
    ------
    ValueError
        Says which text is no shape, or which shape stands there twice.
    """
    found: list[Shape] = []
    for text in texts:
        if text == NATURAL:
            found.append(Shape(1, None))
            continue
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no shape; write BATCHxTOKENS such as 1x32, 1/8x32/128, or {NATURAL}")
        batches, lengths = ([int(number) for number in part.split("/")] for part in match.groups())
        found += [Shape(batch, length) for batch in batches for length in lengths]
    if not found:
        raise ValueError("at least one shape is needed, such as [1x32]")
    twice = next((shape for shape in found if found.count(shape) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice}: this shape stands there twice")
    return found
