"""Rounding that training can look through: weights and activations as kernels of few bits see them, steps learned.

Learned step size quantization (Esser et al., arXiv 1902.08153): gradients pass a rounding as if it were not there,
and the step's own follows from the same expression. The step is ``s = s_0 exp(10 p)`` with p learned, so that it stays
positive and one learning rate suits steps and weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compress.onnx_graph.tables import quantize_rows
from compress.steps.quantize.blocks import nearest, of_table
from compress.steps.quantize.ranges import Encoding, encoding, find_range

__all__ = [
    "FakeBlocks",
    "FakeInput",
    "FakeWeight",
    "observe",
    "unwrap",
    "unwrap_blocks",
    "wrap",
    "wrap_blocks",
    "wrap_tables",
]

_SPEED = 10.0


class FakeInput(torch.nn.Module):
    """Round a value to 256 levels, ``s (clip(round(x / s) + z, 0, 255) - z)``; z is fixed.

    Parameters
    ----------
    start : Encoding
        From calibration.
    """

    def __init__(self, start: Encoding) -> None:
        super().__init__()
        self.zero = start.zero
        self.start = float(start.scale)
        self.power = torch.nn.Parameter(torch.zeros(()))

    def step(self) -> torch.Tensor:
        """Return s."""
        return self.start * torch.exp(_SPEED * self.power)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the value as a kernel sees it; same shape."""
        return _rounded(x, self.step(), -self.zero, 255 - self.zero)


class FakeWeight(torch.nn.Module):
    """Round a weight ``[out, in]`` to ``±(2^(bits-1) - 1)`` levels, a step for every output.

    Parameters
    ----------
    scales : numpy.ndarray
        Steps to begin with, ``[out]``.
    bits : int
        Of a weight.
    """

    def __init__(self, scales: np.ndarray, bits: int) -> None:
        super().__init__()
        self.most = 2 ** (bits - 1) - 1
        self.register_buffer("start", torch.from_numpy(np.asarray(scales, np.float32)), persistent=False)
        self.power = torch.nn.Parameter(torch.zeros(len(scales)))

    def step(self) -> torch.Tensor:
        """Return s, ``[out]``."""
        start: Any = self.start
        found: torch.Tensor = start * torch.exp(_SPEED * self.power)
        return found

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight on its grid."""
        return _rounded(weight, self.step()[:, None], -self.most, self.most)


class FakeBlocks(torch.nn.Module):
    """Round a weight ``[out, in]`` to 4 or 16 levels, a step and a zero point for every block along the input.

    Zero points are fixed, steps begin where round-to-nearest has them.

    Parameters
    ----------
    weight : numpy.ndarray
        float32 ``[out, in]``.
    bits : int
        2 or 4.
    size : int
        Of a block, whose last may be shorter.
    """

    def __init__(self, weight: np.ndarray, bits: int, size: int) -> None:
        super().__init__()
        begin = nearest(weight, bits, size, symmetric=False)
        self.size, self.most = size, 2**bits - 1
        self.register_buffer("start", torch.from_numpy(begin.scales), persistent=False)
        self.register_buffer("zeros", torch.from_numpy(np.asarray(begin.zeros, np.float32)), persistent=False)
        self.power = torch.nn.Parameter(torch.zeros(begin.scales.shape))

    def step(self) -> torch.Tensor:
        """Return s, ``[out, blocks]``."""
        start: Any = self.start
        found: torch.Tensor = start * torch.exp(_SPEED * self.power)
        return found

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight on its grid."""
        zeros: Any = self.zeros
        low, high = -zeros[..., None], self.most - zeros[..., None]
        rounded = _rounded(_blocks_of(weight, self.size), self.step()[..., None], low, high)
        return rounded.reshape(len(weight), -1)[:, : weight.shape[1]]


def wrap_blocks(linears: Sequence[torch.nn.Linear], bits: int, size: int) -> None:
    """Have linear modules round their weights to 2 or 4 bits in blocks of `size`, in place."""
    from torch.nn.utils import parametrize

    for linear in linears:
        parametrize.register_parametrization(linear, "weight", FakeBlocks(linear.weight.detach().numpy(), bits, size))


def unwrap_blocks(linears: Sequence[torch.nn.Linear]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Leave plain linear modules whose weights lie on their grids, in place.

    Returns
    -------
    list of tuple
        Per module the largest level of each block, by size, and its zero point: int ``[out, blocks]`` both. With the
        weight the first gives the step, whatever a later step multiplies an output by.
    """
    from torch.nn.utils import parametrize

    found = []
    for linear in linears:
        fake = _rounding(linear)
        steps, zeros = fake.step().detach(), fake.zeros.int().numpy()
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        levels = _blocks_of(linear.weight.detach(), fake.size) / steps[..., None]
        found.append((torch.round(levels).abs().amax(dim=-1).int().numpy(), zeros))
    return found


def wrap_tables(tables: Sequence[torch.nn.Embedding], bits: int, size: int) -> list[Any]:
    """Have tables give rows as they will be stored, and pass gradients to the rows as they are, in place.

    A row's grid follows from its numbers, so nothing of it is learned and only the rows of a batch are rounded.

    Parameters
    ----------
    tables : sequence of torch.nn.Embedding
        Of tokens.
    bits, size : int
        2 or 4 bits in blocks of `size`; else 8 bits, a scale per row.

    Returns
    -------
    list
        Handles whose ``remove`` ends it.
    """

    def hook(table: torch.nn.Embedding, inputs: tuple[torch.Tensor, ...], rows: torch.Tensor) -> torch.Tensor:
        ids, places = torch.unique(inputs[0], return_inverse=True)  # a batch repeats most of its tokens
        flat = table.weight.detach()[ids].float().cpu().numpy()
        if bits <= 4:
            rounded = of_table(flat, bits, size, symmetric=False).floats()
        else:
            codes, scales = quantize_rows(flat, per_row=True)
            rounded = codes * scales
        there = torch.from_numpy(rounded).to(rows)[places]
        return rows + (there - rows).detach()

    return [table.register_forward_hook(hook) for table in tables]


def _rounding(linear: Any) -> Any:
    """Return what rounds the weight of a module that `wrap` or `wrap_blocks` changed."""
    return linear.parametrizations["weight"][0]


def _blocks_of(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``[out, blocks, size]``; the last block is filled up with zeros."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % size))
    return padded.reshape(len(weight), -1, size)


def wrap(
    groups: Sequence[Sequence[torch.nn.Linear]],
    starts: Sequence[Encoding],
    bits: int,
) -> list[Any]:
    """Make linear modules compute as INT8 kernels do, in place; returns what `unwrap` needs.

    Parameters
    ----------
    groups : sequence of sequence of torch.nn.Linear
        Modules of one group read the same value and share its encoding.
    starts : sequence of Encoding
        Of each group's input.
    bits : int
        Of weights.
    """
    from torch.nn.utils import parametrize

    from compress.steps.quantize.weights import weight_scales

    handles = []
    for group, start in zip(groups, starts, strict=True):
        shared = FakeInput(start)
        group[0].fake_input = shared  # one owner, so that the state holds it once
        for linear in group:
            scales = weight_scales(linear.weight.detach().numpy().T, bits, True, "mse")
            parametrize.register_parametrization(linear, "weight", FakeWeight(scales, bits))
            handles.append(linear.register_forward_pre_hook(_before(shared)))
    return handles


def unwrap(
    groups: Sequence[Sequence[torch.nn.Linear]], handles: Sequence[Any]
) -> tuple[list[Encoding], list[list[np.ndarray]]]:
    """Leave plain linear modules whose weights lie on their grids, in place.

    Returns
    -------
    encodings : list of Encoding
        Of each group's input.
    levels : list of list of numpy.ndarray
        Per module the largest level of each output, int ``[out]``: with the weight it gives the step, whatever a later
        step multiplies an output by.
    """
    from torch.nn.utils import parametrize

    for handle in handles:
        handle.remove()
    encodings, levels = [], []
    for group in groups:
        shared: Any = group[0].fake_input
        encodings.append(Encoding(float(np.float32(shared.step().detach().item())), shared.zero))
        del group[0].fake_input
        of_group = []
        for linear in group:
            fake = _rounding(linear)
            steps = fake.step().detach()
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
            of_group.append(torch.round(linear.weight.detach() / steps[:, None]).abs().amax(dim=1).int().numpy())
        levels.append(of_group)
    return encodings, levels


def observe(
    model: Any,
    linears: Sequence[torch.nn.Linear],
    batches: Sequence[Mapping[str, torch.Tensor]],
    method: str,
    percentile: float,
) -> list[Encoding]:
    """Return the encoding of each module's input on calibration batches, tokens of padding left out; two passes."""
    from compress.steps.quantize.observing import Histogram

    edges: dict[int, tuple[float, float]] = {}
    for number, values in _inputs(model, linears, batches):
        low, high = float(values.min()), float(values.max())
        known = edges.get(number, (low, high))
        edges[number] = min(low, known[0]), max(high, known[1])
    if method != "min_max":
        counted = {number: Histogram(*found) for number, found in edges.items()}
        for number, values in _inputs(model, linears, batches):
            counted[number].add(values)
        edges = {number: find_range(method, seen, percentile, False) for number, seen in counted.items()}
    return [encoding(*edges[number], False) for number in range(len(linears))]


def _inputs(
    model: Any, linears: Sequence[torch.nn.Linear], batches: Sequence[Mapping[str, torch.Tensor]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a module and its input ``[tokens, width]``, module after module, batch after batch."""
    seen: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[number] = inputs[0].detach()

        return hook

    handles = [linear.register_forward_pre_hook(keep(number)) for number, linear in enumerate(linears)]
    try:
        with torch.no_grad():
            for batch in batches:
                seen.clear()
                model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
                mask = batch["attention_mask"].bool()
                for number, value in sorted(seen.items()):
                    whole = value.shape[:2] == mask.shape
                    kept = value[mask] if whole else value.reshape(-1, value.shape[-1])
                    yield number, kept.float().cpu().numpy()
    finally:
        for handle in handles:
            handle.remove()


class _Rounding(torch.autograd.Function):
    """``s round(clip(x / s, low, high))``, its gradient as if nothing were rounded (arXiv 1902.08153, equation 3).

    One function and not an expression of six: both ways are then half the passes over memory, which is what they cost.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        scaled = x / step
        levels = scaled.clamp(low, high).round_()
        ctx.save_for_backward(scaled, levels, step)
        ctx.range = low, high
        return levels * step

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (gradient,) = gradients
        scaled, levels, step = ctx.saved_tensors
        low, high = ctx.range
        inside = (scaled >= low).logical_and_(scaled <= high).to(scaled.dtype)
        of_step = torch.addcmul(levels, scaled, inside, value=-1).mul_(gradient)
        return gradient * inside, of_step.sum_to_size(step.shape), None, None


def _rounded(x: torch.Tensor, step: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    found: torch.Tensor = _Rounding.apply(x, step, low, high)  # type: ignore[no-untyped-call]
    return found


def _before(shared: FakeInput) -> Any:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (shared(inputs[0]), *inputs[1:])

    return hook
