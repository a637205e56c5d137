"""The command line's job, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """How a job ended.

    Attributes
    ----------
    record : dict
        As in record.json.
    artifact : pathlib.Path
        The final checkpoint: ``compress.load(run.artifact)``.
    directory : pathlib.Path
        Report, plots, record and log.
    """

    record: dict[str, Any]
    artifact: Path
    directory: Path


def run(recipe: str, overrides: Sequence[str] = (), *, directory: str | Path | None = None) -> Run:
    """Run a recipe as ``python -m compress recipe=RECIPE OVERRIDES`` does.

    Parameters
    ----------
    recipe : str
        Name of a recipe, e.g. ``distill_int8``.
    overrides : sequence of str
        As on the command line: ``["distill.temperature=4"]``.
    directory : path, optional
        The run's directory, made if absent; by default ``runs/RECIPE/TIME`` under the working directory.

    Returns
    -------
    Run
        A missed budget is in ``record["budget"]``, not an error.

    Raises
    ------
    CompressError
        What the command line would have printed; ``exit_status`` says what it would have returned.
    """
    from compress.cli.jobs import outcome_of
    from compress.cli.validate import compose_job
    from compress.console import setup_logging
    from compress.errors import ConfigError

    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r} is a string; give a list of them: [{overrides!r}]")
    _refuse_a_team()
    job = compose_job(recipe, list(overrides))
    where = Path(directory) if directory is not None else _fresh(Path("runs") / recipe)
    where.mkdir(parents=True, exist_ok=True)
    setup_logging(where / "compress.log")
    outcome = outcome_of(job, where)
    return Run(outcome.record, outcome.artifact, outcome.directory)


def _refuse_a_team() -> None:
    """Refuse to run the whole job in each of several processes, which would write over each other."""
    import os

    from compress.errors import ConfigError

    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise ConfigError(
            f"compress.run in each of {count} processes (WORLD_SIZE={count}) would run the job {count} times; train in "
            f"several processes by the command line: torchrun --nproc-per-node {count} -m compress recipe=..."
        )


def _fresh(parent: Path) -> Path:
    """Make a directory named after the time, numbered where two runs start in the same second."""
    import itertools
    import time

    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        path = parent / (stamp if number == 0 else f"{stamp}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")
