"""A validated job: what the command line or the library asks for, with every value typed and in bounds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.config.auto import Auto
from compress.config.schemas import Benchmark, Budget, Data, Export, Model, Store, Tracker

__all__ = ["JobConfig"]


@dataclass(frozen=True)
class JobConfig:
    """Everything a run needs to know.

    Attributes
    ----------
    recipe : str
        Name of the recipe.
    steps : mapping of str to object
        The typed config of each step, by name, in order.
    export : Export
        Config of an export that a later step implies.
    model, data, task, benchmark, budget, store, tracker : object
        The typed config groups.
    task_name, data_name : str
        Options chosen of the groups ``task`` and ``data``.
    seed, device, threads, dry_run, force, until
        The scalar keys.
    overrides : tuple of str
        As given on the command line.
    warnings : tuple of str
        What was noticed while validating, for the log and the record.
    tracker : Tracker
        The typed config group.
    auto : Auto or None
        Settings of the search for a recipe, where the job is one.
    config_dir : str or None
        The user's own folder of configs.
    """

    recipe: str
    steps: Mapping[str, Any]
    export: Export
    model: Model
    data: Data
    task: Any
    benchmark: Benchmark
    budget: Budget
    store: Store
    task_name: str
    data_name: str
    seed: int
    device: str
    threads: int | None
    dry_run: bool
    force: tuple[str, ...]
    until: str | None
    overrides: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    tracker: Tracker = dataclasses.field(default_factory=Tracker)
    auto: Auto | None = None
    config_dir: str | None = None

    @property
    def digest(self) -> str:
        """What equal jobs have in common, whatever the overrides they came from."""
        facts = {
            field.name: _facts(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in _IN_NO_DIGEST
        }
        facts["benchmark"][1].pop("when")  # when, not what: a sweep decides it for all of its jobs
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


_IN_NO_DIGEST = ("overrides", "warnings", "dry_run", "tracker", "config_dir")


def _facts(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, dataclasses.asdict(value)]
    if hasattr(value, "items"):
        return [[name, _facts(inner)] for name, inner in value.items()]
    return value
