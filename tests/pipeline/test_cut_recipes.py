"""Recipes that cut and distil: from the model that was not cut, or into a narrower one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
def test_a_vocabulary_is_cut_taught_and_reported(record_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    record = record_of("vocabulary_distill", "vocabulary.tokens=4")
    found = record["vocabulary"]["vocabulary"]
    assert found["rows"] < found["rows_before"]
    assert [entry["source"] for entry in found["texts"]] == ["validation", "test", "other domain"]
    assert found["texts"][1]["texts"] == record["data"]["rows"]["test"]
    assert found["texts"][1]["whole"] < 1
    assert "## Vocabulary" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_a_student_of_half_the_width_is_taught_and_quantized(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("distill_narrow")
    assert [step["name"] for step in record["steps"]] == ["finetune", "distill", "export", "simplify", "quantize"]
    student = record["steps"][1]["facts"]["student"]
    assert (student["made_from"], student["hidden"], student["narrow"]) == ("source", 16, "svd")
    assert record["comparison"]["size_ratio"] > 2
