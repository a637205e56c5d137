"""A student of random weights in its source's architecture."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from compress.models.families import family
from compress.models.structure import Widths, structure_of

if TYPE_CHECKING:
    from compress.tasks.base import Task

__all__ = ["fresh_student"]


def fresh_student(source: Any, layers: int, widths: Widths, task: Task) -> Any:
    """Return a model with the source's tables and activation, of other layers and widths, drawn by torch's generator.

    Parameters
    ----------
    source : transformers.PreTrainedModel
        Of a known family; unchanged. Tokens, positions, token types and a pooler are there as there; an embedding that
        is factorized there is whole here.
    layers, widths
        Of the student; its layers are all alike. The heads divide the hidden width, so their size may be another.
    task
        Says which head.
    """
    from compress.models.surgery import drop_pooler, fold_token_types
    from compress.models.torch_io import quiet

    places, structure = family(source.config.model_type), structure_of(source)
    config = copy.deepcopy(source.config)
    for name, value in (
        (places.config_layers, layers),
        (places.config_hidden, widths.hidden),
        (places.config_heads, widths.heads),
        (places.config_intermediate, widths.neurons),
    ):
        setattr(config, name, value)
    if places.config_embedding is not None and structure.embedding_size is None:
        setattr(config, places.config_embedding, widths.hidden)
    if structure.token_types == 0:
        config.type_vocab_size = 1
    with quiet():
        model = task.model_class().from_config(config, attn_implementation=places.attention).float().eval()
    if structure.token_types == 0:
        model = fold_token_types(model)
    if structure.pooler is False and structure_of(model).pooler:
        model = drop_pooler(model)
    return model
