"""Sweeps: every job is checked before the first starts, and the exit status is gathered from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.cli.jobs import plan_of, read_status, run_in_sweep, say
from compress.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress.cli.compose import Composer
    from compress.sweeping.jobs import SweepJob

__all__ = ["run_sweep"]

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_OPTUNA = "compress.sweeping.study.run_study"


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
    from compress.sweeping import launchers
    from compress.sweeping.jobs import quoted
    from compress.sweeping.ledger import alone_in
    from compress.training.processes import process_count

    if process_count() > 1:
        raise ConfigError(
            "-m: a sweep runs each job in a process of its own, and cannot be started in several; start it with "
            "python -m compress, or each job alone with torchrun -m compress"
        )
    mode = [] if any(line.startswith("hydra.mode=") for line in overrides) else ["hydra.mode=MULTIRUN"]
    overrides = [*overrides, *mode]
    config = composer.compose(overrides, RunMode.MULTIRUN)
    sweeper = str(config.hydra.sweeper._target_)
    HydraConfig.instance().set_config(config)  # interpolations of the sweep's directory
    jobs = expand(composer, config) if sweeper == _BASIC else []
    launchers.check(config)
    if sweeper == _OPTUNA:
        from compress.sweeping.study import Study

        study = Study.of(composer, config)
        if config.dry_run:
            print(study.describe())
            return 0
    if any(job.config.dry_run for job in jobs):
        return _dry_run(jobs)
    if sweeper not in (_BASIC, _OPTUNA) and config.dry_run:
        raise ConfigError(f"dry_run=true: the jobs of {sweeper} are not known beforehand")
    directory = Path(str(config.hydra.sweep.dir))
    if not given_by_user(overrides, "hydra.sweep.dir"):
        directory = make_fresh(directory)
        overrides = [*overrides, f"hydra.sweep.dir={quoted(directory)}"]
        config = composer.compose(overrides, RunMode.MULTIRUN)
    with alone_in(directory):
        if sweeper == _BASIC:
            runs = _run_grid(composer, config, [job.below(directory) for job in jobs])
        elif sweeper == _OPTUNA:
            runs = Study.of(composer, config).run()
        else:
            runs = _run_plugin(composer, config, overrides)
        return _gather(directory, runs)


def expand(composer: Composer, config: DictConfig) -> list[SweepJob]:
    """Return every job of the basic sweeper's grid, checked."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from compress.cli.compose import lines_of
    from compress.sweeping.jobs import compose_job, refuse_shared_directories

    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    lines += lines_of(config)
    try:
        parsed = OverridesParser.create(config_loader=composer.loader).parse_overrides(lines)
        combinations = BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    jobs = [compose_job(composer, config, number, combination) for number, combination in enumerate(combinations)]
    refuse_shared_directories(jobs)
    return jobs


def _dry_run(jobs: Sequence[SweepJob]) -> int:
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs):
        first = seen.setdefault(job.config.digest, number)
        print(f"job {number}: {' '.join(job.config.overrides)}")
        for warning in job.config.warnings:
            say(f"warning: {warning}")
        print(plan_of(job.config) if first == number else f"equal to job {first}, not run again")
    return 0


def _run_grid(composer: Composer, config: DictConfig, jobs: Sequence[SweepJob]) -> list[Path]:
    """Run the jobs of a grid and measure them together; returns their directories."""
    from compress.sweeping import launchers
    from compress.sweeping.sweep import Sweep

    with Sweep(composer, config, "end") as sweep:
        crowded = launchers.crowding(config, [job.config for job in jobs])
        if crowded:
            say(f"warning: {crowded}")
        sweep.run(jobs, config.hydra.sweeper.max_batch_size)
        sweep.measure(jobs)
    return [job.run_dir for job in jobs]


def _run_plugin(composer: Composer, config: DictConfig, overrides: Sequence[str]) -> list[Path]:
    """Let a sweeper of another package decide as it goes; each job measures itself."""
    from compress.sweeping.ledger import Ledger, Orders

    if config.benchmark.when == "end":
        raise ConfigError(
            f"benchmark.when=end: with {config.hydra.sweeper._target_} each job measures itself; use benchmark.when=job"
        )
    if str(config.hydra.launcher._target_).startswith("compress."):
        raise ConfigError("hydra/launcher=ray goes with hydra/sweeper=basic and hydra/sweeper=optuna; choose another")
    ledger = Ledger(Path(str(config.hydra.sweep.dir)))
    ledger.open(Orders("job", parallel=True))
    try:
        composer.hydra.multirun("config", run_in_sweep, list(overrides), with_log_configuration=False)
        return ledger.runs()
    finally:
        ledger.close()


def _gather(directory: Path, runs: Sequence[Path]) -> int:
    """Write the report over all jobs and return the exit status."""
    from compress.results import sweep

    statuses = [read_status(run) for run in runs]
    failed = sum(status not in (0, 3) for status in statuses)
    missed = sum(status == 3 for status in statuses)
    if runs:
        sweep.write(directory)
    say(f"{len(statuses)} jobs: {failed} failed, {missed} missed a budget; {directory}")
    if failed or not statuses:
        return 1
    return 3 if missed else 0
