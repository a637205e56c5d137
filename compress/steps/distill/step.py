"""The step: make the student, ask the teacher once, train."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Distill
from compress.config.training import Stage
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.distill.layers import chosen_layers
from compress.steps.distill.replacing import check_replacement, way_of
from compress.training.distillation import asks_teacher, check_teacher, check_terms, teach, unlabelled_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress.checkpoint import Checkpoint, Writer
    from compress.config.training import Taught
    from compress.models.source import SourceModel

__all__ = ["DistillStep"]

log = logging.getLogger(__name__)


class DistillStep(Step[Distill]):
    """A student made of some of its source's layers learns from labels, and from a teacher's logits and hidden states.

    The student is made from the step's source. Its teacher is that source too, or the checkpoint of the earlier step
    that `teacher` names: after pruning, ``distill.teacher=finetune`` makes the student from the pruned model and has
    the unpruned one teach. Where its vocabulary was pruned, the two tokenizers differ: the teacher then reads the rows
    by its own, and its logits are matched row by row or word by word, as the task says (`Task.aligned`).
    """

    kind: ClassVar[str] = "distill"
    config: ClassVar[type] = Distill
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
        "accelerate",
        "evaluate",
        "numpy",
        "safetensors",
        "seqeval",
        "tokenizers",
        "torch",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.distill",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def inputs(self, config: Distill) -> tuple[str, ...]:
        """Return the steps of the teachers, if any are named and their answers or their layers are asked for."""
        asked = config.replace.rate or any(map(asks_teacher, _stages(config).values()))
        return _named_teachers(config) if asked else ()

    def check(self, config: Distill, source: SourceFacts) -> None:
        """Refuse a student that the source cannot give, a loss without terms, and teachers named twice over."""
        if source.precision != "fp32":
            raise ConfigError(f"distill trains an fp32 model, this one is {source.precision}; put distill before it")
        if config.teacher is not None and config.teachers is not None:
            raise ConfigError(
                f"teacher={config.teacher} and teachers={list(config.teachers)}: set one of them, or list all"
            )
        if config.teachers is not None and len(set(config.teachers)) < max(2, len(config.teachers)):
            raise ConfigError(f"teachers={list(config.teachers)}: list two or more steps, each once; one is teacher=")
        check_terms(config)
        if config.representations.epochs:
            check_terms(_first_stage(config))
        elif config.representations != Stage(checkpoint_seconds=config.representations.checkpoint_seconds):
            raise ConfigError(
                "representations.epochs=0, so that there is no first stage, and other keys of representations are set; "
                "set representations.epochs=2, or leave representations as it is"
            )
        check_replacement(config)
        chosen_layers(config.student, source.layers)

    def resolve(self, config: Distill) -> Mapping[str, Any]:
        """Return the content of the file of unlabelled texts."""
        return unlabelled_key(config, "distill")

    def after(self, config: Distill, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the student's layers."""
        return replace(super().after(config, source), layers=len(chosen_layers(config.student, source.layers)))

    def run(self, source: Checkpoint | SourceModel, config: Distill, context: Context, out: Writer) -> None:
        """Make the student, compute or reuse the teacher's outputs, train, save the best epoch."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import load_model, load_tokenizer, save_model, student_of
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: distill reads a checkpoint; {source.name} was never loaded into one")
        teachers = [context.inputs[name] for name in self.inputs(config)] or [source]
        task = context.task
        layers = chosen_layers(config.student, source.layers)
        stages = _stages(config)
        for teacher, name in zip(teachers, self.inputs(config) or ("the source",), strict=True):
            for where, stage in stages.items():
                check_teacher(
                    teacher,
                    source,
                    stage,
                    task.labels,
                    layers=len(layers),
                    named=f"{context.name}.teacher={name}",
                    where=f"{context.name}{where}",
                    several=len(teachers) > 1,
                )
        tokenizer = load_tokenizer(source.path)
        with reproducible(context.seed, context.threads):
            student = student_of(load_model(source), list(layers))
        log.info(
            "%s: a student of %d layers, which begin as layers %s of %d",
            *(context.name, len(layers), ", ".join(map(str, layers)), source.layers),
        )
        for where, stage in stages.items():
            lesson = teach(
                student,
                tokenizer,
                source,
                teachers,
                task,
                context.data,
                stage,
                max_length=context.max_length,
                seed=context.seed,
                device=context.device,
                threads=context.threads,
                scratch=context.scratch / where.lstrip("."),
                cache=context.cache,
                where=f"{context.name}{where}",
                description=f"{context.name}{where}",
                way=None if where else way_of(config),
            )
            if where:
                out.facts[where.lstrip(".")] = {"history": lesson.result.history}
        out.facts.update(lesson.facts())
        out.facts["initialised_from"] = list(layers)
        out.facts["best_epoch"] = lesson.result.epoch
        out.facts["validation"] = {task.metric: lesson.result.metric}
        out.facts["history"] = lesson.result.history
        save_model(out, student, tokenizer, context.max_length)


def _first_stage(config: Distill) -> Taught:
    """Return the training of the first stage, which differs from the second in its schedule and its terms."""
    given = {field.name: getattr(config.representations, field.name) for field in fields(config.representations)}
    return replace(config, **given)


def _stages(config: Distill) -> dict[str, Taught]:
    """Return the trainings in order, by what stands after the step's name in messages."""
    first: dict[str, Taught] = {".representations": _first_stage(config)} if config.representations.epochs else {}
    return {**first, "": config}


def _named_teachers(config: Distill) -> tuple[str, ...]:
    return (
        tuple(config.teachers) if config.teachers is not None else () if config.teacher is None else (config.teacher,)
    )
