"""A run in an MLflow store."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compress.tracking import facts

if TYPE_CHECKING:
    from compress.config.schemas import MLflow

__all__ = ["write"]

T = TypeVar("T")

_PARAMS = 100
_METRICS = 1000
"""MLflow takes so many of each in one request."""

_LONGEST = 500
"""Characters of a parameter's value that every store takes."""


def write(record: Mapping[str, Any], run_dir: Path, config: MLflow) -> str:
    """Write a run and return its id; a run that could not be written whole is marked as failed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=config.uri)
    experiment = client.get_experiment_by_name(config.experiment)
    identity = client.create_experiment(config.experiment) if experiment is None else experiment.experiment_id
    tags = {"recipe": str(record["recipe"]), "directory": str(run_dir.absolute())}
    run = client.create_run(identity, run_name=facts.name_of(run_dir), tags=tags).info.run_id
    status = "FAILED"
    try:
        params = [Param(key, str(value)[:_LONGEST]) for key, value in facts.params(record, run_dir).items()]
        for part in _parts(params, _PARAMS):
            client.log_batch(run, params=part)
        now = int(time.time() * 1000)
        points = [*((name, 0, value) for name, value in facts.metrics(record).items()), *facts.curves(record)]
        for batch in _parts([Metric(name, value, now, step) for name, step, value in points], _METRICS):
            client.log_batch(run, metrics=batch)
        for path in facts.files(run_dir):
            client.log_artifact(run, str(path), "plots" if path.suffix == ".png" else None)
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)
    return str(run)


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part
