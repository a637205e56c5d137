"""Inputs to run any model of a known family with: the same ones each time, no tokenizer needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.models.families import family

if TYPE_CHECKING:
    import torch

__all__ = ["example_inputs", "position_offset", "tensors_of", "usable_positions"]

_ROWS, _LENGTH = 2, 8


def example_inputs(model: Any, *, padded: bool = False) -> dict[str, torch.Tensor]:
    """Return inputs on the model's device.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family.
    padded
        Whether the last two tokens of the last row are padding.

    Returns
    -------
    dict of str to torch.Tensor
        ``input_ids`` and ``attention_mask`` ``[2, 8]``, or ``pixel_values`` ``[2, channels, height, width]``. One row
        where the model knows no padding token, as some heads ask for one row then; fewer tokens where the table of
        positions has fewer rows.
    """
    import torch

    config, device = model.config, next(model.parameters()).device
    words = family(config.model_type).words(model)
    if words is None:
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        count = _ROWS * config.num_channels * height * width
        pixels = torch.linspace(0, 40, count).sin().reshape(_ROWS, config.num_channels, height, width)
        return {"pixel_values": pixels.to(device)}
    padding = getattr(config, "pad_token_id", None)
    rows = 1 if padding is None else _ROWS
    length = min(_LENGTH, usable_positions(model) or _LENGTH)
    ids = (torch.arange(rows * length) * 7 + 3) % words.num_embeddings
    ids = torch.where(ids == padding, (ids + 1) % words.num_embeddings, ids) if padding is not None else ids
    ids = ids.reshape(rows, length)
    mask = torch.ones_like(ids)
    if padded and padding is not None and length > 2:
        ids[-1, -2:] = padding
        mask[-1, -2:] = 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def usable_positions(model: Any) -> int | None:
    """Return the longest input that the table of positions has room for; None where there is no table."""
    places = family(model.config.model_type)
    if places.position_embeddings is None:
        return None
    table = places.base_model(model).get_submodule(places.position_embeddings)
    return int(table.num_embeddings) - position_offset(model)


def position_offset(model: Any) -> int:
    """Return the row of the first position: 0, or the one after the padding token's where positions count from it."""
    places = family(model.config.model_type)
    if not places.positions_after_padding:
        return 0
    holder, _, name = places.base_attributes["padding"].rpartition(".")
    return int(getattr(places.base_model(model).get_submodule(holder), name)) + 1


def tensors_of(outputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the tensors among a model's outputs."""
    import torch

    return [value for value in outputs.values() if isinstance(value, torch.Tensor)]
