"""A narrower residual stream by projection onto the principal directions of a model's hidden states.

With the columns of ``P`` ``[d, h]`` orthonormal, the narrow model's stream ``z`` stands for ``P z``. SliceGPT (Ashkboos
et al., arXiv 2401.15024) does so where norms are RMSNorms that read the stream: there the rotation itself is exact. In
the encoders here a LayerNorm stands *on* the stream, with a gain per coordinate, which no rotation passes. So:

- Exact: every product that reads or writes the stream, on the part of it that ``P`` spans (``W P``, ``P^T W``,
  ``E P``); the mean that a LayerNorm takes away, as ``1/sqrt(d)`` is among the directions and each coordinate of the
  narrow stream has an equal share of it (``P 1_h / sqrt(h) = 1_d / sqrt(d)``).
- Not exact: what lies outside the span, of which the mean is given to the biases of those that read it; the deviation
  that a LayerNorm divides by, and its gain, which would be ``P^T diag(g) P`` and is diagonal. Gain and bias are those
  that fit ``P^T LayerNorm(x)`` best over the texts, coordinate by coordinate (least squares).

Among the bases of the span that one is taken which is nearest to ``h`` of the coordinates themselves (orthogonal
Procrustes, Schönemann 1966), for there the gains are diagonal. At full width it is the identity, and the model computes
what it did, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError, UnsupportedError
from compress.models.attributes import follow
from compress.models.coupling import stream_sites
from compress.models.families import family
from compress.models.observed import observe
from compress.models.structure import structure_of

if TYPE_CHECKING:
    import torch

__all__ = ["principal_basis", "project_hidden"]


def project_hidden(model: Any, width: int, batches: Sequence[Mapping[str, torch.Tensor]]) -> tuple[Any, float]:
    """Return a copy whose residual stream is `width` wide, and the share of the stream's variance that it holds.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, in evaluation mode; unchanged.
    width
        ``h``, at most the model's own width ``d``.
    batches
        Inputs to look at hidden states on: the embeddings' output, what each feed-forward part reads, and each layer's
        output.

    Raises
    ------
    ConfigError
        For a width that is above the model's.
    UnsupportedError
        If something else than Linear, Embedding and LayerNorm modules is on the stream.
    """
    import torch

    has = structure_of(model).hidden_size
    if not 1 <= width <= has:
        raise ConfigError(f"hidden width {width}: this {type(model).__name__} is {has} wide; allowed are 1 to {has}")
    sites = _checked_sites(model)
    covariance, means = _states(model, sites, batches)
    basis, share = principal_basis(covariance, width)
    norms = _fitted_norms(model, sites, basis, batches)
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        for name in sorted({name for name, _ in sites}):
            sides = {side for other, side in sites if other == name}
            _project(smaller.get_submodule(name), sides, basis, means.get(name), norms.get(name))
    follow(smaller)
    return smaller, share


def principal_basis(covariance: torch.Tensor, width: int) -> tuple[torch.Tensor, float]:
    """Return the basis of the projection and the share of the variance in its span.

    Parameters
    ----------
    covariance
        float64 ``[d, d]``.
    width
        ``h``.

    Returns
    -------
    basis : torch.Tensor
        float64 ``[d, h]``, its columns orthonormal and their sum ``sqrt(h / d)`` in each row.
    share : float
        Of the variance.
    """
    import torch

    size = len(covariance)
    ones = torch.full((size, 1), size**-0.5, dtype=torch.float64)
    centred = torch.eye(size, dtype=torch.float64) - ones @ ones.T
    _, vectors = torch.linalg.eigh(centred @ covariance @ centred + ones @ ones.T * (covariance.trace() + 1) * 2)
    span = vectors.flip(1)[:, 1:width]  # without the ones, which come first
    nearest = torch.cat([ones, span], 1).square().sum(1)
    kept = torch.sort(torch.sort(nearest, descending=True, stable=True).indices[:width]).values
    others = _complement_of_ones(width)
    left, _, right = torch.linalg.svd(span[kept].T @ others)
    basis = ones @ torch.full((1, width), width**-0.5, dtype=torch.float64) + span @ (left @ right) @ others.T
    total = float(covariance.trace())
    return basis, float((basis.T @ covariance @ basis).trace()) / total if total > 0 else 1.0


def _complement_of_ones(width: int) -> torch.Tensor:
    """Return an orthonormal basis ``[width, width - 1]`` of what sums to 0."""
    import torch

    start = torch.eye(width, dtype=torch.float64)
    start[:, 0] = 1.0
    basis: torch.Tensor = torch.linalg.qr(start).Q
    return basis[:, 1:]


def _checked_sites(model: Any) -> set[tuple[str, str]]:
    import torch

    sites = stream_sites(model)
    modules = dict(model.named_modules())
    allowed = (torch.nn.Linear, torch.nn.Embedding, torch.nn.LayerNorm)
    wrong = sorted(name for name, _ in sites if not isinstance(modules.get(name), allowed))
    if wrong:
        raise UnsupportedError(
            f"the hidden states of this {type(model).__name__} cannot be projected: {wrong[0]} is neither a Linear, an "
            f"Embedding nor a LayerNorm module; remove hidden units instead (remove_hidden)"
        )
    return sites


def _states(
    model: Any, sites: set[tuple[str, str]], batches: Sequence[Mapping[str, torch.Tensor]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the covariance of the stream, each place weighing the same, and the mean of what each module reads."""
    import torch

    readers = {name for name, side in sites if side == "in"}
    inputs, outputs = _places(model, sites)
    size = structure_of(model).hidden_size
    first = {name: torch.zeros(size, dtype=torch.float64) for name in readers | outputs}
    second = {name: torch.zeros(size, size, dtype=torch.float64) for name in inputs | outputs}
    counts = dict.fromkeys(first, 0)

    def see(name: str, read: torch.Tensor, written: torch.Tensor) -> None:
        states = (written if name in outputs else read).cpu()
        counts[name] += len(states)
        first[name] += states.double().sum(0)
        if name in second:
            second[name] += (states.T @ states).double()

    modules = dict(model.named_modules())
    observe(model, batches, {name: modules[name] for name in sorted(first)}, see)
    means = {name: total / max(1, counts[name]) for name, total in first.items()}
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for name, total in second.items():
        here = total / max(1, counts[name]) - means[name].outer(means[name])
        covariance += here / here.trace().clamp_min(1e-12) / len(second)
    return (covariance + covariance.T) / 2, {name: means[name] for name in readers}


def _places(model: Any, sites: set[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """Return the modules whose inputs, and those whose outputs, are the hidden states: see `project_hidden`."""
    import torch

    places = family(model.config.model_type)
    named = {id(module): name for name, module in model.named_modules()}
    layers = places.layer_list(model)
    paths = (places.query, places.ffn_inputs[0])
    inputs = {named[id(layer.get_submodule(path))] for layer in layers for path in paths}
    norms = [
        named[id(module)]
        for module in layers[-1].modules()
        if isinstance(module, torch.nn.LayerNorm) and (named[id(module)], "out") in sites
    ]
    return inputs, set(norms[-1:])


def _fitted_norms(
    model: Any, sites: set[tuple[str, str]], basis: torch.Tensor, batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return gain and bias ``[h]`` of every LayerNorm on the stream that fit its projected output best."""
    import torch

    names = {name for name, _ in sites}
    modules = {
        name: module
        for name, module in model.named_modules()
        if name in names and isinstance(module, torch.nn.LayerNorm)
    }
    width = basis.shape[1]
    sums = {name: torch.zeros(4, width, dtype=torch.float64) for name in modules}
    counts = dict.fromkeys(modules, 0)

    def see(name: str, read: torch.Tensor, written: torch.Tensor) -> None:
        inside = torch.nn.functional.layer_norm(read.cpu().double() @ basis, (width,), eps=modules[name].eps)
        wanted = written.cpu().double() @ basis
        counts[name] += len(inside)
        rows = (inside, wanted, inside.square(), inside * wanted)
        sums[name] += torch.stack([row.sum(0) for row in rows])

    observe(model, batches, modules, see)
    return {name: _line(sums[name] / max(1, counts[name])) for name in modules}


def _line(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slope and offset of the best line, of the means of x, y, x^2 and x y; slope 1 where x does not vary."""
    import torch

    inside, wanted, square, product = moments
    variance = square - inside.square()
    varies = variance > 1e-9
    slope = torch.where(varies, (product - inside * wanted) / variance.clamp_min(1e-9), torch.ones_like(variance))
    return slope, wanted - slope * inside


def _project(
    module: Any,
    sides: set[str],
    basis: torch.Tensor,
    mean: torch.Tensor | None,
    norm: tuple[torch.Tensor, torch.Tensor] | None,
) -> None:
    """Give a module of the stream its projected weights, in place."""
    import torch

    width = basis.shape[1]
    if norm is not None:
        gain, offset = norm
        _set(module, "weight", gain)
        _set(module, "bias", offset)
        module.normalized_shape = (width,)
    elif isinstance(module, torch.nn.Embedding):
        _set(module, "weight", module.weight.double() @ basis)
        module.embedding_dim = width
    else:
        if "in" in sides:
            weight = module.weight.double()
            if module.bias is not None and mean is not None:
                _set(module, "bias", module.bias.double() + weight @ (mean - basis @ (basis.T @ mean)))
            _set(module, "weight", weight @ basis)
            module.in_features = width
        if "out" in sides:
            _set(module, "weight", basis.T @ module.weight.double())
            if module.bias is not None:
                _set(module, "bias", basis.T @ module.bias.double())
            module.out_features = width


def _set(module: Any, name: str, values: torch.Tensor) -> None:
    import torch

    old = getattr(module, name)
    new = values.to(device=old.device, dtype=old.dtype).contiguous()
    setattr(module, name, torch.nn.Parameter(new, requires_grad=old.requires_grad))
