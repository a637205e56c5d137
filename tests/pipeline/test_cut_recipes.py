"""Recipes that cut and distil: from the model that was not cut, or into a narrower one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli.validate import compose_job
from compress.models.source import resolve
from compress.pipeline.plan import make_plan

RECIPES = {
    "vocabulary_distill": ["finetune", "vocabulary", "distill", "export"],
    "layerdrop_distill": ["finetune", "prune", "distill", "export"],
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_student_keeps_its_layers_and_the_uncut_model_teaches(recipe: str) -> None:
    job = compose_job(recipe, ["debug=tiny", "distill.student.layers=null", "device=cpu"])
    plan = make_plan(job, resolve(job.model), None)
    assert [planned.name for planned in plan.steps] == RECIPES[recipe]
    teaching = next(planned for planned in plan.steps if planned.name == "distill")
    assert teaching.step.inputs(teaching.config) == ("finetune",)
    assert plan.steps[-1].facts.layers == {"vocabulary_distill": 2, "layerdrop_distill": 1}[recipe]


@pytest.mark.slow
def test_a_vocabulary_is_cut_taught_and_reported(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "compress", "recipe=vocabulary_distill", "debug=tiny", "vocabulary.tokens=4"]
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([*line, *places], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    found = record["vocabulary"]["vocabulary"]
    assert found["rows"] < found["rows_before"]
    assert [entry["source"] for entry in found["texts"]] == ["validation", "test", "other domain"]
    assert found["texts"][1]["texts"] == record["data"]["rows"]["test"]
    assert found["texts"][1]["whole"] < 1
    assert "## Vocabulary" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_a_student_of_half_the_width_is_taught_and_quantized(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "compress", "recipe=distill_narrow", "debug=tiny"]
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([*line, *places], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [step["name"] for step in record["steps"]] == ["finetune", "distill", "export", "simplify", "quantize"]
    student = record["steps"][1]["facts"]["student"]
    assert (student["made_from"], student["hidden"], student["narrow"]) == ("source", 16, "svd")
    assert record["comparison"]["size_ratio"] > 2
