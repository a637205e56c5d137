"""The trainings that a distillation consists of: representations first, if asked for, then answers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from compress.config.schemas import Distill
from compress.config.training import Stage
from compress.errors import ConfigError
from compress.training.distillation import asks_teacher, check_terms

if TYPE_CHECKING:
    from compress.config.training import Taught

__all__ = ["asked_teachers", "check_stages", "stages_of"]


def stages_of(config: Distill) -> dict[str, Taught]:
    """Return the trainings in order, by what stands after the step's name in messages."""
    first: dict[str, Taught] = {".representations": _first(config)} if config.representations.epochs else {}
    return {**first, "": config}


def asked_teachers(config: Distill) -> tuple[str, ...]:
    """Return the steps of the teachers, if any are named and their answers or their layers are asked for."""
    if not (config.replace.rate or any(map(asks_teacher, stages_of(config).values()))):
        return ()
    if config.teachers is not None:
        return tuple(config.teachers)
    return () if config.teacher is None else (config.teacher,)


def check_stages(config: Distill) -> None:
    """Refuse, while planning, losses without terms and teachers named twice over."""
    if config.teacher is not None and config.teachers is not None:
        raise ConfigError(
            f"teacher={config.teacher} and teachers={list(config.teachers)}: set one of them, or list all"
        )
    if config.teachers is not None and len(set(config.teachers)) < max(2, len(config.teachers)):
        raise ConfigError(f"teachers={list(config.teachers)}: list two or more steps, each once; one is teacher=")
    check_terms(config, "distill")
    if config.representations.epochs:
        check_terms(_first(config), "distill")
    elif config.representations != Stage(checkpoint_seconds=config.representations.checkpoint_seconds):
        raise ConfigError(
            "representations.epochs=0, so that there is no first stage, and other keys of representations are set; "
            "set representations.epochs=2, or leave representations as it is"
        )


def _first(config: Distill) -> Taught:
    """Return the training of the first stage, which differs from the second in its schedule and its terms."""
    given = {field.name: getattr(config.representations, field.name) for field in fields(config.representations)}
    return replace(config, **given)
