"""Train a student on labels and on what a teacher answers, hidden states included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.training.distillation.alignment import AlignedOutputs

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.schemas import Taught
    from compress.data.base import Data
    from compress.tasks.base import Features, Task
    from compress.training.distillation.outputs import TeacherOutputs
    from compress.training.loop import TrainingResult

__all__ = ["Lesson", "ask_teacher", "asks_teacher", "check_teacher", "check_terms", "matched_layers", "teach"]


@dataclass(frozen=True)
class Lesson:
    """What `teach` found.

    Attributes
    ----------
    result : TrainingResult
        Of the training.
    truncated : dict of str to int
        Rows that were cut, of ``train`` and ``validation``.
    matched : float or None
        Share of the labelled tokens that a teacher of another tokenizer has logits for; None where it reads alike.
    """

    result: TrainingResult
    truncated: dict[str, int]
    matched: float | None


def asks_teacher(config: Taught) -> bool:
    """Return whether the loss has a term that a teacher is needed for."""
    return config.weights.logits > 0 or config.weights.hidden > 0


def check_terms(config: Taught) -> None:
    """Refuse a loss without terms."""
    weights = config.weights
    if not (weights.task or weights.logits or weights.hidden):
        raise ConfigError(
            "weights: task, logits and hidden are all 0, so there is nothing to learn from; set one of them above 0"
        )


def check_teacher(
    teacher: Checkpoint,
    source: Checkpoint,
    config: Taught,
    labels: Sequence[str],
    *,
    layers: int,
    named: str,
    where: str,
) -> None:
    """Refuse, before any work, a teacher that cannot teach a student.

    Parameters
    ----------
    teacher
        Its checkpoint.
    source
        The checkpoint whose tokenizer the student has.
    config
        The terms of the loss.
    labels
        The task's.
    layers
        The student's.
    named
        The key that names the teacher, and its value, for messages: ``distill.teacher=finetune``.
    where
        The node of `config`, for messages: ``distill``.
    """
    if not asks_teacher(config):
        return
    if teacher.format != "torch" or teacher.precision != "fp32":
        raise ConfigError(
            f"{named}: its checkpoint is {teacher.format} {teacher.precision}; "
            f"a teacher must be a torch fp32 checkpoint, such as that of finetune"
        )
    if tuple(teacher.labels) != tuple(labels):
        raise ConfigError(
            f"{named}: its labels are {list(teacher.labels)[:8]}, the task's are "
            f"{list(labels)[:8]}; a teacher must know the same labels in the same order"
        )
    if config.weights.hidden > 0:
        if not _reads_alike(teacher, source):
            raise ConfigError(
                f"{where}.weights.hidden={config.weights.hidden:g}: the tokenizer of the teacher "
                f"{named.partition('=')[2]} is not the student's, so hidden states cannot be matched token by token; "
                f"set weights.hidden=0, or choose a teacher of the same tokenizer"
            )
        matched_layers(layers, teacher.layers)


def teach(
    student: Any,
    tokenizer: Any,
    source: Checkpoint,
    teacher: Checkpoint,
    task: Task,
    data: Data,
    config: Taught,
    *,
    max_length: int,
    seed: int,
    device: str,
    threads: int,
    scratch: Path,
    cache: Path,
    where: str,
    description: str,
) -> Lesson:
    """Train a student in place, as `compress.training.train` does, with the losses that `config` weighs.

    One that no epoch makes better on validation stays as it came.

    Parameters
    ----------
    student, tokenizer
        The model, and what reads its rows.
    source
        The checkpoint whose tokenizer that is.
    teacher
        Asked once for each row, if at all; what it says is kept in `cache`.
    task, data
        What is learned; the test split is not read.
    config
        The training and the terms of its loss.
    max_length
        Longest input in tokens.
    seed, device, threads, scratch, description
        As of `compress.training.train`.
    cache
        Directory of the teacher's outputs.
    where
        The node of `config`, for messages.

    Raises
    ------
    ConfigError
        If hidden states are to be compared and are not equally wide.
    """
    from compress.training import reproducible, train
    from compress.training.distillation.losses import distillation_loss

    features = task.encode(data.train, tokenizer, max_length)
    judged = task.encode(data.validation, tokenizer, max_length)
    outputs: TeacherOutputs | AlignedOutputs | None = None
    if asks_teacher(config):
        with reproducible(seed, threads):
            outputs = ask_teacher(
                teacher,
                source,
                student,
                features,
                task,
                data,
                config,
                max_length=max_length,
                device=device,
                cache=cache,
                where=where,
            )
    result = train(
        student,
        tokenizer,
        task,
        features,
        judged,
        config,
        seed=seed,
        device=device,
        threads=threads,
        scratch=scratch,
        loss_fn=distillation_loss(task, config),
        extras=None if outputs is None else outputs.batch,
        description=description,
        start_counts=True,
    )
    matched = round(outputs.share_of(features), 6) if isinstance(outputs, AlignedOutputs) else None
    return Lesson(result, {"train": features.truncated, "validation": judged.truncated}, matched)


def ask_teacher(
    teacher: Checkpoint,
    source: Checkpoint,
    student: Any,
    features: Features,
    task: Task,
    data: Data,
    config: Taught,
    *,
    max_length: int,
    device: str,
    cache: Path,
    where: str,
) -> TeacherOutputs | AlignedOutputs:
    """Return the teacher's outputs on the training rows, from the cache if they are there; parameters as of `teach`."""
    from importlib.metadata import version

    from compress.models.torch_io import load_model, load_tokenizer
    from compress.tasks.padding import padding_of
    from compress.training.distillation.outputs import teacher_outputs

    kept: tuple[int, ...] = ()
    if config.weights.hidden > 0:
        kept = matched_layers(student.config.num_hidden_layers, teacher.layers)
        _check_width(teacher, student, config, where)
    alike = _reads_alike(teacher, source)
    its = load_tokenizer(teacher.path)
    read = features if alike else task.encode(data.train, its, max_length)
    identity = {
        "teacher": teacher.digest,
        "tokenizer": _tokenizer_digest(teacher),
        "data": data.fingerprint,
        "max_length": max_length,
        "transformers": version("transformers"),
        "tokenizers": version("tokenizers"),
    }
    outputs = teacher_outputs(
        lambda: load_model(teacher),
        task,
        read,
        padding_of(its),
        keep_layers=kept,
        identity=identity,
        cache=cache,
        device=device,
    )
    pairs = None if alike else task.aligned(features, read)
    return outputs if pairs is None else AlignedOutputs(outputs, pairs)


def matched_layers(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Return for each student layer the teacher layer, counted from 0, whose output it is to reproduce.

    The end of student layer ``j`` is matched with the end of teacher layer ``(j + 1) L / l``, rounded half up:
    both have then done the same share of the work, and last meets last (the uniform strategy of TinyBERT,
    arXiv 1909.10351). This is about outputs, and differs from the layers that a student is made of.

    Raises
    ------
    ConfigError
        A student deeper than its teacher.
    """
    if student_layers > teacher_layers:
        raise ConfigError(
            f"weights.hidden: a student of {student_layers} layers cannot be matched with a teacher of "
            f"{teacher_layers}; make it of at most {teacher_layers} layers, or set weights.hidden=0"
        )
    return tuple(
        (2 * (j + 1) * teacher_layers + student_layers) // (2 * student_layers) - 1 for j in range(student_layers)
    )


def _check_width(teacher: Checkpoint, student: Any, config: Taught, where: str) -> None:
    import json

    from compress.models.families import family

    name = family(teacher.architecture).config_hidden
    width = json.loads((teacher.path / "config.json").read_text(encoding="utf-8")).get(name)
    if width != student.config.hidden_size:
        raise ConfigError(
            f"{where}.weights.hidden={config.weights.hidden}: the teacher is {width} wide, the student "
            f"{student.config.hidden_size}; hidden states can be compared at equal width only, set weights.hidden=0"
        )


def _reads_alike(teacher: Checkpoint, source: Checkpoint) -> bool:
    """Whether two checkpoints split every text into the same tokens, numbered alike."""
    return teacher.digest == source.digest or _tokenizer_digest(teacher) == _tokenizer_digest(source)


def _tokenizer_digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of its tokenizer.json."""
    return str(checkpoint.manifest.files["tokenizer.json"])
