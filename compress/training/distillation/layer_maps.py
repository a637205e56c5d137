"""Which layers of a teacher a student's are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.training import Taught
from compress.errors import ConfigError
from compress.training.distillation.inside import EMBEDDINGS, PROJECTIONS, Part

__all__ = ["Matching", "asks_inside", "layer_map", "matching"]


@dataclass(frozen=True)
class Matching:
    """Which parts of student and teacher the terms of a loss compare.

    Attributes
    ----------
    layers : tuple of tuple of int
        Pairs of a student's layer and a teacher's, from the first up.
    nearest : bool
        Whether hidden states leave the pairs' first alone and take the nearest student layer of each batch.
    student, teacher : tuple of Part
        What is read of each as it runs.
    relations : tuple of int
        The student's layer and the teacher's whose relations are compared.
    student_last, teacher_last : int
        The last layer of each.
    """

    layers: tuple[tuple[int, int], ...]
    nearest: bool
    student: tuple[Part, ...]
    teacher: tuple[Part, ...]
    relations: tuple[int, int]
    student_last: int
    teacher_last: int


def asks_inside(config: Taught) -> bool:
    """Return whether a term compares more than logits, so that student and teacher must read the same tokens."""
    weights = config.weights
    return _asks_layers(config) or any(
        weight > 0 for weight in (weights.embeddings, weights.minilm, weights.relations, weights.contrastive)
    )


def _asks_layers(config: Taught) -> bool:
    weights = config.weights
    return any(weight > 0 for weight in (weights.hidden, weights.tokens, weights.cosine, weights.attention))


def matching(config: Taught, student_layers: int, teacher_layers: int) -> Matching:
    """Return what is compared with what.

    Raises
    ------
    ConfigError
        A map that is not possible, or a layer out of range.
    """
    weights = config.weights
    layers = layer_map(config, student_layers, teacher_layers) if _asks_layers(config) else ()
    pairs = tuple(enumerate(layers))
    nearest = config.layer_map == "nearest" and config.teacher_layers is None
    relations = student_layers - 1, _relation_layer(config, teacher_layers)
    student: list[Part] = []
    teacher: list[Part] = []
    if weights.hidden or weights.tokens or weights.cosine:
        student += [("hidden", layer) for layer in range(student_layers)]
        teacher += [("hidden", layer) for _, layer in pairs]
    if weights.embeddings:
        student.append(("hidden", EMBEDDINGS))
        teacher.append(("hidden", EMBEDDINGS))
    if weights.contrastive:
        student.append(("hidden", student_layers - 1))
        teacher.append(("hidden", teacher_layers - 1))
    if weights.attention:
        student += [(kind, layer) for layer, _ in pairs for kind in ("query", "key")]
        teacher += [(kind, layer) for _, layer in pairs for kind in ("query", "key")]
    if weights.minilm or weights.relations:
        student += [(kind, relations[0]) for kind in PROJECTIONS]
        teacher += [(kind, relations[1]) for kind in PROJECTIONS]
    return Matching(
        pairs,
        nearest,
        tuple(dict.fromkeys(student)),
        tuple(dict.fromkeys(teacher)),
        relations,
        student_layers - 1,
        teacher_layers - 1,
    )


def layer_map(config: Taught, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Return for each student layer the teacher layer, counted from 0, whose output it is to reproduce.

    ``uniform`` matches the end of student layer ``j`` with the end of teacher layer ``(j + 1) L / l``, rounded half up:
    both have then done the same share of the work, and last meets last (TinyBERT, arXiv 1909.10351). ``skip`` takes
    every ``floor(L / l)``-th, ``last`` the last ``l`` (patient distillation, Sun et al., arXiv 1908.09355).
    ``nearest`` has the teacher's layers of ``uniform`` and leaves the student's to each batch (CoFi, Xia et al.,
    arXiv 2204.00408, equation 6).
    This is about outputs, and differs from the layers that a student is made of.

    Raises
    ------
    ConfigError
        A student deeper than its teacher, or a list of the wrong length or with a layer out of range.
    """
    listed = config.teacher_layers
    if listed is not None:
        if len(listed) != student_layers:
            raise ConfigError(
                f"teacher_layers={list(listed)} lists {len(listed)} layers, but the student has {student_layers}; "
                f"list one layer of the teacher for each of the student's"
            )
        outside = [layer for layer in listed if not 0 <= layer < teacher_layers]
        if outside:
            raise ConfigError(
                f"teacher_layers={list(listed)}: {outside[0]} is no layer of the teacher, "
                f"which has layers 0 to {teacher_layers - 1}"
            )
        return tuple(int(layer) for layer in listed)
    if student_layers > teacher_layers:
        raise ConfigError(
            f"weights: a student of {student_layers} layers cannot be matched layer by layer with a teacher of "
            f"{teacher_layers}; make it of at most {teacher_layers} layers, list teacher_layers, or leave the "
            f"weights of hidden, tokens, cosine and attention at 0"
        )
    if config.layer_map == "last":
        return tuple(range(teacher_layers - student_layers, teacher_layers))
    if config.layer_map == "skip":
        step = teacher_layers // student_layers
        return tuple(step * (j + 1) - 1 for j in range(student_layers))
    return tuple(
        (2 * (j + 1) * teacher_layers + student_layers) // (2 * student_layers) - 1 for j in range(student_layers)
    )


def _relation_layer(config: Taught, teacher_layers: int) -> int:
    layer = config.relations.layer
    if layer is None:
        return teacher_layers - 1
    if layer >= teacher_layers:
        raise ConfigError(
            f"relations.layer={layer}: the teacher has layers 0 to {teacher_layers - 1}; choose one of them, or null "
            f"for its last"
        )
    return layer
