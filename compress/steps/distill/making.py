"""The student before it is trained, and what it came from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compress.steps.distill.kinds import given_model, kind_of
from compress.steps.distill.layers import chosen_layers
from compress.steps.distill.widths import check_fresh, check_narrower, narrows, widths_of

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.schemas import Distill, Student
    from compress.data.base import Data
    from compress.steps.base import Context
    from compress.training.distillation import Lesson

__all__ = ["Learn", "Made", "make_student"]

log = logging.getLogger(__name__)

Learn = Callable[[Any, Any, "Data", "Distill", str], "Lesson"]
"""Trains a student in place: given it, its tokenizer, the data, the training, and a name if it is but a candidate."""


@dataclass(frozen=True)
class Made:
    """A student before it is trained.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode.
    tokenizer
        That it reads by.
    facts : dict
        For the checkpoint: ``student`` says what it is made from, ``initialised_from`` which layers of the source.
    """

    model: Any
    tokenizer: Any
    facts: dict[str, Any]


def make_student(source: Checkpoint, config: Distill, context: Context, learn: Learn) -> Made:
    """Make the student that a config describes.

    Parameters
    ----------
    source
        The step's.
    config, context
        Of the step.
    learn
        For a search among students.

    Raises
    ------
    ConfigError
        If the source cannot give it.
    """
    from compress.models.torch_io import load_tokenizer
    from compress.training import reproducible

    tokenizer = load_tokenizer(source.path)
    kind = kind_of(config.student)
    if kind == "source":
        return _of_source(source, tokenizer, config, context, learn)
    with reproducible(context.seed, context.threads):
        return (_of_path if kind == "path" else _fresh)(source, tokenizer, config, context)


def _of_path(source: Checkpoint, tokenizer: Any, config: Distill, context: Context) -> Made:
    from compress.steps.distill.pretrained import pretrained_student

    given = given_model(config.student)
    model = pretrained_student(given, tokenizer, context)
    log.info("%s: a student from %s, under a fresh head", context.name, given.named)
    # No path: equal work gives equal bytes, wherever the checkpoint lies.
    facts = {"made_from": "path", "fingerprint": given.fingerprint, "architecture": given.architecture}
    return Made(model, tokenizer, {"student": facts | {"layers": given.layers}})


def _fresh(source: Checkpoint, tokenizer: Any, config: Distill, context: Context) -> Made:
    from compress.models.structure import structure_of
    from compress.models.torch_io import load_model
    from compress.steps.distill.fresh import fresh_student

    model = load_model(source)
    widths = check_fresh(config.student, widths_of(structure_of(model)))
    layers = config.student.layers or source.layers
    model = fresh_student(model, layers, widths, context.task)
    log.info("%s: a student of random weights, %d layers of width %d", context.name, layers, widths.hidden)
    return Made(model, tokenizer, {"student": {"made_from": "fresh", "layers": layers, **asdict(widths)}})


def _of_source(source: Checkpoint, tokenizer: Any, config: Distill, context: Context, learn: Learn) -> Made:
    from compress.models.structure import structure_of
    from compress.models.torch_io import load_model
    from compress.steps.distill.search import search_layers
    from compress.training import reproducible

    student = config.student
    whole = load_model(source)
    widths = check_narrower(student, widths_of(structure_of(whole)))
    layers = chosen_layers(student, source.layers)
    facts: dict[str, Any] = {"made_from": "source"}

    def make(chosen: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
        with reproducible(context.seed, context.threads):
            return _cut(whole, chosen, student, tokenizer, context)

    if student.layer_choice == "search":
        found = search_layers(
            whole,
            lambda chosen: make(chosen)[0],
            lambda model, data, brief, name: learn(model, tokenizer, data, brief, name),
            tokenizer,
            layers,
            config,
            context,
        )
        layers, facts["search"] = found.layers, found.facts
    model, narrowing = make(layers)
    log.info(
        "%s: a student of %d layers, which begin as layers %s of %d%s",
        *(context.name, len(layers), ", ".join(map(str, layers)), source.layers),
        f", {widths.hidden} wide" if narrows(student) else "",
    )
    return Made(model, tokenizer, {"student": facts | narrowing, "initialised_from": list(layers)})


def _cut(
    whole: Any, layers: tuple[int, ...], student: Student, tokenizer: Any, context: Context
) -> tuple[Any, dict[str, Any]]:
    """Return a copy with these layers, of the student's widths, and facts of the narrowing."""
    from compress.models.torch_io import student_of
    from compress.steps.distill.narrowing import calibration_batches, narrowed

    model = student_of(whole, list(layers))
    return narrowed(model, student, calibration_batches(tokenizer, context)) if narrows(student) else (model, {})
