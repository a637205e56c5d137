"""What a structure costs: parameters, multiply-accumulates, bytes, by arithmetic; and the budget that a target leaves.

A structure is two lists with an entry per layer that is kept: attention heads, and feed-forward width. Every cost
here adds up, ``rest + Σ_layers (layer + attention(heads) + ffn(width))``, so that a search can spend it block by block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from compress.errors import ConfigError

__all__ = [
    "TARGETS",
    "Cost",
    "LinearCost",
    "budget_of",
    "byte_cost",
    "mac_cost",
    "parameter_cost",
    "rest_macs",
    "rest_parameters",
    "share_of",
    "unit_of",
    "with_rest",
]

TARGETS = ("ratio", "params", "macs", "size", "speedup", "latency_ms")
"""What a structure can be asked to meet; exactly one of them."""

_UNITS = {
    "ratio": "of the dimension",
    "params": "parameters",
    "macs": "multiply-accumulates",
    "size": "bytes",
    "speedup": "ms",
    "latency_ms": "ms",
}


class Cost(Protocol):
    """What a search spends: counted (`LinearCost`) or measured (`compress.steps.prune.latency_table.LatencyTable`)."""

    @property
    def rest(self) -> float:
        """Everything outside of the layers."""

    @property
    def layer(self) -> float:
        """What a layer that is kept costs whatever its blocks are."""

    def attention(self, heads: int) -> float:
        """Return what an attention block of so many heads costs."""

    def ffn(self, width: int) -> float:
        """Return what a feed-forward block of such a width costs."""

    def total(self, heads: Sequence[int], widths: Sequence[int]) -> float:
        """Return what a structure costs."""


@dataclass(frozen=True)
class LinearCost:
    """A cost that grows by the same amount with every head and every neuron.

    Attributes
    ----------
    rest : float
        Embeddings, pooler, task head.
    layer : float
        A layer that is kept, without heads and neurons: norms and the biases of both outputs.
    head, neuron : float
        Each head, each unit of feed-forward width.
    """

    rest: float
    layer: float
    head: float
    neuron: float

    def attention(self, heads: int) -> float:
        """Return what an attention block of so many heads costs."""
        return self.head * heads

    def ffn(self, width: int) -> float:
        """Return what a feed-forward block of such a width costs."""
        return self.neuron * width

    def total(self, heads: Sequence[int], widths: Sequence[int]) -> float:
        """Return what a structure costs: ``rest + Σ_l (layer + heads_l head + widths_l neuron)``."""
        return self.rest + self.layer * len(heads) + self.head * sum(heads) + self.neuron * sum(widths)


def parameter_cost(hidden: int, head_size: int, *, gated: bool = False, rest: float = 0) -> LinearCost:
    """Return what heads and neurons hold in parameters.

    A head is a slice of query, key, value and output, ``4 H d + 3 d``; a neuron a column, a bias and a row,
    ``2 H + 1``, or ``3 H + 2`` where a second projection gates the first; a layer two norms and two output biases,
    ``6 H``.

    Parameters
    ----------
    hidden
        Hidden width ``H``.
    head_size
        Width of a head, ``d``.
    gated
        Whether the feed-forward block has two input projections.
    rest
        Parameters outside of the layers: `rest_parameters`, or counted in the dense model, see `with_rest`.
    """
    neuron = (3 * hidden + 2) if gated else (2 * hidden + 1)
    return LinearCost(rest, 6 * hidden, 4 * hidden * head_size + 3 * head_size, neuron)


def mac_cost(
    hidden: int, head_size: int, batch: int, sequence: int, *, gated: bool = False, rest: float = 0
) -> LinearCost:
    """Return what heads and neurons need in multiply-accumulates of matrix products, for a batch of a shape.

    With ``n = batch · sequence`` tokens a head needs ``4 n H d`` for its projections and ``2 n · sequence · d`` for
    scores and context; a neuron ``2 n H``, gated ``3 n H``. Norms and biases are no products.

    Parameters
    ----------
    hidden, head_size, gated
        As for `parameter_cost`.
    batch, sequence
        Rows, and tokens per row.
    rest
        Multiply-accumulates outside of the layers: `rest_macs`, or counted in the dense model, see `with_rest`.
    """
    tokens = batch * sequence
    head = 4 * tokens * hidden * head_size + 2 * tokens * sequence * head_size
    return LinearCost(rest, 0, head, (3 if gated else 2) * tokens * hidden)


def byte_cost(
    hidden: int, head_size: int, precision: str = "fp32", *, gated: bool = False, rest: float = 0
) -> LinearCost:
    """Return what heads and neurons take in bytes of weights.

    ``fp32`` takes four bytes for each parameter. ``int8`` (dynamic, a scale and a zero point per output channel) takes
    one for each weight, and five more for each output channel beside its bias.

    Parameters
    ----------
    hidden, head_size, gated
        As for `parameter_cost`.
    precision
        ``fp32`` or ``int8``.
    rest
        Bytes outside of the layers, most simply from the dense model's file, see `with_rest`.

    Raises
    ------
    ConfigError
        For another precision.
    """
    counted = parameter_cost(hidden, head_size, gated=gated)
    if precision == "fp32":
        return LinearCost(rest, 4 * counted.layer, 4 * counted.head, 4 * counted.neuron)
    if precision != "int8":
        raise ConfigError(f"precision={precision!r}: bytes are counted for fp32 and int8")
    channel = 4 + 5  # bias, scale, zero point
    inputs = 2 if gated else 1
    head = 4 * hidden * head_size + 3 * head_size * channel
    return LinearCost(rest, 4 * 4 * hidden + 2 * channel * hidden, head, (inputs + 1) * hidden + inputs * channel)


def with_rest(cost: LinearCost, dense: float, heads: Sequence[int], widths: Sequence[int]) -> LinearCost:
    """Return the same cost with a rest such that the dense structure costs what was counted in the dense model.

    Parameters
    ----------
    cost
        Of heads, neurons and layers.
    dense
        Parameters, multiply-accumulates or bytes of the whole dense model, e.g. by `compress.benchmark.size`.
    heads, widths
        The dense structure.

    Raises
    ------
    ConfigError
        If the layers alone cost more than that: the numbers are of different models.
    """
    layers = replace(cost, rest=0).total(heads, widths)
    if layers > dense:
        raise ConfigError(
            f"a dense model of {dense:,.0f} cannot hold {len(heads)} layers that cost {layers:,.0f}: its hidden width, "
            f"head size or structure is not the one given"
        )
    return replace(cost, rest=dense - layers)


def rest_parameters(
    hidden: int, vocabulary: int, positions: int, token_types: int, labels: int, *, pooler: bool = True
) -> int:
    """Return the parameters of a BERT outside of its layers: three embedding tables and their norm, pooler, head."""
    tables = (vocabulary + positions + token_types) * hidden
    return tables + 2 * hidden + (hidden * hidden + hidden if pooler else 0) + hidden * labels + labels


def rest_macs(hidden: int, labels: int, batch: int, sequence: int, *, pooler: bool = True) -> int:
    """Return the multiply-accumulates of a BERT outside of its layers.

    With a pooler the head reads the first token of each row; without one it labels every token.
    """
    return batch * (hidden * hidden + hidden * labels) if pooler else batch * sequence * hidden * labels


def share_of(target: Mapping[str, float | None]) -> tuple[str, float]:
    """Return the one target that is given, and its value.

    Parameters
    ----------
    target
        Some of `TARGETS`; None is as good as absent.

    Raises
    ------
    ConfigError
        If none or several are given, one is unknown, or a value cannot be.
    """
    unknown = [name for name in target if name not in TARGETS]
    if unknown:
        raise ConfigError(f"target.{unknown[0]}: no such target; choose one of {', '.join(TARGETS)}")
    given = [(name, float(value)) for name, value in target.items() if value is not None]
    if len(given) != 1:
        said = " and ".join(f"{name}={value:g}" for name, value in given) or "none"
        rest = "; set all but one to null" if given else ""
        raise ConfigError(f"target: exactly one of {', '.join(TARGETS)} is needed, given: {said}{rest}")
    name, value = given[0]
    if not math.isfinite(value) or value < 0 or (name != "ratio" and value == 0):
        raise ConfigError(f"target.{name}={value:g}: a finite number above 0 is needed")
    if name == "ratio" and value >= 1:
        raise ConfigError(f"target.ratio={value:g}: the share to remove, from 0 to below 1, e.g. 0.5 for half")
    if name == "speedup" and value < 1:
        raise ConfigError(f"target.speedup={value:g}: how many times faster than the dense model, at least 1")
    return name, value


def budget_of(target: Mapping[str, float | None], dense_cost: float) -> float:
    """Return what a structure may cost in all, in the unit of its target (`unit_of`).

    Parameters
    ----------
    target
        Exactly one of: ``ratio`` (share of a dimension to remove); ``params``, ``macs``, ``size`` in bytes (below 1 a
        share of the dense model to keep, else the number itself); ``speedup`` (dense time over pruned time);
        ``latency_ms``.
    dense_cost
        The dense model's cost in that unit; for ``ratio`` the size of the dimension, e.g. heads of all layers.

    Raises
    ------
    ConfigError
        As `share_of`.
    """
    name, value = share_of(target)
    if name == "ratio":
        return (1 - value) * dense_cost
    if name == "speedup":
        return dense_cost / value
    if name == "latency_ms":
        return value
    return value * dense_cost if value < 1 else value


def unit_of(target: Mapping[str, float | None]) -> str:
    """Return what a target counts in, for messages."""
    return _UNITS[share_of(target)[0]]
