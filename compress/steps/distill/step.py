"""The step: make the student, ask the teacher once, train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Distill
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.distill.kinds import check_student, given_model, kind_of, student_facts
from compress.training.distillation import asks_teacher, check_teacher, check_terms, teach

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
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
        """Return the teacher's step, if one is named and its answers are asked for."""
        return () if config.teacher is None or not asks_teacher(config) else (config.teacher,)

    def check(self, config: Distill, source: SourceFacts) -> None:
        """Refuse a student that the source cannot give, and a loss without terms."""
        if source.precision != "fp32":
            raise ConfigError(f"distill trains an fp32 model, this one is {source.precision}; put distill before it")
        check_terms(config)
        check_student(config.student, source)

    def after(self, config: Distill, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the student's layers, widths and, where it is another's, architecture."""
        return student_facts(config.student, super().after(config, source))

    def resolve(self, config: Distill) -> Mapping[str, Any]:
        """Return the content of a student that lies in a directory of its own: its path is not in the key."""
        return {"student": given_model(config.student).fingerprint} if kind_of(config.student) == "path" else {}

    def run(self, source: Checkpoint | SourceModel, config: Distill, context: Context, out: Writer) -> None:
        """Make the student, compute or reuse the teacher's outputs, train, save the best epoch."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import save_model
        from compress.steps.distill.making import make_student

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: distill reads a checkpoint; {source.name} was never loaded into one")
        reads: Checkpoint = source
        teacher = context.inputs[config.teacher] if self.inputs(config) and config.teacher is not None else source
        task = context.task
        facts = SourceFacts(source.format, source.precision, source.architecture, source.layers)
        check_teacher(
            teacher,
            source,
            config,
            task.labels,
            layers=student_facts(config.student, facts).layers,
            named=f"{context.name}.teacher={config.teacher or 'the source'}",
            where=context.name,
        )

        def learn(student: Any, tokenizer: Any, data: Data, training: Distill, candidate: str) -> Lesson:
            return teach(
                student,
                tokenizer,
                reads,
                teacher,
                task,
                data,
                training,
                max_length=context.max_length,
                seed=context.seed,
                device=context.device,
                threads=context.threads,
                scratch=context.scratch / "search" / candidate if candidate else context.scratch,
                cache=context.cache,
                where=context.name,
                description=f"{context.name}, layers {candidate}" if candidate else context.name,
            )

        made = make_student(source, config, context, learn)
        lesson = learn(made.model, made.tokenizer, context.data, config, "")
        if lesson.matched is not None:
            out.facts["matched_with_teacher"] = lesson.matched
        out.facts.update(made.facts)
        out.facts["truncated"] = lesson.truncated
        out.facts["best_epoch"] = lesson.result.epoch
        out.facts["validation"] = {task.metric: lesson.result.metric}
        out.facts["history"] = lesson.result.history
        save_model(out, made.model, made.tokenizer, context.max_length)
