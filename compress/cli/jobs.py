"""One job inside Hydra's run directory: never raises an error to Hydra, leaves status.json."""

from __future__ import annotations

import dataclasses
import hashlib
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

__all__ = ["LEDGER", "digest", "read_status", "run_alone", "run_in_sweep", "say", "shows_tracebacks"]

LEDGER = ".jobs"
"""Folder of a sweep, while it runs: which jobs were started, and where each distinct one runs."""

log = logging.getLogger(__name__)


def say(message: str) -> None:
    """Print a line for the user on standard error."""
    print(message, file=sys.stderr, flush=True)


def shows_tracebacks() -> bool:
    """Return whether errors come with their tracebacks (``HYDRA_FULL_ERROR=1``)."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def digest(job: JobConfig) -> str:
    """Return what equal jobs have in common, whatever the overrides they came from."""
    facts = {
        field.name: _facts(getattr(job, field.name))
        for field in dataclasses.fields(job)
        if field.name not in ("overrides", "warnings")
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _facts(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, dataclasses.asdict(value)]
    if hasattr(value, "items"):
        return [[name, _facts(inner)] for name, inner in value.items()]
    return value


def run_alone(job: JobConfig, run_dir: Path) -> int:
    """Run a job, print its table, and return the exit status; errors end in messages and in status.json.

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
        return _run(job, run_dir)
    except CompressError as error:
        _keep_traceback(run_dir)
        log.error("%s", error)
        return _failed(run_dir, error.exit_status, str(error))
    except (KeyboardInterrupt, Stopped) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(2)
        _failed(run_dir, stopped.exit_status, str(stopped))
        raise stopped from stop
    except Exception as error:  # a job of a sweep must not end the others; the status says that it failed
        _keep_traceback(run_dir)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.error("%s (the traceback is in %s)", reason, run_dir / "compress.log")
        return _failed(run_dir, 1, reason)


def _run(job: JobConfig, run_dir: Path) -> int:
    from compress.pipeline import run_job
    from compress.results.table import print_table

    outcome = run_job(job, run_dir)
    print_table(outcome.record, artifact=outcome.artifact)
    for missed in outcome.record["budget"]["missed"]:
        log.warning("budget missed: %s", missed["message"])
    return int(outcome.exit_status)


def _keep_traceback(run_dir: Path) -> None:
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {traceback.format_exc()}"
    if shows_tracebacks():
        say(text)
    try:
        with (run_dir / "compress.log").open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        say(f"{run_dir / 'compress.log'} could not be written: {error}")


def _failed(run_dir: Path, exit_status: int, reason: str) -> int:
    """Write status.json and return the exit status; a full disk must not hide why the job failed."""
    from compress.results.record import write_json

    try:
        write_json(run_dir / "status.json", {"status": "failed", "exit_status": exit_status, "reason": reason})
    except (OSError, CompressError) as error:
        say(f"{run_dir / 'status.json'} could not be written: {error}")
    return exit_status


def read_status(run_dir: Path) -> int:
    """Return the exit status that a job left; one that left none did not survive: 1."""
    try:
        return int(json.loads((run_dir / "status.json").read_text(encoding="utf-8"))["exit_status"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def run_in_sweep(task_config: DictConfig) -> int:
    """Run one job of a sweep: what Hydra's launcher calls, perhaps in another process.

    A job equal to one that was started before in this sweep is not run again.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from compress.cli.validate import job_of
    from compress.results.record import write_json

    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    ledger = Path(hydra.sweep.dir).absolute() / LEDGER
    ledger.mkdir(exist_ok=True)
    (ledger / f"run-{hydra.job.num}").write_text(str(run_dir), encoding="utf-8")
    composed = OmegaConf.merge(task_config)
    with open_dict(composed):
        composed.hydra = hydra
    try:
        job = job_of(composed, sweep=True)  # type: ignore[arg-type]
    except CompressError as error:
        say(f"error: job {hydra.job.num}: {error}")
        return _failed(run_dir, error.exit_status, str(error))
    claim = ledger / f"job-{digest(job)}"
    try:
        with claim.open("x", encoding="utf-8") as stream:
            stream.write(run_dir.name)
    except FileExistsError:
        first = claim.read_text(encoding="utf-8")
        say(f"job {hydra.job.num}: equal to job {first}, not run again")
        write_json(run_dir / "status.json", {"status": "equal", "exit_status": 0, "equal_to": first})
        return 0
    say(f"job {hydra.job.num}: {' '.join(job.overrides)}")
    return run_alone(job, run_dir)
