"""One job inside Hydra's run directory: never raises an error to Hydra, leaves status.json."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.signals import Stopped
from compress.errors import CompressError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress.config.job import JobConfig
    from compress.pipeline import Outcome
    from compress.sweeping.ledger import Ledger

__all__ = [
    "fail",
    "outcome_of",
    "plan_of",
    "read_status",
    "run_alone",
    "run_in_sweep",
    "say",
    "shows_tracebacks",
    "status_of",
]

log = logging.getLogger(__name__)


def say(message: str) -> None:
    """Print a line for the user on standard error."""
    print(message, file=sys.stderr, flush=True)


def shows_tracebacks() -> bool:
    """Return whether errors come with their tracebacks (``HYDRA_FULL_ERROR=1``)."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def run_alone(job: JobConfig, run_dir: Path, *, measure: bool = True, device: str | None = None) -> int:
    """Run a job, print its table, and return the exit status; errors end in messages and in status.json.

    Parameters
    ----------
    job
        The job.
    run_dir
        Its directory.
    measure
        Whether to measure what its steps leave; else the sweep does so at its end.
    device
        The device to use in place of the job's: one of several GPUs.

    Raises
    ------
    Stopped
        If a signal asked the process to end; status.json says so.
    """
    from compress.console import setup_logging

    status = run_dir / "status.json"
    try:
        status.unlink(missing_ok=True)  # of an earlier attempt in this directory
        setup_logging(run_dir / "compress.log")
        for warning in job.warnings:
            log.warning("%s", warning)
        return _run(job, run_dir, device) if measure or job.auto else _build(job, run_dir, device)
    except CompressError as error:
        _keep_traceback(run_dir)
        log.error("%s", error)
        return fail(run_dir, error.exit_status, str(error))
    except (KeyboardInterrupt, Stopped) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(2)
        fail(run_dir, stopped.exit_status, str(stopped))
        raise stopped from stop
    except Exception as error:  # a job of a sweep must not end the others; the status says that it failed
        _keep_traceback(run_dir)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.error("%s (the traceback is in %s)", reason, run_dir / "compress.log")
        return fail(run_dir, 1, reason)


def _run(job: JobConfig, run_dir: Path, device: str | None) -> int:
    from compress.results.table import print_table

    outcome = outcome_of(job, run_dir, device)
    print_table(outcome.record, artifact=outcome.artifact)
    for missed in outcome.record["budget"]["missed"]:
        log.warning("budget missed: %s", missed["message"])
    return int(outcome.exit_status)


def outcome_of(job: JobConfig, run_dir: Path, device: str | None = None) -> Outcome:
    """Run a job, or search for one where that is what it asks; raises CompressError."""
    if job.auto is not None:
        from compress.sweeping.auto import run_auto

        return run_auto(job, run_dir, device)
    from compress.pipeline import run_job

    return run_job(job, run_dir, device)


def plan_of(job: JobConfig) -> str:
    """Return what a job would do, as text; writes nothing."""
    if job.auto is not None:
        from compress.sweeping.auto import describe

        return describe(job)
    from compress.pipeline import dry_run

    return dry_run(job)


def _build(job: JobConfig, run_dir: Path, device: str | None) -> int:
    from compress.pipeline import build_job

    build_job(job, run_dir, device)
    log.info("its steps are done; all variants are measured together at the end of the sweep")
    return 0


def _keep_traceback(run_dir: Path) -> None:
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {traceback.format_exc()}"
    if shows_tracebacks():
        say(text)
    try:
        with (run_dir / "compress.log").open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        say(f"{run_dir / 'compress.log'} could not be written: {error}")


def fail(run_dir: Path, exit_status: int, reason: str) -> int:
    """Write the status.json of a failed job and return the exit status; a full disk must not hide why it failed."""
    from compress.pipeline.finish import write_status

    try:
        write_status(run_dir, "failed", exit_status, reason=reason)
    except (OSError, CompressError) as error:
        say(f"{run_dir / 'status.json'} could not be written: {error}")
    return exit_status


def status_of(run_dir: Path) -> dict[str, Any]:
    """Return what status.json says of a job; nothing where there is none or it is broken."""
    try:
        status = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def read_status(run_dir: Path) -> int:
    """Return the exit status that a job left; one that left none did not survive: 1."""
    status = status_of(run_dir).get("exit_status")
    return status if isinstance(status, int) else 1


def run_in_sweep(task_config: DictConfig) -> int:
    """Run one job of a sweep: what Hydra's launcher calls, perhaps in another process.

    A job equal to one that was started before in this sweep is not run again.
    """
    from hydra.core.hydra_config import HydraConfig

    from compress.sweeping.ledger import Ledger, occupied

    hydra = HydraConfig.get()
    run_dir, sweep_dir = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir).absolute()
    ledger = Ledger(sweep_dir)
    ledger.orders.obey()
    with occupied(run_dir):
        ledger.start(run_dir)
        name = os.path.relpath(run_dir, sweep_dir)
        (run_dir / "status.json").unlink(missing_ok=True)
        try:
            job = _job_in_sweep(task_config)
        except CompressError as error:
            say(f"error: job {name}: {error}")
            return fail(run_dir, error.exit_status, str(error))
        return _run_claimed(job, name, run_dir, ledger)


def _job_in_sweep(task_config: DictConfig) -> JobConfig:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from compress.cli.validate import job_of

    composed = OmegaConf.merge(task_config)
    with open_dict(composed):
        composed.hydra = HydraConfig.get()
    return job_of(composed, sweep=True)  # type: ignore[arg-type]


def _run_claimed(job: JobConfig, name: str, run_dir: Path, ledger: Ledger) -> int:
    from compress.machine import gpus
    from compress.pipeline.finish import write_status

    first = ledger.claim(job.digest, name)
    if first != name:
        say(f"job {name}: equal to job {first}, not run again")
        write_status(run_dir, "equal", 0, equal_to=first)
        return 0
    say(f"job {name}: {' '.join(job.overrides)}")
    orders = ledger.orders
    when = orders.when if job.benchmark.when == "auto" else job.benchmark.when
    with ledger.lease(job.device, gpus() if orders.parallel else 1) as device:
        return run_alone(job, run_dir, measure=when == "job", device=None if device == job.device else device)
