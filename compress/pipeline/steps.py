"""The steps of a plan: each run, or reused from the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import MachineError
from compress.pipeline.plan import Plan, PlannedStep, make_plan
from compress.pipeline.quiet import measuring, working

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.job import JobConfig
    from compress.data.base import Data
    from compress.models.source import SourceModel
    from compress.store import Store
    from compress.tasks.base import Task

__all__ = ["Setting", "run_steps", "set_up"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What a job's steps, and its measurement, work with.

    Attributes
    ----------
    plan : Plan
        The steps, with their keys.
    store : Store
        Where their checkpoints live.
    task : Task
        With the labels of the data, or of the model where no step trains a head.
    data : Data
        The prepared splits.
    """

    plan: Plan
    store: Store
    task: Task
    data: Data


def set_up(job: JobConfig, device: str | None = None) -> Setting:
    """Plan a job, open its store and prepare its data; a wrong order is refused before the data is read.

    Parameters
    ----------
    job
        The job.
    device
        The device to use in place of the job's.
    """
    from compress import data, tasks
    from compress.models.source import resolve
    from compress.store import Store

    source = resolve(job.model)
    make_plan(job, source, None)
    store = Store(Path(job.store.path) if job.store.path else None, job.store.max_bytes)
    with working(store.path):
        prepared = data.prepare(job.data, job.task_name, store.cache)
    plan = make_plan(job, source, prepared.labels)
    plan = (plan.on(device) if device else plan).with_keys(job, prepared.fingerprint)
    first_is_source = plan.steps[0].step.kind == "source"
    labels = source.labels if first_is_source and source.labels else prepared.labels
    task = tasks.create(job.task_name, labels, metric=job.task.metric)
    return Setting(plan, store, task, prepared)


def run_steps(job: JobConfig, setting: Setting) -> tuple[dict[str, Checkpoint], list[dict[str, Any]]]:
    """Run or reuse each step of a plan.

    Returns
    -------
    checkpoints : dict of str to Checkpoint
        By step name, in order.
    facts : list of dict
        ``name``, ``kind``, ``key``, ``cached`` and ``seconds`` per step, for the record.
    """
    plan, store = setting.plan, setting.store
    for note in plan.notes:
        log.warning("%s", note)
    done: dict[str, Checkpoint] = {}
    facts: list[dict[str, Any]] = []
    source: Checkpoint | SourceModel = plan.source
    lineage: tuple[Mapping[str, Any], ...] = ()
    for number, planned in enumerate(plan.steps, 1):
        start = time.perf_counter()
        with store.lock(planned.key):
            checkpoint = None if planned.part_of in job.force else store.get(planned.key)
            cached = checkpoint is not None
            log.info("step %d/%d %s: %s", number, len(plan.steps), planned.name, "reused" if cached else "running")
            if checkpoint is None:
                alone = planned.step.measures(planned.config)
                with (measuring if alone else working)(store.path):
                    checkpoint = _run_step(planned, source, lineage, job, setting, done)
        seconds = round(time.perf_counter() - start, 3)
        if not cached:
            log.info("step %d/%d %s: done in %.1f s", number, len(plan.steps), planned.name, seconds)
        done[planned.name] = source = checkpoint
        lineage = tuple(checkpoint.manifest.lineage)
        facts.append(
            {
                "name": planned.name,
                "kind": planned.step.kind,
                "key": planned.key,
                "cached": cached,
                "seconds": seconds,
                "implied": planned.implied,
                "facts": dict(checkpoint.manifest.facts),
            }
        )
    return done, facts


def _run_step(
    planned: PlannedStep,
    source: Checkpoint | SourceModel,
    lineage: tuple[Mapping[str, Any], ...],
    job: JobConfig,
    setting: Setting,
    done: Mapping[str, Checkpoint],
) -> Checkpoint:
    from compress.keys import config_facts
    from compress.steps.base import Context

    step, store, task = planned.step, setting.store, setting.task
    if planned.part_of in job.force:
        store.drop_scratch(planned.key)
    context = Context(
        name=planned.name,
        task=task,
        data=setting.data,
        max_length=job.model.max_length,
        seed=job.seed,
        device=setting.plan.device,
        threads=setting.plan.threads,
        scratch=store.scratch(planned.key),
        cache=store.cache,
        inputs={name: done[name] for name in step.inputs(planned.config)},
    )
    entry = {
        "name": planned.name,
        "kind": step.kind,
        "config": config_facts(planned.config),
        "key": planned.key,
    }
    with store.building(planned.key) as out:
        step.run(source, planned.config, context, out)
        out.finish(
            format=planned.facts.format,
            precision=planned.facts.precision,
            task=task.name,
            metric=task.metric,
            labels=task.labels,
            max_length=job.model.max_length,
            architecture=planned.facts.architecture,
            layers=planned.facts.layers,
            lineage=(*lineage, entry),
        )
    store.drop_scratch(planned.key)
    checkpoint = store.get(planned.key)
    if checkpoint is None:
        raise MachineError(f"step {planned.name}: its checkpoint vanished from the store at {store.path}; run again")
    return checkpoint
