"""Criteria from what flows through a structure: no labels, no gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import ConfigError
from compress.steps.importance.gates import (
    frozen,
    inputs_of,
    layout_of,
    on_device_of,
    outputs_of,
    token_mask,
    with_hooks,
)
from compress.steps.importance.scores import Batches, Importance, LossOf, Scores

if TYPE_CHECKING:
    import torch

__all__ = ["ActivationImportance"]


class ActivationImportance(Importance):
    """How much a structure sends on, over the tokens that are no padding.

    Parameters
    ----------
    measure
        ``absolute``: the mean absolute activation times the norm of its output weights, the mean length of what it
        adds to the output; ``variance``: the variance of the activation times the squared norm of its output weights,
        what remains of it when the output bias takes up its mean (the fluctuation of FLAP, An et al.,
        arXiv 2312.11983, equation 5). Those of a head are summed over its channels.
    """

    name: ClassVar[str] = "activation"
    needs_loss: ClassVar[bool] = False

    def __init__(self, measure: str = "variance") -> None:
        if measure not in ("absolute", "variance"):
            raise ConfigError(f"activation: measure={measure!r}; known: absolute, variance")
        self.measure = measure

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Measure the activations; the loss is not called."""
        import torch

        outputs = [linear for pair in outputs_of(model) for linear in pair]
        sums = [torch.zeros(3, linear.in_features, dtype=torch.float64) for linear in outputs]
        tokens = [0.0]
        current: list[dict[str, torch.Tensor]] = []

        def hook_of(total: torch.Tensor) -> Any:
            def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
                kept = inputs[0].detach()[token_mask(current[0], inputs[0]).bool()].cpu().double()
                tokens[0] += len(kept) / len(outputs)
                total.add_(torch.stack([kept.sum(0), kept.abs().sum(0), kept.square().sum(0)]))

            return hook

        hooks = [linear.register_forward_pre_hook(hook_of(total)) for linear, total in zip(outputs, sums, strict=True)]
        with frozen(model), torch.no_grad(), with_hooks(hooks):
            for batch in batches:
                moved = on_device_of(model, batch)
                current[:] = [moved]
                model(**inputs_of(moved))
        if not tokens[0]:
            raise ConfigError("importance: no calibration batches; raise the number of calibration rows")
        size = layout_of(model).head_size
        scores = [self._score(total / tokens[0], linear.weight) for total, linear in zip(sums, outputs, strict=True)]
        return Scores([one.reshape(-1, size).sum(1) for one in scores[::2]], scores[1::2])

    def _score(self, means: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        squared = weight.detach().cpu().double().square().sum(0)
        if self.measure == "absolute":
            return means[1] * squared.sqrt()
        return (means[2] - means[0].square()).clamp_min(0) * squared
