"""Records as a data frame: one row per measured variant, of one run or of a thousand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.record import RECORD, read
from compress.results.variants import describe

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load", "rows_of"]

_STATUS = "status.json"


def load(path: str | Path) -> pd.DataFrame:
    """Return one row per measured variant.

    Parameters
    ----------
    path
        A run's directory, a ``record.json``, or a folder with runs anywhere below it (a sweep).

    Returns
    -------
    pandas.DataFrame
        Columns: ``run`` (its path), ``status``, ``reason``, ``recipe``, ``task``, ``seed``, ``data``, ``variant``,
        ``step``, ``format``, ``runtime``, ``precision``, ``role`` (``baseline``, ``artifact`` or empty),
        ``metric`` (its name), ``metric_value``, ``metric_retained``, ``metrics.NAME``; per shape such as ``1x32``
        ``threads.SHAPE``, ``p50_ms.SHAPE``, ``p90_ms``, ``p95_ms``, ``p99_ms``, ``mean_ms``,
        ``throughput_per_s``, ``speedup``, ``speedup_low``, ``speedup_high``, ``verdict``; sizes in bytes, ratios of
        size and memory, ``parameters``, ``macs``; ``override.KEY`` per override of the command line. A run that
        failed has one row with its ``status`` and ``reason`` and no variant.

    Raises
    ------
    DataError
        If there is no run, or a record is broken or of an unknown version.
    """
    import pandas as pd

    root = Path(path)
    if not root.exists():
        raise DataError(
            f"{root}: no such file or directory; give a run's directory, a record.json or a sweep's directory"
        )
    rows = [row for run in _runs(root) for row in rows_of(run)]
    if not rows:
        raise DataError(f"{root}: holds no {RECORD} and no {_STATUS}; give the directory of a run or of a sweep")
    return pd.DataFrame(rows)


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of one run, given its directory or its record."""
    directory = run if run.is_dir() else run.parent
    status = _status(directory)
    if run.is_dir() and not (run / RECORD).is_file():
        return [{"run": str(directory), "status": status["status"], "reason": status.get("reason")}]
    record = read(run)
    failed = status.get("status") == "failed"
    overrides = (item.partition("=") for item in record.get("overrides", ()))
    shared = {
        "run": str(directory),
        "status": status.get("status", "unfinished"),
        "reason": status.get("reason") if failed else None,
        "recipe": record["recipe"],
        "task": record["task"],
        "seed": record.get("seed"),
        "data": record.get("data", {}).get("name"),
    }
    changed = {f"override.{key.lstrip('+~')}": value for key, _, value in overrides}
    rows = []
    for variant in describe(record):
        row: dict[str, Any] = {
            **shared,
            "variant": variant.name,
            "step": variant.step,
            "format": variant.format,
            "runtime": variant.runtime,
            "precision": variant.precision,
            "role": variant.role,
            "metric": record["metric"]["name"],
            "metric_value": variant.metric,
            "metric_retained": variant.retained,
        }
        row.update({f"metrics.{name}": value for name, value in variant.metrics.items()})
        for timing in variant.timings:
            row.update(
                {
                    f"threads.{timing.key}": timing.threads,
                    f"p50_ms.{timing.key}": timing.p50,
                    f"p90_ms.{timing.key}": timing.p90,
                    f"p95_ms.{timing.key}": timing.p95,
                    f"p99_ms.{timing.key}": timing.p99,
                    f"mean_ms.{timing.key}": timing.mean,
                    f"throughput_per_s.{timing.key}": timing.throughput,
                    f"speedup.{timing.key}": timing.speedup,
                    f"speedup_low.{timing.key}": timing.low,
                    f"speedup_high.{timing.key}": timing.high,
                    f"verdict.{timing.key}": timing.verdict,
                }
            )
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
            **changed,
        )
        rows.append(row)
    return rows


def _runs(root: Path) -> Iterator[Path]:
    """Yield every run at or below a path, in order of their names."""
    if root.is_file() or (root / RECORD).is_file():
        yield root
        return
    found = {file.parent for name in (RECORD, _STATUS) for file in root.rglob(name)}
    yield from sorted(found)


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
