"""Run a job: its steps, its artifact, its measurement; or the steps alone, where a sweep measures at its end."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compress.errors import CompressError, MachineError
from compress.pipeline.built import BUILT, FAMILY, Built, build, write_built
from compress.pipeline.finish import Found, Outcome, finish, write_status
from compress.pipeline.quiet import measuring
from compress.pipeline.steps import Setting, set_up

if TYPE_CHECKING:
    from compress.config.job import JobConfig

__all__ = ["build_job", "run_job"]

log = logging.getLogger(__name__)

T = TypeVar("T")


def run_job(job: JobConfig, run_dir: Path, device: str | None = None, *, found: Found | None = None) -> Outcome:
    """Run every step of a job that is not in the store yet, then measure all of them from disk.

    Parameters
    ----------
    job
        The job.
    run_dir
        Where to leave what it makes.
    device
        The device to use in place of the job's: one of several GPUs.
    found
        The search that found this job, in whose name it is told.

    Raises
    ------
    CompressError
        With the exit status to leave with; ``status.json`` in `run_dir` says the same.
    """
    return _guarded(lambda: _run(job, run_dir, device, found), run_dir)


def build_job(job: JobConfig, run_dir: Path, device: str | None = None) -> Built:
    """Run the steps of a job and leave ``artifact/`` and ``built.json``: `measure_together` does the rest.

    Parameters
    ----------
    job, run_dir, device
        As of `run_job`.

    Raises
    ------
    CompressError
        As `run_job`.
    """
    return _guarded(lambda: _build(job, run_dir, device), run_dir)


def _guarded(work: Callable[[], T], run_dir: Path) -> T:
    """Begin in a clean directory, and let an error leave its reason there."""
    try:
        _clear(run_dir)
        return work()
    except CompressError as error:
        write_status(run_dir, "failed", error.exit_status, reason=str(error))
        raise
    except OSError as error:
        if error.errno is None:
            raise
        failure = MachineError(f"{error.strerror}: {error.filename or run_dir}")
        failure.exit_status = 1
        raise failure from error


def _clear(run_dir: Path) -> None:
    """Remove what an earlier run left in the directory: numbers of one run never stand beside a model of another."""
    written = [run_dir / name for name in ("status.json", "record.json", BUILT, "report.md", "report.html")]
    for file in [file for file in written if file.is_file()]:
        file.unlink()
    folders = {"artifact": "checkpoint.json", "plots": "path.png"}
    for folder in [run_dir / name for name, sign in folders.items() if (run_dir / name / sign).is_file()]:
        shutil.rmtree(folder)
    family = run_dir / FAMILY
    for manifest in family.glob("*/checkpoint.json"):
        shutil.rmtree(manifest.parent)
    if family.is_dir() and not any(family.iterdir()):
        family.rmdir()
    shutil.rmtree(run_dir / ".benchmark", ignore_errors=True)


def _run(job: JobConfig, run_dir: Path, device: str | None, found: Found | None) -> Outcome:
    _check_tracker(job)
    setting = set_up(job, device)
    built = build(job, setting, run_dir)
    write_built(run_dir, built)  # with it, a sweep can measure the job again beside others
    if job.store.max_bytes is not None:
        setting.store.prune(job.store.max_bytes, keep=set(built.keys.values()))
    with measuring(setting.store.path):
        measurement = _measure(job, setting, built, run_dir)
    return finish(job, built, measurement, run_dir, setting, found=found)


def _build(job: JobConfig, run_dir: Path, device: str | None) -> Built:
    _check_tracker(job)
    built = build(job, set_up(job, device), run_dir)
    # Nothing is pruned from the store before the measurement at the end of the sweep has read it.
    write_built(run_dir, built)
    write_status(run_dir, "built", None, digest=job.digest)
    return built


def _check_tracker(job: JobConfig) -> None:
    """Refuse a tracker that could not be written to, before hours of work."""
    from compress import tracking

    tracking.check(job.tracker)


def _measure(job: JobConfig, setting: Setting, built: Built, run_dir: Path) -> dict[str, Any]:
    from compress.benchmark.measure import measure

    scratch = run_dir / ".benchmark"
    paths = built.paths(setting.store.path, run_dir)
    try:
        return measure(
            [(name, name, paths[name]) for name in built.measured(job.benchmark.variants)],
            task=setting.task,
            data=setting.data,
            config=job.benchmark,
            device=setting.plan.measured_on,
            baseline=built.baseline,
            candidate=built.candidate,
            scratch=scratch,
            log=log,
            cache=setting.store.cache,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
