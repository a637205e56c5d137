"""How much each head and feed-forward neuron matters: criteria with one interface, and masks from their scores."""

from __future__ import annotations

from typing import Any

from compress.errors import ConfigError
from compress.steps.importance.activations import ActivationImportance
from compress.steps.importance.gradients import FisherImportance, TaylorImportance, gate_gradients
from compress.steps.importance.hard_concrete import HardConcreteImportance, learn_gates
from compress.steps.importance.kept import Masks, everything, keep_per_cost, keep_uniform
from compress.steps.importance.scores import Batches, Costs, Importance, LossOf, Scores, mac_costs
from compress.steps.importance.weights import MagnitudeImportance, RandomImportance

__all__ = [
    "CRITERIA",
    "ActivationImportance",
    "Batches",
    "Costs",
    "FisherImportance",
    "HardConcreteImportance",
    "Importance",
    "LossOf",
    "MagnitudeImportance",
    "Masks",
    "RandomImportance",
    "Scores",
    "TaylorImportance",
    "everything",
    "gate_gradients",
    "importance",
    "keep_per_cost",
    "keep_uniform",
    "learn_gates",
    "mac_costs",
]

CRITERIA: dict[str, tuple[type[Importance], dict[str, Any]]] = {
    "random": (RandomImportance, {}),
    "magnitude_l1": (MagnitudeImportance, {"power": 1}),
    "magnitude_l2": (MagnitudeImportance, {"power": 2}),
    "taylor": (TaylorImportance, {}),
    "fisher": (FisherImportance, {}),
    "activation": (ActivationImportance, {"measure": "absolute"}),
    "activation_variance": (ActivationImportance, {"measure": "variance"}),
    "hard_concrete": (HardConcreteImportance, {}),
}
"""Criteria by the name that a config gives them, each with its arguments."""


def importance(name: str, *, seed: int = 0) -> Importance:
    """Return the criterion of a name; `seed` is that of those that draw.

    Raises
    ------
    ConfigError
        No criterion has this name.
    """
    if name not in CRITERIA:
        raise ConfigError(f"importance {name!r} is not known; known: {', '.join(CRITERIA)}")
    kind, arguments = CRITERIA[name]
    seeded = {"seed": seed} if kind in (RandomImportance, HardConcreteImportance) else {}
    return kind(**arguments, **seeded)
