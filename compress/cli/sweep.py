"""Sweeps: every job is checked before the first starts, and the exit status is gathered from disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.cli.jobs import LEDGER, digest, read_status, run_in_sweep, say
from compress.cli.validate import job_of
from compress.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress.cli.compose import Composer
    from compress.config.job import JobConfig

__all__ = ["run_sweep"]

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def run_sweep(composer: Composer, overrides: Sequence[str]) -> int:
    """Run every job of a sweep and return the worst exit status, in the order 1, 3, 0.

    Raises
    ------
    ConfigError
        If the sweep cannot start: then no job has run.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from compress.cli.directories import given_by_user, make_fresh

    mode = [] if any(line.startswith("hydra.mode=") for line in overrides) else ["hydra.mode=MULTIRUN"]
    overrides = [*overrides, *mode]
    config = composer.compose(overrides, RunMode.MULTIRUN)
    jobs = _expand(composer, config)
    if jobs is not None and any(job.dry_run for job in jobs):
        return _dry_run(jobs)
    if jobs is None and config.dry_run:
        raise ConfigError(f"dry_run=true: the jobs of {config.hydra.sweeper._target_} are not known beforehand")
    HydraConfig.instance().set_config(config)  # interpolations of the sweep's directory
    directory = Path(str(config.hydra.sweep.dir))
    if not given_by_user(overrides, "hydra.sweep.dir"):
        directory = make_fresh(directory)
        quoted = str(directory).replace("\\", "\\\\").replace("'", "\\'")
        overrides = [*overrides, f"hydra.sweep.dir='{quoted}'"]
    return _launch(composer, overrides, directory, None if jobs is None else len(jobs))


def _expand(composer: Composer, config: DictConfig) -> list[JobConfig] | None:
    """Return every job of a sweep, checked; None for a sweeper that decides as it goes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from compress.cli.compose import lines_of

    sweeper = config.hydra.sweeper
    if sweeper._target_ != _BASIC:
        return None
    lines = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    lines += lines_of(config)
    try:
        parsed = OverridesParser.create(config_loader=composer.loader).parse_overrides(lines)
        combinations = BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    jobs = []
    for number, combination in enumerate(combinations):
        try:
            jobs.append(job_of(composer.compose_job(config, combination), sweep=True))
        except ConfigError as error:
            raise ConfigError(f"job {number} of the sweep ({' '.join(combination)}): {error}") from error
    return jobs


def _dry_run(jobs: Sequence[JobConfig]) -> int:
    from compress.pipeline import dry_run

    seen: dict[str, int] = {}
    for number, job in enumerate(jobs):
        first = seen.setdefault(digest(job), number)
        print(f"job {number}: {' '.join(job.overrides)}")
        for warning in job.warnings:
            say(f"warning: {warning}")
        print(dry_run(job) if first == number else f"equal to job {first}, not run again")
    return 0


def _launch(composer: Composer, overrides: list[str], directory: Path, expected: int | None) -> int:
    """Let Hydra's sweeper and launcher run the jobs, then gather what they left."""
    ledger = directory / LEDGER
    shutil.rmtree(ledger, ignore_errors=True)
    ledger.mkdir(parents=True)
    try:
        composer.hydra.multirun("config", run_in_sweep, list(overrides), with_log_configuration=False)
        runs = [Path(file.read_text(encoding="utf-8")) for file in sorted(ledger.glob("run-*"))]
    finally:
        shutil.rmtree(ledger, ignore_errors=True)
    statuses = [read_status(run) for run in runs]
    statuses += [1] * max(0, (expected or 0) - len(statuses))
    failed = sum(status not in (0, 3) for status in statuses)
    missed = sum(status == 3 for status in statuses)
    _report(directory)
    say(f"{len(statuses)} jobs: {failed} failed, {missed} missed a budget; {directory}")
    if failed or not statuses:
        return 1
    return 3 if missed else 0


def _report(directory: Path) -> None:
    from compress.results import sweep

    sweep.write(directory)
