"""Gates that are learned: an L0 penalty trades the loss against the cost of what stays open (CoFi, Xia et al.,
arXiv 2204.00408; hard concrete, Louizos et al., arXiv 1712.01312).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import ConfigError, StepError
from compress.steps.importance.gates import frozen, gated, layout_of, on_device_of
from compress.steps.importance.scores import Batches, Costs, Importance, LossOf, Scores, mac_costs

if TYPE_CHECKING:
    import torch

__all__ = ["HardConcreteImportance", "LearnedGates", "learn_gates"]

_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1  # beta, gamma, zeta of Louizos et al., section 4
_OPEN = 2.5  # log alpha at the start: open with probability 0.98, and at 1 whenever the noise is at its median


@dataclass(frozen=True)
class LearnedGates:
    """Where the gates stand after training.

    Attributes
    ----------
    heads, neurons : list of torch.Tensor
        Per layer the probability that a head, or neuron, and its layer's whole attention, or feed-forward part, are
        open; float64 on the CPU.
    layers : torch.Tensor
        ``[layers, 2]``, the probability that the attention and the feed-forward part as a whole are open.
    kept : float
        Expected cost of what is open over that of all.
    history : list of dict
        Per update ``loss``, ``kept`` and ``target``.
    """

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]
    layers: torch.Tensor
    kept: float
    history: list[dict[str, float]] = field(default_factory=list)

    def scores(self, costs: Costs) -> Scores:
        """Return the probabilities times the cost: at the end of training each gate has weighed its loss against its
        cost, so it is per cost that they can be compared as they are.
        """
        heads, neurons = [costs.head * one for one in self.heads], [costs.neuron * one for one in self.neurons]
        return Scores(heads, neurons, "loss")


def learn_gates(
    model: Any,
    batches: Batches,
    loss: LossOf,
    *,
    costs: Costs,
    keep: float,
    updates: int = 200,
    learning_rate: float = 0.1,
    weights_learning_rate: float = 0.0,
    warmup: float = 0.5,
    seed: int = 0,
) -> LearnedGates:
    """Learn gates on heads, neurons, and whole attention and feed-forward parts, down to a share of the cost.

    Minimises ``loss + l1 (s - t) + l2 (s - t)^2`` over the gates' ``log alpha`` and maximises it over l1 and l2
    (equation 4 of CoFi), where s is the expected share of the cost that is pruned and t its target, which rises
    linearly from 0. A gate is ``clamp(sigmoid((log u - log(1 - u) + log alpha) / beta) (zeta - gamma) + gamma, 0, 1)``.

    Parameters
    ----------
    model
        A transformers model of a known family. Its weights change only with `weights_learning_rate` above 0; dropout
        is off.
    batches
        Training batches, gone through in turn.
    loss
        Mean loss of a batch; a distillation loss serves too.
    costs
        Of one head and one neuron.
    keep
        Share of the cost that stays, in (0, 1).
    updates
        Updates of the gates, one batch each.
    learning_rate
        Of the gates and of the multipliers (AdamW).
    weights_learning_rate
        Of the model's weights; 0 leaves them as they are.
    warmup
        Share of the updates in which the target rises.
    seed
        Of the noise u.

    Raises
    ------
    ConfigError
        `keep` is not between 0 and 1, or there are no batches.
    StepError
        The loss became infinite or no number.
    """
    import torch

    if not 0 < keep < 1:
        raise ConfigError(f"learned gates: keep={keep:g} of the cost; give a share above 0 and below 1")
    gates = _Gates(model, costs, seed)
    multipliers = torch.zeros(2, device=gates.device, requires_grad=True)
    groups: list[dict[str, Any]] = [
        {"params": gates.parameters, "lr": learning_rate, "weight_decay": 0.0},
        {"params": [multipliers], "lr": learning_rate, "weight_decay": 0.0, "maximize": True},
    ]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    history = []
    with frozen(model), torch.enable_grad():
        if weights_learning_rate > 0:
            for parameter in weights:
                parameter.requires_grad_(True)
            groups.append({"params": weights, "lr": weights_learning_rate})
        optimizer = torch.optim.AdamW(groups)
        for update, batch in enumerate(itertools.islice(itertools.cycle(batches), updates)):
            target = (1 - keep) * min(1.0, (update + 1) / max(1.0, warmup * updates))
            with gated(model, *gates.sample()):
                value = loss(model, on_device_of(model, batch))
            excess = 1 - gates.kept() - target
            penalty = multipliers[0] * excess + multipliers[1] * excess.square()
            optimizer.zero_grad()
            (value + penalty).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            history.append(
                {"loss": float(value.detach()), "kept": 1 - target - float(excess.detach()), "target": 1 - target}
            )
            if not math.isfinite(history[-1]["loss"]):
                raise StepError(f"learned gates: the loss is {history[-1]['loss']} at update {update + 1}")
        model.zero_grad(set_to_none=True)
    if not history:
        raise ConfigError("importance: no calibration batches; raise the number of calibration rows")
    with torch.no_grad():
        heads, neurons, layers = ([one.double().cpu() for one in part] for part in gates.probabilities())
        return LearnedGates(heads, neurons, torch.stack(layers).reshape(-1, 2), float(gates.kept()), history)


class HardConcreteImportance(Importance):
    """The probability that a learned gate is open, see `learn_gates`; weights stay as they are.

    Parameters
    ----------
    keep
        Share of the multiply-accumulates that stays while the gates are learned.
    updates, learning_rate
        Of the gates, see `learn_gates`.
    seed
        Of the noise.
    """

    name: ClassVar[str] = "hard_concrete"

    def __init__(self, keep: float = 0.5, updates: int = 200, learning_rate: float = 0.03, seed: int = 0) -> None:
        self.keep = keep
        self.updates = updates
        self.learning_rate = learning_rate
        self.seed = seed

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Learn gates at the calibration texts' mean padded length."""
        lengths = [int(next(iter(batch.values())).shape[1]) for batch in batches]
        costs = mac_costs(model, max(1, round(sum(lengths) / max(1, len(lengths)))))
        found = learn_gates(
            model,
            batches,
            loss,
            costs=costs,
            keep=self.keep,
            updates=self.updates,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        return found.scores(costs)


class _Gates:
    """``log alpha`` of every gate, what they let through and what that costs."""

    def __init__(self, model: Any, costs: Costs, seed: int) -> None:
        import torch

        self.device = next(model.parameters()).device
        self.costs = costs
        self.generator = torch.Generator().manual_seed(seed)
        layout = layout_of(model)
        self.heads = [self._open(count) for count in layout.heads]
        self.neurons = [self._open(count) for count in layout.neurons]
        self.layers = [self._open(1) for _ in range(2 * len(layout.heads))]
        self.total = costs.total(sum(layout.heads), sum(layout.neurons))
        self.parameters = [*self.heads, *self.neurons, *self.layers]

    def _open(self, count: int) -> torch.Tensor:
        import torch

        return torch.full((count,), _OPEN, device=self.device, requires_grad=True)

    def sample(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Draw the gates of heads and neurons, those of their layers multiplied in."""
        whole = [self._draw(one) for one in self.layers]
        heads = [self._draw(one) * layer for one, layer in zip(self.heads, whole[::2], strict=True)]
        return heads, [self._draw(one) * layer for one, layer in zip(self.neurons, whole[1::2], strict=True)]

    def _draw(self, log_alpha: torch.Tensor) -> torch.Tensor:
        import torch

        noise = torch.rand(log_alpha.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6).to(self.device)
        soft = torch.sigmoid((noise.log() - (1 - noise).log() + log_alpha) / _TEMPERATURE)
        return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def probabilities(self) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Return the probabilities of heads and neurons with their layers', and of the layers' parts alone."""
        whole = [_chance(one) for one in self.layers]
        heads = [_chance(one) * layer for one, layer in zip(self.heads, whole[::2], strict=True)]
        return heads, [_chance(one) * layer for one, layer in zip(self.neurons, whole[1::2], strict=True)], whole

    def kept(self) -> torch.Tensor:
        """Return the expected share of the cost that is open."""
        import torch

        heads, neurons, _ = self.probabilities()
        return (self.costs.head * torch.cat(heads).sum() + self.costs.neuron * torch.cat(neurons).sum()) / self.total


def _chance(log_alpha: torch.Tensor) -> torch.Tensor:
    """Return ``P(gate > 0) = sigmoid(log alpha - beta log(-gamma / zeta))``."""
    return (log_alpha - _TEMPERATURE * math.log(-_LOW / _HIGH)).sigmoid()
