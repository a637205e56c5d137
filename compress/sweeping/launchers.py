"""Where jobs run: Hydra's own launcher, joblib, Ray, submitit; and what is to be said of each beforehand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError, MachineError, UnsupportedError
from compress.machine import usable_cores

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from compress.config.job import JobConfig

__all__ = ["EXTRAS", "check", "crowding", "ends_with_us", "is_parallel", "is_remote", "make_launcher", "missing"]

EXTRAS = MappingProxyType({"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"})
"""The extra that brings each launcher, by the option of ``hydra/launcher``."""

_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
_OURS = MappingProxyType(
    {
        "compress.sweeping.ray_launcher.RayLauncher": "compress.sweeping.ray_launcher.RayLauncher",
        # As the plugin has them, but a job that dies does not take the others with it.
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "compress.sweeping.cluster.Local",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "compress.sweeping.cluster.Slurm",
    }
)


def make_launcher(config: DictConfig, context: HydraContext, task: TaskFunction) -> Launcher:
    """Return the launcher of a sweep, ready to launch.

    Parameters
    ----------
    config
        The sweep's, with Hydra's node.
    context, task
        As Hydra gives them to a launcher.
    """
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    ours = _OURS.get(_target(config))
    if ours is None:
        return Plugins.instance().instantiate_launcher(context, task, config)
    module, _, name = ours.rpartition(".")
    settings: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    settings.pop("_target_")
    launcher: Launcher = getattr(import_module(module), name)(**settings)
    launcher.setup(hydra_context=context, task_function=task, config=config)
    return launcher


def check(config: DictConfig) -> None:
    """Refuse a launcher that cannot work here, before any job runs.

    Raises
    ------
    UnsupportedError
        The package of an extra is missing.
    MachineError
        No Slurm here.
    ConfigError
        A number of jobs that cannot be.
    """
    target, settings = _target(config), config.hydra.launcher
    if target.endswith("RayLauncher"):
        try:
            import_module("ray")
        except ImportError as error:
            raise missing("hydra/launcher", "ray", "ray") from error
    if target.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        raise MachineError(
            "hydra/launcher=submitit_slurm: there is no sbatch here; start the sweep on a machine of the cluster, "
            "or use hydra/launcher=submitit_local"
        )
    if target == _JOBLIB and settings.n_jobs == 0:
        raise ConfigError("hydra.launcher.n_jobs=0: must be at least 1, or -1 for one job per core")


def missing(key: str, option: str, extra: str) -> UnsupportedError:
    """Return the error about a package that an extra brings."""
    return UnsupportedError(f"{key}={option} needs the extra {extra!r}: pip install 'compress-transformers[{extra}]'")


def _target(config: DictConfig) -> str:
    return str(config.hydra.launcher.get("_target_"))


def is_parallel(config: DictConfig) -> bool:
    """Return whether jobs may run at the same time."""
    return _target(config) != _BASIC


def ends_with_us(config: DictConfig) -> bool:
    """Return whether jobs run in children of this process, which are to end when it does."""
    return _target(config) == _JOBLIB


def is_remote(config: DictConfig) -> bool:
    """Return whether jobs may run on other machines: then the measurement at the end is a job too."""
    return _target(config) in _OURS


def crowding(config: DictConfig, jobs: Sequence[JobConfig]) -> str | None:
    """Return a warning where jobs that run at the same time ask for more threads than there are cores."""
    at_once, cores = min(_at_once(config), len(jobs)), usable_cores()
    threads = max((job.threads or cores for job in jobs), default=0)
    if at_once < 2 or at_once * threads <= cores:
        return None
    share = cores // at_once
    advice = f"set threads={share} (what is trained depends on it, so it is not changed for you) or " if share else ""
    return (
        f"{at_once} jobs at once ask for {at_once * threads} threads on {cores} core"
        f"{'s' * (cores != 1)} and slow each other down; {advice}run fewer at once"
    )


def _at_once(config: DictConfig) -> int:
    """Return how many jobs run on this machine at the same time."""
    target, settings = _target(config), config.hydra.launcher
    if target == _JOBLIB:
        n_jobs = int(settings.n_jobs)
        return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)
    if target.endswith("RayLauncher"):
        cores = int(settings.init.get("num_cpus") or usable_cores())
        return max(1, int(cores / max(float(settings.remote.get("num_cpus") or 1), 1e-3)))
    return 1_000 if target.endswith("LocalLauncher") else 1
