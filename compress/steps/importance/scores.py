"""What an importance criterion answers: a score per head and per feed-forward neuron, and what keeping them costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Batches", "Costs", "Importance", "LossOf", "Scores", "mac_costs"]

Batches = Iterable[Mapping[str, "torch.Tensor"]]
"""Calibration batches, inputs and ``labels``; iterated more than once, so a list rather than a generator."""

LossOf = Callable[[Any, dict[str, Any]], "torch.Tensor"]
"""From the model and a batch to a scalar: the mean loss over the batch (`compress.training.loop.TaskLoss`)."""


@dataclass(frozen=True)
class Scores:
    """A score per structure; higher is better kept. Both lists run over layers; tensors are float64 on the CPU.

    Attributes
    ----------
    heads : list of torch.Tensor
        ``[heads of the layer]`` each.
    neurons : list of torch.Tensor
        ``[feed-forward width of the layer]`` each.
    unit : str
        What may be compared with what. ``loss``: all are shares of one loss, so those of different kinds and layers can
        be compared and summed (Taylor, Fisher). ``per_cost``: as ``loss``, over the structure's cost. ``own``: within
        one kind and layer only, until `normalized`.
    """

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]
    unit: Literal["loss", "per_cost", "own"] = "own"

    def normalized(self) -> Scores:
        """Return scores that each sum to the structures' number within a layer and kind: 1 is the layer's average.

        What makes criteria without a common unit comparable from one layer to the next (Molchanov et al.,
        arXiv 1611.06440, section 2.2 rescale likewise, by the l2-norm). Layers without any score stay at 0.
        """
        return Scores([_mean_one(one) for one in self.heads], [_mean_one(one) for one in self.neurons])

    def per_cost(self, costs: Costs) -> Scores:
        """Return scores per unit of cost, by which heads and neurons can be put in one order.

        Scores without a common unit become `normalized` ones: the share of its layer's score that a structure holds,
        per share of its layer's cost.
        """
        if self.unit == "per_cost":
            return self
        if self.unit == "own":
            return Scores(self.normalized().heads, self.normalized().neurons, "per_cost")
        heads, neurons = [one / costs.head for one in self.heads], [one / costs.neuron for one in self.neurons]
        return Scores(heads, neurons, "per_cost")


@dataclass(frozen=True)
class Costs:
    """What one kept structure costs, in any one unit: multiply-accumulates per text, milliseconds, parameters.

    Attributes
    ----------
    head, neuron : float
        Cost of a head and of a feed-forward neuron, the same in every layer; above 0.
    """

    head: float
    neuron: float

    def total(self, heads: int, neurons: int) -> float:
        """Return the cost of so many heads and neurons over all layers."""
        return self.head * heads + self.neuron * neurons


class Importance(ABC):
    """A criterion: how much a model loses with each head and neuron."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True
    """Whether `scores` reads `batches`."""
    needs_loss: ClassVar[bool] = True
    """Whether `scores` calls `loss`."""

    @abstractmethod
    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Score every head and neuron; the model is left as it was.

        Parameters
        ----------
        model
            A transformers model of a known family, in evaluation mode.
        batches
            Calibration batches with labels; never of the test split.
        loss
            Mean loss of a batch.
        """


def mac_costs(model: Any, sequence: int) -> Costs:
    """Return multiply-accumulates per head and per neuron for one text.

    A head: ``4 hidden head_size s`` in its four projections and ``2 s^2 head_size`` in scores and context; a neuron:
    ``(1 + inputs) hidden s``, where inputs is 2 in families that gate and 1 in others.

    Parameters
    ----------
    model
        A transformers model of a known family.
    sequence
        Tokens of the text, s.
    """
    from compress.models.families import family
    from compress.models.structure import head_size_of

    places = family(model.config.model_type)
    hidden, size = getattr(model.config, places.config_hidden), head_size_of(model)
    head = 4 * hidden * size * sequence + 2 * sequence**2 * size
    return Costs(float(head), float((1 + len(places.ffn_inputs)) * hidden * sequence))


def _mean_one(scores: torch.Tensor) -> torch.Tensor:
    mean = float(scores.mean()) if scores.numel() else 0.0
    return scores / mean if mean > 0 else scores.clone()
