"""Heads and neurons in the order of what they matter, so that the first so many are the best so many."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.config.elastic import Elastic
    from compress.steps.base import Context

__all__ = ["rewired"]

log = logging.getLogger(__name__)


def rewired(model: Any, tokenizer: Any, config: Elastic, context: Context) -> Any:
    """Return a copy that computes the same, in each layer the heads and neurons that matter most first.

    What a head or a neuron matters is the first-order change of the loss without it, ``|h dL/dh|``, averaged over
    calibration rows (DynaBERT, arXiv 2004.04037, equation 3).

    Parameters
    ----------
    model
        In eval mode; unchanged.
    tokenizer
        Reads the calibration rows.
    config, context
        Of the step.
    """
    from compress.models.nested import head_order, reordered
    from compress.models.structure import structure_of
    from compress.steps.drawing import drawn_rows
    from compress.steps.importance import TaylorImportance
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches
    from compress.training.loop import task_loss

    features = context.task.encode(drawn_rows(context, config.calibration_rows), tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    batches = [collate(rows) for rows in sorted_batches(features.lengths, config.batch_size)]
    scores = TaylorImportance().scores(model, batches, task_loss(context.task))
    groups = structure_of(model).key_value_heads_or_heads
    heads = [head_order(one.tolist(), count) for one, count in zip(scores.heads, groups, strict=True)]
    neurons = [one.argsort(descending=True, stable=True).tolist() for one in scores.neurons]
    log.info("%s: heads and neurons are in the order of %d rows", context.name, len(features))
    return reordered(model, heads, neurons)
