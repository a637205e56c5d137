"""Recipes in which layers are replaced as they learn, or one training serves students of every size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.cli.validate import compose_job
from compress.models.source import resolve
from compress.pipeline.plan import make_plan

RECIPES = {
    "theseus": ["finetune", "distill", "export", "simplify", "quantize"],
    "elastic": ["finetune", "elastic", "cut", "export", "simplify", "quantize"],
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_steps_of_a_recipe_are_in_order(recipe: str) -> None:
    job = compose_job(recipe, ["debug=tiny", "device=cpu"])
    plan = make_plan(job, resolve(job.model), None)
    assert [planned.name for planned in plan.steps] == RECIPES[recipe]


@pytest.mark.slow
def test_layers_are_replaced_exported_and_quantized(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("theseus")
    distilled = next(step for step in record["steps"] if step["name"] == "distill")
    assert distilled["facts"]["initialised_from"] == [0]
    assert record["variants"]["quantize"]["precision"] == "int8"
    assert record["comparison"]["size_ratio"] > 1


@pytest.mark.slow
def test_every_size_is_cut_from_one_training(record_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    own = tmp_path / "store"
    record = record_of("elastic", "benchmark.variants=path", store=own)
    steps = {step["name"]: step for step in record["steps"]}
    assert not steps["elastic"]["cached"]
    assert steps["cut"]["facts"]["cut"] == {"layers": [0], "heads": [1], "neurons": [32]}
    sizes = [record["variants"][name]["size"] for name in ("elastic", "cut")]
    listed = steps["elastic"]["facts"]["elastic"]["subnetworks"]
    assert [one["parameters"] for one in sizes] == [listed[-1]["parameters"], listed[0]["parameters"]]
    assert record["variants"]["quantize"]["precision"] == "int8"
    wider = record_of("elastic", "cut.width=1.0", "until=cut", name="wider", store=own)
    assert [step["name"] for step in wider["steps"] if step["cached"]] == ["finetune", "elastic"]
    assert wider["steps"][-1]["facts"]["cut"]["heads"] == [2]


@pytest.mark.slow
def test_a_sweep_over_sizes_trains_once(tmp_path: Path) -> None:
    from compress.cli.app import main

    places = [f"store.path={tmp_path / 'store'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    quick = ["debug=tiny", "benchmark.variants=ends", "benchmark.memory=false"]
    assert main(["-m", "recipe=elastic", *quick, "until=cut", "cut.depth=0.5,1.0", *places]) == 0
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/record.json"))]
    assert len(records) == 2
    keys = [{step["name"]: step["key"] for step in record["steps"]} for record in records]
    assert keys[0]["elastic"] == keys[1]["elastic"]
    assert keys[0]["cut"] != keys[1]["cut"]
    trained = [step for record in records for step in record["steps"] if step["name"] == "elastic"]
    assert [step["cached"] for step in trained].count(False) == 1


def test_cutting_what_no_elastic_left_is_refused_before_any_work() -> None:
    from compress.errors import ConfigError

    job = compose_job("elastic", ["debug=tiny", "device=cpu", "steps=[finetune,cut]"])
    with pytest.raises(ConfigError, match="put elastic before it in steps"):
        make_plan(job, resolve(job.model), None)
