"""What a student is made from, and the keys that contradict each other: what is known before any work."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.config.schemas import Model, Student, StudentSearch
from compress.errors import ConfigError
from compress.steps.base import SourceFacts
from compress.steps.distill.layers import chosen_layers, layers_wanted
from compress.steps.distill.widths import asked_widths, check_fresh, check_narrower

if TYPE_CHECKING:
    from compress.models.source import SourceModel

__all__ = ["check_student", "given_model", "kind_of", "student_facts"]

_OF_PATH = "the checkpoint at student.path has its own"
_OF_FRESH = "a fresh student has random weights"


def kind_of(student: Student) -> str:
    """Return what the student is made from: ``path``, ``fresh``, or ``source``, parts of the step's source."""
    if student.path is not None:
        return "path"
    return "fresh" if student.fresh else "source"


def given_model(student: Student) -> SourceModel:
    """Return the checkpoint at ``student.path``; its files are read once, as long as they do not change.

    Raises
    ------
    CompressError
        As `compress.models.source.resolve`.
    """
    if not student.path:
        raise ConfigError("student.path: a value is needed; set student.path=DIRECTORY of a Hugging Face checkpoint")
    files = sorted(Path(student.path).expanduser().glob("*"))
    stamp = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _resolved(student.path, stamp)


@functools.lru_cache(maxsize=8)
def _resolved(path: str, stamp: tuple[tuple[str, int, int], ...]) -> SourceModel:
    from compress.models.source import resolve

    return resolve(Model(path=path), "student.path")


def check_student(student: Student, source: SourceFacts) -> None:
    """Refuse a student that cannot be, and keys that would change nothing.

    Raises
    ------
    ConfigError
        Says the key, its value and what to do.
    """
    for problem in _contradictions(student):
        raise ConfigError(problem)
    kind = kind_of(student)
    if kind == "path":
        given_model(student)
    elif kind == "fresh":
        if source.widths is not None:
            check_fresh(student, source.widths)
    else:
        chosen_layers(student, source.layers)
        if source.widths is not None:
            check_narrower(student, source.widths)
        if student.layer_choice == "search" and layers_wanted(student, source.layers) == source.layers:
            raise ConfigError(
                f"student.layer_choice=search: the student keeps all {source.layers} layers of its source, so there "
                f"is no choice; set student.layers below {source.layers}, or layer_choice=uniform"
            )


def student_facts(student: Student, source: SourceFacts) -> SourceFacts:
    """Return the source's facts with those of the student."""
    kind = kind_of(student)
    if kind == "path":
        given = given_model(student)
        return replace(
            source,
            architecture=given.architecture,
            layers=given.layers,
            positions=given.positions,
            widths=given.widths,
            grid_bits=None,
        )
    widths = None if source.widths is None else asked_widths(student, source.widths)
    if kind == "fresh":
        return replace(source, layers=student.layers or source.layers, widths=widths, grid_bits=None)
    return replace(source, layers=layers_wanted(student, source.layers), widths=widths)


def _contradictions(student: Student) -> Iterator[str]:
    """Yield what would be accepted and change nothing, or cannot both be."""
    kind = kind_of(student)
    if kind == "path":
        if student.layers is not None:
            yield (
                f"student.layers={student.layers}: {_OF_PATH} layers; set student.layers=null beside student.path "
                f"(distill=pretrained does)"
            )
        if student.fresh:
            yield "student.fresh=true: student.path gives the weights; leave out one of the two"
        for name in ("hidden", "heads", "neurons"):
            if getattr(student, name) is not None:
                yield f"student.{name}={getattr(student, name):g}: {_OF_PATH} widths; leave it out beside student.path"
    if kind != "source":
        why = _OF_PATH + " layers" if kind == "path" else _OF_FRESH
        if student.initialise_from is not None:
            yield f"student.initialise_from={list(student.initialise_from)}: {why}; leave it out"
        if student.layer_choice != "uniform":
            yield f"student.layer_choice={student.layer_choice}: {why}; leave it out"
        if student.narrow != "pruned":
            yield f"student.narrow={student.narrow}: {why}, and none are narrowed; leave it out"
    if student.initialise_from is not None and student.layer_choice != "uniform":
        yield (
            f"student.layer_choice={student.layer_choice}: student.initialise_from={list(student.initialise_from)} "
            f"lists the layers already; leave out one of the two"
        )
    if student.narrow == "svd" and student.hidden is None:
        yield (
            "student.narrow=svd: it says how the hidden width is made smaller, and student.hidden is not set; "
            "set student.hidden, or leave narrow out"
        )
    yield from _idle_search(student)


def _idle_search(student: Student) -> Iterator[str]:
    if student.layer_choice == "search":
        return
    for entry in fields(StudentSearch):
        value = getattr(student.search, entry.name)
        if value != entry.default:
            yield (
                f"student.search.{entry.name}={value}: only layer_choice=search reads it, and layer_choice is "
                f"{student.layer_choice}; set student.layer_choice=search, or leave it out"
            )
