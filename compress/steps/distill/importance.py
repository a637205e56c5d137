"""Which heads, neurons and hidden units matter most: what they add on training rows, no gradient needed.

After Wanda (Sun et al., arXiv 2306.11695), which weighs an input by its size times that of the weights that read it;
here the squares, summed over all that a structure is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.models.coupling import stream_sites
from compress.models.families import family
from compress.models.observed import observe
from compress.models.structure import head_size_of

if TYPE_CHECKING:
    import torch

__all__ = ["heads_and_neurons", "hidden_units", "least"]

Batches = Sequence[Mapping[str, "torch.Tensor"]]


def heads_and_neurons(model: Any, batches: Batches) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return scores ``[heads]`` and ``[neurons]`` of each layer.

    Of head ``a``: ``E |W_a c_a|^2``, where ``c_a`` is what it gathers and ``W_a`` its columns of the attention output;
    of neuron ``j``: ``E a_j^2 |w_j|^2``. The mean is over tokens.
    """
    import torch

    places, size = family(model.config.model_type), head_size_of(model)
    layers = places.layer_list(model)
    gathering = {
        f"{path}.{number}": layer.get_submodule(path)
        for number, layer in enumerate(layers)
        for path in (places.attention_output, places.ffn_output)
    }
    sums: dict[str, torch.Tensor] = {}

    def see(name: str, read: torch.Tensor, written: torch.Tensor) -> None:
        weight = gathering[name].weight
        if name.startswith(f"{places.attention_output}."):
            parts = read.reshape(len(read), -1, size).transpose(0, 1)  # [heads, tokens, size]
            columns = weight.T.reshape(-1, size, len(weight))  # [heads, size, hidden]
            found = torch.stack([(part @ own).square().sum() for part, own in zip(parts, columns, strict=True)])
        else:
            found = read.square().sum(0) * weight.square().sum(0)
        sums[name] = sums.get(name, torch.zeros(len(found), dtype=torch.float64)) + found.double().cpu()

    observe(model, batches, gathering, see)
    numbers = range(len(layers))
    return (
        [sums[f"{places.attention_output}.{number}"] for number in numbers],
        [sums[f"{places.ffn_output}.{number}"] for number in numbers],
    )


def hidden_units(model: Any, batches: Batches) -> torch.Tensor:
    """Return a score ``[hidden]`` of each unit of the residual stream.

    Of unit ``j``: ``E x_j^2 |w_j|^2``, as a share of all units', added up over the modules that read the stream.
    """
    import torch

    modules = dict(model.named_modules())
    readers = {name: modules[name] for name, side in sorted(stream_sites(model)) if side == "in"}
    sums: dict[str, torch.Tensor] = {}

    def see(name: str, read: torch.Tensor, written: torch.Tensor) -> None:
        found = read.square().sum(0).double().cpu() * readers[name].weight.square().sum(0).double().cpu()
        sums[name] = sums.get(name, torch.zeros(len(found), dtype=torch.float64)) + found

    observe(model, batches, readers, see)
    return torch.stack([sums[name] / sums[name].sum().clamp_min(1e-12) for name in sorted(sums)]).sum(0)


def least(scores: torch.Tensor, kept: int) -> list[int]:
    """Return the numbers of all but the `kept` highest scores, rising; of equal ones the last go."""
    import torch

    return sorted(torch.sort(scores, descending=True, stable=True).indices[kept:].tolist())
