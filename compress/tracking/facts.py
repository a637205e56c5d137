"""What there is to tell of a run, in the terms that trackers share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.results.rows import VariantRow, describe, metric_of

__all__ = ["curves", "files", "metrics", "name_of", "params"]

_CONFIG = ".hydra/config.yaml"
_FILES = ("record.json", "report.md", "report.html")


def name_of(run_dir: Path) -> str:
    """Return what to call a run: the last two names of its directory, as ``2026-11-24_19-25-00/3``."""
    return "/".join(run_dir.absolute().parts[-2:])


def params(record: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return what was asked: every key of the composed config, dotted, or the overrides where it was not kept.

    Returns
    -------
    dict
        Values are strings, numbers or booleans; lists are written as text.
    """
    import yaml

    facts: dict[str, Any] = {
        "recipe": record["recipe"],
        "task": record["task"],
        "seed": record.get("seed"),
        "data_name": (record.get("data") or {}).get("name"),
        "data_fingerprint": str((record.get("data") or {}).get("fingerprint") or "")[:16],
    }
    archive = run_dir / _CONFIG
    if archive.is_file():
        facts.update(_flat(yaml.safe_load(archive.read_text(encoding="utf-8")) or {}, ""))
    else:
        pairs = (item.lstrip("+~").partition("=") for item in record.get("overrides") or ())
        facts.update({key: value for key, _, value in pairs})
    return {key: value for key, value in facts.items() if value is not None and value != ""}


def metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return every measured figure by ``VARIANT/QUANTITY``; the artifact's stand under ``artifact/`` too.

    So runs of different recipes have their results under equal names.
    """
    name, _ = metric_of(record)
    found: dict[str, float] = {}
    for row in describe(record):
        for prefix in dict.fromkeys((row.name, row.role or row.name)):
            found.update({f"{prefix}/{key}": value for key, value in _figures(row, name)})
    return found


def curves(record: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield the training histories as ``(training/STEP/NAME, epoch, value)``."""
    for step in record["steps"]:
        for number, entry in enumerate((step.get("facts") or {}).get("history") or (), 1):
            epoch = int(entry.get("epoch") or number)
            for name, value in entry.items():
                if name != "epoch" and _is_number(value):
                    yield f"training/{step['name']}/{name}", epoch, float(value)


def files(run_dir: Path) -> list[Path]:
    """Return the record, the report and the plots, as far as they were written."""
    found = [run_dir / name for name in _FILES if (run_dir / name).is_file()]
    return [*found, *sorted((run_dir / "plots").glob("*.png"))]


def _figures(row: VariantRow, metric: str | None) -> Iterator[tuple[str, float]]:
    everything: dict[str, Any] = {f"{name}_test": value for name, value in row.metrics.items()}
    everything.update({f"{name}_validation": value for name, value in row.validation_metrics.items()})
    if metric is not None:
        everything.update({f"{metric}_difference": row.difference.value, f"{metric}_retained": row.retained})
    everything.update(agreement=row.agreement, mcnemar_p=row.mcnemar.get("p_value"))
    for timing in row.timings:
        shape = timing.key.replace(":", "_")
        everything.update(
            {
                f"p50_ms/{shape}": timing.p50,
                f"p95_ms/{shape}": timing.p95,
                f"p99_ms/{shape}": timing.p99,
                f"throughput_per_s/{shape}": timing.throughput,
                f"speedup/{shape}": timing.speedup,
                f"energy_j/{shape}": timing.energy_j,
            }
        )
    everything.update(
        weights_bytes=row.weights_bytes,
        size_ratio=row.size_ratio,
        peak_rss_bytes=row.peak_rss_bytes,
        model_bytes=row.memory.get("model_bytes"),
        parameters=row.parameters,
        macs=row.macs,
        cold_start_ms=row.cold_start.get("total_ms"),
    )
    yield from ((key, float(value)) for key, value in everything.items() if _is_number(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(value: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _flat(item, f"{name}.")
        elif isinstance(item, list):
            yield name, ", ".join(map(str, item))
        else:
            yield name, item
