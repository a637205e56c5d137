"""``hydra/sweeper=optuna``: trials chosen by what came before, several objectives, resumable; its front."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.jobs import fail, say, status_of
from compress.errors import CompressError, ConfigError
from compress.sweeping import launchers
from compress.sweeping.front import measure_front, write_front
from compress.sweeping.objectives import Objective, objectives_of
from compress.sweeping.space import Space, space_of
from compress.sweeping.sweep import Sweep
from compress.sweeping.trials import Trials

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress.cli.compose import Composer
    from compress.sweeping.config import OptunaSweeper
    from compress.sweeping.jobs import SweepJob

__all__ = ["Study"]

_PATIENCE = 20
"""Trials in a row that repeat an earlier job before one that was not tried is looked for."""

_GIVE_UP = 200
"""Trials in a row that repeat an earlier job before the study ends short of n_trials."""

_CHECKED = 40
"""Choices that are composed before the first trial, so that a wrong one is refused before any work."""


@dataclass(frozen=True)
class Study:
    """A search, checked and ready to run.

    Attributes
    ----------
    composer : Composer
        Composes the trials.
    config : DictConfig
        The sweep's composed config.
    settings : OptunaSweeper
        ``hydra.sweeper``.
    space : Space
        What is searched.
    objectives : tuple of Objective
        What shall go up and down.
    """

    composer: Composer
    config: DictConfig
    settings: OptunaSweeper
    space: Space
    objectives: tuple[Objective, ...]

    @classmethod
    def of(cls, composer: Composer, config: DictConfig) -> Study:
        """Read and check a study; nothing is written.

        Raises
        ------
        ConfigError
            For settings, objectives or values that cannot be.
        UnsupportedError
            If Optuna is not installed.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        from compress.cli.compose import lines_of
        from compress.cli.validate import as_schema

        if importlib.util.find_spec("optuna") is None:
            raise launchers.missing("hydra/sweeper", "optuna", "optuna")
        settings: OptunaSweeper = as_schema("hydra.sweeper", config.hydra.sweeper)
        if config.benchmark.when == "end":
            raise ConfigError(
                "benchmark.when=end: with hydra/sweeper=optuna each job measures itself, since its figures choose the "
                "next, and the front is measured together at the end; use benchmark.when=auto"
            )
        lines = [*(f"{key}={value}" for key, value in settings.params.items()), *lines_of(config)]
        try:
            parsed = OverridesParser.create(config_loader=composer.loader).parse_overrides(lines)
            space = space_of(parsed)
        except HydraException as error:
            raise ConfigError(" ".join(str(error).split())) from error
        study = cls(composer, config, settings, space, objectives_of(settings.objectives))
        study._check_values()
        return study

    def _check_values(self) -> None:
        """Compose each choice and each end of a range once, the other parameters at their first value."""
        from compress.sweeping.jobs import compose_job

        points = [self.space.first()]
        for parameter in self.space.parameters:
            points += [{**points[0], parameter.key: value} for value in parameter.samples()[1:]]
        for number, point in enumerate(points[:_CHECKED]):
            compose_job(self.composer, self.config, number, self.space.lines(point))

    def describe(self) -> str:
        """Return what would be searched, and the plan of one trial."""
        from compress.pipeline import dry_run
        from compress.sweeping.jobs import compose_job

        first = compose_job(self.composer, self.config, 0, self.space.lines(self.space.first()))
        size = f"{self.space.size:.0f} points" if self.space.size < float("inf") else "infinitely many points"
        lines = [
            f"study      {self.settings.n_trials} trials of {size}, {self.settings.n_jobs} at once, "
            f"sampler {self.settings.sampler}, seed {self.settings.seed}",
            f"storage    {self.settings.storage or 'study.db in the directory of the sweep'}",
            *(f"objective  {objective.name} {'up' if objective.up else 'down'}" for objective in self.objectives),
            *(f"searched   {parameter}" for parameter in self.space.parameters),
            f"the plan of one trial: {' '.join(first.overrides)}",
        ]
        return "\n".join([*lines, dry_run(first.config)])

    # --- running -------------------------------------------------------------------------------

    def run(self) -> list[Path]:
        """Run trials until there are as many as asked for, then measure the front; returns the jobs' directories."""
        directory = Path(str(self.config.hydra.sweep.dir))
        trials = Trials(self.settings, self.space, self.objectives, directory)
        with Sweep(self.composer, self.config, "job") as sweep:
            before = trials.finished
            self._continue(sweep, trials)
            wanted = int(min(self.settings.n_trials, self.space.size))
            while trials.finished < wanted:
                batch = self._ask(sweep, trials, min(self.settings.n_jobs, wanted - trials.finished))
                if batch is None:
                    say(f"no new trial was found after {_GIVE_UP} that repeat earlier ones: the study ends here")
                    break
                self._run(sweep, trials, batch)
            say(f"study: {trials.finished} trials, {trials.failed} failed, {len(trials.front())} on the front")
            if trials.finished > before or not (directory / "front.json").is_file():
                entries = measure_front(sweep, trials, self.objectives)
                write_front(directory, entries, self.objectives, trials)
        return trials.directories()

    def _continue(self, sweep: Sweep, trials: Trials) -> None:
        """Run the trials that were under way when an earlier start was stopped."""
        under_way = []
        for number, values in trials.under_way():
            job = self._job(sweep, trials, number, values)
            if job is not None:
                trials.note(number, job)
                under_way.append((number, job))
        if under_way:
            say(f"study: {len(under_way)} trials of an earlier start are finished first")
            self._run(sweep, trials, under_way)

    def _ask(self, sweep: Sweep, trials: Trials, count: int) -> list[tuple[int, SweepJob]] | None:
        """Return the next trials, none of them equal to an earlier one; None if none is found."""
        batch: list[tuple[int, SweepJob]] = []
        repeats = 0
        generator = random.Random(self.settings.seed + trials.asked)
        while len(batch) < count and repeats < _GIVE_UP:
            if repeats and repeats % _PATIENCE == 0:
                untried = self.space.untried(trials.tried(), generator)
                if untried is None and self.space.size < float("inf"):
                    break
                if untried is not None:
                    trials.enqueue(untried)
            number, values = trials.ask()
            job = self._job(sweep, trials, number, values)
            if job is None:
                return batch  # counted as failed: how many are left is asked again
            if trials.repeats(number, job.config.digest):
                repeats += 1
                continue
            trials.note(number, job)
            batch.append((number, job))
        return batch or None

    def _job(self, sweep: Sweep, trials: Trials, number: int, values: dict[str, Any]) -> SweepJob | None:
        """Compose a trial's job; one that cannot be is a failed trial."""
        try:
            return sweep.job(number, self.space.lines(values))
        except ConfigError as error:
            run_dir = sweep.directory / str(number)
            run_dir.mkdir(parents=True, exist_ok=True)
            say(f"error: {error}")
            fail(run_dir, error.exit_status, str(error))
            trials.tell_failure(number, run_dir, str(error))
            return None

    def _run(self, sweep: Sweep, trials: Trials, batch: Sequence[tuple[int, SweepJob]]) -> None:
        from compress.results.record import read

        sweep.run([job for _, job in batch])
        for number, job in batch:
            status = status_of(job.run_dir)
            try:
                if status.get("status") not in ("done", "budget missed"):
                    trials.tell_failure(number, job.run_dir, str(status.get("reason", "it left no status")))
                    continue
                record = read(job.run_dir)
                trials.tell(number, [objective.value(record) for objective in self.objectives])
            except CompressError as error:
                say(f"error: trial {number}: {error}")
                trials.tell_failure(number, job.run_dir, str(error))
