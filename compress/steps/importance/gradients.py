"""Criteria from the gradient of the loss with respect to gates: first-order Taylor and the diagonal Fisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import ConfigError
from compress.steps.importance.gates import frozen, gated, layout_of, on_device_of, rows_of
from compress.steps.importance.scores import Batches, Importance, LossOf, Scores

if TYPE_CHECKING:
    import torch

__all__ = ["FisherImportance", "GateGradients", "TaylorImportance", "gate_gradients"]


@dataclass(frozen=True)
class GateGradients:
    """Gradients of each example's loss with respect to its gates, at gates of 1.

    Attributes
    ----------
    heads, neurons : list of torch.Tensor
        Per layer ``[examples, heads]`` and ``[examples, neurons]``, float32 on the CPU.
    """

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]


def gate_gradients(model: Any, batches: Batches, loss: LossOf) -> GateGradients:
    """Return the gradient of every example's loss with respect to a gate on each head and neuron.

    One backward pass per batch: every example has gates of its own. The loss of a batch is a mean, so gradients are
    multiplied by the number of examples; an example's loss is its share of that of its batch.

    Parameters
    ----------
    model
        A transformers model of a known family; unchanged, and in evaluation mode while this runs.
    batches
        Batches with labels.
    loss
        Mean loss of a batch.

    Raises
    ------
    ConfigError
        There are no batches.
    """
    import torch

    layout = layout_of(model)
    heads: list[list[torch.Tensor]] = [[] for _ in layout.heads]
    neurons: list[list[torch.Tensor]] = [[] for _ in layout.neurons]
    with frozen(model), torch.enable_grad():
        for batch in batches:
            moved = on_device_of(model, batch)
            rows, device = rows_of(moved), next(model.parameters()).device
            gates = [torch.ones(rows, count, device=device, requires_grad=True) for count in layout.heads]
            switches = [torch.ones(rows, count, device=device, requires_grad=True) for count in layout.neurons]
            with gated(model, gates, switches):
                value = loss(model, moved)
            found = torch.autograd.grad(value * rows, [*gates, *switches])
            for kept, gradient in zip((*heads, *neurons), found, strict=True):
                kept.append(gradient.cpu())
    if not heads or not heads[0]:
        raise ConfigError("importance: no calibration batches; raise the number of calibration rows")
    return GateGradients([torch.cat(parts) for parts in heads], [torch.cat(parts) for parts in neurons])


class TaylorImportance(Importance):
    """First-order Taylor expansion of the loss: ``|dL/dgate|`` (Michel et al., arXiv 1905.10650, equation 2, for heads;
    Molchanov et al., arXiv 1611.06440, equation 9, for neurons, where it is ``|sum over positions of a dL/da|``).

    Parameters
    ----------
    absolute
        ``example``: the mean over examples of the absolute gradient, as both papers have it; ``sum``: the absolute
        value of the mean gradient, which is what a step to 0 changes to first order but close to 0 for every structure
        of a converged model.
    """

    name: ClassVar[str] = "taylor"

    def __init__(self, absolute: str = "example") -> None:
        if absolute not in ("example", "sum"):
            raise ConfigError(f"taylor: absolute={absolute!r}; known: example, sum")
        self.absolute = absolute

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Return the mean absolute, or absolute mean, gradient."""
        gradients = gate_gradients(model, batches, loss)

        def reduce(one: torch.Tensor) -> torch.Tensor:
            return one.double().abs().mean(0) if self.absolute == "example" else one.double().mean(0).abs()

        return Scores([reduce(one) for one in gradients.heads], [reduce(one) for one in gradients.neurons], "loss")


class FisherImportance(Importance):
    """Diagonal of the empirical Fisher information of the gates: ``mean (dL/dgate)^2`` (Kwon et al., arXiv 2204.09656,
    equation 6). Half of it is what the loss rises by when the structure is removed, to second order.

    Parameters
    ----------
    per
        ``example``: squares of each example's gradient; ``batch``: squares of each batch's mean gradient times the
        batch's size, which has the same expectation where the mean gradient is 0, and is noisier.
    """

    name: ClassVar[str] = "fisher"

    def __init__(self, per: str = "example") -> None:
        if per not in ("example", "batch"):
            raise ConfigError(f"fisher: per={per!r}; known: example, batch")
        self.per = per

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Return the mean squared gradient."""
        if self.per == "example":
            gradients = gate_gradients(model, batches, loss)
            heads = [one.double().square().mean(0) for one in gradients.heads]
            return Scores(heads, [one.double().square().mean(0) for one in gradients.neurons], "loss")
        parts = [gate_gradients(model, [batch], loss) for batch in batches]
        if not parts:
            raise ConfigError("importance: no calibration batches; raise the number of calibration rows")
        rows = sum(part.heads[0].shape[0] for part in parts)

        def reduce(kind: str, layer: int) -> torch.Tensor:
            import torch

            sums = torch.stack([getattr(part, kind)[layer].double().sum(0) for part in parts])
            return sums.square().sum(0) / rows

        layers = range(len(parts[0].heads))
        return Scores(
            [reduce("heads", layer) for layer in layers], [reduce("neurons", layer) for layer in layers], "loss"
        )
