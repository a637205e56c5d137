"""What calibration texts say of the modules that gather heads and neurons: moments of inputs, weight of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.steps.importance.gates import (
    frozen,
    inputs_of,
    on_device_of,
    outputs_of,
    rows_of,
    token_mask,
    with_hooks,
)
from compress.steps.importance.scores import Batches, LossOf

if TYPE_CHECKING:
    import torch

__all__ = ["Moments", "Sensitivity", "damped", "input_moments", "logit_probe", "sensitivity"]


class Moments:
    """Weighted mean and covariance of vectors, and of targets with them; streams, so memory does not grow with texts.

    Products are taken in float32 per batch and summed in float64.

    Parameters
    ----------
    width
        Of the vectors.
    targets
        Width of the targets; 0 for none.
    device
        Where the products are taken and kept.
    products
        Whether second moments are wanted beside means.
    centred
        Whether a bias takes up the means; where not they count as 0.
    """

    def __init__(
        self, width: int, targets: int = 0, device: Any = "cpu", *, products: bool = True, centred: bool = True
    ) -> None:
        import torch

        self.weight = 0.0
        self.products = products
        self.centred = centred
        self._first = torch.zeros(width, dtype=torch.float64, device=device)
        self._target = torch.zeros(targets, dtype=torch.float64, device=device)
        side = width if products else 0
        self._second = torch.zeros(side, side, dtype=torch.float64, device=device)
        self._product = torch.zeros(targets, side, dtype=torch.float64, device=device)

    def add(self, vectors: torch.Tensor, weights: torch.Tensor, targets: torch.Tensor | None = None) -> None:
        """Add vectors ``[n, width]`` with weights ``[n]`` and, where there are any, targets ``[n, targets]``."""
        used = weights > 0
        vectors, weights = vectors[used].float(), weights[used].float()
        scaled = vectors * weights[:, None]
        self.weight += float(weights.double().sum())
        self._first += scaled.double().sum(0)
        if self.products:
            self._second += (scaled.T @ vectors).double()
        if targets is not None:
            kept = targets[used].float()
            self._target += (kept * weights[:, None]).double().sum(0)
            if self.products:
                self._product += (kept.T @ scaled).double()

    @property
    def mean(self) -> torch.Tensor:
        """``[width]``."""
        return self._first / self._checked * self.centred

    @property
    def second(self) -> torch.Tensor:
        """``E x x^T``, ``[width, width]``, exactly symmetric."""
        second = self._second / self._checked
        return (second + second.T) / 2

    @property
    def covariance(self) -> torch.Tensor:
        """``E x x^T - E x E x^T``, ``[width, width]``."""
        return self.second - self.mean.outer(self.mean)

    @property
    def target_mean(self) -> torch.Tensor:
        """``[targets]``."""
        return self._target / self._checked * self.centred

    @property
    def cross(self) -> torch.Tensor:
        """``E y x^T - E y E x^T``, ``[targets, width]``."""
        return self._product / self._checked - self.target_mean.outer(self.mean)

    @property
    def _checked(self) -> float:
        if self.weight <= 0:
            raise ConfigError("pruning: no calibration tokens; raise the number of calibration rows")
        return self.weight


@dataclass(frozen=True)
class Sensitivity:
    """How much the loss depends on what each gathering module puts out, at each token.

    Attributes
    ----------
    weights : list of list of torch.Tensor
        Per module (attention output and feed-forward output of layer 0, then of layer 1, ...) and batch
        ``[batch, sequence]``: ``|dL/dy|^2`` of a token over the mean of all tokens; 0 at padding.
    curvature : list of torch.Tensor
        Per module ``[hidden, hidden]``: ``sum over tokens of (dL/dy)(dL/dy)^T``, the mean over examples; the output
        factor of a Kronecker-factored Fisher information (Martens and Grosse, arXiv 1503.05671).
    """

    weights: list[list[torch.Tensor]]
    curvature: list[torch.Tensor]


def logit_probe(seed: int = 0) -> LossOf:
    """Return a loss whose squared gradients measure how far the logits move: their product with random numbers.

    For standard normal r, ``E (d r^T z)^2 = |dz|^2``: unlike the task's loss it does not vanish on the texts that the
    model answers with confidence, and it needs no labels. The numbers of one row's classes are made to sum to 0, since
    adding one value to all logits changes no answer. Summed over the tokens where each has logits.

    Parameters
    ----------
    seed
        Of the numbers; they follow on from call to call.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        logits = model(**inputs_of(batch)).logits.float()
        numbers = torch.randn(logits.shape, generator=generator).to(logits.device)
        numbers = numbers - numbers.mean(-1, keepdim=True)
        if logits.dim() == 3:
            numbers = numbers * token_mask(batch, logits)[..., None]
        moved: torch.Tensor = (logits * numbers).sum() / len(logits)
        return moved

    return loss


def sensitivity(model: Any, batches: Batches, loss: LossOf, *, draws: int = 1) -> Sensitivity:
    """Return token weights and output curvature of every gathering module, from gradients of the loss.

    Parameters
    ----------
    model
        A transformers model of a known family; unchanged.
    batches
        Calibration batches.
    loss
        Mean over the examples of a batch; `logit_probe` or the task's.
    draws
        Passes over the batches, for a loss that draws at random.
    """
    import torch

    modules = [linear for pair in outputs_of(model) for linear in pair]
    sums = [torch.zeros(linear.out_features, linear.out_features, dtype=torch.float64) for linear in modules]
    squares: list[list[torch.Tensor]] = [[] for _ in modules]
    examples = tokens = 0
    with frozen(model), torch.enable_grad():
        for draw in range(draws):
            for number, batch in enumerate(batches):
                moved = on_device_of(model, batch)
                rows = rows_of(moved)
                examples += rows
                for module, gradient in enumerate(_output_gradients(model, modules, moved, loss)):
                    flat = (gradient * rows).reshape(-1, gradient.shape[-1])
                    sums[module] += (flat.T @ flat).double().cpu()
                    size = (gradient * rows).square().sum(-1) * token_mask(moved, gradient)
                    if module == 0:
                        tokens += int(token_mask(moved, gradient).sum())
                    if draw == 0:
                        squares[module].append(size)
                    else:
                        squares[module][number] = squares[module][number] + size
    if not examples:
        raise ConfigError("pruning: no calibration batches; raise the number of calibration rows")
    weights = []
    for parts in squares:
        mean = sum(float(part.double().sum()) for part in parts) * draws / tokens
        weights.append([part / mean if mean > 0 else torch.zeros_like(part) for part in parts])
    return Sensitivity(weights, [one / examples for one in sums])


def input_moments(
    model: Any, batches: Batches, weights: Sequence[Sequence[torch.Tensor]] | None = None
) -> list[Moments]:
    """Return the moments of each gathering module's inputs, in the order of `Sensitivity`; one forward pass.

    Parameters
    ----------
    model
        A transformers model of a known family; unchanged.
    batches
        Calibration batches; padding is left out.
    weights
        Per module and batch ``[batch, sequence]``; by default every token counts 1.
    """
    import torch

    modules = [linear for pair in outputs_of(model) for linear in pair]
    device = next(model.parameters()).device
    moments = [Moments(linear.in_features, device=device, centred=linear.bias is not None) for linear in modules]
    seen: dict[int, torch.Tensor] = {}
    with frozen(model), torch.no_grad(), _capturing(modules, seen):
        for number, batch in enumerate(batches):
            moved = on_device_of(model, batch)
            model(**inputs_of(moved))
            for module, moment in enumerate(moments):
                weight = token_mask(moved, seen[module]) if weights is None else weights[module][number]
                moment.add(seen[module].flatten(0, 1), weight.flatten().float())
    return moments


def damped(covariance: torch.Tensor, damping: float) -> torch.Tensor:
    """Return a covariance with `damping` times its mean diagonal added to the diagonal.

    Ten times as much, and again, where products in float32 left it short of positive definite.
    """
    import torch

    side = len(covariance)
    if not side:
        return covariance
    ridge = damping * covariance.diagonal().mean().clamp_min(1e-12)
    found = covariance.clone()
    found.diagonal().add_(ridge)
    while int(torch.linalg.cholesky_ex(found).info):
        ridge = ridge * 10
        found = covariance.clone()
        found.diagonal().add_(ridge)
    return found


def _output_gradients(
    model: Any, modules: Sequence[Any], batch: dict[str, torch.Tensor], loss: LossOf
) -> list[torch.Tensor]:
    """Return the gradient of the loss with respect to each module's output."""
    import torch

    outputs: dict[int, torch.Tensor] = {}

    def hook_of(number: int) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            # An addend of 0 makes the graph begin here: no weight asks for gradients.
            outputs[number] = torch.zeros_like(output, requires_grad=True)
            return output + outputs[number]

        return hook

    with with_hooks([linear.register_forward_hook(hook_of(number)) for number, linear in enumerate(modules)]):
        value = loss(model, batch)
    return list(torch.autograd.grad(value, [outputs[number] for number in range(len(modules))]))


def _capturing(modules: Sequence[Any], seen: dict[int, torch.Tensor]) -> Any:
    def hook_of(number: int) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[number] = inputs[0]

        return hook

    return with_hooks([linear.register_forward_pre_hook(hook_of(number)) for number, linear in enumerate(modules)])
