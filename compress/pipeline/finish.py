"""The end of a job: record, budget, model card, report, trackers and, last of all, status.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline.built import ARTIFACT, Built
from compress.pipeline.coverage import vocabulary_coverage

if TYPE_CHECKING:
    from compress.config.job import JobConfig
    from compress.pipeline.steps import Setting

__all__ = ["Found", "Outcome", "finish", "write_status"]


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


@dataclass(frozen=True)
class Found:
    """A search that a job came out of.

    Attributes
    ----------
    job : JobConfig
        What the user asked for: its recipe, its overrides and its digest are told.
    facts : mapping
        ``search`` of the record.
    """

    job: JobConfig
    facts: Mapping[str, Any]


def finish(
    job: JobConfig,
    built: Built,
    measurement: Mapping[str, Any],
    run_dir: Path,
    setting: Setting,
    *,
    baseline: str | None = None,
    group: Mapping[str, str] | None = None,
    found: Found | None = None,
) -> Outcome:
    """Write what a job leaves, from what its steps left and what was measured.

    Parameters
    ----------
    job, built
        The job and what its steps left.
    measurement
        As `compress.benchmark.measure` returns it, with the variants named as in this job.
    run_dir
        The run's directory.
    setting
        Whose data and store the job shares.
    baseline
        Name of the baseline among the measured variants; by default the job's own.
    group
        ``key`` and ``baseline_run``, for jobs that were measured together.
    found
        The search that found this job.
    """
    from compress import tracking
    from compress.results import budget, card, record, report

    asked = job if found is None else found.job
    cut = {"train": _truncated_in_training(built.steps), **measurement["truncated"]}
    content = record.build(
        recipe=asked.recipe,
        task=job.task_name,
        seed=job.seed,
        metric=job.task.metric,
        steps=built.steps,
        measurement={key: value for key, value in measurement.items() if key != "truncated"},
        baseline=baseline or built.baseline,
        candidate=built.candidate,
        data={**built.data, "truncated": cut},
        overrides=list(asked.overrides),
        warnings=[*built.notes, *_cut_rows(cut, built.data["rows"], job.model.max_length)],
    )
    covered = vocabulary_coverage(built, setting.data, setting.store.path, run_dir)
    if covered:
        content["vocabulary"] = covered
    if group is not None:
        content["group"] = dict(group)
    if found is not None:
        content["search"] = dict(found.facts)
    content["budget"] = budget.judge(content, job.budget)
    record.write_json(run_dir / record.RECORD, content)
    artifact = run_dir / ARTIFACT
    card.write(content, artifact)
    report.write(run_dir)
    tracking.track(content, run_dir, job.tracker)
    status = 0 if content["budget"]["met"] else 3
    write_status(
        run_dir,
        "budget missed" if status else "done",
        status,
        missed=content["budget"]["missed"],
        digest=asked.digest,
    )
    return Outcome(status, content, run_dir, artifact)


def write_status(run_dir: Path, status: str, exit_status: int | None, **facts: Any) -> None:
    """Write status.json, the last file of a job."""
    from compress.results.record import write_json

    write_json(run_dir / "status.json", {"status": status, "exit_status": exit_status, **facts})


def _truncated_in_training(steps: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many training rows were cut, as the first step that trained counted them; None if none did."""
    counts = [step["facts"]["truncated"]["train"] for step in steps if "truncated" in step["facts"]]
    return int(counts[0]) if counts else None


def _cut_rows(cut: Mapping[str, int | None], rows: Mapping[str, int], max_length: int) -> list[str]:
    parts = [f"{count} of {rows[name]} {name} rows" for name, count in cut.items() if count]
    return [f"{', '.join(parts)} were cut at model.max_length={max_length} tokens"] if parts else []
