"""A narrower student from its source's weights: heads, neurons and hidden width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.models.structure import structure_of
from compress.steps.distill.importance import heads_and_neurons, hidden_units, least
from compress.steps.distill.widths import asked_widths, widths_of

if TYPE_CHECKING:
    import torch

    from compress.config.schemas import Student
    from compress.steps.base import Context

__all__ = ["calibration_batches", "narrowed"]

_ROWS = 512
"""Training rows that are looked at: some 10,000 tokens of tweets, for 384 directions."""
_BATCH = 32


def calibration_batches(tokenizer: Any, context: Context) -> list[dict[str, torch.Tensor]]:
    """Return the inputs of training rows that are drawn by the seed, in batches of similar length."""
    import torch

    from compress.steps.drawing import drawn_rows
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches

    features = context.task.encode(drawn_rows(context, _ROWS), tokenizer, context.max_length)
    collator = Collator(context.task, features, padding_of(tokenizer))
    return [
        {name: torch.from_numpy(array) for name, array in collator.arrays(rows, with_labels=False).items()}
        for rows in sorted_batches(features.lengths, _BATCH)
    ]


def narrowed(model: Any, student: Student, batches: Sequence[Mapping[str, torch.Tensor]]) -> tuple[Any, dict[str, Any]]:
    """Return a copy of a model with the widths of a student, and facts about it.

    Heads and neurons are pruned by what they add (`compress.steps.distill.importance`); then the hidden width, which is
    measured on what that left.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, in evaluation mode; unchanged.
    student
        Its widths are at most the model's own, layer by layer. For the hidden width ``narrow=pruned`` removes units,
        and ``narrow=svd`` projects (`compress.models.projection`).
    batches
        Inputs to measure on.

    Raises
    ------
    ConfigError
        If a layer is narrower already than is asked for.
    """
    from compress.models.projection import project_hidden
    from compress.models.surgery import Cut, cut, remove_hidden

    structure = structure_of(model)
    asked = asked_widths(student, widths_of(structure))
    heads = structure.heads if student.heads is None else (asked.heads,) * structure.layers
    neurons = structure.intermediate_size if student.neurons is None else (asked.neurons,) * structure.layers
    _check_layers(structure.heads, heads, "heads")
    _check_layers(structure.intermediate_size, neurons, "neurons")
    if (heads, neurons) != (structure.heads, structure.intermediate_size):
        of_heads, of_neurons = heads_and_neurons(model, batches)
        model = cut(
            model,
            Cut(
                heads={layer: least(scores, heads[layer]) for layer, scores in enumerate(of_heads)},
                neurons={layer: least(scores, neurons[layer]) for layer, scores in enumerate(of_neurons)},
            ),
        )
    facts = {"hidden": asked.hidden, "heads": list(heads), "neurons": list(neurons), "narrow": student.narrow}
    if student.narrow == "svd":
        model, share = project_hidden(model, asked.hidden, batches)
        return model, {**facts, "variance_held": round(share, 6)}
    if asked.hidden < structure.hidden_size:
        model = remove_hidden(model, least(hidden_units(model, batches), asked.hidden))
    return model, facts


def _check_layers(has: Sequence[int], wanted: Sequence[int], name: str) -> None:
    for layer, (count, asked) in enumerate(zip(has, wanted, strict=True)):
        if count < asked:
            raise ConfigError(
                f"student.{name}={asked}: layer {layer} of the student comes from one that has {count} left; "
                f"allowed are 1 to {min(has)}"
            )
