"""Recipes that distil in other ways, from data to report on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tinybert", "minilm"])
def test_two_stages_run_from_data_to_report(recipe: str, record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of(recipe)
    facts = next(step["facts"] for step in record["steps"] if step["name"] == "distill")
    assert len(facts["representations"]["history"]) == 2
    assert facts["teacher"]["disagrees_with_gold"] >= 0
    assert record["comparison"]["size_ratio"] > 1
