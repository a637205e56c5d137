"""Run a job: reuse or run each step, copy out the artifact, measure, record, report."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError, MachineError
from compress.pipeline.plan import Plan, PlannedStep, make_plan

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.job import JobConfig
    from compress.data.base import Data
    from compress.models.source import SourceModel
    from compress.store import Store
    from compress.tasks.base import Task

__all__ = ["Outcome", "run_job"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    exit_status : int
        0, or 3 where a budget was missed.
    record : dict
        As in record.json.
    directory, artifact : pathlib.Path
        The run's directory and the final checkpoint in it.
    """

    exit_status: int
    record: dict[str, Any]
    directory: Path
    artifact: Path


def run_job(job: JobConfig, run_dir: Path) -> Outcome:
    """Run every step of a job that is not in the store yet, then measure all of them from disk.

    Raises
    ------
    CompressError
        With the exit status to leave with; ``status.json`` in `run_dir` says the same.
    """
    from compress.results.record import write_json

    try:
        _clear(run_dir)
        outcome = _run(job, run_dir)
    except CompressError as error:
        write_json(
            run_dir / "status.json", {"status": "failed", "exit_status": error.exit_status, "reason": str(error)}
        )
        raise
    except OSError as error:
        if error.errno is None:
            raise
        failure = MachineError(f"{error.strerror}: {error.filename or run_dir}")
        failure.exit_status = 1
        raise failure from error
    missed = outcome.record["budget"]["missed"]
    status = "done" if outcome.exit_status == 0 else "budget missed"
    write_json(run_dir / "status.json", {"status": status, "exit_status": outcome.exit_status, "missed": missed})
    return outcome


def _clear(run_dir: Path) -> None:
    """Remove what an earlier run left in the directory: numbers of one run never stand beside a model of another."""
    written = [run_dir / name for name in ("status.json", "record.json", "report.md", "report.html")]
    for file in [file for file in written if file.is_file()]:
        file.unlink()
    folders = {"artifact": "checkpoint.json", "plots": "path.png"}
    for folder in [run_dir / name for name, sign in folders.items() if (run_dir / name / sign).is_file()]:
        shutil.rmtree(folder)
    shutil.rmtree(run_dir / ".benchmark", ignore_errors=True)


def _run(job: JobConfig, run_dir: Path) -> Outcome:
    from compress import data, tasks
    from compress.models.source import resolve
    from compress.store import Store

    source = resolve(job.model)
    make_plan(job, source, None)  # a wrong order is refused before the data is read
    store = Store(Path(job.store.path) if job.store.path else None, job.store.max_bytes)
    prepared = data.prepare(job.data, job.task_name, store.cache)
    plan = make_plan(job, source, prepared.labels).with_keys(job, prepared.fingerprint)
    first_is_source = plan.steps[0].step.kind == "source"
    labels = source.labels if first_is_source and source.labels else prepared.labels
    task = tasks.create(job.task_name, labels, metric=job.task.metric)
    done, facts = run_steps(plan, job, store, task, prepared)
    if job.store.max_bytes is not None:
        store.prune(job.store.max_bytes, keep={step.key for step in plan.steps})
    return _measure(job, plan, task, done, facts, prepared, run_dir)


def run_steps(
    plan: Plan, job: JobConfig, store: Store, task: Task, prepared: Data
) -> tuple[dict[str, Checkpoint], list[dict[str, Any]]]:
    """Run or reuse each step of a keyed plan.

    Returns
    -------
    checkpoints : dict of str to Checkpoint
        By step name, in order.
    facts : list of dict
        ``name``, ``kind``, ``key``, ``cached`` and ``seconds`` per step, for the record.
    """
    done: dict[str, Checkpoint] = {}
    facts: list[dict[str, Any]] = []
    source: Checkpoint | SourceModel = plan.source
    lineage: tuple[Mapping[str, Any], ...] = ()
    for number, planned in enumerate(plan.steps, 1):
        start = time.perf_counter()
        with store.lock(planned.key):
            checkpoint = None if planned.name in job.force else store.get(planned.key)
            cached = checkpoint is not None
            log.info("step %d/%d %s: %s", number, len(plan.steps), planned.name, "reused" if cached else "running")
            if checkpoint is None:
                checkpoint = _run_step(planned, source, lineage, plan, job, store, task, prepared, done)
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
    plan: Plan,
    job: JobConfig,
    store: Store,
    task: Task,
    prepared: Data,
    done: Mapping[str, Checkpoint],
) -> Checkpoint:
    from compress.keys import config_facts
    from compress.steps.base import Context

    step = planned.step
    if planned.name in job.force:
        store.drop_scratch(planned.key)
    context = Context(
        name=planned.name,
        task=task,
        data=prepared,
        max_length=job.model.max_length,
        seed=job.seed,
        device=plan.device,
        threads=plan.threads,
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


def _measure(
    job: JobConfig,
    plan: Plan,
    task: Task,
    done: Mapping[str, Checkpoint],
    facts: list[dict[str, Any]],
    prepared: Data,
    run_dir: Path,
) -> Outcome:
    from compress import benchmark
    from compress.checkpoint import copy_checkpoint
    from compress.data import describe
    from compress.results import budget, card, record, report

    final = list(done)[-1]
    artifact = copy_checkpoint(done[final], run_dir / "artifact")
    scratch = run_dir / ".benchmark"
    try:
        measurement = benchmark.measure(
            [(name, name, artifact.path if name == final else checkpoint.path) for name, checkpoint in done.items()],
            task_name=job.task_name,
            task=task,
            data=prepared,
            config=job.benchmark,
            device=plan.device,
            baseline=plan.baseline,
            candidate=final,
            scratch=scratch,
            log=log,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    cut = {"train": _truncated_in_training(facts), **measurement["truncated"]}
    built = record.build(
        recipe=job.recipe,
        task=job.task_name,
        seed=job.seed,
        metric=job.task.metric,
        steps=facts,
        measurement=measurement,
        baseline=plan.baseline,
        candidate=final,
        data={**describe(prepared), "truncated": cut},
        overrides=list(job.overrides),
        warnings=[*plan.notes, *_cut_rows(cut, prepared, job.model.max_length)],
    )
    built["budget"] = budget.judge(built, job.budget)
    record.write_json(run_dir / "record.json", built)
    card.write(built, artifact.path)
    report.write(run_dir)
    status = 0 if built["budget"]["met"] else 3
    return Outcome(status, built, run_dir, artifact.path)


def _truncated_in_training(steps: list[dict[str, Any]]) -> int | None:
    """Return how many training rows were cut, as the first step that trained counted them; None if none did."""
    counts = [step["facts"]["truncated"]["train"] for step in steps if "truncated" in step["facts"]]
    return int(counts[0]) if counts else None


def _cut_rows(cut: Mapping[str, int | None], prepared: Data, max_length: int) -> list[str]:
    rows = {name: len(prepared.split(name)) for name in cut}
    parts = [f"{count} of {rows[name]} {name} rows" for name, count in cut.items() if count]
    return [f"{', '.join(parts)} were cut at model.max_length={max_length} tokens"] if parts else []
