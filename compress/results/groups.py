"""Which runs may be compared, and which were measured in one go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from compress.results.rows import describe

__all__ = ["baseline_checkpoint", "group_of", "measurement_of"]


def group_of(record: Mapping[str, Any], run: str) -> str:
    """Return what runs with ratios to the same baseline have in common.

    Parameters
    ----------
    record
        As in record.json.
    run
        The run's directory: the group of a record that names no data or no step.

    Returns
    -------
    str
        The group that the jobs of a sweep were measured in; else made of the task, the data's fingerprint (which
        covers its splits) and the store key of the baseline.
    """
    key = (record.get("group") or {}).get("key")
    if key:
        return str(key)
    fingerprint = (record.get("data") or {}).get("fingerprint")
    baseline = baseline_checkpoint(record)
    if not fingerprint or not baseline:
        return run
    return f"{record['task']}-{fingerprint[:12]}-{baseline[:12]}"


def measurement_of(record: Mapping[str, Any], run: str) -> str:
    """Return what records of one interleaved measurement have in common.

    A run that measured itself is alone. Jobs measured together carry the same timings of the same baseline, to the
    last digit: together with the name of the group they identify the measurement.
    """
    key = (record.get("group") or {}).get("key")
    if not key:
        return run
    timings = record["variants"][record["baseline"]].get("latency") or []
    content = json.dumps([key, timings], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def baseline_checkpoint(record: Mapping[str, Any]) -> str | None:
    """Return the key of the step that wrote the baseline."""
    return next(row.checkpoint for row in describe(record) if row.role == "baseline")
