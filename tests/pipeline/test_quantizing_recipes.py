"""Recipes that quantize, from data to report on the tiny model; what their records say of the kernels that run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LAST = {
    "int8_static": {"method": "static"},
    "qat_int8": {"method": "trained", "bits": 8},
    "mixed_int8": {"method": "mixed", "bits": "8/32", "spared": []},
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(LAST))
def test_a_recipe_runs_from_data_to_report(recipe: str, tmp_path: Path) -> None:
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    line = [sys.executable, "-m", "compress", f"recipe={recipe}", "debug=tiny", *places]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    facts: dict[str, Any] = record["steps"][-1]["facts"]["quantize"]
    assert facts.items() >= LAST[recipe].items()
    assert facts["executed"]["integer"] > 0
    assert facts["executed"]["float"] == 1, "the head"
    assert record["variants"]["quantize"]["precision"] == "int8"
    assert record["comparison"]["size_ratio"] > 1
