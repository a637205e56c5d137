"""Recipes that distil in other ways, from data to report on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tinybert", "minilm"])
def test_two_stages_run_from_data_to_report(recipe: str, tmp_path: Path) -> None:
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    line = [sys.executable, "-m", "compress", f"recipe={recipe}", "debug=tiny", *places]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    facts = next(step["facts"] for step in record["steps"] if step["name"] == "distill")
    assert len(facts["representations"]["history"]) == 2
    assert facts["teacher"]["disagrees_with_gold"] >= 0
    assert record["comparison"]["size_ratio"] > 1
