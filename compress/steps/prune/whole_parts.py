"""Which layers and which units of the hidden width can go: judged by the loss over calibration rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from compress.steps.importance import Batches, LossOf

__all__ = ["hidden_to_drop", "layers_to_keep"]

_BATCHES = 8
"""Calibration batches on which the loss without each layer is computed, evenly spaced: they are sorted by length."""


def layers_to_keep(model: Any, count: int, batches: Batches, loss: LossOf) -> list[int]:
    """Return the layers that stay, ascending: one after the other the layer leaves without which the loss is least."""
    import torch

    from compress.models.families import family
    from compress.models.masks import without_layers

    layers = len(family(model.config.model_type).layer_list(model))
    every = list(batches)
    number = min(_BATCHES, len(every))
    some = [every[place * len(every) // number] for place in range(number)]
    gone: list[int] = []

    def without(layer: int) -> float:
        with torch.no_grad(), without_layers(model, [*gone, layer]):
            return sum(float(loss(model, dict(batch))) for batch in some)

    while layers - len(gone) > count:
        gone.append(min((layer for layer in range(layers) if layer not in gone), key=without))
    return [layer for layer in range(layers) if layer not in gone]


def hidden_to_drop(model: Any, count: int, batches: Batches, loss: LossOf) -> list[int]:
    """Return so many units of the residual stream to drop: those whose zeroing changes the loss least, to first order.

    Summed over the outputs of all norms of the stream, ``|E x dL/dx|`` over tokens (Molchanov et al.,
    arXiv 1611.06440, equation 7).
    """
    import torch

    from compress.models.masks import residual_norms
    from compress.models.structure import structure_of

    units = structure_of(model).hidden_size
    total = torch.zeros(units, dtype=torch.float64)
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[-1] == units:
            output.retain_grad()
            seen.append(output)
        return output

    handles = [norm.register_forward_hook(keep) for norm in residual_norms(model)]
    try:
        for batch in batches:
            seen.clear()
            model.zero_grad(set_to_none=True)
            loss(model, dict(batch)).backward()  # type: ignore[no-untyped-call]
            for output in seen:
                assert output.grad is not None
                total += (output.detach() * output.grad).double().sum(dim=1).abs().sum(dim=0).cpu()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return sorted(total.argsort(stable=True)[:count].tolist())
