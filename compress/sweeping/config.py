"""Schemas of the launcher and the sweeper that are ours, under ``hydra.launcher`` and ``hydra.sweeper``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.config.options import option

__all__ = ["OptunaSweeper", "RayLauncher", "RayTask", "register"]


@dataclass
class OptunaSweeper:
    """A study of Optuna: each trial is chosen by what came before."""

    _target_: str = "compress.sweeping.study.run_study"
    n_trials: int = option(20, "distinct trials in all, those of earlier starts included", minimum=1)
    n_jobs: int = option(1, "trials that are chosen, and launched, at once", minimum=1)
    sampler: str = option("tpe", "how trials are chosen", choices=["tpe", "nsga2", "random"])
    seed: int = option(0, "seed of the sampler", minimum=0)
    objectives: list[str] = option(
        ["+validation_metric", "-p50_ms", "-weights_bytes"], "what shall go up (+) and down (-)"
    )
    storage: str | None = option(None, "URL of Optuna's storage; null is a file in the sweep's directory")
    study_name: str = option("compress", "name of the study in its storage")
    params: dict[str, str] = option({}, "the search space, as on the command line")


@dataclass
class RayTask:
    """What each job takes."""

    num_cpus: float | None = option(1, "cores", minimum=0)
    num_gpus: float | None = option(0, "GPUs; Ray shows a job those it has", minimum=0)


@dataclass
class RayLauncher:
    """A Ray task per job."""

    _target_: str = "compress.sweeping.ray_launcher.RayLauncher"
    init: dict[str, Any] = option({"num_cpus": None, "address": None}, "arguments of ray.init")
    remote: RayTask = option(RayTask(), "what each job takes")


def register() -> None:
    """Register the schemas with Hydra."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna_schema", node=OptunaSweeper, provider="compress")
    store.store(group="hydra/launcher", name="ray_schema", node=RayLauncher, provider="compress")
