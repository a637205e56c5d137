"""Run single layers on kept hidden states, as the whole model would call them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.steps.importance.gates import frozen, inputs_of, on_device_of, with_hooks
from compress.steps.importance.scores import Batches

if TYPE_CHECKING:
    import torch

__all__ = ["Replay", "inputs_within"]


class _ReachedError(Exception):
    """The module whose input was asked for has been reached; the rest of the layer need not run."""


class Replay:
    """How a model calls each of its layers for each batch: masks, biases and so on, kept from one forward pass.

    Holds the hidden states in front of the first layer, ``[batch, sequence, hidden]`` per batch, so memory grows with
    the calibration texts: 1,024 texts of 32 tokens of width 384 are 50 MB.

    Parameters
    ----------
    model
        A transformers model of a known family.
    batches
        Calibration batches.

    Attributes
    ----------
    states : list of torch.Tensor
        Per batch, the input of the first layer.
    """

    def __init__(self, model: Any, batches: Batches) -> None:
        import torch

        from compress.models.families import family

        self.layers = family(model.config.model_type).layer_list(model)
        self.states: list[torch.Tensor] = []
        self._calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in self.layers]

        def hook_of(number: int) -> Any:
            def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if not args:
                    raise ConfigError(f"{type(module).__name__} is not given its hidden states as first argument")
                if number == 0:
                    self.states.append(args[0].detach())
                # A decoder's cache would grow with every call.
                own = {name: None if name.startswith("past_key_value") else value for name, value in kwargs.items()}
                self._calls[number].append((args[1:], own))

            return hook

        handles = [
            layer.register_forward_pre_hook(hook_of(number), with_kwargs=True)
            for number, layer in enumerate(self.layers)
        ]
        with frozen(model), torch.no_grad(), with_hooks(handles):
            for batch in batches:
                moved = on_device_of(model, batch)
                model(**inputs_of(moved))
        if not self.states:
            raise ConfigError("pruning: no calibration batches; raise the number of calibration rows")

    def run(self, number: int, batch: int, states: torch.Tensor, layer: Any = None) -> torch.Tensor:
        """Return the output of layer `number`, or of `layer` in its place, on hidden states of a batch."""
        import torch

        args, kwargs = self._calls[number][batch]
        with torch.no_grad():
            output = (self.layers[number] if layer is None else layer)(states, *args, **kwargs)
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def inputs(
        self, number: int, batch: int, states: torch.Tensor, modules: Sequence[Any], layer: Any = None
    ) -> list[torch.Tensor]:
        """Return what `modules` of the layer are given; the layer stops at the last of them."""
        with inputs_within(modules, stop=True) as seen, suppress(_ReachedError):
            self.run(number, batch, states, layer)
        return [seen[place] for place in range(len(modules))]


@contextmanager
def inputs_within(modules: Sequence[Any], *, stop: bool = False) -> Iterator[dict[int, Any]]:
    """Yield a dictionary that takes up the last input of each module, by its place in `modules`."""
    seen: dict[int, Any] = {}

    def hook_of(place: int) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            seen[place] = inputs[0]
            if stop and len(seen) == len(modules):
                raise _ReachedError

        return hook

    handles = [module.register_forward_pre_hook(hook_of(place)) for place, module in enumerate(modules)]
    with with_hooks(handles):
        yield seen
