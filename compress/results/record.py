"""The numbers of one run: how record.json is put together, written and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.files import write_atomic
from compress.machine import environment as machine_environment

__all__ = ["RECORD", "SCHEMA_VERSION", "build", "read", "write_json"]

SCHEMA_VERSION = 1
"""Keys may be added within a version; none is renamed or removed."""

RECORD = "record.json"

_REQUIRED = ("recipe", "task", "metric", "steps", "variants", "baseline", "candidate", "comparison", "environment")


def build(
    *,
    recipe: str,
    task: str,
    seed: int,
    metric: str,
    steps: Sequence[Mapping[str, Any]],
    measurement: Mapping[str, Any],
    baseline: str,
    candidate: str,
    data: Mapping[str, Any],
    overrides: Sequence[str] = (),
    warnings: Sequence[str] = (),
    higher_is_better: bool = True,
    environment: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a record together from the facts of a job and what the benchmark measured.

    Parameters
    ----------
    recipe, task, seed
        As given on the command line.
    metric
        Name of the task's main metric; every variant must have measured it.
    steps
        ``name``, ``key``, ``cached``, ``seconds`` per step, in order.
    measurement
        ``variants`` and ``comparison`` as in record.json; may hold ``warnings``, ``load_average``,
        ``truncated`` (test rows cut at ``model.max_length``) and further keys, which are kept.
    baseline, candidate
        Names of two variants.
    data
        Name, fingerprint, rows, labels and cleaning.
    overrides
        The command line's, kept so that the run can be repeated.
    warnings
        Of the plan; the measurement's are added.
    higher_is_better
        Direction of the metric.
    environment
        Facts of the machine; by default of this one.
    model
        What the run started from, for the model card: ``name`` (as ``model.path``), perhaps ``license``.

    Returns
    -------
    dict
        The record, with an empty budget: `compress.results.budget.judge` fills it.

    Raises
    ------
    ValueError
        If the baseline, the candidate or their metric was not measured: a mistake of the caller.
    """
    variants = {name: dict(variant) for name, variant in measurement["variants"].items()}
    for name in (baseline, candidate):
        if name not in variants:
            raise ValueError(f"variant {name!r} was not measured; measured: {', '.join(variants) or 'none'}")
        metrics = variants[name].get("metrics")
        if metrics and metric not in metrics:
            raise ValueError(f"variant {name!r} has no metric {metric!r}; it has {', '.join(metrics)}")
    facts = dict(environment if environment is not None else machine_environment())
    if measurement.get("load_average") is not None:
        facts["load_average"] = measurement["load_average"]
    known = {"variants", "comparison", "warnings", "load_average", "truncated"}
    truncated = measurement.get("truncated", data.get("truncated"))
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe,
        "task": task,
        "seed": seed,
        "overrides": list(overrides),
        "metric": {"name": metric, "higher_is_better": higher_is_better},
        "steps": [dict(step) for step in steps],
        "variants": variants,
        "baseline": baseline,
        "candidate": candidate,
        "comparison": dict(measurement["comparison"]),
        "data": {**data, "truncated": truncated},
        "budget": {"met": True, "missed": []},
        "warnings": list(dict.fromkeys([*warnings, *measurement.get("warnings", ())])),
        "environment": facts,
        **({} if model is None else {"model": dict(model)}),
        **{key: value for key, value in measurement.items() if key not in known},
    }


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON: whole or not at all, in the order its keys were given, no NaN (null instead)."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """Read the record of a run.

    Parameters
    ----------
    path
        A ``record.json``, or the run's directory.

    Raises
    ------
    DataError
        If there is none, it is broken, or it is of a schema version that this code does not know.
    """
    file = path / RECORD if path.is_dir() else path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; give the directory of a finished run, which holds {RECORD}") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; give the directory of a finished run") from error
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); run the recipe again, finished steps are reused") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise DataError(f"{file}: not a record of this project: it has no schema_version")
    if record["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{file}: schema_version {record['schema_version']!r}, this version of compress reads {SCHEMA_VERSION}; "
            "use the version that wrote it"
        )
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise DataError(f"{file}: lacks {', '.join(missing)}; run the recipe again, finished steps are reused")
    unknown = {record["baseline"], record["candidate"]} - set(record["variants"])
    if unknown:
        raise DataError(f"{file}: baseline or candidate {', '.join(sorted(unknown))} is not among its variants")
    return record


def _plain(value: Any) -> Any:
    """Turn numpy numbers, tuples, paths and what is not finite into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")
