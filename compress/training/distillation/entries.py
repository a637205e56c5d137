"""Names of what a batch holds beside a model's inputs and its labels."""

from __future__ import annotations

from compress.training.distillation.inside import Part

__all__ = ["ANSWERED", "GOLD", "LOGITS", "MATCHED", "PARTNER", "SHARE", "part_name"]

LOGITS = "teacher_logits"
"""The teacher's logits, padded as the student's: float32."""
MATCHED = "teacher_matched"
"""For which tokens a teacher of another tokenizer has logits: bool ``[batch, sequence]``."""
ANSWERED = "teacher_answered"
"""Which rows the kept outputs answer: bool ``[batch]``; the others are asked as they come."""
GOLD = "gold"
"""Which rows have gold labels: bool ``[batch]``; without it all have."""
PARTNER = "mixup_partner"
"""The row that a row is mixed with: int64 ``[batch]``."""
SHARE = "mixup_share"
"""A row's own share where it is mixed, 1 where it is not: float32 ``[batch]``."""


def part_name(part: Part) -> str:
    """Return the entry of a part of the teacher's inside: float16 ``[batch, sequence, width]``."""
    return f"teacher_{part[0]}_{part[1]}"
