"""A record, a finished run of it, and a sweep."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.results.record import build, write_json

sys.path.insert(0, str(Path(__file__).parent))

import sample


@pytest.fixture
def arguments() -> dict[str, Any]:
    return copy.deepcopy(
        {
            "recipe": "distill_int8",
            "task": "text_classification",
            "seed": 0,
            "metric": "accuracy",
            "steps": sample.STEPS,
            "measurement": sample.MEASUREMENT,
            "baseline": "finetune",
            "candidate": "quantize",
            "data": sample.DATA,
            "overrides": ["recipe=distill_int8", "distill.temperature=4"],
            "warnings": ["no VNNI <here>"],
            "environment": sample.ENVIRONMENT,
        }
    )


@pytest.fixture
def record(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a record as version 0.1 wrote it: none of the keys that were added since."""
    return build(**arguments)


@pytest.fixture
def full_record() -> dict[str, Any]:
    """Return a record with every key."""
    return sample.full_record()


@pytest.fixture
def run_dir(record: dict[str, Any], tmp_path: Path) -> Path:
    run = tmp_path / "sweep" / "0"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    write_json(run / "record.json", record)
    write_json(run / "status.json", {"status": "done", "exit_status": 0, "missed": []})
    return run


@pytest.fixture(scope="session")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep to read: tests that write make one of their own."""
    return sample.full_sweep(tmp_path_factory.mktemp("read") / "sweep")
