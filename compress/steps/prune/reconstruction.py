"""Removing structures without retraining: what remains makes up for them, layer after layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.steps.importance.gates import frozen, layout_of, outputs_of, token_mask
from compress.steps.importance.kept import Masks
from compress.steps.importance.scores import Batches
from compress.steps.prune.calibration import Moments, damped
from compress.steps.prune.replay import Replay, inputs_within

if TYPE_CHECKING:
    import torch

__all__ = ["COMPENSATIONS", "Fit", "Gathered", "apply_masks", "least_squares", "refit", "tune_masks"]

COMPENSATIONS = ("none", "bias", "masks", "least_squares")
"""What is fitted to the calibration texts when structures go: nothing; the bias of the module that gathered them; a
factor per structure that stays; or all weights of the structures that stay, and the bias.

Masks are as Kwon et al. have them, the bias as it was. With a bias fitted too they lost: MiniLM on tweets, one seed,
half of the MACs, 512 rows, accuracy 0.823 with it, 0.865 without, 0.861 with no factors at all. Why is open: a bias
alone gave 0.715, and 0.811 where tokens count by the gradient of the loss, so that the mean over all tokens is only a
part of it."""


@dataclass(frozen=True)
class Gathered:
    """One gathering module and what the texts say of it, in the model whose earlier modules are pruned already.

    Attributes
    ----------
    place : int
        0 and 1 are attention and feed-forward output of layer 0, 2 and 3 of layer 1, ...
    linear : torch.nn.Linear
        The module as it was.
    columns : torch.Tensor
        Indices of its inputs that `moments` holds.
    moments : Moments
        Of those inputs, with targets: what the module must put out for the hidden state to be the unpruned model's.
    """

    place: int
    linear: Any
    columns: torch.Tensor
    moments: Moments


@dataclass(frozen=True)
class Fit:
    """New weight ``[out, in]``, columns of removed inputs 0, and bias ``[out]``; float64."""

    weight: torch.Tensor
    bias: torch.Tensor


def apply_masks(
    model: Any,
    masks: Masks,
    batches: Batches = (),
    *,
    compensate: str = "least_squares",
    damping: float = 1e-2,
    weights: Sequence[Sequence[torch.Tensor]] | None = None,
) -> None:
    """Zero what the masks remove and fold their other factors into the weights, in place, then compensate.

    Afterwards the removed structures have no effect, so that cutting them out changes nothing.

    Parameters
    ----------
    model
        A transformers model of a known family.
    masks
        A factor per head and neuron.
    batches
        Calibration batches; not read where `compensate` is ``none``.
    compensate
        One of `COMPENSATIONS`. All but ``none`` go through the model from the first layer to the last and fit each
        gathering module to the unpruned model's hidden states (after the residual is added), given the hidden states
        that the pruned layers before it produce.
    damping
        Ridge towards the weights as they were, in units of the mean variance of the inputs (towards 1 for ``masks``).
    weights
        Of every token, per module and batch, as `Sensitivity` has them.

    Raises
    ------
    ConfigError
        An unknown compensation, or no calibration texts where they are needed.
    """
    import torch

    if compensate not in COMPENSATIONS:
        raise ConfigError(f"compensate={compensate!r}; known: {', '.join(COMPENSATIONS)}")
    size = layout_of(model).head_size
    factors = [one for pair in zip(masks.heads, masks.neurons, strict=True) for one in pair]
    columns = [one.repeat_interleave(size if place % 2 == 0 else 1) for place, one in enumerate(factors)]
    linears = [linear for pair in outputs_of(model) for linear in pair]
    if compensate == "none":
        with torch.no_grad():
            for linear, column in zip(linears, columns, strict=True):
                linear.weight.mul_(column.to(linear.weight))
        return

    def fit(gathered: Gathered) -> Fit:
        start = gathered.linear.weight.detach().double() * columns[gathered.place].to(gathered.linear.weight.device)
        moments, kept = gathered.moments, gathered.columns
        weight = torch.zeros_like(start)
        if compensate == "bias":
            weight = start
        elif compensate == "masks":
            width = size if gathered.place % 2 == 0 else 1
            weight[:, kept] = _masked(start[:, kept], moments, width, damping)
        else:
            weight[:, kept] = least_squares(start[:, kept], moments, damping)
        return Fit(weight, moments.target_mean - weight[:, kept] @ moments.mean)

    kept_columns = [column.nonzero().flatten() for column in columns]
    refit(
        model,
        batches,
        fit,
        columns=kept_columns,
        weights=weights,
        products=compensate != "bias",
        biases=compensate != "masks",
    )


def tune_masks(masks: Masks, before: Any, after: Any) -> Masks:
    """Return the real-valued masks that lead from one model's gathering weights to another's (for a record)."""
    size = layout_of(before).head_size
    heads, neurons = [], []
    for (old, old_ffn), (new, new_ffn), one, two in zip(
        outputs_of(before), outputs_of(after), masks.heads, masks.neurons, strict=True
    ):
        heads.append(_factor(old.weight, new.weight, size) * (one != 0))
        neurons.append(_factor(old_ffn.weight, new_ffn.weight, 1) * (two != 0))
    return Masks(heads, neurons)


def least_squares(start: torch.Tensor, moments: Moments, damping: float) -> torch.Tensor:
    """Return the weight that predicts the targets best, ``argmin E |y - W x - b|^2 + ridge |W - start|^2``.

    Parameters
    ----------
    start
        ``[out, width]``.
    moments
        Of the inputs and targets.
    damping
        The ridge over the mean variance of the inputs.
    """
    import torch

    covariance = moments.covariance
    if not len(covariance):
        return start.clone()
    ridged = damped(covariance, damping)
    right = moments.cross + (ridged - covariance)[0, 0] * start
    return torch.cholesky_solve(right.T, torch.linalg.cholesky(ridged)).T


def refit(
    model: Any,
    batches: Batches,
    fit: Callable[[Gathered], Fit],
    *,
    columns: Sequence[torch.Tensor] | None = None,
    weights: Sequence[Sequence[torch.Tensor]] | None = None,
    products: bool = True,
    biases: bool = True,
) -> None:
    """Go through the gathering modules in order and replace each by what `fit` makes of it, in place.

    Each module's target is ``r + W x + b - r'``: the sum that the unpruned model hands to the layer norm, less the
    residual that the pruned model brings (Kwon et al., arXiv 2204.09656, equation 12). So a module also mends what
    those before it have lost.

    Parameters
    ----------
    model
        A transformers model of a known family.
    batches
        Calibration batches.
    fit
        From a module and its moments to its weight and bias.
    columns
        Per module the inputs to take moments of; by default all.
    weights
        Per module and batch the weight of every token; by default 1.
    products
        Whether covariances are needed beside means.
    biases
        Whether `fit` is to say the bias too. Without, biases stay, moments are about 0, and targets are of ``W x``.
    """
    import torch

    from compress.models.families import family

    places = family(model.config.model_type)
    paths = (places.query, places.attention_output, places.ffn_inputs[0], places.ffn_output)
    replay = Replay(model, batches)
    masks = [token_mask(batch, states).float() for batch, states in zip(batches, replay.states, strict=True)]
    dense, pruned = list(replay.states), list(replay.states)
    with frozen(model), torch.no_grad():
        for number, layer in enumerate(replay.layers):
            before = copy.deepcopy(layer)
            targets: list[list[torch.Tensor]] = []
            for batch, states in enumerate(dense):
                with inputs_within([before.get_submodule(path) for path in paths]) as seen:
                    dense[batch] = replay.run(number, batch, states, before)
                sums: list[torch.Tensor] = []
                for kind in range(2):
                    linear = before.get_submodule(paths[2 * kind + 1])
                    sums.append(_residual(kind, states, seen, sums) + linear(seen[2 * kind + 1]))
                targets.append(sums)
            for kind in range(2):
                place, linear = 2 * number + kind, layer.get_submodule(paths[2 * kind + 1])
                kept = columns[place] if columns is not None else torch.arange(linear.in_features)
                kept = kept.to(linear.weight.device)
                kept_bias = None if biases else linear.bias
                centred = biases and linear.bias is not None
                moments = Moments(
                    len(kept), linear.out_features, linear.weight.device, products=products, centred=centred
                )
                wanted = [layer.get_submodule(path) for path in paths[: 2 * kind + 2]]
                for batch, states in enumerate(pruned):
                    inputs = replay.inputs(number, batch, states, wanted)
                    sums = [states + wanted[1](inputs[1])]  # read where the norm comes first only
                    missing = targets[batch][kind] - _residual(kind, states, inputs, sums)
                    if kept_bias is not None:
                        missing = missing - kept_bias
                    weight = (masks[batch] if weights is None else weights[place][batch]).to(missing.device)
                    vectors = inputs[2 * kind + 1][..., kept]
                    moments.add(vectors.flatten(0, 1), weight.flatten(), missing.flatten(0, 1))
                found = fit(Gathered(place, before.get_submodule(paths[2 * kind + 1]), kept, moments))
                linear.weight.copy_(found.weight)
                if centred:
                    linear.bias.copy_(found.bias)
            for batch, states in enumerate(pruned):
                pruned[batch] = replay.run(number, batch, states)


def _residual(
    kind: int, states: torch.Tensor, inputs: Mapping[int, torch.Tensor] | Sequence[torch.Tensor], sums: Any
) -> torch.Tensor:
    """Return what is added to a gathering module's output.

    That of the attention is the layer's input. That of the feed-forward part is its own input where the layer norm
    follows the sum (BERT); where the norm comes first, so that the query sees other states than the layer, it is the
    attention's sum.
    """
    if kind == 0:
        return states
    import torch

    after: torch.Tensor = inputs[2] if torch.equal(inputs[0], states) else sums[0]
    return after


def _masked(start: torch.Tensor, moments: Moments, width: int, damping: float) -> torch.Tensor:
    """Return `start` with each structure scaled by the factor that fits the targets best, factors kept in [-10, 10].

    With columns w_j and inputs x_j, ``(W^T W * E x x^T) m = diag(W^T E y x^T)``, summed over each structure's columns.
    """
    import torch

    if not start.shape[1]:
        return start.clone()
    products = _blocks(_blocks(start.T @ start * moments.covariance, width).T, width)
    right = _blocks((start * moments.cross).sum(0)[:, None], width).flatten()
    ridged = damped(products, damping)
    ridge = (ridged - products)[0, 0]
    factors = torch.cholesky_solve((right + ridge)[:, None], torch.linalg.cholesky(ridged)).flatten()
    return start * factors.clamp(-10, 10).repeat_interleave(width)


def _blocks(rows: torch.Tensor, width: int) -> torch.Tensor:
    """Return sums over blocks of `width` rows."""
    return rows.reshape(-1, width, rows.shape[1]).sum(1)


def _factor(old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
    """Return per structure the factor by which its columns were scaled."""
    one, two = old.detach().cpu().double(), new.detach().cpu().double()
    product = (one * two).sum(0).reshape(-1, width).sum(1)
    square = one.square().sum(0).reshape(-1, width).sum(1)
    return product / square.clamp_min(1e-30)
