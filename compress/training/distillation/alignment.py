"""A teacher's logits at the tokens of a student that has another tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.tasks.base import IGNORED
from compress.training.distillation.entries import LOGITS, MATCHED

if TYPE_CHECKING:
    from compress.tasks.base import Features
    from compress.training.distillation.outputs import TeacherOutputs

__all__ = ["AlignedOutputs"]


@dataclass(frozen=True)
class AlignedOutputs:
    """Outputs of a teacher, unit by unit of the task, where the student's tokens are.

    Attributes
    ----------
    outputs : TeacherOutputs
        By token of the teacher's tokenizer.
    pairs : sequence of numpy.ndarray
        Per row ``[common, 2]``: the student's token and the teacher's of each unit that both have
        (`compress.tasks.base.Task.aligned`).
    """

    outputs: TeacherOutputs
    pairs: Sequence[np.ndarray]

    def share_of(self, features: Features) -> float:
        """Return the share of the labelled tokens of the student's rows that the teacher has logits for."""
        labelled = sum(int(np.count_nonzero(np.asarray(marks) != IGNORED)) for marks in features.labels)
        return sum(map(len, self.pairs)) / labelled if labelled else 1.0

    def batch(self, rows: Sequence[int], padded: int) -> Mapping[str, np.ndarray]:
        """Return the logits of some rows at the student's tokens, and for which tokens there are any.

        Parameters
        ----------
        rows
            Row numbers.
        padded
            Tokens that the student's batch is padded to.
        """
        logits = np.zeros((len(rows), padded, self.outputs.logits.shape[1]), np.float32)
        matched = np.zeros((len(rows), padded), bool)
        for place, row in enumerate(rows):
            ours, theirs = self.pairs[row].T
            logits[place, ours] = self.outputs.logits[self.outputs.starts[row] + theirs]
            matched[place, ours] = True
        return {LOGITS: logits, MATCHED: matched}
