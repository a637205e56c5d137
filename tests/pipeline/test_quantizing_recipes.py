"""Recipes that quantize, from data to report on the tiny model; what their records say of the kernels that run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compress.steps.quantize.saturation import pairs_saturate

LAST = {
    "int8_static": {"method": "static"},
    "qat_int8": {"method": "trained", "bits": 7 if pairs_saturate() else 8},
    "mixed_int8": {"method": "mixed", "bits": "8/32", "spared": []},
    "int2": {"method": "weight_only", "bits": 2},
    "qat_int2": {"method": "trained", "bits": 2},
}
BLOCKS = ("int2", "qat_int2")
STUDENT = ["+quantize@qat=aware2", "quantize=trained", "qat.teacher=finetune", "quantize.bits=2"]
STUDENT += ["steps=[finetune,vocabulary,prune,distill,qat,export,simplify,quantize]"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(LAST))
def test_a_recipe_runs_from_data_to_report(recipe: str, record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of(recipe)
    facts: dict[str, Any] = record["steps"][-1]["facts"]["quantize"]
    assert facts.items() >= LAST[recipe].items()
    if recipe in BLOCKS:
        assert facts["executed"]["kernels"]["MatMulNBits"] == facts["executed"]["float"] - 1, "all but the head"
    else:
        assert facts["executed"]["integer"] > 0
        assert facts["executed"]["float"] == 1, "the head"
    assert record["variants"]["quantize"]["precision"] == ("int2" if recipe in BLOCKS else "int8")
    assert record["comparison"]["size_ratio"] > 1


@pytest.mark.slow
def test_a_pruned_distilled_student_is_trained_at_2_bits(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("prune_distill_int8", *STUDENT)
    assert record["variants"]["quantize"]["precision"] == "int2"
    assert record["steps"][-1]["facts"]["quantize"]["trained"] > 0
