"""The step: make the student, ask the teacher once, train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Distill
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.distill.kinds import check_student, given_model, kind_of, student_facts
from compress.steps.distill.replacing import check_replacement, way_of
from compress.steps.distill.stages import asked_teachers, check_stages, stages_of
from compress.training.distillation import check_teacher, matching, teach, unlabelled_key

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.config.training import Taught
    from compress.data.base import Data
    from compress.models.source import SourceModel
    from compress.training.distillation import Lesson

__all__ = ["DistillStep"]

log = logging.getLogger(__name__)


class DistillStep(Step[Distill]):
    """A smaller student learns from labels, and from a teacher's logits and hidden states.

    The student is made of layers of the step's source, made narrower or not; or it is a checkpoint of its own that
    reads the same tokens, or a fresh model (`compress.steps.distill.making`). Its teacher is that source too, or the
    checkpoint of the earlier step that `teacher` names: after pruning, ``distill.teacher=finetune`` makes the student
    from the pruned model and has the unpruned one teach. Where its vocabulary was pruned, the two tokenizers differ:
    the teacher then reads the rows by its own, and its logits are matched row by row or word by word, as the task says
    (`Task.aligned`).
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
        return asked_teachers(config)

    def check(self, config: Distill, source: SourceFacts) -> None:
        """Refuse a student that the source cannot give, a loss without terms, and teachers named twice over."""
        if source.precision != "fp32":
            raise ConfigError(f"distill trains an fp32 model, this one is {source.precision}; put distill before it")
        check_stages(config)
        check_replacement(config)
        check_student(config.student, source)
        if not self.inputs(config):  # the source teaches, so that its layers are known
            for stage in stages_of(config).values():
                matching(stage, student_facts(config.student, source).layers, source.layers)

    def after(self, config: Distill, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the student's layers, widths and, where it is another's, architecture."""
        return student_facts(config.student, super().after(config, source))

    def resolve(self, config: Distill) -> Mapping[str, Any]:
        """Return the content of a student in a directory of its own, and of the file of unlabelled texts."""
        given = {"student": given_model(config.student).fingerprint} if kind_of(config.student) == "path" else {}
        return {**given, **unlabelled_key(config, "distill")}

    def run(self, source: Checkpoint | SourceModel, config: Distill, context: Context, out: Writer) -> None:
        """Make the student, compute or reuse the teacher's outputs, train, save the best epoch."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import save_model
        from compress.steps.distill.making import make_student

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: distill reads a checkpoint; {source.name} was never loaded into one")
        reads: Checkpoint = source
        teachers = [context.inputs[name] for name in self.inputs(config)] or [source]
        facts = SourceFacts(source.format, source.precision, source.architecture, source.layers)
        stages = stages_of(config)
        for teacher, name in zip(teachers, self.inputs(config) or ("the source",), strict=True):
            for where, stage in stages.items():
                check_teacher(
                    teacher,
                    source,
                    stage,
                    context.task.labels,
                    layers=student_facts(config.student, facts).layers,
                    named=f"{context.name}.teacher={name}",
                    where=f"{context.name}{where}",
                    several=len(teachers) > 1,
                )

        def learn(student: Any, tokenizer: Any, data: Data, training: Taught, where: str, candidate: str) -> Lesson:
            named = f"{context.name}{where}"
            return teach(
                student,
                tokenizer,
                reads,
                teachers,
                context.task,
                data,
                training,
                max_length=context.max_length,
                seed=context.seed,
                device=context.device,
                threads=context.threads,
                scratch=context.scratch / ("search" if candidate else "") / candidate / where.lstrip("."),
                cache=context.cache,
                where=named,
                description=f"{named}, layers {candidate}" if candidate else named,
                way=None if where else way_of(config),
            )

        made = make_student(
            source,
            config,
            context,
            lambda model, reader, data, brief, name: learn(model, reader, data, brief, "", name),
        )
        for where, stage in stages.items():
            lesson = learn(made.model, made.tokenizer, context.data, stage, where, "")
            if where:
                out.facts[where.lstrip(".")] = {"history": lesson.result.history}
        out.facts.update(lesson.facts())
        out.facts.update(made.facts)
        out.facts["best_epoch"] = lesson.result.epoch
        out.facts["validation"] = {context.task.metric: lesson.result.metric}
        out.facts["history"] = lesson.result.history
        save_model(out, made.model, made.tokenizer, context.max_length)
