"""Ray: a remote task per job, here or on a cluster; the released plugin wants a cloudpickle too old for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

__all__ = ["RayLauncher", "run_remotely"]


class RayLauncher(Launcher):  # type: ignore[misc, unused-ignore]
    """``hydra/launcher=ray``.

    Parameters
    ----------
    init
        Arguments of ``ray.init``, e.g. ``num_cpus`` or the ``address`` of a cluster.
    remote
        What each job takes, as ``ray.remote`` knows it: ``num_cpus``, ``num_gpus``.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        super().__init__()
        self.init = {name: value for name, value in init.items() if value is not None}
        self.remote = {name: value for name, value in remote.items() if value is not None}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what the jobs need."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one task per list of overrides and wait for all; a task whose process died comes back as failed."""
        import ray

        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        started = not ray.is_initialized()
        if started:
            ray.init(**self.init)
        try:
            # A process per job: a library's state, or a model left in memory, does not pass on to the next.
            task = ray.remote(max_calls=1, max_retries=0, **self.remote)(run_remotely)
            state = Singleton.get_state()
            running = [
                task.remote(list(overrides), initial_job_idx + number, self.context, self.config, self.task, state)
                for number, overrides in enumerate(job_overrides)
            ]
            return [_result(ray, reference) for reference in running]
        finally:
            if started:
                ray.shutdown()


def _result(ray: Any, reference: Any) -> JobReturn:
    try:
        result: JobReturn = ray.get(reference)
    except ray.exceptions.RayError as error:
        result = JobReturn()
        result.status = JobStatus.FAILED
        result.return_value = RuntimeError(f"its Ray task died: {' '.join(str(error).split())[:400]}")
    return result


def run_remotely(
    overrides: list[str],
    number: int,
    context: HydraContext,
    config: DictConfig,
    task: TaskFunction,
    state: Mapping[Any, Any],
) -> JobReturn:
    """Run one job in a process that has nothing of Hydra's state yet."""
    setup_globals()
    Singleton.set_state(dict(state))
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.num = number
        composed.hydra.job.id = f"{composed.hydra.job.name}_{number}"
    return run_job(
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )
