"""One model that holds smaller ones: their heads and neurons are the first of each layer's, their layers every so many.

The sub-networks of DynaBERT (Hou et al., arXiv 2004.04037): as each is a slice of every weight, all of them can be
trained in one model, and any can be cut from it.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compress.errors import StepError
from compress.models.checking import TOLERANCE, difference
from compress.models.examples import example_inputs
from compress.models.families import family
from compress.models.structure import Structure, Widths, head_size_of, structure_of
from compress.models.surgery import Cut, cut

if TYPE_CHECKING:
    import torch

__all__ = ["Size", "SubNetworks", "head_order", "layers_at", "nested_cut", "reordered", "widths_at"]


@dataclass(frozen=True, order=True)
class Size:
    """Which sub-network.

    Attributes
    ----------
    width : float
        Share of each layer's heads and neurons, above 0 to 1.
    depth : float
        Share of the layers, above 0 to 1.
    """

    width: float
    depth: float


def layers_at(depth: float, layers: int) -> tuple[int, ...]:
    """Return the layers of a sub-network, ascending: layer ``floor(i / depth)`` for each ``i`` of ``depth * layers``.

    Half of 12 are 0, 2, ..., 10, three quarters leave out 3, 7 and 11: dropped are those ``d`` for which ``d + 1`` is
    a multiple (arXiv 2004.04037, section 2.2; the formula is that of the authors' code). The number of layers is
    rounded half up and at least 1.
    """
    return tuple(math.floor(place / depth + 1e-9) for place in range(_share(depth, layers)))


def nested_cut(structure: Structure, size: Size) -> Cut:
    """Return what to cut from a model to leave a sub-network.

    Heads that share keys and values stay or go together.

    Parameters
    ----------
    structure
        Of the whole model.
    size
        Of the sub-network.
    """
    heads, neurons = {}, {}
    kept = layers_at(size.depth, structure.layers)
    for layer in kept:
        most, groups = structure.heads[layer], structure.key_value_heads_or_heads[layer]
        first = _share(size.width, groups) * (most // groups)
        heads[layer] = tuple(range(first, most))
        width = structure.intermediate_size[layer]
        neurons[layer] = tuple(range(_share(size.width, width), width))
    return Cut(
        heads={layer: gone for layer, gone in heads.items() if gone},
        neurons={layer: gone for layer, gone in neurons.items() if gone},
        layers=kept if len(kept) < structure.layers else None,
    )


def widths_at(widths: Widths, width: float) -> Widths:
    """Return how wide the layers of a sub-network are, where each head has keys and values of its own."""
    return replace(widths, heads=_share(width, widths.heads), neurons=_share(width, widths.neurons))


def head_order(scores: Sequence[float], groups: int) -> list[int]:
    """Return heads by falling score; those that share keys and values by their sum, and together.

    Parameters
    ----------
    scores
        Of each head.
    groups
        Key-value heads of the layer; as many as heads where none share.
    """
    size = len(scores) // groups
    sums = [math.fsum(scores[group * size : (group + 1) * size]) for group in range(groups)]
    ranked = sorted(range(groups), key=lambda group: (-sums[group], group))
    return [group * size + place for group in ranked for place in range(size)]


def reordered(model: Any, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]) -> Any:
    """Return a copy whose heads and neurons stand in another order, and which computes the same.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, in eval mode; unchanged.
    heads, neurons
        Per layer all their numbers, the new first first; heads that share keys and values together, as `head_order`
        has them.

    Raises
    ------
    StepError
        If an output differs by more than the order of summation explains.
    """
    from compress.models.tables import take_heads_of_bias

    places, structure, size = family(model.config.model_type), structure_of(model), head_size_of(model)
    other = copy.deepcopy(model)
    for number, layer in enumerate(places.layer_list(other)):
        shared = structure.heads[number] // structure.key_value_heads_or_heads[number]
        own = _channels(heads[number], size)
        keys = _channels([head // shared for head in heads[number][::shared]], size)
        _reorder(layer.get_submodule(places.query), 0, own)
        _reorder(layer.get_submodule(places.key), 0, keys)
        _reorder(layer.get_submodule(places.value), 0, keys)
        _reorder(layer.get_submodule(places.attention_output), 1, own)
        for path in places.ffn_inputs:
            _reorder(layer.get_submodule(path), 0, neurons[number])
        _reorder(layer.get_submodule(places.ffn_output), 1, neurons[number])
    if structure.head_numbers is not None:
        columns = structure.head_numbers
        take_heads_of_bias(other, {n: [columns[n][head] for head in order] for n, order in enumerate(heads)})
    distance = difference(other, model, Cut())
    if not distance <= TOLERANCE:
        raise StepError(
            f"{type(model).__name__} with its heads and neurons in another order differs by {distance:.2g} (accepted: "
            f"{TOLERANCE:g}): its family declaration may not fit this version of transformers"
        )
    return other


class SubNetworks:
    """The sub-networks of a model, computed from slices of its weights: they cost what smaller models cost.

    Gradients reach the model's own weights. What a model has outside its layers all sub-networks share.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, on the CPU, in eval mode, whole.
    widths
        That will be asked for.

    Raises
    ------
    UnsupportedError, ConfigError
        As `compress.models.surgery.cut`.
    """

    def __init__(self, model: Any, widths: Iterable[float]) -> None:
        import torch

        self.model = model
        self.structure = structure_of(model)
        self._places = family(model.config.model_type)
        self._whole = self._places.layer_list(model)
        with torch.no_grad():
            # transformers hooks the layers that it finds with the first such call: the narrow ones must have its hooks.
            model(**example_inputs(model), output_hidden_states=True)
        self._narrow = {width: self._layers_of(width) for width in set(widths)}

    @contextlib.contextmanager
    def at(self, size: Size) -> Iterator[Any]:
        """Have the model be a sub-network while the context lasts; a backward pass may come after it.

        Yields
        ------
        transformers.PreTrainedModel
            The model.
        """
        import torch

        chosen = [self._entered(size.width, number) for number in layers_at(size.depth, self.structure.layers)]
        self._places.replace_layers(self.model, torch.nn.ModuleList(chosen))
        try:
            yield self.model
        finally:
            self._places.replace_layers(self.model, self._whole)

    def parameters(self, size: Size) -> int:
        """Return how many parameters a sub-network has."""
        inside = sum(one.numel() for one in self._whole.parameters())
        outside = sum(one.numel() for one in self.model.parameters()) - inside
        kept = layers_at(size.depth, self.structure.layers)
        return int(outside) + sum(math.prod(shape) for number in kept for _, shape in self._shapes(size.width, number))

    def _layers_of(self, width: float) -> list[_Narrow] | None:
        """Return narrow layers without weights; None where they would be the model's own."""
        what = nested_cut(self.structure, Size(width, 1.0))
        if not what.heads and not what.neurons:
            return None
        return [_Narrow(layer, self.model.config) for layer in self._places.layer_list(cut(self.model, what))]

    def _entered(self, width: float, number: int) -> Any:
        narrow, own = self._narrow[width], self._whole[number]
        return own if narrow is None else narrow[number].filled(own, self.model.training)

    def _shapes(self, width: float, number: int) -> list[tuple[str, tuple[int, ...]]]:
        narrow = self._narrow[width]
        if narrow is None:
            return [(name, tuple(one.shape)) for name, one in self._whole[number].named_parameters()]
        return narrow[number].shapes


class _Narrow:
    """A layer whose weights are slices of another's.

    Parameters
    ----------
    layer
        Of a smaller model; its weights are dropped.
    config
        Of the whole model: how attention is computed is looked up there.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        self.layer = layer
        self.shapes = [(name, tuple(parameter.shape)) for name, parameter in layer.named_parameters()]
        for name, _ in self.shapes:
            holder, _, attribute = name.rpartition(".")
            delattr(layer.get_submodule(holder), attribute)
        for module in layer.modules():
            if "config" in vars(module):
                module.config = config

    def filled(self, own: Any, training: bool) -> Any:
        """Return the layer with the first of each dimension of another's weights."""
        for name, shape in self.shapes:
            holder, _, attribute = name.rpartition(".")
            whole: torch.Tensor = own.get_parameter(name)
            setattr(self.layer.get_submodule(holder), attribute, whole[tuple(slice(count) for count in shape)])
        return self.layer.to(whole.device).train(training)


def _share(share: float, count: int) -> int:
    """Return a share of a number, rounded half up, at least 1."""
    return max(1, math.floor(share * count + 0.5))


def _channels(numbers: Sequence[int], size: int) -> list[int]:
    return [channel for number in numbers for channel in range(number * size, (number + 1) * size)]


def _reorder(linear: Any, dimension: int, order: Sequence[int]) -> None:
    """Put the rows, with their biases, or the columns of a Linear module in another order, in place."""
    import torch

    index = torch.tensor(list(order), device=linear.weight.device)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.index_select(dimension, index))
        if dimension == 0 and linear.bias is not None:
            linear.bias.copy_(linear.bias.index_select(0, index))
