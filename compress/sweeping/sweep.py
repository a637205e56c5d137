"""One sweep in one directory: launch what is missing, measure together, say how each job ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.jobs import fail, run_in_sweep, say, status_of
from compress.errors import CompressError
from compress.sweeping import launchers
from compress.sweeping.jobs import SweepJob, compose_job, is_kept, member_of
from compress.sweeping.ledger import Ledger, Orders

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction
    from omegaconf import DictConfig

    from compress.cli.compose import Composer
    from compress.pipeline import Member, Outcome

__all__ = ["Sweep", "measure_members"]

log = logging.getLogger(__name__)

_DIED = "its process was killed, by the system perhaps, for want of memory"


class Sweep:
    """The jobs of one sweep, run through Hydra's launcher.

    Parameters
    ----------
    composer
        Composes the jobs.
    config
        The sweep's composed config, ``hydra.sweep.dir`` settled.
    when
        What ``benchmark.when=auto`` stands for: ``job`` or ``end``.
    """

    def __init__(self, composer: Composer, config: DictConfig, when: str) -> None:
        from hydra._internal.callbacks import Callbacks
        from hydra.types import HydraContext

        self.composer, self.config, self.when = composer, config, when
        self.directory = Path(str(config.hydra.sweep.dir))
        self.ledger = Ledger(self.directory)
        self.context = HydraContext(config_loader=composer.loader, callbacks=Callbacks(config))

    def __enter__(self) -> Sweep:
        import os

        from omegaconf import OmegaConf

        parent = os.getpid() if launchers.ends_with_us(self.config) else None
        self.ledger.open(Orders(self.when, launchers.is_parallel(self.config), parent))
        OmegaConf.save(self.config, self.directory / "multirun.yaml")
        self.context.callbacks.on_multirun_start(config=self.config, config_name="config")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ledger.close()
        if error is None:
            self.context.callbacks.on_multirun_end(config=self.config, config_name="config")

    def job(self, number: int, overrides: Sequence[str]) -> SweepJob:
        """Compose and check a job."""
        return compose_job(self.composer, self.config, number, overrides)

    # --- running -------------------------------------------------------------------------------

    def run(self, jobs: Sequence[SweepJob], at_once: int | None = None) -> None:
        """Run the jobs that are not done yet, equal ones once; each leaves its status.json.

        Parameters
        ----------
        jobs
            The jobs.
        at_once
            How many to hand to the launcher at a time; all by default.
        """
        distinct = self._distinct(jobs)
        kept = [job for job in distinct if is_kept(job, self.when)]
        if kept:
            say(f"{len(kept)} of {len(jobs)} jobs are kept from an earlier start: {', '.join(j.name for j in kept)}")
        waiting = [job for job in distinct if job not in kept]
        for job in waiting:
            (job.run_dir / "status.json").unlink(missing_ok=True)
        step = at_once or len(waiting) or 1
        for start in range(0, len(waiting), step):
            self._run_all(waiting[start : start + step])

    def _distinct(self, jobs: Sequence[SweepJob]) -> list[SweepJob]:
        """Return the jobs less those equal to an earlier one, whose status says so."""
        from compress.pipeline.finish import write_status

        first: dict[str, SweepJob] = {}
        for job in jobs:
            known = first.setdefault(job.config.digest, job)
            if known is not job:
                say(f"job {job.name}: equal to job {known.name}, not run again")
                job.run_dir.mkdir(parents=True, exist_ok=True)
                write_status(job.run_dir, "equal", 0, equal_to=known.name)
        return list(first.values())

    def _run_all(self, jobs: Sequence[SweepJob]) -> None:
        """Launch jobs; where a process that runs one is killed and takes others with it, run the others again.

        Those that were under way when it happened are run one by one: only the one at fault dies again.
        """
        waiting, suspects = list(jobs), list[SweepJob]()
        while waiting:
            try:
                self._launch(waiting)
                broken = False
            except BrokenExecutor:
                broken = True
            left = [job for job in waiting if not status_of(job.run_dir)]
            begun = [job for job in left if self.ledger.started(job.run_dir)]
            if not broken or not begun:
                self._give_up(left, _DIED if begun else "it was not started: the launcher failed")
                break
            say(f"a process was killed; its job and those that ran beside it follow alone: {_names(begun)}")
            suspects += begun
            waiting = [job for job in left if job not in begun]
        for job in suspects:
            try:
                self._launch([job])
            except BrokenExecutor:
                log.debug("job %s died again", job.name)
            if not status_of(job.run_dir):
                self._give_up([job], _DIED)

    def _give_up(self, jobs: Iterable[SweepJob], reason: str) -> None:
        for job in jobs:
            say(f"error: job {job.name}: {reason}")
            job.run_dir.mkdir(parents=True, exist_ok=True)
            fail(job.run_dir, 1, reason)

    def _launch(self, jobs: Sequence[SweepJob]) -> None:
        for job, reason in zip(jobs, self._launched(jobs, run_in_sweep), strict=True):
            if reason and not status_of(job.run_dir):
                self._give_up([job], reason)

    def _launched(self, jobs: Sequence[SweepJob], task: TaskFunction) -> list[str | None]:
        """Launch jobs and return why the process of each failed, None where it did not."""
        launcher = launchers.make_launcher(self.config, self.context, task)
        results = launcher.launch([job.launched for job in jobs], initial_job_idx=jobs[0].number)
        return [_failure(result) for result in results]

    # --- measuring -----------------------------------------------------------------------------

    def measure(self, jobs: Sequence[SweepJob]) -> None:
        """Measure together the jobs whose steps have run and that are not measured yet."""
        members = {job.name: member_of(job) for job in jobs if job.measures_at_end(self.when)}
        by_status: dict[str, list[Member]] = {}
        for job in jobs:
            member = members.get(job.name)
            if member is not None:
                by_status.setdefault(status_of(job.run_dir).get("status", ""), []).append(member)
        pending = by_status.get("built", [])
        measured = [*by_status.get("done", []), *by_status.get("budget missed", [])]
        if pending:
            self.measure_together(pending, measured, jobs)

    def measure_together(self, pending: Sequence[Member], measured: Sequence[Member], jobs: Sequence[SweepJob]) -> None:
        """Measure here, or where jobs run on other machines as one more job of the launcher."""
        task = partial(
            measure_members, pending=tuple(pending), measured=tuple(measured), sweep_dir=self.directory.absolute()
        )
        if not launchers.is_remote(self.config):
            task(None)
            return
        say("the measurement of all jobs together is one more job of the launcher")
        first = next(job for job in jobs if job.name == pending[0].name)
        last = SweepJob(max(job.number for job in jobs) + 1, first.overrides, first.config, first.run_dir, ".measured")
        reason = self._launched([last], task)[0]
        if reason:
            say(f"error: the measurement failed: {reason}; start the sweep again to measure, nothing else is repeated")


def measure_members(
    _: DictConfig | None, *, pending: Sequence[Member], measured: Sequence[Member], sweep_dir: Path
) -> int:
    """Measure jobs together and say how each ended: what the main process does, or a last job on a cluster."""
    from compress.console import setup_logging
    from compress.pipeline import measure_together

    def report(member: Member, outcome: Outcome | CompressError) -> None:
        if isinstance(outcome, CompressError):
            log.error("job %s: %s", member.name, outcome)
            return
        for missed in outcome.record["budget"]["missed"]:
            log.warning("job %s: budget missed: %s", member.name, missed["message"])
        log.info("job %s: measured, %s", member.name, outcome.directory)

    Ledger(sweep_dir).orders.obey()
    setup_logging(sweep_dir / "compress.log")
    measure_together(pending, measured, report=report)
    return 0


def _failure(result: JobReturn) -> str | None:
    """Return why a job's process failed, where it did: a job itself leaves a status and does not raise."""
    try:
        _ = result.return_value
    except Exception as error:  # whatever ended it is told, and the other jobs go on
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _names(jobs: Sequence[SweepJob]) -> str:
    return ", ".join(job.name for job in jobs)
