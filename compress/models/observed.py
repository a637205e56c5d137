"""Looking at what goes into and comes out of modules of a model, batch by batch, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["observe"]


def observe(
    model: Any,
    batches: Sequence[Mapping[str, torch.Tensor]],
    modules: Mapping[str, Any],
    see: Callable[[str, torch.Tensor, torch.Tensor], None],
) -> None:
    """Run batches through a model and show each module's vectors.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode.
    batches
        Inputs of the model, ``attention_mask`` ``[batch, sequence]`` among them.
    modules
        Modules of the model by name, each of one tensor in and out.
    see
        Called for each module and batch with its name, its input ``[n, in]`` and its output ``[n, out]``: a row for
        each token that is no padding, or for each text where the module reads texts.
    """
    import torch

    mask = torch.zeros(0, 0, dtype=torch.bool)

    def hook_of(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            see(name, _vectors(inputs[0], mask), _vectors(output, mask))

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = batch["attention_mask"].bool()
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()


def _vectors(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``[tokens, width]`` of states ``[batch, sequence, width]``; ``[batch, width]`` as they are."""
    return states[mask] if states.dim() == 3 else states
