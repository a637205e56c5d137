"""A student from a Hugging Face checkpoint of its own, that reads the same tokens as the source."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError

if TYPE_CHECKING:
    from compress.models.source import SourceModel
    from compress.steps.base import Context
    from compress.tasks.base import Features

__all__ = ["pretrained_student"]


def pretrained_student(given: SourceModel, tokenizer: Any, context: Context) -> Any:
    """Return the model of a checkpoint under a fresh head; the tokenizer learns which inputs that model takes.

    Parameters
    ----------
    given
        The checkpoint.
    tokenizer
        The source's, which the student is to read by; its ``model_input_names`` are narrowed to the student's.
    context
        Of the step.

    Raises
    ------
    ConfigError
        If the two tokenizers differ in size or in what the training rows become, or the model has too few positions or
        no token types where the rows are pairs of texts.
    """
    from compress.models.torch_io import build_under_fresh_head, load_tokenizer

    task = context.task
    assert given.path is not None
    own = load_tokenizer(given.path, words=task.reads_words)
    rows = task.encode(context.data.train, tokenizer, context.max_length)
    _check_tokens(given, tokenizer, own, rows, task.encode(context.data.train, own, context.max_length))
    model = build_under_fresh_head(given, task, context.seed)
    _check_room(given, model, tokenizer, context.max_length)
    _narrow_inputs(given, model, tokenizer, rows)
    return model


def _check_tokens(given: SourceModel, tokenizer: Any, own: Any, rows: Features, others: Features) -> None:
    advice = "choose a checkpoint of the source's tokenizer, or make the student from the source"
    if len(tokenizer) != len(own):
        raise ConfigError(
            f"{given.named}: its tokenizer has {len(own)} tokens, the source's {len(tokenizer)}; {advice}"
        )
    for number, (row, other) in enumerate(zip(rows.inputs, others.inputs, strict=True)):
        ours, theirs = row["input_ids"], other["input_ids"]
        if ours != theirs:
            raise ConfigError(
                f"{given.named}: its tokenizer reads training row {number} as {_shown(own, theirs)}, the source's as "
                f"{_shown(tokenizer, ours)}; {advice}"
            )


def _check_room(given: SourceModel, model: Any, tokenizer: Any, max_length: int) -> None:
    from compress.models.examples import usable_positions
    from compress.models.families import family

    positions = usable_positions(model)
    if positions is not None and positions < max_length:
        raise ConfigError(
            f"{given.named}: it has room for {positions} tokens, and model.max_length={max_length}; lower max_length, "
            f"or choose another checkpoint"
        )
    entries = family(given.architecture).words(model).num_embeddings
    if entries < len(tokenizer):
        raise ConfigError(
            f"{given.named}: it has embeddings of {entries} tokens, and its tokenizer has {len(tokenizer)}; "
            f"it is not whole, choose another checkpoint"
        )


def _narrow_inputs(given: SourceModel, model: Any, tokenizer: Any, rows: Features) -> None:
    taken = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    lost = [name for name in tokenizer.model_input_names if name not in taken]
    if any(any(row[name]) for name in lost for row in rows.inputs if name in row):
        raise ConfigError(
            f"{given.named}: models of type {given.architecture} take no {lost[0]}, which tell the two texts of a pair "
            f"apart; choose a checkpoint that takes them"
        )
    tokenizer.model_input_names = names


def _shown(tokenizer: Any, ids: Sequence[int], most: int = 6) -> str:
    tokens = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids[:most]))))
    return f"{len(ids)} tokens ({tokens}{' ...' if len(ids) > most else ''})"
