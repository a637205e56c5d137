"""The jobs of a sweep as its main process knows them: each checked, with its directory, before the first runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.jobs import status_of
from compress.errors import CompressError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress.cli.compose import Composer
    from compress.config.job import JobConfig
    from compress.pipeline import Member

__all__ = ["SweepJob", "compose_job", "is_kept", "member_of", "quoted", "refuse_shared_directories"]


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes
    ----------
    number : int
        Counted from 0.
    overrides : tuple of str
        What makes it this job.
    config : JobConfig
        Checked.
    run_dir : pathlib.Path
        Its directory.
    name : str
        That directory, below the sweep's.
    """

    number: int
    overrides: tuple[str, ...]
    config: JobConfig
    run_dir: Path
    name: str

    @property
    def launched(self) -> list[str]:
        """What a launcher is given: its directory is settled, whichever of the jobs are launched."""
        return [*self.overrides, f"hydra.sweep.subdir={quoted(self.name)}"]

    def below(self, sweep_dir: Path) -> SweepJob:
        """Return the job in another directory of the sweep."""
        return replace(self, run_dir=(sweep_dir / self.name).absolute())

    def at(self, run_dir: Path) -> SweepJob:
        """Return the job as it lies in another directory."""
        return replace(self, run_dir=run_dir)

    def measures_at_end(self, when: str) -> bool:
        """Return whether it is measured at the end of the sweep, where ``auto`` stands for `when`.

        A search measures what it chooses itself.
        """
        if self.config.auto is not None:
            return False
        own = self.config.benchmark.when
        return (when if own == "auto" else own) == "end"


def quoted(text: str | Path) -> str:
    """Return a text as a value of Hydra's override grammar."""
    escaped = str(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def compose_job(composer: Composer, sweep: DictConfig, number: int, overrides: Sequence[str]) -> SweepJob:
    """Compose and check one job of a sweep.

    Raises
    ------
    ConfigError
        Names the job and what is wrong with it.
    """
    from compress.cli.validate import job_of

    try:
        composed = composer.compose_job(sweep, overrides)
        job = job_of(composed, sweep=True)
        if job.auto is not None:
            from compress.sweeping.auto import check

            check(job)
        directory = Path(str(sweep.hydra.sweep.dir))
        name = _subdirectory(composed, number)
    except ConfigError as error:
        raise ConfigError(f"job {number} of the sweep ({' '.join(overrides)}): {error}") from error
    return SweepJob(number, tuple(overrides), job, (directory / name).absolute(), name)


def _subdirectory(composed: DictConfig, number: int) -> str:
    """Return the directory of a job below the sweep's, by ``hydra.sweep.subdir``."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict, read_write
    from omegaconf.errors import OmegaConfBaseException

    hydra = HydraConfig.instance()
    before = hydra.cfg
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.job.num = number
        composed.hydra.job.id = str(number)
    try:
        hydra.set_config(composed)  # for ${hydra:...}
        name = os.path.normpath(str(composed.hydra.sweep.subdir))
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.sweep.subdir: {str(error).splitlines()[0]}") from error
    finally:
        hydra.cfg = before
    if name == "." or name.startswith("..") or Path(name).is_absolute():
        raise ConfigError(f"hydra.sweep.subdir={name}: must be a folder below hydra.sweep.dir")
    return name


def refuse_shared_directories(jobs: Sequence[SweepJob]) -> None:
    """Refuse a ``hydra.sweep.subdir`` that puts two different jobs in one place."""
    seen: dict[str, SweepJob] = {}
    for job in jobs:
        other = seen.setdefault(job.name, job)
        if other is not job:
            raise ConfigError(
                f"hydra.sweep.subdir: jobs {other.number} and {job.number} would both run in {job.name}; "
                "add ${hydra.job.num} to it"
            )


def is_kept(job: SweepJob, when: str) -> bool:
    """Return whether an earlier start of the sweep has done a job, so that it need not be launched again.

    Of a job that is measured at the end, having run its steps is enough.
    """
    status = status_of(job.run_dir)
    if status.get("digest") != job.config.digest:
        return False
    if status["status"] == "built":
        return job.measures_at_end(when) and member_of(job) is not None
    if status["status"] not in ("done", "budget missed"):
        return False
    whole = (job.run_dir / "record.json").is_file() and (job.run_dir / "artifact" / "checkpoint.json").is_file()
    return whole and not _data_changed(job)


def _data_changed(job: SweepJob) -> bool:
    """Return whether the data is known to be another than the record's; files that are not known may be."""
    from compress import data
    from compress.config.schemas import FilesData
    from compress.results.record import read
    from compress.store import default_path

    config = job.config
    store = Path(config.store.path).expanduser() if config.store.path else default_path()
    try:
        known = data.peek(config.data, config.task_name, store / "cache")
        recorded = read(job.run_dir)["data"].get("fingerprint")
    except CompressError:
        return True
    if known is None:
        return isinstance(config.data, FilesData)
    return bool(known["fingerprint"] != recorded)


def member_of(job: SweepJob) -> Member | None:
    """Return a job whose steps have run, as measuring knows it; None where it left nothing that can be read."""
    from compress.pipeline import Member, read_built
    from compress.results.record import read

    try:
        built = read_built(job.run_dir)
    except CompressError:
        return None
    group: dict[str, Any] = {}
    if (job.run_dir / "record.json").is_file():
        try:
            group = read(job.run_dir).get("group") or {}
        except CompressError:
            group = {}
    return Member(job.name, job.config, built, job.run_dir, group.get("baseline_run"))
