"""What a student's teachers say of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.training.distillation.alignment import AlignedOutputs
from compress.training.distillation.checks import reads_alike, tokenizer_digest
from compress.training.distillation.material import Material, material

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.training import Taught
    from compress.data.base import Data
    from compress.tasks.base import Task
    from compress.training.distillation.layer_maps import Matching
    from compress.training.distillation.outputs import TeacherOutputs

__all__ = ["Asked", "ask"]


@dataclass(frozen=True)
class Asked:
    """A teacher's kept outputs, those of several averaged, or that there are none.

    Attributes
    ----------
    outputs : TeacherOutputs or None
        None where they would be larger than they may be.
    aligned : AlignedOutputs or None
        The same at the student's tokens, where it has others.
    read : Material
        The rows as the teacher reads them.
    """

    outputs: TeacherOutputs | None
    aligned: AlignedOutputs | None
    read: Material

    def batch(self, rows: Sequence[int], padded: int) -> Mapping[str, np.ndarray]:
        """Return the outputs of some rows where the student's tokens are; none where none are kept."""
        kept = self.aligned or self.outputs
        return {} if kept is None else kept.batch(rows, padded)

    def report(self, task: Task) -> dict[str, Any] | None:
        """Return the teacher's metrics on the labelled rows, and the share on which it is not of their mind."""
        if self.outputs is None:
            return None
        rows = [self.outputs.row(number) for number in range(self.read.gold)]
        metrics = {name: round(float(value), 6) for name, value in task.metrics(rows, self.read.labelled).items()}
        wrong = {"disagrees_with_gold": round(1 - metrics["accuracy"], 6)} if "accuracy" in metrics else {}
        return {"metrics": metrics, **wrong}


def ask(
    teachers: Sequence[Checkpoint],
    source: Checkpoint,
    rows: Material,
    matched: Matching,
    task: Task,
    data: Data,
    texts: Sequence[Any],
    config: Taught,
    *,
    max_length: int,
    device: str,
    cache: Path,
) -> Asked:
    """Return the teachers' outputs on the training rows, from the cache where they are there.

    Parameters
    ----------
    teachers, source, task, data, config, max_length, device, cache
        As of `compress.training.distillation.teach`.
    rows
        As the student reads them.
    matched
        Which parts of the teacher are compared.
    texts
        Further ones, without labels.
    """
    from dataclasses import replace
    from importlib.metadata import version

    from compress.models.torch_io import load_model, load_tokenizer
    from compress.tasks.padding import padding_of
    from compress.training.distillation.outputs import teacher_outputs

    alike = reads_alike(teachers[0], source)
    its = load_tokenizer(teachers[0].path)
    read = rows if alike else material(task, data, texts, its, max_length)
    found = []
    for teacher in teachers:
        identity = {
            "teacher": teacher.digest,
            "tokenizer": tokenizer_digest(teacher),
            "max_length": max_length,
            "transformers": version("transformers"),
            "tokenizers": version("tokenizers"),
        }
        outputs = teacher_outputs(
            lambda teacher=teacher: load_model(teacher),
            task,
            read.features,
            padding_of(its),
            parts=matched.teacher,
            identity=identity,
            cache=cache,
            device=device,
            most_bytes=config.teacher_bytes,
        )
        if outputs is None:
            return Asked(None, None, read)
        found.append(outputs)
    outputs = found[0]
    if len(found) > 1:
        outputs = replace(outputs, logits=np.stack([one.logits for one in found]).mean(axis=0, dtype=np.float32))
    pairs = None if alike else task.aligned(rows.features, read.features)
    return Asked(outputs, None if pairs is None else AlignedOutputs(outputs, pairs), read)
