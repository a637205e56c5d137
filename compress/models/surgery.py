"""Making a transformers model smaller: what is cut is gone, and what is left works as it did.

Every function returns a new model and leaves the one it was given alone: an error on the way never leaves half a model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.errors import ConfigError, UnsupportedError
from compress.models.attributes import follow
from compress.models.families import Family, family
from compress.models.structure import Structure, structure_of

__all__ = [
    "Cut",
    "cut",
    "drop_pooler",
    "fold_token_types",
    "keep_layers",
    "keep_positions",
    "keep_vocabulary_rows",
    "remove_heads",
    "remove_hidden",
    "remove_neurons",
]


@dataclass(frozen=True)
class Cut:
    """What to take from a model, in the numbers of the model before anything is taken.

    Attributes
    ----------
    heads : mapping of int to sequence of int
        Heads that go, by layer. Where heads share keys and values, all that share them go together.
    neurons : mapping of int to sequence of int
        Feed-forward neurons that go, by layer.
    hidden : sequence of int
        Units of the residual stream that go.
    layers : sequence of int or None
        Layers that stay, in their new order; None keeps all.
    vocabulary : sequence of int or None
        Ids of tokens that stay; the place in the sequence is the new id.
    positions : int or None
        Longest input, in tokens, that there is room for afterwards.
    fold_token_types : bool
        Whether token type 0 is added into the positions and the table of types goes.
    drop_pooler : bool
        Whether the pooler goes.
    """

    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    neurons: Mapping[int, Sequence[int]] = field(default_factory=dict)
    hidden: Sequence[int] = ()
    layers: Sequence[int] | None = None
    vocabulary: Sequence[int] | None = None
    positions: int | None = None
    fold_token_types: bool = False
    drop_pooler: bool = False


def cut(model: Any, what: Cut) -> Any:
    """Return a copy of a model without what is cut.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, with or without a head; unchanged.
    what
        The cut.

    Returns
    -------
    transformers.PreTrainedModel
        Of the same class, in the same mode, every size attribute and config field true; `compress.models.attributes`
        says which fields cannot be.

    Raises
    ------
    UnsupportedError
        For an unknown family, weights that are not floating-point, or a part that the model does not have.
    ConfigError
        For numbers that are not there, and for a cut that would leave no head, neuron, hidden unit or layer.
    """
    from compress.models import tables
    from compress.models.coupling import remove_channels

    places = family(model.config.model_type)
    _check_kind(model, places)
    structure = structure_of(model)
    _check_cut(what, structure)
    smaller = copy.deepcopy(model)
    layers = range(structure.layers) if what.layers is None else what.layers
    if what.layers is not None:
        _keep_layers(smaller, places, what.layers)
    remove_channels(
        smaller,
        heads={new: _numbers(what.heads.get(old, ())) for new, old in enumerate(layers)},
        neurons={new: _numbers(what.neurons.get(old, ())) for new, old in enumerate(layers)},
        hidden=_numbers(what.hidden),
    )
    if places.head_bias is not None:
        _take_heads_of_bias(smaller, structure, layers, what.heads)
    if what.vocabulary is not None:
        tables.keep_word_rows(smaller, what.vocabulary)
    if what.positions is not None:
        tables.keep_position_rows(smaller, what.positions)
    if what.fold_token_types:
        tables.fold_token_types(smaller)
    if what.drop_pooler:
        tables.drop_pooler(smaller)
    follow(smaller)
    return smaller


def remove_heads(model: Any, heads: Mapping[int, Sequence[int]]) -> Any:
    """Return a copy without these attention heads, given by layer; see `cut`."""
    return cut(model, Cut(heads=heads))


def remove_neurons(model: Any, neurons: Mapping[int, Sequence[int]]) -> Any:
    """Return a copy without these feed-forward neurons, given by layer; see `cut`."""
    return cut(model, Cut(neurons=neurons))


def remove_hidden(model: Any, units: Sequence[int]) -> Any:
    """Return a copy without these units of the residual stream, wherever it goes; see `cut`.

    What a pooler or a head makes of the stream keeps its width: it is no part of it.
    """
    return cut(model, Cut(hidden=units))


def keep_layers(model: Any, layers: Sequence[int]) -> Any:
    """Return a copy that keeps these layers, in this order; see `cut`."""
    return cut(model, Cut(layers=layers))


def keep_vocabulary_rows(model: Any, ids: Sequence[int]) -> Any:
    """Return a copy that knows only these tokens: ``ids[n]`` becomes ``n``; see `cut`."""
    return cut(model, Cut(vocabulary=ids))


def keep_positions(model: Any, count: int) -> Any:
    """Return a copy with room for inputs of at most `count` tokens; see `cut`."""
    return cut(model, Cut(positions=count))


def fold_token_types(model: Any) -> Any:
    """Return a copy that takes every token to be of type 0 and has no token types; see `cut`."""
    return cut(model, Cut(fold_token_types=True))


def drop_pooler(model: Any) -> Any:
    """Return a copy without the pooler, if nothing reads it; see `cut`."""
    return cut(model, Cut(drop_pooler=True))


def _keep_layers(model: Any, places: Family, layers: Sequence[int]) -> None:
    """Keep layers in place; one that is named twice is copied."""
    import torch

    found, used = places.layer_list(model), set()
    kept = []
    for number in layers:
        kept.append(copy.deepcopy(found[number]) if number in used else found[number])
        used.add(number)
    places.replace_layers(model, torch.nn.ModuleList(kept))
    types = getattr(model.config, "layer_types", None)
    if types is not None:
        model.config.layer_types = [types[number] for number in layers]


def _take_heads_of_bias(
    model: Any, structure: Structure, layers: Iterable[int], heads: Mapping[int, Sequence[int]]
) -> None:
    from compress.models.tables import take_heads_of_bias

    assert structure.head_numbers is not None
    kept = {}
    for new, old in enumerate(layers):
        gone = set(heads.get(old, ()))
        if gone:
            kept[new] = [column for head, column in enumerate(structure.head_numbers[old]) if head not in gone]
    take_heads_of_bias(model, kept)


def _numbers(numbers: Iterable[int]) -> list[int]:
    return sorted({int(number) for number in numbers})


def _check_kind(model: Any, places: Family) -> None:
    """Refuse what surgery does not know: weights in packed form, attention over another sequence."""
    for number, layer in enumerate(places.layer_list(model)):
        if any(name.endswith("crossattention") for name, _ in layer.named_modules()):
            raise UnsupportedError(
                f"layer {number} of {type(model).__name__} has cross-attention, which cannot be pruned"
            )
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise UnsupportedError(
                f"{name} of {type(model).__name__} is {str(parameter.dtype).removeprefix('torch.')}: a quantized model "
                f"cannot be pruned; prune first, then quantize"
            )


def _check_cut(what: Cut, structure: Structure) -> None:
    """Refuse numbers that are not there, and a cut that leaves nothing of something."""
    if what.layers is not None:
        _check_layers(what.layers, structure)
    for name, by_layer, sizes, one in (
        ("heads", what.heads, structure.heads, "head"),
        ("neurons", what.neurons, structure.intermediate_size, "neuron"),
    ):
        for layer, numbers in by_layer.items():
            if not 0 <= layer < structure.layers:
                raise ConfigError(f"{name} of layer {layer}: there are layers 0 to {structure.layers - 1}")
            _check_numbers(numbers, sizes[layer], f"{name} of layer {layer}", one)
    for layer, numbers in what.heads.items():
        _check_groups(layer, set(numbers), structure)
    _check_numbers(what.hidden, structure.hidden_size, "hidden units", "hidden unit")


def _check_layers(layers: Sequence[int], structure: Structure) -> None:
    if not len(layers):
        raise ConfigError("layers []: at least one layer must stay, a model without layers only looks tokens up")
    if any(not 0 <= layer < structure.layers for layer in layers):
        raise ConfigError(f"layers {list(layers)}: there are layers 0 to {structure.layers - 1}")


def _check_numbers(numbers: Sequence[int], size: int, what: str, one: str) -> None:
    gone = set(numbers)
    outside = sorted(number for number in gone if not 0 <= number < size)
    if outside:
        raise ConfigError(f"{what} {outside}: there are 0 to {size - 1}")
    if len(gone) == size:
        raise ConfigError(
            f"{what}: all {size} would go; at least one {one} must stay"
            + ("" if one == "hidden unit" else ", to take away more leave out the layer (keep_layers)")
        )


def _check_groups(layer: int, gone: set[int], structure: Structure) -> None:
    """Refuse to take some of the heads that share keys and values, and leave others."""
    group = structure.heads[layer] // structure.key_value_heads_or_heads[layer]
    for first in range(0, structure.heads[layer], group):
        together = set(range(first, first + group))
        if together & gone not in (set(), together):
            raise ConfigError(
                f"heads of layer {layer} {sorted(together & gone)}: heads {first} to {first + group - 1} share keys "
                f"and values and can only go together"
            )
