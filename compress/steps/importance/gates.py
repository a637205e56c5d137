"""Gates: a factor on what each head and each neuron passes on, put in front of the modules that gather them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = [
    "Layout",
    "frozen",
    "gated",
    "inputs_of",
    "layout_of",
    "on_device_of",
    "outputs_of",
    "rows_of",
    "token_mask",
    "with_hooks",
]


@dataclass(frozen=True)
class Layout:
    """How many heads and neurons each layer has.

    Attributes
    ----------
    heads, neurons : tuple of int
        Per layer.
    head_size : int
        Width of every head.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    head_size: int


def outputs_of(model: Any) -> list[tuple[Any, Any]]:
    """Return per layer the Linear modules that gather heads (attention output) and neurons (feed-forward output)."""
    from compress.models.families import family

    places = family(model.config.model_type)
    return [
        (layer.get_submodule(places.attention_output), layer.get_submodule(places.ffn_output))
        for layer in places.layer_list(model)
    ]


def layout_of(model: Any) -> Layout:
    """Return heads and neurons of every layer, read from the shapes of its weights."""
    from compress.models.structure import head_size_of

    size = head_size_of(model)
    outputs = outputs_of(model)
    heads = tuple(attention.in_features // size for attention, _ in outputs)
    return Layout(heads, tuple(ffn.in_features for _, ffn in outputs), size)


def on_device_of(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch on the model's device."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def inputs_of(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch without its labels."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def rows_of(batch: Mapping[str, torch.Tensor]) -> int:
    """Return how many examples a batch holds."""
    return int(next(iter(batch.values())).shape[0])


def token_mask(batch: Mapping[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """Return 1 at tokens and 0 at padding, ``[batch, sequence]`` as the states ``[batch, sequence, ...]`` have them."""
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape == states.shape[:2]:
        return mask.to(states.device)
    return states.new_ones(states.shape[:2])


@contextmanager
def with_hooks(handles: list[Any]) -> Iterator[None]:
    """Remove the hooks of these handles on leaving."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Hold the model in evaluation mode, its weights without gradients; both are as before on leaving."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = model.training
    model.eval()
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def gated(model: Any, heads: Sequence[torch.Tensor | None], neurons: Sequence[torch.Tensor | None]) -> Iterator[None]:
    """Multiply each head's context and each neuron's activation by a gate while the context lasts.

    Parameters
    ----------
    model
        A transformers model of a known family.
    heads, neurons
        Per layer the gates, ``[heads]`` and ``[neurons]``, or ``[batch, heads]`` and ``[batch, neurons]`` for gates
        of each example; None for no gate in this layer. Gradients flow to them.
    """
    size = layout_of(model).head_size
    handles = []
    for (attention, ffn), head, neuron in zip(outputs_of(model), heads, neurons, strict=True):
        if head is not None:
            handles.append(attention.register_forward_pre_hook(_gate_hook(head, size)))
        if neuron is not None:
            handles.append(ffn.register_forward_pre_hook(_gate_hook(neuron, 1)))
    with with_hooks(handles):
        yield


def _gate_hook(gates: torch.Tensor, repeat: int) -> Any:
    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        factor = gates.repeat_interleave(repeat, dim=-1) if repeat > 1 else gates
        if factor.dim() == 2:
            factor = factor[:, None, :]
        return (inputs[0] * factor.to(inputs[0].dtype), *inputs[1:])

    return hook
