"""Tasks: what a batch, a loss, a metric and a prediction are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module, metadata

from compress.errors import ConfigError
from compress.tasks.base import IGNORED, Features, Task

__all__ = ["IGNORED", "Features", "Task", "create", "names"]

_KNOWN = {
    "text_classification": "compress.tasks.text_classification:TextClassificationTask",
    "token_classification": "compress.tasks.token_classification:TokenClassificationTask",
}


def _places() -> dict[str, str]:
    others = {entry.name: entry.value for entry in metadata.entry_points(group="compress.tasks")}
    return {**others, **_KNOWN}


def names() -> list[str]:
    """Return the names of all tasks, those of other packages (entry points ``compress.tasks``) included."""
    return sorted(_places())


def create(name: str, labels: Sequence[str], *, metric: str | None = None) -> Task:
    """Return a task over labels.

    Parameters
    ----------
    name
        One of `names`.
    labels
        By class index.
    metric
        The main metric; None takes the task's first.

    Raises
    ------
    ConfigError
        For an unknown task or metric.
    """
    places = _places()
    if name not in places:
        raise ConfigError(f"task={name!r}: there are {', '.join(sorted(places))}")
    module, _, attribute = places[name].partition(":")
    kind: type[Task] = getattr(import_module(module), attribute)
    if metric is not None and metric not in kind.metrics_known:
        raise ConfigError(f"task.metric={metric!r}: {name} has {', '.join(kind.metrics_known)}")
    return kind(labels, metric=metric or kind.metrics_known[0])
