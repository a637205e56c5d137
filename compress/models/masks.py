"""Switching heads, neurons, layers and hidden units off without removing them: what surgery is checked against.

The masks of heads and neurons may be float tensors that ask for gradients, as importance scores do.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.models.families import family
from compress.models.structure import head_size_of

if TYPE_CHECKING:
    import torch

    Masks = torch.Tensor | Sequence[Any] | Mapping[int, Any]

__all__ = ["masked", "residual_norms", "without_hidden", "without_layers"]


@contextlib.contextmanager
def masked(model: Any, heads: Masks | None = None, neurons: Masks | None = None) -> Iterator[Any]:
    """Multiply what heads and neurons hand on while the context lasts.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family; its weights are not touched.
    heads
        A mask ``[heads]`` per layer, as a tensor ``[layers, heads]``, a sequence, or a mapping that names some layers
        by number; bool or float. What a head hands on to the attention's output is multiplied by its entry.
    neurons
        The same ``[intermediate_size]`` per layer, before the feed-forward output.

    Yields
    ------
    transformers.PreTrainedModel
        The model.

    Raises
    ------
    ConfigError
        For a layer that is not there, or a mask of another length than the layer has heads or neurons.
    """
    places, size = family(model.config.model_type), head_size_of(model)
    layers = places.layer_list(model)
    with contextlib.ExitStack() as stack:
        for masks, path, width, what in (
            (heads, places.attention_output, size, "heads"),
            (neurons, places.ffn_output, 1, "neurons"),
        ):
            for number, mask in _per_layer(masks, len(layers), what):
                module = layers[number].get_submodule(path)
                if mask.shape != (module.in_features // width,):
                    raise ConfigError(
                        f"mask of {what} of layer {number}: it has the shape {list(mask.shape)}, "
                        f"the layer has {module.in_features // width} {what}"
                    )
                handle = module.register_forward_pre_hook(_scaling(mask, width))
                stack.callback(handle.remove)
        yield model


@contextlib.contextmanager
def without_layers(model: Any, layers: Sequence[int]) -> Iterator[Any]:
    """Let layers hand on what they were given while the context lasts."""
    found = family(model.config.model_type).layer_list(model)

    def bypass(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    with contextlib.ExitStack() as stack:
        for number in layers:
            stack.callback(found[number].register_forward_hook(bypass, with_kwargs=True).remove)
        yield model


@contextlib.contextmanager
def without_hidden(model: Any, units: Sequence[int]) -> Iterator[Any]:
    """Make a model compute what it would without some units of its residual stream, while the context lasts.

    Setting a unit to 0 is something else than removing it: LayerNorm would count the 0 in its mean and variance,
    RMSNorm in its mean square. Here each norm of the residual stream is computed over the units that stay, and hands
    on 0 for the others. All that reads the stream reads it behind such a norm, but for the first layer of a model that
    has its norm before the projection of its embeddings (ELECTRA): so what the first layer is given is 0 there too.
    """
    import torch

    first = family(model.config.model_type).layer_list(model)[0]
    norms = residual_norms(model)
    width = norms[0].weight.shape[0]
    kept = torch.tensor(sorted(set(range(width)) - set(units)))

    def norm_hook(narrow: Any) -> Any:
        def hook(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            index = kept.to(output.device)
            return torch.zeros_like(output).index_copy(-1, index, narrow(args[0].index_select(-1, index)))

        return hook

    def first_hook(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = torch.zeros(width).index_fill(0, kept, 1.0)
        if args:
            return (args[0] * mask.to(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * mask.to(kwargs["hidden_states"])}

    with contextlib.ExitStack() as stack:
        stack.callback(first.register_forward_pre_hook(first_hook, with_kwargs=True).remove)
        for norm in norms:
            stack.callback(norm.register_forward_hook(norm_hook(_narrow(norm, kept))).remove)
        yield model


def residual_norms(model: Any) -> list[Any]:
    """Return the norms of the residual stream; behind a projection of the embeddings those of the embeddings are none.

    A head's own norm counts where its output meets the tied token embedding, whose width is then the stream's.
    """
    places = family(model.config.model_type)
    base, layers = places.base_model(model), places.layer_list(model)
    width = layers[0].get_submodule(places.attention_output).out_features
    projected = places.embedding_projection is not None and hasattr(base, places.embedding_projection)
    embeddings = {id(module) for module in base.embeddings.modules()} if projected else set()
    words, output = places.words(model), model.get_output_embeddings()
    tied = words is not None and output is not None and not projected and output.weight is words.weight
    owner = model if tied else base
    return [
        module
        for module in owner.modules()
        if id(module) not in embeddings
        and type(module).__name__.endswith("Norm")
        and tuple(module.weight.shape) == (width,)
    ]


def _narrow(norm: Any, kept: torch.Tensor) -> Any:
    """Return a copy of a norm over some of its units."""
    import torch

    narrow = copy.deepcopy(norm)
    index = kept.to(norm.weight.device)
    for name, parameter in list(narrow.named_parameters(recurse=False)):
        setattr(narrow, name, torch.nn.Parameter(parameter.detach()[index], requires_grad=False))
    if hasattr(narrow, "normalized_shape"):
        narrow.normalized_shape = (len(kept),)
    return narrow


def _scaling(mask: torch.Tensor, width: int) -> Any:
    """Return a pre-hook that multiplies a module's input, `width` channels for each entry of the mask."""

    def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given = args[0]
        factors = mask.to(given.device, given.dtype)
        return (given * (factors.repeat_interleave(width) if width > 1 else factors), *args[1:])

    return hook


def _per_layer(masks: Masks | None, layers: int, what: str) -> Iterator[tuple[int, torch.Tensor]]:
    import torch

    if masks is None:
        return
    if isinstance(masks, Mapping):
        named = dict(masks)
        absent = [number for number in named if not 0 <= number < layers]
        if absent:
            raise ConfigError(f"mask of {what} of layer {absent[0]}: there are layers 0 to {layers - 1}")
    else:
        named = dict(enumerate(masks))
        if len(named) != layers:
            raise ConfigError(f"masks of {what} for {len(named)} layers: the model has {layers}")
    for number, mask in named.items():
        if mask is not None:
            yield number, torch.as_tensor(mask)
