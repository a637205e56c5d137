"""Recipes in which layers are replaced as they learn, or one training serves students of every size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.cli.validate import compose_job
from compress.models.source import resolve
from compress.pipeline.plan import make_plan

RECIPES = {"theseus": ["finetune", "distill", "export", "simplify", "quantize"]}


def run(recipe: str, root: Path, *overrides: str, name: str = "run") -> dict[str, Any]:
    """Return the record of a recipe on the tiny model."""
    places = [f"store.path={root / 'store'}", f"hydra.run.dir={root / name}"]
    line = [sys.executable, "-m", "compress", f"recipe={recipe}", "debug=tiny", *overrides, *places]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record: dict[str, Any] = json.loads((root / name / "record.json").read_text())
    return record


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_steps_of_a_recipe_are_in_order(recipe: str) -> None:
    job = compose_job(recipe, ["debug=tiny", "device=cpu"])
    plan = make_plan(job, resolve(job.model), None)
    assert [planned.name for planned in plan.steps] == RECIPES[recipe]


@pytest.mark.slow
def test_layers_are_replaced_exported_and_quantized(tmp_path: Path) -> None:
    record = run("theseus", tmp_path)
    distilled = next(step for step in record["steps"] if step["name"] == "distill")
    assert distilled["facts"]["initialised_from"] == [0]
    assert record["variants"]["quantize"]["precision"] == "int8"
    assert record["comparison"]["size_ratio"] > 1
