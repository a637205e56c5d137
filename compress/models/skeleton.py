"""A model without weights, of any structure: built from its config by transformers, then resized part by part.

A config of transformers says one size for all layers. So the model is built from config.json, without drawing a weight,
and every module whose size is another gets it from structure.json, its weight still without memory. That way nothing of
what transformers computes while it builds (positions, rotary frequencies) has to be made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError
from compress.models.attributes import follow
from compress.models.families import Family, family
from compress.models.structure import Structure, structure_of

__all__ = ["build_skeleton"]


def build_skeleton(build: Callable[[], Any], structure: Structure | None, where: Path) -> Any:
    """Return a model of a structure, its weights to be assigned.

    Parameters
    ----------
    build
        Returns the model that transformers builds from config.json.
    structure
        What structure.json says; None leaves the model as built.
    where
        The checkpoint, for messages.

    Raises
    ------
    CheckpointError
        If config.json cannot be built, or contradicts structure.json.
    """
    from transformers.initialization import no_init_weights

    try:
        with no_init_weights():  # every weight is checked to be in the file: drawing them would be in vain
            model = build()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: no model can be built from its config.json: {error}") from error
    model.tie_weights()  # part of the drawing that was left out
    # A table of no token types has no rows, and still a name in the state: it is taken out like any other difference.
    if structure is not None and (structure.token_types == 0 or _differences(structure_of(model), structure)):
        _resize(model, structure, where)
        wrong = _differences(structure_of(model), structure)
        if wrong:
            raise CheckpointError(
                f"{where}: config.json and structure.json contradict each other: {'; '.join(wrong[:4])}"
            )
        follow(model)
    return model


def _resize(model: Any, structure: Structure, where: Path) -> None:
    """Give every module its size of the structure where config.json cannot say it."""
    from compress.models import tables

    places = family(model.config.model_type)
    base, layers = places.base_model(model), places.layer_list(model)
    if len(layers) != structure.layers:
        raise CheckpointError(
            f"{where}: config.json says {len(layers)} layers, structure.json {structure.layers}; copy the checkpoint "
            f"anew"
        )
    for number, layer in enumerate(layers):
        _resize_layer(layer, number, structure, places)
    if structure.pooler is False and places.pooler is not None:
        setattr(base, places.pooler, None)
    if structure.token_types == 0:
        tables.leave_out_token_types(model)
    if structure.embedding_rank is not None and not hasattr(places.words(model), "factors"):
        from compress.models.factorized import put_factorized_embeddings

        put_factorized_embeddings(model, structure.embedding_rank)
    if structure.embedding_size is not None and places.embedding_projection is not None:
        _put_projection(base, places.embedding_projection, structure)
    for name, shape in structure.shapes.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise CheckpointError(f"{where}: structure.json names {name}, which {type(model).__name__} lacks") from None
        _set_shape(module, shape)
    if structure.head_numbers is not None and places.head_bias is not None:
        columns = tuple(range(base.get_submodule(places.head_bias).weight.shape[1]))
        tables.take_heads_of_bias(
            model, {number: kept for number, kept in enumerate(structure.head_numbers) if kept != columns}
        )
    model.tie_weights()


def _resize_layer(layer: Any, number: int, structure: Structure, places: Family) -> None:
    query = layer.get_submodule(places.query)
    hidden = query.in_features
    size = structure.head_size
    if size is not None:
        width = structure.heads[number] * size
        shared = structure.key_value_heads_or_heads[number] * size
        _set_shape(query, (width, hidden))
        _set_shape(layer.get_submodule(places.key), (shared, hidden))
        _set_shape(layer.get_submodule(places.value), (shared, hidden))
        _set_shape(layer.get_submodule(places.attention_output), (hidden, width))
        holder, _, name = places.attributes.get("head_size", "").rpartition(".")
        if name:
            setattr(layer.get_submodule(holder), name, size)
    neurons = structure.intermediate_size[number]
    for path in places.ffn_inputs:
        _set_shape(layer.get_submodule(path), (neurons, hidden))
    _set_shape(layer.get_submodule(places.ffn_output), (hidden, neurons))


def _put_projection(base: Any, path: str, structure: Structure) -> None:
    """Put the projection of the embeddings where transformers built none, as the two widths are equal by now."""
    import torch

    if not hasattr(base, path):
        assert structure.embedding_size is not None
        setattr(base, path, torch.nn.Linear(structure.embedding_size, structure.hidden_size, device="meta"))


def _set_shape(module: Any, shape: tuple[int, ...]) -> None:
    """Give a Linear, an Embedding or a norm another shape; its new weights have no memory until they are assigned."""
    import torch

    if tuple(module.weight.shape) == tuple(shape):
        return
    for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
        size = shape if name == "weight" else shape[:1]
        empty = torch.empty(size, dtype=parameter.dtype, device="meta")
        setattr(module, name, torch.nn.Parameter(empty, requires_grad=parameter.requires_grad))
    for names in (("out_features", "in_features"), ("num_embeddings", "embedding_dim")):
        if hasattr(module, names[0]):
            setattr(module, names[0], shape[0])
            setattr(module, names[1], shape[1])
    if hasattr(module, "normalized_shape"):
        module.normalized_shape = tuple(shape)


def _differences(has: Structure, wanted: Structure) -> list[str]:
    """Return what differs among the parts that the wanted structure names: files of earlier releases name few."""

    def parts() -> Iterator[str]:
        for entry in fields(Structure):
            one, other = getattr(has, entry.name), getattr(wanted, entry.name)
            if other is None or (entry.name == "shapes" and not other) or one == other:
                continue
            if entry.name == "shapes":
                names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
                yield f"shapes of {', '.join(names[:3])}"
            else:
                yield f"{entry.name} is {_shown(one)} by config.json and {_shown(other)} by structure.json"

    return list(parts())


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
