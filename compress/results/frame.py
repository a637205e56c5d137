"""Records as a data frame: one row per measured variant, of one run or of a thousand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.groups import baseline_checkpoint, group_of, measurement_of
from compress.results.record import RECORD, read
from compress.results.rows import Timing, VariantRow, describe, metric_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame_of", "load", "rows_of", "shapes_of"]

_STATUS = "status.json"
_HYDRA = ".hydra"

_RUN = ("run", "status", "reason", "equal_to", "recipe", "task", "seed", "data", "group", "measurement")
_VARIANT = (
    *("variant", "step", "path", "checkpoint", "baseline_checkpoint", "format", "runtime", "precision", "role"),
    *("metric", "higher_is_better", "metric_value", "metric_retained", "metric_difference", "metric_difference_low"),
    *("metric_difference_high", "validation_value", "validation_difference", "validation_difference_low"),
    *("validation_difference_high", "agreement", "mcnemar_p", "mcnemar_only_baseline", "mcnemar_only_candidate"),
)
_SHAPE = (
    *("threads", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "throughput_per_s", "speedup", "speedup_low"),
    *("speedup_high", "verdict", "device_p50_ms", "energy_j", "runs", "rounds", "launches", "threads_tried"),
    *("quantiles_ms",),
)
_SIZE = (
    *("weights_bytes", "embedding_bytes", "artifact_bytes", "size_ratio", "peak_rss_bytes", "peak_device_bytes"),
    *("driver_device_bytes", "empty_rss_bytes", "load_bytes", "held_bytes", "inference_bytes", "model_bytes"),
    "memory_ratio",
    *("parameters", "macs", "import_ms", "open_ms", "first_answer_ms", "cold_start_ms", "together_with"),
)


def load(path: str | Path) -> pd.DataFrame:
    """Return one row per measured variant.

    Parameters
    ----------
    path
        A run's directory, a ``record.json``, or a folder with runs anywhere below it (a sweep).

    Returns
    -------
    pandas.DataFrame
        Of the run: ``run`` (its path), ``status``, ``reason``, ``equal_to``, ``recipe``, ``task``, ``seed``, ``data``,
        ``group`` (ratios are compared within one only), ``measurement`` (equal where variants of several runs took
        turns in one measurement); ``override.KEY`` per override of the command line.

        Of the variant: ``variant``, ``step``, ``path`` (steps up to it), ``checkpoint`` and ``baseline_checkpoint``
        (store keys: equal keys are equal files), ``format``, ``runtime``, ``precision``, ``role`` (``baseline``,
        ``artifact`` or empty).

        Quality: ``metric`` (its name), ``higher_is_better``, ``metric_value`` (test), ``metric_retained``,
        ``metric_difference`` with ``_low`` and ``_high`` (to the baseline, paired), the same of
        ``validation_difference``, ``validation_value``, ``agreement``, ``mcnemar_p``, ``mcnemar_only_baseline``,
        ``mcnemar_only_candidate``; ``metrics.NAME`` and ``validation.NAME``.

        Per shape such as ``1x32``: ``threads.SHAPE``, ``p50_ms.SHAPE``, ``p90_ms``, ``p95_ms``, ``p99_ms``,
        ``mean_ms``, ``throughput_per_s``, ``speedup``, ``speedup_low``, ``speedup_high``, ``verdict``,
        ``device_p50_ms``, ``energy_j`` (per batch), ``runs``, ``rounds``, ``launches``, ``threads_tried`` (medians by
        threads, as text), ``quantiles_ms`` (a list: 0, 2.5, ..., 100 % of single runs).

        Sizes and memory in bytes, their ratios, ``parameters``, ``macs``; cold start in ``import_ms``, ``open_ms``,
        ``first_answer_ms`` and ``cold_start_ms``; ``together_with`` (variants in the same measurement).

        A run without numbers has one row with its ``status`` (``failed``, ``equal``, ``built``, or ``unfinished`` for
        one that was cut off) and its ``reason``, and no variant.

    Raises
    ------
    DataError
        If there is no run, or a record is broken or of an unknown version.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(
            f"{root}: no such file or directory; give a run's directory, a record.json or a sweep's directory"
        )
    rows = [row for run in _runs(root) for row in rows_of(run)]
    if not rows:
        raise DataError(f"{root}: holds no {RECORD} and no {_STATUS}; give the directory of a run or of a sweep")
    return _table(rows)


def frame_of(record: Mapping[str, Any], run: str = "") -> pd.DataFrame:
    """Return the rows of a record, as `load` does of its file."""
    return _table(_rows(record, {"run": run, "status": None, "reason": None}))


def shapes_of(frame: pd.DataFrame) -> list[str]:
    """Return the shapes that were measured, such as ``1x32``, in their order."""
    return [str(name).removeprefix("p50_ms.") for name in frame if str(name).startswith("p50_ms.")]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of one run, given its directory or its record."""
    directory = run if run.is_dir() else run.parent
    status = _status(directory)
    shared = {
        "run": str(directory),
        "status": status.get("status", "unfinished"),
        "reason": status.get("reason") if status.get("status") == "failed" else None,
        "equal_to": status.get("equal_to"),
    }
    if run.is_dir() and not (run / RECORD).is_file():
        return [{**shared, **_changes(_archived_overrides(directory))}]
    return _rows(read(run), shared)


def _rows(record: Mapping[str, Any], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric, higher_is_better = metric_of(record)
    run = {
        **shared,
        "recipe": record["recipe"],
        "task": record["task"],
        "seed": record.get("seed"),
        "data": (record.get("data") or {}).get("name"),
        "group": group_of(record, str(shared["run"])),
        "measurement": measurement_of(record, str(shared["run"])),
        "metric": metric,
        "higher_is_better": higher_is_better,
        "baseline_checkpoint": baseline_checkpoint(record),
        "together_with": (record.get("benchmark") or {}).get("together_with"),
        **_changes(record.get("overrides") or ()),
    }
    return [{**run, **_variant(variant)} for variant in describe(record)]


def _variant(variant: VariantRow) -> dict[str, Any]:
    row: dict[str, Any] = {
        "variant": variant.name,
        "step": variant.step,
        "path": " > ".join(variant.path),
        "checkpoint": variant.checkpoint,
        "format": variant.format,
        "runtime": variant.runtime,
        "precision": variant.precision,
        "role": variant.role,
        "metric_value": variant.metric,
        "metric_retained": variant.retained,
        "validation_value": variant.validation,
        "agreement": variant.agreement,
        "mcnemar_p": variant.mcnemar.get("p_value"),
        "mcnemar_only_baseline": variant.mcnemar.get("only_baseline"),
        "mcnemar_only_candidate": variant.mcnemar.get("only_candidate"),
    }
    for name, span in (
        ("metric_difference", variant.difference),
        ("validation_difference", variant.validation_difference),
    ):
        row.update({name: span.value, f"{name}_low": span.low, f"{name}_high": span.high})
    row.update({f"metrics.{name}": value for name, value in variant.metrics.items()})
    row.update({f"validation.{name}": value for name, value in variant.validation_metrics.items()})
    for timing in variant.timings:
        row.update({f"{name}.{timing.key}": value for name, value in _timing(timing).items()})
    memory, cold = variant.memory, variant.cold_start
    row.update(
        weights_bytes=variant.weights_bytes,
        embedding_bytes=variant.embedding_bytes,
        artifact_bytes=variant.artifact_bytes,
        size_ratio=variant.size_ratio,
        peak_rss_bytes=variant.peak_rss_bytes,
        peak_device_bytes=variant.peak_device_bytes,
        memory_ratio=variant.memory_ratio,
        parameters=variant.parameters,
        macs=variant.macs,
        cold_start_ms=cold.get("total_ms"),
        **{name: cold.get(name) for name in ("import_ms", "open_ms", "first_answer_ms")},
        **{
            name: memory.get(name)
            for name in (
                *("driver_device_bytes", "empty_rss_bytes", "load_bytes", "held_bytes", "inference_bytes"),
                "model_bytes",
            )
        },
    )
    return row


def _timing(timing: Timing) -> dict[str, Any]:
    tried = ", ".join(f"{threads}: {value:.4g}" for threads, value in timing.threads_tried.items())
    return {
        "threads": timing.threads,
        "p50_ms": timing.p50,
        "p90_ms": timing.p90,
        "p95_ms": timing.p95,
        "p99_ms": timing.p99,
        "mean_ms": timing.mean,
        "throughput_per_s": timing.throughput,
        "speedup": timing.speedup,
        "speedup_low": timing.low,
        "speedup_high": timing.high,
        "verdict": timing.verdict,
        "device_p50_ms": timing.device_p50,
        "energy_j": timing.energy_j,
        "runs": timing.runs,
        "rounds": timing.rounds,
        "launches": timing.launches,
        "threads_tried": tried or None,
        "quantiles_ms": list(timing.quantiles) or None,
    }


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Put the rows together; the columns of no shape and no metric are always there."""
    import pandas as pd

    seen = list(dict.fromkeys(name for row in rows for name in row))
    shapes = dict.fromkeys(name.partition(".")[2] for name in seen if name.startswith("p50_ms."))
    columns = [
        *_RUN,
        *(name for name in seen if name.startswith("override.")),
        *_VARIANT,
        *(name for name in seen if name.startswith(("metrics.", "validation."))),
        *(f"{name}.{shape}" for shape in shapes for name in _SHAPE),
        *_SIZE,
    ]
    return pd.DataFrame(rows, columns=columns)


def _changes(overrides: Iterable[str]) -> dict[str, str]:
    """Return the overrides of a command line as columns; Hydra's own are no part of what was run."""
    parts = [item.partition("=") for item in overrides if not item.lstrip("+~").startswith("hydra")]
    return {f"override.{key.lstrip('+~')}": value for key, _, value in parts}


def _runs(root: Path) -> Iterator[Path]:
    """Yield every run at or below a path, in the order of their names, numbers as numbers.

    Runs inside of another run, those that a search tried, are a part of it.
    """
    if root.is_file() or (root / RECORD).is_file():
        yield root
        return
    found = {file.parent for name in (RECORD, _STATUS, _HYDRA) for file in root.rglob(name)}
    yield from sorted((run for run in found if not found.intersection(run.parents)), key=_by_number)


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in path.parts]


def _archived_overrides(directory: Path) -> list[str]:
    """Return the overrides that Hydra kept beside a run; none where there are none or they cannot be read."""
    import yaml

    try:
        content = yaml.safe_load((directory / _HYDRA / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    return [str(item) for item in content] if isinstance(content, list) else []


def _status(directory: Path) -> dict[str, Any]:
    try:
        status = json.loads((directory / _STATUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{directory / _STATUS}: not valid JSON ({error}); run the job again") from error
    if not isinstance(status, dict) or "status" not in status:
        raise DataError(f"{directory / _STATUS}: has no status; run the job again")
    return status
