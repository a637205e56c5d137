"""The search itself: a sweep of short trainings, a few in full, and the job that is left in the run's directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError, ConfigError, StepError
from compress.sweeping.auto import order
from compress.sweeping.auto.candidates import Candidate, candidates_of, shared_lines
from compress.sweeping.auto.figures import Figures, Limits, figures_of

if TYPE_CHECKING:
    from compress.cli.compose import Composer
    from compress.config.auto import Auto
    from compress.config.job import JobConfig
    from compress.pipeline import Outcome
    from compress.sweeping.jobs import SweepJob
    from compress.sweeping.sweep import Sweep

__all__ = ["SEARCH", "check", "describe", "run_auto"]

log = logging.getLogger(__name__)

SEARCH = "search"
"""Folder of a run that holds every job of its search, as a sweep does."""


def check(job: JobConfig) -> None:
    """Refuse a search that cannot be, before any work; raises as `run_auto`."""
    _checked(job)


def describe(job: JobConfig) -> str:
    """Return what a search would try, and the plan of each candidate; writes nothing.

    Raises
    ------
    ConfigError
        As `run_auto`.
    """
    from compress.pipeline import dry_run

    config, candidates = _checked(job)
    lines = [
        f"auto       {len(candidates)} candidates, each tried with at most {config.trial_epochs} "
        f"epoch{'s' * (config.trial_epochs != 1)} per training, at most {config.finalists} trained in full"
    ]
    if config.minutes is not None:
        lines.append(f"time       after {config.minutes:g} minutes no further candidate is begun")
    for candidate in candidates:
        lines += ["", f"candidate  {candidate.name}"]
        lines.append(f"left out   {candidate.absent}" if candidate.absent else dry_run(candidate.final))
    return "\n".join(lines)


def run_auto(job: JobConfig, run_dir: Path, device: str | None = None) -> Outcome:
    """Search for the candidate that keeps the budget and leave it, measured, as any job leaves its artifact.

    Every job of the search lies in ``search/`` of the run's directory; started again there, the search goes on. What
    chooses is validation. The outcome's record holds, under ``search``, what was tried and why one was chosen.

    Parameters
    ----------
    job
        Of ``recipe=auto``.
    run_dir
        The run's directory.
    device
        The device to use in place of the job's.

    Raises
    ------
    ConfigError
        If no budget is asked for, or a candidate cannot be.
    UnsupportedError
        If no candidate can run on this machine.
    StepError
        If every candidate fails.
    """
    from compress.console import setup_logging
    from compress.pipeline import run_job
    from compress.pipeline.finish import Found
    from compress.training.processes import process_count

    if process_count() > 1:
        raise ConfigError("recipe=auto: a search is one process's; start it with python -m compress")
    config, candidates = _checked(job)
    began = time.monotonic()
    search = _Search(job, config, candidates, run_dir / SEARCH, device, began)
    chosen = search.run()
    setup_logging(run_dir / "compress.log")
    facts = search.facts(chosen)
    log.info("search: %s", facts["verdict"])
    return run_job(chosen.final, run_dir, device, found=Found(job, facts))


def _checked(job: JobConfig) -> tuple[Auto, list[Candidate]]:
    from compress.cli.compose import Composer

    config = job.auto
    if config is None:
        raise ConfigError("auto=null: recipe=auto needs its settings; choose auto=default")
    budget = job.budget
    if not any(limit is not None for limit in vars(budget).values()):
        raise ConfigError(
            "recipe=auto searches for what keeps a budget, and none is given; add budget.max_metric_drop=0.01 and "
            "budget.min_speedup=6, for example"
        )
    return config, candidates_of(Composer(job.config_dir), job, config)


class _Search:
    """One search in one directory."""

    def __init__(
        self,
        job: JobConfig,
        config: Auto,
        candidates: Sequence[Candidate],
        directory: Path,
        device: str | None,
        began: float,
    ) -> None:
        self.config, self.candidates, self.directory = config, candidates, directory
        self.began = began
        self.limits = Limits(job.budget, config.slack, config.confident)
        self.trials: dict[int, Figures] = {}
        self.full: dict[int, Figures | None] = {}
        self.reasons: dict[int, str] = {one.number: one.absent for one in candidates if one.absent}
        self.ranked: list[int] = []
        self.late = False
        self._lines = [*shared_lines(job.overrides), *([] if device is None else [f"device={device}"])]
        self._config_dir = job.config_dir

    def run(self) -> Candidate:
        """Try, train in full, choose; returns what to ship."""
        from hydra.types import RunMode

        from compress.cli.compose import Composer
        from compress.sweeping.jobs import quoted
        from compress.sweeping.ledger import alone_in
        from compress.sweeping.sweep import Sweep

        composer: Composer = Composer(self._config_dir)
        lines = [*self._lines, "hydra.mode=MULTIRUN", f"hydra.sweep.dir={quoted(self.directory)}"]
        with alone_in(self.directory):
            config = composer.compose(lines, RunMode.MULTIRUN)
            with Sweep(composer, config, "end") as sweep:
                self._try_all(sweep)
                self.ranked = order.eligible(self.trials, self.limits)
                self._train(sweep)
            self._report()
        number = order.best(self.ranked, self.trials, self.full, self.limits)
        if number is None:
            raise StepError(f"every candidate failed, see {self.directory}: {'; '.join(self._why())}")
        return self.candidates[number]

    def _try_all(self, sweep: Sweep) -> None:
        present = [one for one in self.candidates if not one.absent]
        jobs: dict[int, SweepJob] = {}
        for one in present:
            if jobs and self._is_late():
                self.reasons[one.number] = "not tried: the time was over"
                continue
            log.info("search: trying %d/%d: %s", one.number + 1, len(self.candidates), one.name)
            job = self._job(sweep, one.number, f"trial_{one.number}", one.trial)
            sweep.run([job])
            jobs[one.number] = job
        sweep.measure(list(jobs.values()))
        for number, job in jobs.items():
            figures = self._figures(number, job)
            if figures is not None:
                self.trials[number] = figures
        if not self.trials:
            raise StepError(f"every trial failed, see {self.directory}: {'; '.join(self._why())}")

    def _train(self, sweep: Sweep) -> None:
        while True:
            number = order.following(self.ranked, self.trials, self.full, self.limits, self.config.finalists)
            if number is None:
                return
            one = self.candidates[number]
            if self.full and self._is_late():
                self.late = True
                log.warning("search: %g minutes are over, nothing further is trained", self.config.minutes)
                return
            if one.exact:
                self.full[number] = self.trials[number]
                continue
            log.info("search: training in full %d/%d: %s", len(self.full) + 1, self.config.finalists, one.name)
            job = self._job(sweep, len(self.candidates) + number, f"full_{number}", one.full)
            sweep.run([job])
            sweep.measure([job])
            self.full[number] = self._figures(number, job)

    def _job(self, sweep: Sweep, number: int, name: str, lines: Sequence[str]) -> SweepJob:
        return sweep.job(number, [*self._lines, *lines, f"hydra.sweep.subdir={name}"])

    def _figures(self, number: int, job: SweepJob) -> Figures | None:
        from compress.cli.jobs import status_of
        from compress.results.record import read

        status = status_of(job.run_dir)
        if status.get("status") == "equal":  # to another candidate, in its short form: that one's figures are its own
            return figures_of(read(self.directory / str(status["equal_to"])))
        if status.get("status") not in ("done", "budget missed"):
            self.reasons[number] = str(status.get("reason", "it left no status"))
            log.warning("search: %s failed: %s", self.candidates[number].name, self.reasons[number])
            return None
        return figures_of(read(job.run_dir))

    def _is_late(self) -> bool:
        minutes = self.config.minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def _report(self) -> None:
        from compress.results import sweep

        try:
            sweep.write(self.directory)
        except CompressError as error:  # the search is not in vain
            log.warning("search: no report over its jobs: %s", error)

    def _why(self) -> list[str]:
        return [f"{self.candidates[number].name}: {reason}" for number, reason in self.reasons.items()]

    # --- what is told --------------------------------------------------------------------------

    def facts(self, chosen: Candidate) -> dict[str, Any]:
        """Return what the record says of the search."""
        figures = self.full[chosen.number]
        assert figures is not None
        return {
            "chosen": chosen.name,
            "verdict": self._verdict(chosen, figures),
            "met_on_validation": self._keeps(chosen.number, figures),
            "seconds": round(time.monotonic() - self.began, 1),
            "out_of_time": self.late,
            "candidates": [self._row(one, chosen) for one in self.candidates],
        }

    def _row(self, one: Candidate, chosen: Candidate) -> Mapping[str, Any]:
        trial, full = self.trials.get(one.number), self.full.get(one.number)
        return {
            "overrides": one.name,
            "trial": trial.facts() if trial else None,
            "full": full.facts() if full else None,
            "remark": "chosen" if one is chosen else self._remark(one),
        }

    def _remark(self, one: Candidate) -> str:
        number = one.number
        if number in self.reasons:
            return self.reasons[number]
        figures = self.full.get(number)
        if figures is not None:
            return "kept the budget" if self._keeps(number, figures) else "missed the budget"
        if self.limits.shortfall(self.trials[number]) > 0:
            return "too slow or too large already in its trial"
        if number not in self.ranked:
            return "beaten in its trial by another in speed and accuracy"
        return "not trained in full"

    def _keeps(self, number: int, figures: Figures) -> bool:
        return self.limits.accurate(figures) and self.limits.shortfall(self.trials[number]) == 0

    def _verdict(self, chosen: Candidate, figures: Figures) -> str:
        trial, budget = self.trials[chosen.number], self.limits.budget
        parts = []
        for key, limit, value in (
            ("max_metric_drop", budget.max_metric_drop, self.limits.loss(figures)),
            ("min_speedup", budget.min_speedup, trial.speedup),
            ("min_size_ratio", budget.min_size_ratio, trial.size_ratio),
            ("max_latency_ms", budget.max_latency_ms, trial.latency_ms),
        ):
            if limit is not None:
                parts.append(f"{key} {'not measured' if value is None else f'{value:.4g}'} of {limit:g}")
        found = ", ".join(parts)
        if self._keeps(chosen.number, figures):
            return f"{chosen.name} keeps the budget on validation ({found})"
        return f"nothing that was tried keeps the budget; {chosen.name} comes nearest on validation ({found})"
