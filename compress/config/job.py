"""A validated job: what the command line or the library asks for, with every value typed and in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.config.schemas import Benchmark, Budget, Data, Export, Model, Store

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
    model, data, task, benchmark, budget, store : object
        The typed config groups.
    task_name, data_name : str
        Options chosen of the groups ``task`` and ``data``.
    seed, device, threads, dry_run, force, until
        The scalar keys.
    overrides : tuple of str
        As given on the command line.
    warnings : tuple of str
        What was noticed while validating, for the log and the record.
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
