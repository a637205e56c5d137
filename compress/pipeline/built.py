"""What the steps of a job left, on disk: all that measuring it needs, at once or later and in another process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.files import canonical_json
from compress.pipeline.steps import Setting, run_steps

if TYPE_CHECKING:
    from compress.config.job import JobConfig

__all__ = ["ARTIFACT", "BUILT", "FAMILY", "Built", "build", "group_key", "read_built", "write_built"]

BUILT = "built.json"
"""In the directory of a run, beside record.json."""

ARTIFACT = "artifact"

FAMILY = "family"
"""Folder of the models that a step kept on the way, each as self-contained as the artifact."""


@dataclass(frozen=True)
class Built:
    """The checkpoints of a job and what the record says of them.

    Attributes
    ----------
    steps : tuple of dict
        For the record: ``name``, ``kind``, ``key``, ``cached``, ``seconds``, ``implied``, ``facts`` in order.
    digests : mapping of str to str
        Digest of each step's checkpoint, by step name: equal digests are equal bytes.
    baseline, candidate : str
        Names of steps.
    labels : tuple of str
        By class index.
    source : str
        Fingerprint of the model that the job starts from.
    data : mapping
        As in the record.
    notes : tuple of str
        Of the plan, for the record's warnings.
    """

    steps: tuple[Mapping[str, Any], ...]
    digests: Mapping[str, str]
    baseline: str
    candidate: str
    labels: tuple[str, ...]
    source: str
    data: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, str]:
        """Store key of each step, by name."""
        return {step["name"]: step["key"] for step in self.steps}

    def measured(self, variants: str) -> dict[str, str]:
        """Return the digests of the checkpoints to measure, by step name, as ``benchmark.variants`` says."""
        ends = (self.baseline, self.candidate)
        return {name: digest for name, digest in self.digests.items() if variants == "path" or name in ends}

    def paths(self, store: Path, run_dir: Path) -> dict[str, Path]:
        """Return where each step's checkpoint lies: the last one in the run's directory, as it ships."""
        return {
            name: run_dir / ARTIFACT if name == self.candidate else store / "objects" / key
            for name, key in self.keys.items()
        }


def build(job: JobConfig, setting: Setting, run_dir: Path) -> Built:
    """Run or reuse a job's steps; copy the last checkpoint to ``artifact/``, those kept on the way to ``family/``."""
    from compress.checkpoint import copy_checkpoint
    from compress.data import describe

    done, facts = run_steps(job, setting)
    final = list(done)[-1]
    for planned in setting.plan.steps:
        if planned.folder is not None:
            copy_checkpoint(done[planned.name], run_dir / FAMILY / planned.folder)
    copy_checkpoint(done[final], run_dir / ARTIFACT)
    return Built(
        steps=tuple(facts),
        digests={name: checkpoint.digest for name, checkpoint in done.items()},
        baseline=setting.plan.baseline,
        candidate=final,
        labels=tuple(setting.task.labels),
        source=setting.plan.source.fingerprint,
        data=describe(setting.data),
        notes=setting.plan.notes,
    )


def write_built(run_dir: Path, built: Built) -> None:
    """Write what `build` returned into a run's directory."""
    from compress.results.record import write_json

    write_json(run_dir / BUILT, dataclasses.asdict(built))


def read_built(run_dir: Path) -> Built:
    """Read what `build` left in a run's directory.

    Raises
    ------
    DataError
        If it is not there or not whole.
    """
    file = run_dir / BUILT
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content |= {name: tuple(content[name]) for name in ("steps", "labels", "notes")}
        return Built(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); run the job again, finished steps are reused") from error


def group_key(job: JobConfig, built: Built) -> str:
    """Return what jobs share whose variants may be compared: task, data and its split, model, benchmark, device.

    The data's fingerprint covers the rows of every split, so it covers the seed of the split.
    """
    from compress.machine import resolve_device

    benchmark = dataclasses.asdict(job.benchmark)
    benchmark.pop("when")
    facts = {
        "task": [job.task_name, job.task.metric, list(built.labels)],
        "data": built.data["fingerprint"],
        "model": [built.source, job.model.max_length],
        "benchmark": benchmark,
        "device": resolve_device(job.device),
    }
    return hashlib.sha256(canonical_json(facts)).hexdigest()[:16]
