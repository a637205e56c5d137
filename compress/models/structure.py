"""What pruning left of a model: the sizes of its parts, read from its modules; what structure.json says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError
from compress.models.families import Family, family

__all__ = ["Structure", "Widths", "head_size_of", "read_structure", "structure_of"]

_LISTS = ("heads", "intermediate_size", "key_value_heads")
_COUNTS = ("layers", "hidden_size", "vocabulary", "head_size", "positions", "token_types", "embedding_size")
_MAY_BE_ZERO = ("token_types",)


@dataclass(frozen=True)
class Widths:
    """The widths that all layers of a model have.

    Attributes
    ----------
    hidden : int
        Of the residual stream.
    heads : int
        Attention heads of a layer.
    neurons : int
        Feed-forward width of a layer.
    """

    hidden: int
    heads: int
    neurons: int


@dataclass(frozen=True)
class Structure:
    """The sizes of a model, part by part.

    With config.json it says all that is needed to build the model again. None: the family has no such part, or the
    file was written before the key was there, and then config.json says it.

    Attributes
    ----------
    layers : int
        Transformer layers.
    heads : tuple of int
        Attention heads of each layer.
    intermediate_size : tuple of int
        Feed-forward width of each layer.
    hidden_size : int
        Width of the residual stream.
    vocabulary : int or None
        Rows of the token embedding.
    head_size : int or None
        Width of a head, the same everywhere.
    key_value_heads : tuple of int or None
        Key-value heads of each layer, where heads share them.
    positions : int or None
        Rows of the table of positions, those before the first position (RoBERTa's two) included.
    token_types : int or None
        Rows of the table of token types; 0 where the one that was left is folded into the positions.
    pooler : bool or None
        Whether the pooler is there.
    embedding_size : int or None
        Width of the embeddings, where a projection leads to the hidden width.
    embedding_rank : int or None
        Width between the two matrices of a factorized token embedding.
    head_numbers : tuple of tuple of int, or None
        The column of the shared bias that each head of each layer takes (MPNet).
    shapes : mapping of str to tuple of int
        Shape of the weight of every module outside the layers that is no table of tokens, positions or token types.
    """

    layers: int
    heads: tuple[int, ...]
    intermediate_size: tuple[int, ...]
    hidden_size: int
    vocabulary: int | None = None
    head_size: int | None = None
    key_value_heads: tuple[int, ...] | None = None
    positions: int | None = None
    token_types: int | None = None
    pooler: bool | None = None
    embedding_size: int | None = None
    embedding_rank: int | None = None
    head_numbers: tuple[tuple[int, ...], ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def key_value_heads_or_heads(self) -> tuple[int, ...]:
        """Key-value heads of each layer; its heads where they share none."""
        return self.heads if self.key_value_heads is None else self.key_value_heads

    @property
    def uniform(self) -> bool:
        """Whether all layers are alike."""
        return all(len(set(sizes)) <= 1 for sizes in (self.heads, self.intermediate_size, self.key_value_heads or ()))

    def to_json(self) -> dict[str, Any]:
        """Return what structure.json holds: the parts that are there."""
        content: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None or (entry.name == "shapes" and not value):
                continue
            content[entry.name] = _plain(value)
        return content

    @classmethod
    def from_json(cls, content: Any, where: str = "structure.json") -> Structure:
        """Check what structure.json holds and return it.

        Parameters
        ----------
        content
            The parsed JSON.
        where
            Its name for messages.

        Raises
        ------
        CheckpointError
            If a key is missing, unknown or of another type, or sizes contradict each other.
        """
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{where}: expected an object, has {type(content).__name__}")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            raise CheckpointError(f"{where}: unknown {', '.join(unknown[:4])}; a later release wrote it: update")
        missing = [name for name in ("layers", "heads", "intermediate_size", "hidden_size") if name not in content]
        if missing:
            raise CheckpointError(f"{where}: it lacks {', '.join(missing)}")
        for problem in _problems(content):
            raise CheckpointError(f"{where}: {problem}")
        values = {name: _frozen(value) for name, value in content.items() if value is not None}
        return cls(**values)


def read_structure(file: Path) -> Structure | None:
    """Return what a structure.json says; None where there is none, as in a checkpoint that others wrote."""
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; copy the checkpoint anew") from error
    return Structure.from_json(content, str(file))


def structure_of(model: Any) -> Structure:
    """Return the structure of a transformers model of a known family, from its modules and not from its config.

    Raises
    ------
    UnsupportedError
        If its family is not known.
    """
    places = family(model.config.model_type)
    layers = places.layer_list(model)
    size = head_size_of(model)
    base = places.base_model(model)
    words = places.words(model)
    grouped = places.config_key_value_heads is not None
    projected = places.embedding_projection is not None and hasattr(base, places.embedding_projection)
    return Structure(
        layers=len(layers),
        heads=tuple(layer.get_submodule(places.query).out_features // size for layer in layers),
        intermediate_size=tuple(layer.get_submodule(places.ffn_output).in_features for layer in layers),
        hidden_size=_hidden_size(model, places),
        vocabulary=None if words is None else words.num_embeddings,
        head_size=size,
        key_value_heads=tuple(layer.get_submodule(places.key).out_features // size for layer in layers)
        if grouped
        else None,
        positions=_rows(base, places.position_embeddings),
        token_types=_rows(base, places.token_type_embeddings),
        pooler=None if places.pooler is None else getattr(base, places.pooler, None) is not None,
        embedding_size=words.embedding_dim if projected and words is not None else None,
        embedding_rank=_rank(words),
        head_numbers=_head_numbers(layers, places, size) if places.head_bias is not None else None,
        shapes=dict(_shapes(model, places)),
    )


def head_size_of(model: Any) -> int:
    """Return the width of a head; surgery never changes it."""
    places = family(model.config.model_type)
    path = places.attributes.get("head_size")
    if path is not None:
        holder, _, name = path.rpartition(".")
        return int(getattr(places.layer_list(model)[0].get_submodule(holder), name))
    declared = getattr(model.config, places.config_head_size, None) if places.config_head_size else None
    return int(declared or getattr(model.config, places.config_hidden) // getattr(model.config, places.config_heads))


def _hidden_size(model: Any, places: Family) -> int:
    return int(places.layer_list(model)[0].get_submodule(places.attention_output).out_features)


def _rows(base: Any, path: str | None) -> int | None:
    """Return the rows of a table; 0 where surgery put something else in its place."""
    return None if path is None else int(getattr(base.get_submodule(path), "num_embeddings", 0))


def _rank(words: Any) -> int | None:
    """Return the rank of a factorized token embedding (`compress.models.factorized`), None for a plain one."""
    return int(words.rank) if words is not None and hasattr(words, "factors") else None


def _head_numbers(layers: Any, places: Family, size: int) -> tuple[tuple[int, ...], ...]:
    numbers = []
    for layer in layers:
        query = layer.get_submodule(places.query)
        attention = layer.get_submodule(places.query.rpartition(".")[0])
        kept = getattr(attention, "head_numbers", None)
        numbers.append(tuple(range(query.out_features // size)) if kept is None else tuple(kept.tolist()))
    return tuple(numbers)


def _shapes(model: Any, places: Family) -> Iterator[tuple[str, tuple[int, ...]]]:
    import torch

    base = places.base_model(model)
    tables = (places.word_embeddings, places.position_embeddings, places.token_type_embeddings)
    inside = {id(module) for module in places.layer_list(model).modules()}
    for path in tables:
        if path is not None:
            inside |= {id(module) for module in base.get_submodule(path).modules()}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # What rounds a weight in training holds another module under that name.
        if id(module) not in inside and isinstance(weight, torch.Tensor) and weight.dim() in (1, 2):
            yield name, tuple(weight.shape)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _frozen(entry) for name, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, Sequence) else value


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the content of structure.json, the first thing first."""
    for name in _COUNTS:
        value = content.get(name)
        if value is not None and not _is_count(value, 0 if name in _MAY_BE_ZERO else 1):
            yield f"{name} is {value!r}, not a whole number above 0"
    for name in _LISTS:
        value = content.get(name)
        if value is None and name == "key_value_heads":
            continue
        if not isinstance(value, list) or not all(_is_count(entry) for entry in value):
            yield f"{name} is {value!r}, not a list of whole numbers above 0"
        elif len(value) != content["layers"]:
            yield f"{name} has {len(value)} entries for {content['layers']} layers"
    rank = content.get("embedding_rank")
    if rank is not None and not _is_count(rank):
        yield f"embedding_rank is {rank!r}, not a whole number above 0"
    if content.get("pooler") not in (None, True, False):
        yield f"pooler is {content['pooler']!r}, not true or false"
    for layer, (heads, groups) in enumerate(zip(content["heads"], content.get("key_value_heads") or (), strict=False)):
        if heads % groups:
            yield f"layer {layer} has {heads} heads over {groups} key-value heads"
    yield from _problems_of_numbers(content)
    shapes = content.get("shapes", {})
    if not isinstance(shapes, Mapping) or not all(
        isinstance(shape, list) and 1 <= len(shape) <= 2 and all(_is_count(size, 0) for size in shape)
        for shape in shapes.values()
    ):
        yield "shapes is not an object of lists of one or two whole numbers"


def _problems_of_numbers(content: Mapping[str, Any]) -> Iterator[str]:
    numbers = content.get("head_numbers")
    if numbers is None:
        return
    if not isinstance(numbers, list) or len(numbers) != content["layers"]:
        yield "head_numbers is not a list with an entry per layer"
        return
    for layer, kept in enumerate(numbers):
        if not isinstance(kept, list) or not all(_is_count(entry, 0) for entry in kept):
            yield f"head_numbers of layer {layer} is {kept!r}, not a list of whole numbers"
        elif len(kept) != content["heads"][layer] or len(set(kept)) != len(kept):
            yield f"head_numbers of layer {layer} is {kept!r}, not a number for each of {content['heads'][layer]} heads"


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least
