"""Slurm, through hydra-submitit-launcher: its settings, and a gathering of results that outlives a job that dies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
from omegaconf import OmegaConf

__all__ = ["Local", "Slurm", "failed_return"]


class _Gathering:
    """Waits for every job of an array; one that timed out or was killed comes back as failed."""

    _EXECUTOR: str
    params: dict[str, Any]
    config: Any

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Submit one job per list of overrides and wait for all of them."""
        jobs = self._executor().map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * len(job_overrides),
            list(range(initial_job_idx, initial_job_idx + len(job_overrides))),
            [f"job_{initial_job_idx + number}" for number in range(len(job_overrides))],
            [Singleton.get_state()] * len(job_overrides),
        )
        return [_result(job) for job in jobs]

    def _executor(self) -> Any:
        import submitit

        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        settings = dict(self.params)
        made_with = {"folder": settings.pop("submitit_folder")}
        if "max_num_timeout" in settings:
            made_with[f"{self._EXECUTOR}_max_num_timeout"] = settings.pop("max_num_timeout")
        executor = submitit.AutoExecutor(cluster=self._EXECUTOR, **made_with)
        shared = set(OmegaConf.structured(BaseQueueConf))
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in settings.items()}
        )
        return executor


def _result(job: Any) -> JobReturn:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        result: JobReturn = job.results()[0]
    except (FailedJobError, UncompletedJobError) as error:
        return failed_return(f"its cluster job {job.job_id} died: {' '.join(str(error).split())[:400]}")
    return result


def failed_return(reason: str) -> JobReturn:
    """Return what a launcher gives back for a job whose process died."""
    result = JobReturn()
    result.status = JobStatus.FAILED
    result.return_value = RuntimeError(reason)
    return result


class Local(_Gathering, LocalLauncher):  # type: ignore[misc, unused-ignore]
    """``hydra/launcher=submitit_local``: the cluster's way on this machine, for trying it out."""


class Slurm(_Gathering, SlurmLauncher):  # type: ignore[misc, unused-ignore]
    """``hydra/launcher=submitit_slurm``: a job array, one job per job of the sweep."""
