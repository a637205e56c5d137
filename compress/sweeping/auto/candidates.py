"""The jobs of a search: each candidate as it is tried, as it is trained in full, and as it is left at the end."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.config.schemas import Finetune
from compress.config.shapes import expand
from compress.errors import ConfigError, MachineError, UnsupportedError

if TYPE_CHECKING:
    from compress.cli.compose import Composer, Given
    from compress.config.auto import Auto
    from compress.config.job import JobConfig

__all__ = ["Candidate", "candidates_of", "shared_lines"]

_OWN = ("recipe", "auto", "hydra", "dry_run", "budget")
"""Nodes of a command line that are the search's own, and not its candidates'."""

_WHOLE = ("force", "until")
"""Keys that mean one job of certain steps."""

_SHORT = (
    *("benchmark.variants=ends", "benchmark.launches=2", "benchmark.seconds=4"),
    *("benchmark.memory=false", "benchmark.energy=false"),
)
"""How a search measures: speed well enough to tell candidates apart, and validation."""


@dataclass(frozen=True)
class Candidate:
    """A recipe with overrides.

    Attributes
    ----------
    number : int
        Its place in ``auto.candidates``.
    lines : tuple of str
        Its overrides, the recipe among them.
    trial, full : tuple of str
        What its short and its full training, as the search measures them, add to the overrides that all share.
    final : JobConfig
        The job that is left where this candidate is chosen.
    exact : bool
        Whether the trial shortens nothing.
    absent : str or None
        Why it cannot run here: an extra that is not installed, hardware that is not there.
    """

    number: int
    lines: tuple[str, ...]
    trial: tuple[str, ...]
    full: tuple[str, ...]
    final: JobConfig
    exact: bool
    absent: str | None = None

    @property
    def name(self) -> str:
        """Its overrides as a line."""
        return shlex.join(self.lines)


def shared_lines(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a search that hold for each of its candidates.

    Raises
    ------
    ConfigError
        For keys that mean the steps of one job.
    """
    from compress.cli.compose import given

    items = given(overrides)
    whole = next((item for item in items if item.node in _WHOLE), None)
    if whole is not None:
        raise ConfigError(f"{whole.line}: recipe=auto runs many jobs; name a recipe of one, or leave {whole.node} out")
    return [item.line for item in items if item.node not in _OWN]


def candidates_of(composer: Composer, job: JobConfig, config: Auto) -> list[Candidate]:
    """Compose and check every candidate in each form in which it will run.

    Parameters
    ----------
    composer
        Composes jobs.
    job
        The search's own job.
    config
        Its settings.

    Raises
    ------
    ConfigError
        If there is none, or one cannot be composed, or two are equal: names it.
    UnsupportedError
        If none can run on this machine.
    """
    from compress.cli.compose import given

    shared = shared_lines(job.overrides)
    budget = [item.line for item in given(job.overrides) if item.node == "budget"]
    if not config.candidates:
        raise ConfigError("auto.candidates=[]: name at least one, as auto.candidates=['recipe=fast']")
    found: list[Candidate] = []
    seen: dict[str, int] = {}
    for number, text in enumerate(config.candidates):
        lines = _parsed(number, text)
        try:
            final = _composed(composer, [*shared, *lines, *budget])
            short = list(_shortened(final, config.trial_epochs))
            measured = _measured_shortly(shared, final)
            _composed(composer, [*shared, *lines, *short, *measured])
        except ConfigError as error:
            raise ConfigError(f"auto.candidates[{number}]={text!r}: {error}") from error
        other = seen.setdefault(final.digest, number)
        if other != number:
            raise ConfigError(f"auto.candidates: {number} ({text}) is equal to {other} ({config.candidates[other]})")
        found.append(
            Candidate(
                number=number,
                lines=tuple(lines),
                trial=(*lines, *short, *measured),
                full=(*lines, *measured),
                final=final,
                exact=not short,
                absent=_absent(final),
            )
        )
    if all(one.absent for one in found):
        reasons = "; ".join(f"{one.name}: {one.absent}" for one in found)
        raise UnsupportedError(f"auto.candidates: none of them can run here: {reasons}")
    return found


def _parsed(number: int, text: str) -> list[str]:
    try:
        lines = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"auto.candidates[{number}]={text!r}: {error}; overrides are separated by blanks") from error
    named = [item for item in _given(number, text, lines) if item.key == "recipe"]
    if len(named) != 1 or named[0].line.partition("=")[2] == "auto":
        raise ConfigError(f"auto.candidates[{number}]={text!r}: names no recipe to try; begin with recipe=NAME")
    return lines


def _given(number: int, text: str, lines: Sequence[str]) -> list[Given]:
    from hydra.errors import HydraException

    from compress.cli.compose import given

    try:
        return given(lines)
    except HydraException as error:
        raise ConfigError(f"auto.candidates[{number}]={text!r}: {' '.join(str(error).split())}") from error


def _composed(composer: Composer, lines: Sequence[str]) -> JobConfig:
    from compress.cli.validate import job_of

    return job_of(composer.compose(lines))


def _shortened(job: JobConfig, epochs: int) -> Iterator[str]:
    """Yield an override for each training after fine-tuning that takes more epochs than a trial does."""
    for name, config in job.steps.items():
        if not isinstance(config, Finetune):
            for path, value in _lengths(config):
                if path.endswith("min_updates"):
                    yield f"{name}.{path}=null"
                elif value > epochs:
                    yield f"{name}.{path}={epochs}"


def _lengths(config: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the keys that say how long a step trains, with their values where they are set."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _lengths(value, f"{prefix}{field.name}.")
        elif field.name in ("epochs", "min_updates") and isinstance(value, int):
            yield f"{prefix}{field.name}", value


def _measured_shortly(shared: Sequence[str], job: JobConfig) -> list[str]:
    """Return the overrides of the benchmark in a search; what the user set stays, so that a preset stays short."""
    from compress.cli.compose import given

    items = given(shared)
    own = {item.key for item in items}
    lines = list(_SHORT[:1] if any(item.node == "debug" for item in items) else _SHORT)
    lines.append(f"benchmark.shapes=['{expand(job.benchmark.shapes)[0]}']")
    return [line for line in lines if line.partition("=")[0] not in own or line.startswith("benchmark.shapes=")]


def _absent(job: JobConfig) -> str | None:
    from compress.models.source import resolve
    from compress.pipeline import make_plan

    try:
        make_plan(job, resolve(job.model), None)
    except (MachineError, UnsupportedError) as error:
        return str(error)
    return None
