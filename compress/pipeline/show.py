"""The plan, printed: what would run, what is reused, what it needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import MachineError
from compress.pipeline.plan import make_plan

if TYPE_CHECKING:
    from compress.config.job import JobConfig

__all__ = ["dry_run"]

_SHARES = {"int8": 0.3, "int4": 0.2, "int2": 0.15, "nf4": 0.2, "fp4": 0.2}
"""Bytes of weights relative to fp32, rounded up."""


def dry_run(job: JobConfig) -> str:
    """Return the plan of a job as text; reads configuration and indexes only, writes nothing."""
    from compress import data
    from compress.models.source import resolve
    from compress.store import Store, default_path

    source = resolve(job.model)
    root = Path(job.store.path) if job.store.path else default_path()
    exists = root.is_dir()
    _check_writable(root)
    cache = root / "cache" if exists else None
    known = data.peek(job.data, job.task_name, cache)
    plan = make_plan(job, source, known["labels"] if known else None)
    if known:
        plan = plan.with_keys(job, str(known["fingerprint"]))
    store = Store(root, None, readonly=True) if exists else None
    lines = [
        f"recipe     {job.recipe}",
        f"task       {job.task_name} on data={job.data_name}"
        + (f", rows {known['rows']}" if known else " (not read yet: its columns and labels are checked when it runs)"),
        f"model      {source.name} ({source.architecture}, {source.layers} layers)",
        f"device     {plan.device}, {plan.threads} threads for training",
        f"store      {root}",
        "steps",
    ]
    needed = 0
    weights = _weights_bytes(source.path)
    for number, step in enumerate(plan.steps, 1):
        forced = step.part_of in job.force
        cached = bool(store and step.key and store.contains(step.key) and not forced)
        estimate = int(weights * _SHARES.get(step.facts.precision, 1) * (4 if step.step.trains else 1))
        needed += 0 if cached else estimate
        state = "cached" if cached else ("to redo" if forced else "to do")
        implied = " (implied)" if step.implied else ""
        lines.append(
            f"  {number}. {step.name}{implied}: {state}, leaves {step.facts.format} {step.facts.precision}"
            + (f", key {step.key[:12]}" if step.key else "")
        )
    measured = len(plan.steps) if job.benchmark.variants == "path" else len({plan.baseline, plan.steps[-1].name})
    lines.append(f"benchmark  {measured} variants at {', '.join(job.benchmark.shapes)}; baseline {plan.baseline}")
    lines.append(f"disk       about {needed / 1e6:.0f} MB needed, {_free(root) / 1e9:.1f} GB free")
    lines += [f"warning    {note}" for note in plan.notes]
    return "\n".join(lines)


def _check_writable(root: Path) -> None:
    """Refuse a store that a run could not make or write to."""
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise MachineError(f"cannot write to the store at {root}; set store.path to a writable folder")


def _weights_bytes(path: Path | None) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path else 200_000


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
