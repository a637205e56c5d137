"""Attributes of modules and fields of the config that repeat a size, and must follow it after surgery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.models.families import Family, family
from compress.models.structure import Structure, structure_of

__all__ = ["follow", "stale"]


def follow(model: Any) -> Structure:
    """Set every attribute and config field that repeats a size to what the modules have; return their structure.

    The config can say one number for all layers only: heads and feed-forward width are the largest of any layer. As
    transformers refuses to build a model whose hidden size is no multiple of its heads, it says the largest number
    of heads that divides where the true one does not; structure.json is what counts.
    """
    structure = structure_of(model)
    for holder, name, value in _attributes(model, structure):
        setattr(holder, name, value)
    for name, value in _fields(model, structure):
        setattr(model.config, name, value)
    return structure


def stale(model: Any) -> list[str]:
    """Return attributes and config fields that say another size than the modules have: ``name is X, should be Y``."""
    structure = structure_of(model)
    named = {id(module): name for name, module in model.named_modules()}
    wrong = [
        f"{named[id(holder)]}.{name} is {getattr(holder, name)}, should be {value}"
        for holder, name, value in _attributes(model, structure)
        if getattr(holder, name) != value
    ]
    return wrong + [
        f"config.{name} is {getattr(model.config, name, None)}, should be {value}"
        for name, value in _fields(model, structure)
        if getattr(model.config, name, None) != value
    ]


def _attributes(model: Any, structure: Structure) -> Iterator[tuple[Any, str, Any]]:
    """Yield module, attribute and the value that it should have."""
    places = family(model.config.model_type)
    size = structure.head_size or 1
    for number, layer in enumerate(places.layer_list(model)):
        heads = structure.heads[number]
        values = {
            "heads": heads,
            "head_size": size,
            "heads_width": heads * size,
            "scaling": size**-0.5,
            "key_value_groups": heads // structure.key_value_heads_or_heads[number],
            "hidden_size": structure.hidden_size,
            "mlp_hidden_size": structure.hidden_size,
            "intermediate_size": structure.intermediate_size[number],
            "number": number,
        }
        yield from _held(layer, {path: values[what] for what, path in places.attributes.items()})
    whole = {"layers": structure.layers, "vocabulary": structure.vocabulary}
    base = places.base_model(model)
    yield from _held(base, {path: whole[what] for what, path in places.base_attributes.items() if what in whole})
    if model is not base and structure.vocabulary is not None:
        yield from _held(model, {"vocab_size": structure.vocabulary})


def _held(root: Any, values: dict[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    """Yield those of the attributes that are there: versions and options of a model differ in them."""
    for path, value in values.items():
        parent, _, name = path.rpartition(".")
        holder = root.get_submodule(parent)
        if hasattr(holder, name):
            yield holder, name, value


def _fields(model: Any, structure: Structure) -> Iterator[tuple[str, Any]]:
    """Yield field of the config and the value that it should have."""
    places, config = family(model.config.model_type), model.config
    yield places.config_layers, structure.layers
    yield places.config_hidden, structure.hidden_size
    yield places.config_intermediate, max(structure.intermediate_size)
    heads, shared = _declared_heads(structure)
    yield places.config_heads, heads
    if places.config_key_value_heads is not None:
        yield places.config_key_value_heads, shared
    if places.config_head_size is not None:
        yield places.config_head_size, structure.head_size
    if places.config_embedding is not None:
        yield places.config_embedding, structure.embedding_size or structure.hidden_size
    yield from _table_fields(config, places, structure)


def _table_fields(config: Any, places: Family, structure: Structure) -> Iterator[tuple[str, int]]:
    for name, value in (
        ("vocab_size", structure.vocabulary),
        ("max_position_embeddings", structure.positions),
        ("type_vocab_size", structure.token_types),
    ):
        if value is not None and hasattr(config, name):
            yield name, value


def _declared_heads(structure: Structure) -> tuple[int, int]:
    """Return heads and key-value heads to build with: the most of any layer, or the next that divide the width."""
    groups = max(
        heads // shared for heads, shared in zip(structure.heads, structure.key_value_heads_or_heads, strict=True)
    )
    for heads in range(min(max(structure.heads), structure.hidden_size), 0, -1):
        if structure.hidden_size % heads == 0 and heads % groups == 0:
            return heads, heads // groups
    return 1, 1
