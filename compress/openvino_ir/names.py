"""Names that depend on the model alone; OpenVINO numbers operations by a counter of the process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

__all__ = ["name_operations"]

_WITHOUT_BIAS = "/WithoutBiases"
"""What OpenVINO appends to the name of a Gemm for the product in it."""


def name_operations(model: openvino.Model) -> None:
    """Give every operation a name of its own, in place: the exporter's where it has one, else its kind and its place.

    Products keep the names that the exporter gives them, those of their weights' layers.
    """
    taken: set[str] = set()
    for place, operation in enumerate(model.get_ordered_ops()):
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if re.fullmatch(rf"{kind}_\d+", name):
            name = f"{kind}.{place}"
        if kind == "MatMul":
            name = name.removesuffix(_WITHOUT_BIAS)
        while name in taken:
            name = f"{name}.{place}"
        taken.add(name)
        operation.set_friendly_name(name)
