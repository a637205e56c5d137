"""A model whose layers are quantized: which layers, and putting empty ones in place for a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError
from compress.models.families import family
from compress.quantized import QUANTIZATION, Layer, Quantization, require_bitsandbytes

__all__ = ["Quantized", "put_quantized_layers", "quantize_model"]

_WORTHWHILE = 4096
"""Entries from which on a table is quantized: the token types of BERT have 768, the positions 196,608."""


@dataclass(frozen=True)
class Quantized:
    """What became of a model.

    Attributes
    ----------
    how : Quantization
        For quantization.json.
    left_out : dict of str to str
        Why a Linear or an Embedding stays as it was, by its name.
    padding : int
        Weights that are zeros, to fill up rows to whole blocks.
    """

    how: Quantization
    left_out: dict[str, str] = field(default_factory=dict)
    padding: int = 0


def quantize_model(model: Any, how: Quantization, *, embeddings: bool, head: bool) -> Quantized:
    """Quantize the Linear and Embedding modules of a model in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, in fp32 on the CPU.
    how
        Method and numbers; its layers are found here.
    embeddings
        Whether to quantize embedding tables.
    head
        Whether to quantize the product that makes the logits.

    Returns
    -------
    Quantized
        With the names of the layers.
    """
    from compress.quantized.layers import empty_layer, scale_values

    if how.double_quant:
        how = replace(how, scale_values=scale_values())
    layers: dict[str, Layer] = {}
    left_out: dict[str, str] = {}
    last = _head(model)
    for name, module, kind in list(_candidates(model)):
        if kind == "embedding" and not embeddings:
            left_out[name] = "embeddings=false"
        elif kind == "embedding" and module.weight.numel() < _WORTHWHILE:
            left_out[name] = f"fewer than {_WORTHWHILE} entries"
        elif name == last and not head:
            left_out[name] = "the head"
        else:
            layers[name] = Layer(kind, *map(int, module.weight.shape))
    how = replace(how, layers=layers)
    for name, layer in layers.items():
        old = model.get_submodule(name)
        new = empty_layer(layer, how, old)
        new.quantize(old.weight)
        model.set_submodule(name, new)
    fours = () if how.method == "int8" else layers.values()
    padding = sum(layer.rows * (how.padded(layer.columns) - layer.columns) for layer in fours)
    return Quantized(how, left_out, padding)


def put_quantized_layers(model: Any, how: Quantization, where: Path) -> None:
    """Put layers of few bits in place, their values to be assigned.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As config.json and structure.json say.
    how
        As quantization.json says.
    where
        The checkpoint, for messages.

    Raises
    ------
    CheckpointError
        If the model has no such layers.
    UnsupportedError
        If bitsandbytes is not installed.
    """
    require_bitsandbytes()
    from compress.quantized.layers import empty_layer

    found = {name: Layer(kind, *map(int, module.weight.shape)) for name, module, kind in _candidates(model)}
    wrong = sorted(name for name, layer in how.layers.items() if found.get(name) != layer)
    if wrong:
        raise CheckpointError(
            f"{where}: {QUANTIZATION} names {', '.join(wrong[:4])}, which config.json and structure.json do not have "
            f"so; copy the checkpoint anew"
        )
    for name, layer in how.layers.items():
        model.set_submodule(name, empty_layer(layer, how, model.get_submodule(name)))


def _candidates(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield name, module and kind of what can be quantized; a subclass may use its weight otherwise."""
    import torch

    kinds = {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding"}
    tied = {id(parameter) for parameter in _twice(model)}
    for name, module in model.named_modules():
        kind = kinds.get(type(module))
        if kind is not None and id(module.weight) not in tied:
            yield name, module, kind


def _twice(model: Any) -> Iterator[Any]:
    """Yield the parameters that stand in two places: quantizing one of them would part them."""
    seen: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            yield parameter
        seen.add(id(parameter))


def _head(model: Any) -> str | None:
    """Return the name of the Linear module that makes the logits: the last one outside of the base model."""
    inside = f"{family(model.config.model_type).base}."
    names = [name for name, _, kind in _candidates(model) if kind == "linear" and not name.startswith(inside)]
    return names[-1] if names and model.base_model is not model else None
