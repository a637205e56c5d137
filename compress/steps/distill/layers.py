"""Which layers a student takes from its source."""

from __future__ import annotations

from compress.config.schemas import Student
from compress.errors import ConfigError

__all__ = ["chosen_layers", "layers_wanted"]


def layers_wanted(student: Student, layers: int) -> int:
    """Return how many of its source's layers the student has.

    Raises
    ------
    ConfigError
        More than there are.
    """
    wanted = layers if student.layers is None else student.layers
    if wanted > layers:
        raise ConfigError(
            f"student.layers={student.layers}: the source has {layers} layers, and a student is made from them; "
            f"allowed are 1 to {layers}"
        )
    return wanted


def chosen_layers(student: Student, layers: int) -> tuple[int, ...]:
    """Return the layers, counted from 0, that are copied into the student, in order.

    Where they are searched for (`compress.steps.distill.search`) this is the choice to be no worse than: ``uniform``,
    which spreads them over the depth, first and last included. Layer ``j`` of ``l`` comes from
    ``floor(j (L - 1) / (l - 1))``, so 3 of 6 are 0, 2, 5 and 2 of 6 are 0, 5.

    Parameters
    ----------
    student
        The student's config.
    layers
        Layers of the model they are taken from.

    Raises
    ------
    ConfigError
        More layers than there are, or a list of the wrong length or with a layer out of range.
    """
    wanted = layers_wanted(student, layers)
    listed = student.initialise_from
    if listed is not None:
        if len(listed) != wanted:
            raise ConfigError(
                f"student.initialise_from={list(listed)} lists {len(listed)} layers, but student.layers={wanted}; "
                f"list one source layer for each student layer"
            )
        outside = [layer for layer in listed if not 0 <= layer < layers]
        if outside:
            raise ConfigError(
                f"student.initialise_from={list(listed)}: {outside[0]} is no layer of the source, "
                f"which has layers 0 to {layers - 1}"
            )
        return tuple(int(layer) for layer in listed)
    if student.layer_choice == "first":
        return tuple(range(wanted))
    if student.layer_choice == "last":
        return tuple(range(layers - wanted, layers))
    if wanted == 1:
        return (0,)
    return tuple(j * (layers - 1) // (wanted - 1) for j in range(wanted))
