"""The end of a study: its front, picked on what the study saw, measured again together and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.jobs import say
from compress.errors import CompressError
from compress.sweeping.objectives import Objective, front_of

if TYPE_CHECKING:
    from compress.sweeping.sweep import Sweep
    from compress.sweeping.trials import Trial, Trials

__all__ = ["measure_front", "write_front"]


def measure_front(sweep: Sweep, trials: Trials, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Measure the trials of a front side by side, since each measured itself at a time of its own.

    Returns
    -------
    list of dict
        Per trial of the front its ``trial``, ``run``, ``params``, ``values`` as the study saw them,
        ``measured_together`` (None where it was not) and ``on_front``: whether no other beats it now.
    """
    front = trials.front()
    together = _measured(sweep, trials, front, objectives) if len(front) > 1 else {}
    points = [together.get(trial.number) or trial.values for trial in front]
    kept = front_of(points, objectives)
    return [
        _entry(sweep, trial, together.get(trial.number), on, objectives) for trial, on in zip(front, kept, strict=True)
    ]


def _measured(
    sweep: Sweep, trials: Trials, front: Sequence[Trial], objectives: Sequence[Objective]
) -> dict[int, tuple[float, ...]]:
    """Measure, and return the objectives of each trial whose run is still there."""
    from compress.results.record import read
    from compress.sweeping.jobs import member_of

    jobs = [sweep.job(trial.number, trials.lines(trial.params)).at(trial.directory) for trial in front]
    members = [member for job in jobs if (member := member_of(job)) is not None]
    gone = [job.name for job in jobs if job.name not in {member.name for member in members}]
    if gone:
        say(f"warning: {', '.join(gone)} of the front: the run's directory is gone, so it is not measured again")
    if len(members) < 2:
        return {}
    sweep.measure_together(members, (), jobs)
    found = {}
    for job in jobs:
        try:
            record = read(job.run_dir)
            found[job.number] = tuple(objective.value(record) for objective in objectives)
        except CompressError as error:
            say(f"warning: job {job.name} of the front: {error}")
    return found


def _entry(
    sweep: Sweep, trial: Trial, together: Sequence[float] | None, on_front: bool, objectives: Sequence[Objective]
) -> dict[str, Any]:
    names = [objective.name for objective in objectives]
    near = trial.directory.is_relative_to(sweep.directory.absolute())
    return {
        "trial": trial.number,
        "run": str(trial.directory.relative_to(sweep.directory.absolute()) if near else trial.directory),
        "params": trial.params,
        "values": dict(zip(names, trial.values, strict=True)),
        "measured_together": None if together is None else dict(zip(names, together, strict=True)),
        "on_front": on_front,
    }


def write_front(
    directory: Path, entries: Sequence[Mapping[str, Any]], objectives: Sequence[Objective], trials: Trials
) -> None:
    """Write ``front.json`` and, as tools around Hydra expect it, ``optimization_results.yaml``."""
    from omegaconf import OmegaConf

    from compress.files import write_atomic
    from compress.results.record import write_json

    write_json(
        directory / "front.json",
        {
            "objectives": [{"name": objective.name, "direction": objective.direction} for objective in objectives],
            "trials": trials.finished,
            "failed": trials.failed,
            "front": list(entries),
        },
    )
    solutions = [
        {"params": entry["params"], "values": list((entry["measured_together"] or entry["values"]).values())}
        for entry in entries
        if entry["on_front"]
    ]
    content: dict[str, Any] = {"name": "optuna"}
    if len(objectives) > 1:
        content["solutions"] = solutions
    elif solutions:
        content |= {"best_params": solutions[0]["params"], "best_value": solutions[0]["values"][0]}
    write_atomic(directory / "optimization_results.yaml", OmegaConf.to_yaml(content).encode())
