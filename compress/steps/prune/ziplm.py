"""Optimal brain surgeon for whole structures: at every width what remains, at what error, with which weights
(ZipLM, Kurtic et al., arXiv 2302.04089; optimal brain compression, Frantar et al., arXiv 2208.11580).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.steps.importance.gates import layout_of, outputs_of
from compress.steps.importance.scores import Batches
from compress.steps.prune.calibration import Moments, Sensitivity, damped, input_moments
from compress.steps.prune.reconstruction import Fit, Gathered, least_squares, refit

if TYPE_CHECKING:
    import torch

__all__ = ["Database", "ModuleDatabase", "Removal", "prune_database", "prune_sequentially", "removal_order"]

DAMPING = 1e-2
"""Added to the diagonal of every Hessian, in units of its mean."""
STEP = 16
"""Neurons that leave between two updates of the whole inverse Hessian."""
POOL = 4
"""Candidates per neuron that leaves, among which the update is exact after each one."""


@dataclass(frozen=True)
class Removal:
    """The order in which structures leave, and what has been lost by then.

    Attributes
    ----------
    order : list of int
        Structures, first to leave first.
    errors : dict of int to float
        By the number kept: ``tr(dW H dW^T)`` of the weights that remain after their update.
    losses : dict of int to float
        The same with the output's curvature between: ``tr(C dW H dW^T)``.
    """

    order: list[int]
    errors: dict[int, float]
    losses: dict[int, float]


@dataclass(frozen=True)
class ModuleDatabase:
    """One gathering module at every level.

    Attributes
    ----------
    levels : tuple of int
        Numbers of structures that can be kept, ascending.
    errors : dict of int to float
        By level: ``E |W x - W' x|^2 / E |W x|^2`` over the calibration tokens, means excepted (the bias takes them up)
        and damping included; not rising with the level.
    losses : dict of int to float
        By level, what the loss rises by to second order, per example and in the units of the loss that the
        `Sensitivity` was taken of: ``tr(C dW H dW^T) / 2``. Can be summed over modules and compared between them. 0
        without a `Sensitivity`.
    order : tuple of int
        Structures, first to leave first.
    width : int
        Columns per structure.
    weight, bias : torch.Tensor
        Of the module as it was, ``[out, in]`` and ``[out]``; float64 on the CPU, as are the next. No bias: None.
    hessian, mean : torch.Tensor
        Damped covariance, ``[in, in]``, and mean, ``[in]``, of its inputs.
    """

    levels: tuple[int, ...]
    errors: dict[int, float]
    losses: dict[int, float]
    order: tuple[int, ...]
    width: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    hessian: torch.Tensor
    mean: torch.Tensor

    def kept(self, count: int) -> torch.Tensor:
        """Return the structures that are kept at a level, ascending."""
        import torch

        self._check(count)
        return torch.tensor(sorted(self.order[len(self.order) - count :]), dtype=torch.long)

    def fit(self, count: int) -> Fit:
        """Return weight and bias at a level, float64; columns of removed structures are 0.

        ``W' = W H_:K (H_KK)^-1``, to which the single updates of optimal brain surgeon add up, and
        ``b' = b + (W - W') E x``.
        """
        import torch

        columns = (self.kept(count)[:, None] * self.width + torch.arange(self.width)).flatten()
        weight = torch.zeros_like(self.weight)
        if len(columns):
            root = torch.linalg.cholesky(self.hessian[columns][:, columns])
            weight[:, columns] = torch.cholesky_solve(self.hessian[columns] @ self.weight.T, root).T
        bias = torch.zeros(len(weight), dtype=weight.dtype) if self.bias is None else self.bias
        return Fit(weight, bias + (self.weight - weight) @ self.mean)

    def _check(self, count: int) -> None:
        if count not in self.levels:
            raise ConfigError(f"{count} structures kept: the levels are {', '.join(map(str, self.levels))}")


@dataclass(frozen=True)
class Database:
    """Heads and neurons of every layer, each a `ModuleDatabase`."""

    heads: list[ModuleDatabase]
    neurons: list[ModuleDatabase]

    def apply(self, model: Any, choice: Sequence[tuple[int, int]]) -> None:
        """Write the weights of a choice into the model, in place; what is removed has columns of 0.

        Parameters
        ----------
        model
            The model the database was made of.
        choice
            Heads and neurons kept per layer, each a level.
        """
        import torch

        if len(choice) != len(self.heads):
            raise ConfigError(f"{len(choice)} choices of heads and neurons for {len(self.heads)} layers")
        with torch.no_grad():
            for pair, levels, *modules in zip(outputs_of(model), choice, self.heads, self.neurons, strict=True):
                for linear, count, module in zip(pair, levels, modules, strict=True):
                    if count == len(module.order):
                        continue
                    found = module.fit(count)
                    linear.weight.copy_(found.weight)
                    if linear.bias is not None:
                        linear.bias.copy_(found.bias)


def prune_database(
    model: Any,
    batches: Batches,
    levels_heads: Sequence[int],
    levels_neurons: Sequence[int],
    *,
    sensitivity: Sensitivity | None = None,
    damping: float = DAMPING,
    step: int = STEP,
) -> Database:
    """Return every module at every level, each pruned by itself with the inputs of the unpruned model.

    Structures leave by the least error (equation 2 of ZipLM), ``tr(W_S ([H^-1]_SS)^-1 W_S^T)``, and what remains
    is updated (equations 3 and 4). H is the covariance of the module's inputs over the calibration tokens: the bias
    takes up the mean of whatever leaves, which removes it from the error.

    Parameters
    ----------
    model
        A transformers model of a known family; unchanged.
    batches
        Calibration batches.
    levels_heads, levels_neurons
        Numbers of structures per layer for which errors and weights are wanted; the layer's own number is added, and
        larger ones are left out.
    sensitivity
        With it tokens count by the loss's gradient, structures leave by the least loss, ``tr(C dW H dW^T)``, and
        the database has `losses`.
    damping
        Added to the diagonal of H, in units of its mean.
    step
        Neurons that leave between updates of all of ``H^-1``. Each is the best of its pool after the removal of those
        before it; only the pool (4 times as many, those of least error at the last update) is fixed meanwhile. With 1
        the whole is exact and 16 times slower.
    """
    moments = input_moments(model, batches, None if sensitivity is None else sensitivity.weights)
    layout = layout_of(model)
    modules = []
    for place, linear in enumerate(linear for pair in outputs_of(model) for linear in pair):
        curvature = None if sensitivity is None else sensitivity.curvature[place]
        width, levels = (layout.head_size, levels_heads) if place % 2 == 0 else (1, levels_neurons)
        modules.append(_module(linear, moments[place], width, levels, curvature, damping, step))
        moments[place] = Moments(0)  # its products are in the module now; 19 MB per feed-forward output of 1,536
    return Database(modules[::2], modules[1::2])


def prune_sequentially(
    model: Any,
    batches: Batches,
    choice: Sequence[tuple[int, int]],
    *,
    sensitivity: Sensitivity | None = None,
    damping: float = DAMPING,
    step: int = STEP,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Prune to a choice in place, from the first module to the last, each with the inputs that pruning left it.

    As GPTQ and ZipLM do, structures are chosen and weights updated on the inputs that the pruned modules before
    produce; and the error is measured against the unpruned model's hidden state, see `refit`.

    Parameters
    ----------
    model
        A transformers model of a known family.
    batches
        Calibration batches.
    choice
        Heads and neurons to keep per layer.
    sensitivity, damping, step
        As in `prune_database`.

    Returns
    -------
    list of tuple of torch.Tensor
        Per layer the heads and neurons kept, ascending.
    """
    import torch

    layout = layout_of(model)
    counts = [count for pair in choice for count in pair]
    whole = [count for pair in zip(layout.heads, layout.neurons, strict=True) for count in pair]
    if len(counts) != len(whole) or any(not 0 <= one <= most for one, most in zip(counts, whole, strict=True)):
        raise ConfigError(f"pruning to {list(choice)}: the layers have {list(zip(*[iter(whole)] * 2, strict=True))}")
    kept: list[torch.Tensor] = []

    def fit(gathered: Gathered) -> Fit:
        place, moments = gathered.place, gathered.moments
        width = layout.head_size if place % 2 == 0 else 1
        start = least_squares(gathered.linear.weight.detach().double(), moments, damping)
        curvature = None if sensitivity is None else sensitivity.curvature[place].to(start.device)
        hessian = damped(moments.covariance, damping)
        removal = removal_order(start, hessian, width, [counts[place]], curvature, step)
        stay = torch.tensor(sorted(removal.order[len(removal.order) - counts[place] :]), dtype=torch.long)
        kept.append(stay)
        columns = (stay[:, None] * width + torch.arange(width)).flatten().to(start.device)
        weight = torch.zeros_like(start)
        if len(columns):
            root = torch.linalg.cholesky(hessian[columns][:, columns])
            weight[:, columns] = torch.cholesky_solve(hessian[columns] @ start.T, root).T
        return Fit(weight, moments.target_mean - weight @ moments.mean)

    refit(model, batches, fit, weights=None if sensitivity is None else sensitivity.weights)
    return list(zip(kept[::2], kept[1::2], strict=True))


def removal_order(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    width: int,
    levels: Sequence[int],
    curvature: torch.Tensor | None = None,
    step: int = STEP,
) -> Removal:
    """Remove structures one by one until none is left.

    Parameters
    ----------
    weight
        ``[out, structures * width]``.
    hessian
        Of the inputs, damped: positive definite.
    width
        Columns per structure.
    levels
        Numbers kept at which the losses are recorded; steps are cut short to meet them.
    curvature
        Of the output, ``[out, out]``: structures leave by the loss that it implies. None for the plain error.
    step
        Structures that leave between updates of the whole inverse.
    """
    import torch

    plain = weight.double()
    rows = [plain] if curvature is None else [plain, _root(curvature) @ plain]
    rows_of = [slice(0, len(plain)), slice((len(rows) - 1) * len(plain), None)]
    stacked = torch.cat(rows)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian.double()))
    left = torch.arange(weight.shape[1] // width, device=weight.device)
    stops = sorted({level for level in levels if level < len(left)} | {0})
    order: list[int] = []
    lost = torch.zeros(2, dtype=torch.float64, device=weight.device)
    errors, losses = {len(left): 0.0}, {len(left): 0.0}
    while len(left):
        count = min(step, len(left) - max(stop for stop in stops if stop < len(left)))
        gone = _choose(stacked[rows_of[1]], inverse, width, count)
        out = _columns(gone, width)
        solved = torch.linalg.solve(inverse[out][:, out], torch.cat([stacked[:, out].T, inverse[out]], dim=1))
        fixed, spread = solved[:, : len(stacked)], solved[:, len(stacked) :]
        change = (stacked[:, out] * fixed.T).sum(1)
        lost += torch.stack([change[one].sum() for one in rows_of])
        order += left[gone].tolist()
        stay = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stay[gone] = False
        left = left[stay]
        keep = _columns(stay.nonzero().flatten(), width)
        stacked = stacked[:, keep] - stacked[:, out] @ spread[:, keep]
        inverse = inverse[keep][:, keep] - inverse[keep][:, out] @ spread[:, keep]
        inverse = (inverse + inverse.T) / 2
        errors[len(left)], losses[len(left)] = float(lost[0]), float(lost[1])
    return Removal(order, errors, losses)


def _choose(weight: torch.Tensor, inverse: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """Return the structures that leave next: each the best of a pool, given those that left before it."""
    import torch

    saliency = _saliency(weight, inverse, width)
    pool = torch.sort(saliency, stable=True).indices[: max(1, count * POOL if count > 1 else 1)]
    if count == 1:
        return pool[:1]
    columns = _columns(pool, width)
    weight, inverse = weight[:, columns].clone(), inverse[columns][:, columns].clone()
    chosen: list[int] = []
    open_ = torch.ones(len(pool), dtype=torch.bool, device=weight.device)
    for _ in range(count):
        saliency = _saliency(weight, inverse, width).masked_fill(~open_, torch.inf)
        best = int(saliency.argmin())
        chosen.append(best)
        open_[best] = False
        out = slice(best * width, (best + 1) * width)
        spread = torch.linalg.solve(inverse[out, out], inverse[out])
        weight -= weight[:, out] @ spread
        inverse -= inverse[:, out] @ spread
        inverse[out, out] = torch.eye(width, dtype=inverse.dtype, device=inverse.device)  # gone; keeps it solvable
    return pool[torch.tensor(chosen, device=pool.device)]


def _saliency(weight: torch.Tensor, inverse: torch.Tensor, width: int) -> torch.Tensor:
    """Return ``tr(W_S ([H^-1]_SS)^-1 W_S^T)`` of every structure S."""
    import torch

    if width == 1:
        single: torch.Tensor = weight.square().sum(0) / inverse.diagonal()
        return single
    number = weight.shape[1] // width
    blocks = inverse.reshape(number, width, number, width)
    own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = weight.reshape(len(weight), number, width).permute(1, 2, 0)
    summed: torch.Tensor = (columns * torch.linalg.solve(own, columns)).sum((1, 2))
    return summed


def _columns(structures: torch.Tensor, width: int) -> torch.Tensor:
    import torch

    return (structures[:, None] * width + torch.arange(width, device=structures.device)).flatten()


def _root(curvature: torch.Tensor) -> torch.Tensor:
    """Return R with ``R^T R`` the curvature."""
    import torch

    values, vectors = torch.linalg.eigh(curvature.double())
    root: torch.Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root


def _module(
    linear: Any,
    moments: Moments,
    width: int,
    levels: Sequence[int],
    curvature: torch.Tensor | None,
    damping: float,
    step: int,
) -> ModuleDatabase:
    weight = linear.weight.detach().double()
    structures = weight.shape[1] // width
    wanted = tuple(sorted({level for level in levels if 0 <= level < structures} | {structures}))
    hessian = damped(moments.covariance, damping)
    whole = float(((weight @ moments.second) * weight).sum())
    moved = None if curvature is None else curvature.to(weight.device)
    removal = removal_order(weight, hessian, width, wanted, moved, step if width == 1 else 1)
    return ModuleDatabase(
        levels=wanted,
        errors={level: removal.errors[level] / whole if whole > 0 else 0.0 for level in wanted},
        losses={level: removal.losses[level] / 2 if curvature is not None else 0.0 for level in wanted},
        order=tuple(removal.order),
        width=width,
        weight=weight.cpu(),
        bias=None if linear.bias is None else linear.bias.detach().double().cpu(),
        hessian=hessian.cpu(),
        mean=moments.mean.cpu(),
    )
