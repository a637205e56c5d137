"""How a student runs while it learns: as it is, or as a way of training has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.training.distillation.layer_maps import Matching, matching

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.training import Taught
    from compress.training.distillation.terms import DistillationLoss
    from compress.training.loop import LossFunction

__all__ = ["Draws", "Scene", "Way"]


class Draws:
    """What is drawn for each batch of a training: the same in each of several processes, and again after a resume.

    A function of the seed, the progress and the number of the batch within its update, so that no state is kept.

    Parameters
    ----------
    seed
        Of the training.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._progress = -1.0
        self._batch = 0

    def next(self, progress: float) -> np.random.Generator:
        """Return a generator for the next batch.

        Parameters
        ----------
        progress
            Share of the updates that are done, 0 to 1.
        """
        self._batch = self._batch + 1 if progress == self._progress else 0
        self._progress = progress
        update = int(np.float64(progress).view(np.uint64))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, update, self._batch])))


@dataclass(frozen=True)
class Scene:
    """What a way of training finds when it begins.

    Attributes
    ----------
    student
        The model in training.
    teacher
        Loads the first teacher's model, anew: what else runs that teacher has hooks on its own.
    config : Taught
        The terms of the loss.
    matched : Matching
        What `Way.matching` returned.
    make
        Returns the loss that compares what a `Matching` says.
    draws : Draws
        For whatever is drawn.
    """

    student: Any
    teacher: Callable[[], Any]
    config: Taught
    matched: Matching
    make: Callable[[Matching], DistillationLoss]
    draws: Draws


class Way:
    """The student learns as it is."""

    keeps_last: ClassVar[bool] = False
    """Whether the last epoch counts as the best, because validation of the whole student does not judge the aim."""

    def check(
        self, student: Any, source: Checkpoint, teachers: Sequence[Checkpoint], config: Taught, where: str
    ) -> None:
        """Refuse, before a teacher is asked anything, what cannot be trained in this way; raises ConfigError.

        Parameters
        ----------
        student
            The model that will be trained.
        source
            The checkpoint whose tokenizer it has.
        teachers, config, where
            As of `compress.training.distillation.teach`.
        """
        return

    def matching(self, config: Taught, student_layers: int, teacher_layers: int) -> Matching:
        """Return which parts of student and teacher are compared; the teacher's are asked for."""
        return matching(config, student_layers, teacher_layers)

    def begin(self, scene: Scene) -> LossFunction:
        """Return the loss of a batch."""
        return scene.make(scene.matched)

    def end(self) -> None:
        """Leave the student as it was, but for its weights."""
        return
