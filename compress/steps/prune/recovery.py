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
    check_terms(config.recover)
    if config.recover.weights.hidden > 0 and config.target.ratio.hidden:
        raise ConfigError(
            f"recover.weights.hidden={config.recover.weights.hidden:g}: with target.ratio.hidden the model is narrower "
            f"than its teacher, and hidden states can be compared at equal width only; set recover.weights.hidden=0"
        )


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
    before: float,
    tokenizer: Any,
    source: Checkpoint,
    reference: Checkpoint,
    config: Prune,
    context: Context,
    scratch: Path,
) -> tuple[Any, dict[str, Any]]:
    """Train a model that was cut; returns its best epoch, or the model as it came where every epoch is worse.

    Parameters
    ----------
    model
        Trained in place.
    before
        Its validation metric.
    tokenizer
        The source's.
    source, reference
        The step's source, and the teacher.
    config, context
        Of the step.
    scratch
        Directory of the resume state, this training's alone.
    """
    import copy

    untrained = copy.deepcopy(model)
    lesson = teach(
        model,
        tokenizer,
        source,
        reference,
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
    metric, best = round(lesson.result.metric, 6), lesson.result.epoch
    worse = metric < before if context.task.higher_is_better else metric > before
    if worse:
        log.info(
            "%s: every epoch is worse than the cut alone, validation %s %.4f, which is kept",
            *(context.name, context.task.metric, before),
        )
        model, metric, best = untrained, before, 0
    facts: dict[str, Any] = {
        "validation": metric,
        "best_epoch": best,
        "history": lesson.result.history,
        "truncated": lesson.truncated,
    }
    if lesson.matched is not None:
        facts["matched_with_teacher"] = lesson.matched
    return model, facts
