"""Training of what a cut left, taught by the model that the target is relative to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.config.schemas import Recovery
from compress.errors import ConfigError
from compress.training.distillation import check_teacher, check_terms, teach

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.schemas import Prune
    from compress.steps.base import Context

__all__ = ["check_recovery", "recover", "refuse_teacher"]

log = logging.getLogger(__name__)


def check_recovery(config: Prune) -> None:
    """Refuse, before any work, a recovery that cannot be."""
    if not config.recover.epochs:
        if config.recover != Recovery(checkpoint_seconds=config.recover.checkpoint_seconds):
            raise ConfigError(
                "prune: recover.epochs=0, so that nothing is trained, and other keys of recover are set; "
                "set recover.epochs=3, or leave recover as it is"
            )
        return
    check_terms(config.recover, "prune.recover")


def refuse_teacher(reference: Checkpoint, source: Checkpoint, layers: int, config: Prune, context: Context) -> None:
    """Refuse, before any work, a reference that cannot teach what is to be left."""
    if config.recover.epochs:
        check_teacher(
            reference,
            source,
            config.recover,
            context.task.labels,
            layers=layers,
            named=f"{context.name}.reference={config.reference or 'the source'}",
            where=f"{context.name}.recover",
        )


def recover(
    model: Any,
    tokenizer: Any,
    source: Checkpoint,
    reference: Checkpoint,
    config: Prune,
    context: Context,
    scratch: Path,
) -> dict[str, Any]:
    """Train a model that was cut, in place; where every epoch is worse it stays as it came. Returns the facts.

    Parameters
    ----------
    model
        Trained in place.
    tokenizer
        The source's.
    source, reference
        The step's source, and the teacher.
    config, context
        Of the step.
    scratch
        Directory of the resume state, this training's alone.
    """
    lesson = teach(
        model,
        tokenizer,
        source,
        [reference],
        context.task,
        context.data,
        config.recover,
        max_length=context.max_length,
        seed=context.seed,
        device=context.device,
        threads=context.threads,
        scratch=scratch,
        cache=context.cache,
        where=f"{context.name}.recover",
        description=context.name,
    )
    if not lesson.result.epoch:
        log.info("%s: no epoch is better than the cut alone, which is kept", context.name)
    return {
        "validation": round(lesson.result.metric, 6),
        "best_epoch": lesson.result.epoch,
        "history": lesson.result.history,
        **lesson.facts(),
    }
