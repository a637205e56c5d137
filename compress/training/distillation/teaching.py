"""Train a student on labels and on what a teacher answers, its inside included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.training.distillation.asking import Asked, ask
from compress.training.distillation.checks import asks_inside, asks_teacher
from compress.training.distillation.material import Material, material
from compress.training.distillation.ways import Draws, Scene, Way

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.training import Taught
    from compress.data.base import Data
    from compress.tasks.base import Task
    from compress.training.distillation.layer_maps import Matching
    from compress.training.distillation.terms import DistillationLoss
    from compress.training.loop import TrainingResult

__all__ = ["Lesson", "teach"]


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
    teacher : dict or None
        The teacher's ``metrics`` on the labelled training rows and the share of them, or of their words, on which it
        ``disagrees_with_gold``; None where no outputs are kept.
    unlabelled : int
        Texts without labels.
    """

    result: TrainingResult
    truncated: dict[str, int]
    matched: float | None
    teacher: dict[str, Any] | None = None
    unlabelled: int = 0

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint's facts say of the lesson."""
        found: dict[str, Any] = {"truncated": self.truncated}
        if self.matched is not None:
            found["matched_with_teacher"] = self.matched
        if self.teacher is not None:
            found["teacher"] = self.teacher
        if self.unlabelled:
            found["unlabelled"] = self.unlabelled
        return found


def teach(
    student: Any,
    tokenizer: Any,
    source: Checkpoint,
    teachers: Sequence[Checkpoint],
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
    way: Way | None = None,
) -> Lesson:
    """Train a student in place, as `compress.training.train` does, with the losses that `config` weighs.

    One that no epoch makes better on validation stays as it came. Where no term is about answers (neither labels nor
    logits) validation says nothing of what is learned, and the last epoch is kept.

    Parameters
    ----------
    student, tokenizer
        The model, and what reads its rows.
    source
        The checkpoint whose tokenizer that is.
    teachers
        Asked once for each row, if at all; what they say is kept in `cache`, and averaged.
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
    way
        How the student runs while it learns; None is as it is.

    Raises
    ------
    ConfigError
        If the student cannot be trained in this way, or parts of the models are to be compared that cannot be.
    DataError
        If the file of unlabelled texts cannot be read.
    """
    from compress.data.unlabelled import read_unlabelled
    from compress.training import reproducible, train
    from compress.training.distillation.augmentation import Augmenter
    from compress.training.distillation.live import LiveTeacher
    from compress.training.distillation.terms import DistillationLoss

    way = Way() if way is None else way
    way.check(student, source, teachers, config, where)
    texts = [] if config.unlabelled is None else read_unlabelled(config.unlabelled, where, data)
    rows = material(task, data, texts, tokenizer, max_length)
    judged = task.encode(data.validation, tokenizer, max_length)
    augmenter = None
    if config.augment.share > 0:
        augmenter = Augmenter(config.augment, rows.features, tokenizer, seed, where)
    with reproducible(seed, threads):
        matched, sizes = _match(student, teachers[0], config, where, way)
        asked = None
        live = None
        if asks_teacher(config):
            asked = ask(
                teachers,
                source,
                rows,
                matched,
                task,
                data,
                texts,
                config,
                max_length=max_length,
                device=device,
                cache=cache,
            )
            if augmenter is not None or asked.outputs is None:
                live = LiveTeacher([_load(teacher) for teacher in teachers], matched.teacher, device)
    losses: list[DistillationLoss] = []
    judged_by_answers = _judges(config) and not way.keeps_last

    def make(pairs: Matching) -> DistillationLoss:
        losses.append(DistillationLoss(task, config, student, pairs, sizes, live))
        return losses[-1]

    try:
        loss = way.begin(Scene(student, lambda: _load(teachers[0]), config, matched, make, Draws(seed)))
        result = train(
            student,
            tokenizer,
            task,
            rows.features,
            judged,
            config,
            seed=seed,
            device=device,
            threads=threads,
            scratch=scratch,
            loss_fn=loss,
            extras=_extras(asked, rows, augmenter is not None),
            augmenter=augmenter,
            description=description,
            start_counts=judged_by_answers,
            keep_last=not judged_by_answers,
        )
    finally:
        way.end()
        _leave(student, losses)
    share = None
    if asked is not None and asked.aligned is not None:
        share = round(asked.aligned.share_of(rows.features), 6)
    cut = {"train": rows.features.truncated, "validation": judged.truncated}
    return Lesson(result, cut, share, None if asked is None else asked.report(task), len(texts))


def _judges(config: Taught) -> bool:
    weights = config.weights
    answers = (weights.task, weights.task_end or 0, weights.logits, weights.logits_mse, weights.decoupled)
    return any(weight > 0 for weight in answers)


def _match(student: Any, teacher: Checkpoint, config: Taught, where: str, way: Way) -> tuple[Matching, Any]:
    """Return what is compared, and the heads; gives the student the projections that it needs."""
    from compress.models.structure import structure_of
    from compress.training.distillation.checks import check_attention, relation_heads, structure_at
    from compress.training.distillation.terms import Projections, Sizes

    ours = structure_of(student)
    if not asks_inside(config):
        return way.matching(config, ours.layers, teacher.layers), None
    theirs = structure_at(teacher)
    matched = way.matching(config, ours.layers, theirs.layers)
    check_attention(student.config.model_type, teacher.architecture, ours, theirs, matched, config, where)
    layers = [layer for kind, layer in matched.student if kind == "hidden"]
    student.add_module("distillation", Projections(layers, ours.hidden_size, theirs.hidden_size))
    heads = relation_heads(ours, theirs, matched, config, where) if config.weights.relations > 0 else 1
    return matched, Sizes(ours.heads, theirs.heads, heads)


def _leave(student: Any, losses: Sequence[DistillationLoss]) -> None:
    for loss in losses:
        loss.close()
    if hasattr(student, "distillation"):
        del student.distillation


def _load(teacher: Checkpoint) -> Any:
    from compress.models.torch_io import load_model

    return load_model(teacher)


def _extras(asked: Asked | None, rows: Material, augmented: bool) -> Callable[..., Mapping[str, np.ndarray]] | None:
    """Return what gives a batch's rows the teacher's outputs, and says which of them have gold labels."""
    from compress.training.distillation.entries import ANSWERED, GOLD

    some_gold = augmented or rows.gold < len(rows.features)
    kept = asked is not None and asked.outputs is not None

    def extras(numbers: Sequence[int], padded: int) -> Mapping[str, np.ndarray]:
        found = {} if asked is None else dict(asked.batch(numbers, padded))
        if some_gold:
            found[GOLD] = np.asarray(numbers, np.int64) < rows.gold
        if augmented and kept:
            found[ANSWERED] = np.ones(len(numbers), bool)
        return found

    return extras if some_gold or kept else None
