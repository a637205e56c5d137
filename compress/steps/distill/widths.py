"""The widths that a student's config asks for, in numbers."""

from __future__ import annotations

from dataclasses import fields

from compress.config.schemas import Student
from compress.errors import ConfigError
from compress.models.structure import Structure, Widths

__all__ = ["asked_widths", "check_fresh", "check_narrower", "narrows", "widths_of"]


def narrows(student: Student) -> bool:
    """Return whether any width is asked for."""
    return any(getattr(student, entry.name) is not None for entry in fields(Widths))


def widths_of(structure: Structure) -> Widths:
    """Return the largest widths of any layer of a model."""
    return Widths(structure.hidden_size, max(structure.heads), max(structure.intermediate_size))


def asked_widths(student: Student, source: Widths) -> Widths:
    """Return the student's widths; what it does not ask for is the source's.

    Raises
    ------
    ConfigError
        For a number above 1 that is not whole.
    """
    return Widths(**{entry.name: _number(student, entry.name, getattr(source, entry.name)) for entry in fields(Widths)})


def check_narrower(student: Student, source: Widths) -> Widths:
    """Refuse widths that are above the source's, from whose weights the student is made; return the student's."""
    asked = asked_widths(student, source)
    for entry in fields(Widths):
        has, wanted = getattr(source, entry.name), getattr(asked, entry.name)
        if wanted > has:
            raise ConfigError(
                f"student.{entry.name}={wanted}: the source has {has}, and a student is made from it; "
                f"allowed are 1 to {has}, or student.fresh=true for one of random weights"
            )
    return asked


def check_fresh(student: Student, source: Widths) -> Widths:
    """Refuse heads that do not divide the hidden width of a fresh student; return its widths."""
    asked = asked_widths(student, source)
    if asked.hidden % asked.heads:
        raise ConfigError(
            f"student.fresh=true: a hidden width of {asked.hidden} is no multiple of {asked.heads} heads; set "
            f"student.heads to a number that divides it, such as {_divisor(asked.hidden, asked.heads)}"
        )
    return asked


def _number(student: Student, name: str, has: int) -> int:
    value: float | None = getattr(student, name)
    if value is None:
        return has
    if value < 1:
        return max(1, round(value * has))
    if value != int(value):
        raise ConfigError(
            f"student.{name}={value:g}: give a whole number, or a share of the source's {has} that is below 1"
        )
    return int(value)


def _divisor(width: int, most: int) -> int:
    return next(number for number in range(min(width, most), 0, -1) if width % number == 0)
