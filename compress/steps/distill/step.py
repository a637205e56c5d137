"""The step: make the student, ask the teacher once, train."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Distill
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.distill.layers import chosen_layers, matched_layers

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.steps.distill.alignment import AlignedOutputs
    from compress.steps.distill.teacher import TeacherOutputs
    from compress.tasks.base import Features

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
        """Return the teacher's step, if one is named and its answers are asked for."""
        return () if config.teacher is None or not _asks_teacher(config) else (config.teacher,)

    def check(self, config: Distill, source: SourceFacts) -> None:
        """Refuse a student that the source cannot give, and a loss without terms."""
        if source.precision != "fp32":
            raise ConfigError(f"distill trains an fp32 model, this one is {source.precision}; put distill before it")
        weights = config.weights
        if not (weights.task or weights.logits or weights.hidden):
            raise ConfigError(
                "weights: task, logits and hidden are all 0, so there is nothing to learn from; set one of them above 0"
            )
        chosen_layers(config.student, source.layers)

    def after(self, config: Distill, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the student's layers."""
        return replace(super().after(config, source), layers=len(chosen_layers(config.student, source.layers)))

    def run(self, source: Checkpoint | SourceModel, config: Distill, context: Context, out: Writer) -> None:
        """Make the student, compute or reuse the teacher's outputs, train, save the best epoch."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import load_model, load_tokenizer, save_model, student_of
        from compress.steps.distill.alignment import AlignedOutputs
        from compress.steps.distill.losses import distillation_loss
        from compress.training import reproducible, train

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: distill reads a checkpoint; {source.name} was never loaded into one")
        teacher = context.inputs[config.teacher] if self.inputs(config) and config.teacher is not None else source
        task = context.task
        layers = chosen_layers(config.student, source.layers)
        check_teacher(teacher, source, config, context)
        tokenizer = load_tokenizer(source.path)
        features = task.encode(context.data.train, tokenizer, context.max_length)
        judged = task.encode(context.data.validation, tokenizer, context.max_length)
        with reproducible(context.seed, context.threads):
            student = student_of(load_model(source), list(layers))
            extras = None
            if _asks_teacher(config):
                outputs = _ask(teacher, source, student, features, tokenizer, config, context)
                extras = outputs.batch
                if isinstance(outputs, AlignedOutputs):
                    out.facts["matched_with_teacher"] = round(outputs.share_of(features), 6)
        log.info(
            "%s: a student of %d layers, which begin as layers %s of %d",
            *(context.name, len(layers), ", ".join(map(str, layers)), source.layers),
        )
        result = train(
            student,
            tokenizer,
            task,
            features,
            judged,
            config,
            seed=context.seed,
            device=context.device,
            threads=context.threads,
            scratch=context.scratch,
            loss_fn=distillation_loss(task, config),
            extras=extras,
            description=context.name,
        )
        out.facts["initialised_from"] = list(layers)
        out.facts["truncated"] = {"train": features.truncated, "validation": judged.truncated}
        out.facts["best_epoch"] = result.epoch
        out.facts["validation"] = {task.metric: result.metric}
        out.facts["history"] = result.history
        save_model(out, student, tokenizer, context.max_length)


def check_teacher(teacher: Checkpoint, source: Checkpoint, config: Distill, context: Context) -> None:
    """Refuse, before any work, a teacher that cannot teach this student."""
    if not _asks_teacher(config):
        return
    name = config.teacher or "the source"
    if teacher.format != "torch" or teacher.precision != "fp32":
        raise ConfigError(
            f"{context.name}.teacher={name}: its checkpoint is {teacher.format} {teacher.precision}; "
            f"a teacher must be a torch fp32 checkpoint, such as that of finetune"
        )
    if tuple(teacher.labels) != tuple(context.task.labels):
        raise ConfigError(
            f"{context.name}.teacher={name}: its labels are {list(teacher.labels)[:8]}, the task's are "
            f"{list(context.task.labels)[:8]}; a teacher must know the same labels in the same order"
        )
    if config.weights.hidden > 0:
        if not _reads_alike(teacher, source):
            raise ConfigError(
                f"{context.name}.weights.hidden={config.weights.hidden:g}: the tokenizer of the teacher {name} is not "
                f"the student's, so hidden states cannot be matched token by token; set weights.hidden=0, or choose a "
                f"teacher of the same tokenizer"
            )
        matched_layers(len(chosen_layers(config.student, source.layers)), teacher.layers)


def _asks_teacher(config: Distill) -> bool:
    return config.weights.logits > 0 or config.weights.hidden > 0


def _ask(
    teacher: Checkpoint,
    source: Checkpoint,
    student: Any,
    features: Features,
    tokenizer: Any,
    config: Distill,
    context: Context,
) -> TeacherOutputs | AlignedOutputs:
    """Return the teacher's outputs on the training rows, from the cache if they are there."""
    from importlib.metadata import version

    from compress.models.torch_io import load_model, load_tokenizer
    from compress.steps.distill.alignment import AlignedOutputs
    from compress.steps.distill.teacher import teacher_outputs
    from compress.tasks.padding import padding_of

    kept: tuple[int, ...] = ()
    if config.weights.hidden > 0:
        kept = matched_layers(student.config.num_hidden_layers, teacher.layers)
        _check_width(teacher, student, config, context)
    read, its = features, tokenizer
    if not _reads_alike(teacher, source):
        its = load_tokenizer(teacher.path)
        read = context.task.encode(context.data.train, its, context.max_length)
    identity = {
        "teacher": teacher.digest,
        "tokenizer": _tokenizer_digest(teacher),
        "data": context.data.fingerprint,
        "max_length": context.max_length,
        "transformers": version("transformers"),
        "tokenizers": version("tokenizers"),
    }
    outputs = teacher_outputs(
        lambda: load_model(teacher),
        context.task,
        read,
        padding_of(its),
        keep_layers=kept,
        identity=identity,
        cache=context.cache,
        device=context.device,
    )
    pairs = None if read is features else context.task.aligned(features, read)
    return outputs if pairs is None else AlignedOutputs(outputs, pairs)


def _check_width(teacher: Checkpoint, student: Any, config: Distill, context: Context) -> None:
    import json

    width = json.loads((teacher.path / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    if width != student.config.hidden_size:
        raise ConfigError(
            f"{context.name}.weights.hidden={config.weights.hidden}: the teacher is {width} wide, the student "
            f"{student.config.hidden_size}; hidden states can be compared at equal width only, set weights.hidden=0"
        )


def _reads_alike(teacher: Checkpoint, source: Checkpoint) -> bool:
    """Whether two checkpoints split every text into the same tokens, numbered alike."""
    return teacher.digest == source.digest or _tokenizer_digest(teacher) == _tokenizer_digest(source)


def _tokenizer_digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of its tokenizer.json."""
    return str(checkpoint.manifest.files["tokenizer.json"])
