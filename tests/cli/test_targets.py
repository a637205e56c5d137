"""Targets of pruning on a command line, beside those of the chosen option."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from compress.cli.validate import compose_job
from compress.errors import ConfigError
from compress.steps.prune.targets import asked


def target_of(*overrides: str, recipe: str = "prune") -> Any:
    return compose_job(recipe, list(overrides)).steps["prune"].target


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("prune.target.speedup=4", "speedup", 4),
        ("prune.target.latency_ms=2.5", "latency_ms", 2.5),
        ("prune.target.params=0.6", "params", 0.6),
        ("prune.target.size=3e6", "size", 3e6),
        ("prune.target.macs=0.3", "macs", 0.3),
    ],
)
@pytest.mark.parametrize("option", ["default", "thin", "layers", "recover"])
def test_a_target_takes_the_place_of_the_one_of_the_option(override: str, name: str, value: float, option: str) -> None:
    assert asked(target_of(f"prune={option}", override)) == (name, value)


def test_ratios_take_the_place_of_a_target_and_stay_beside_each_other() -> None:
    target = target_of("prune.target.ratio.heads=0.5", "prune.target.ratio.layers=0.33")
    assert asked(target) is None
    assert target.macs is None
    thin = target_of("prune=thin", "prune.target.ratio.heads=0.5")
    assert asdict(thin.ratio) == {"heads": 0.5, "neurons": 0.6, "layers": 0.5, "hidden": None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.target.macs=0.5", "prune.target.speedup=2"], "given: macs=0.5 and speedup=2; set all but one to null"),
        (["prune.target.macs=0.5", "prune.target.ratio.heads=0.5"], "both set.*set target.macs=null"),
        (["prune.target.macs=null"], "given: none"),
    ],
    ids=str,
)
def test_two_targets_that_are_given_are_refused_and_so_is_none(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(target_of(*overrides))


def test_nothing_is_taken_away_where_no_target_is_given() -> None:
    assert asked(target_of("prune.target.shape=8x128", "prune.importance=kwon")) == ("macs", 0.5)
    thin = target_of(recipe="prune_distill_int8")
    assert asdict(thin.ratio) == {"heads": 0.33, "neurons": 0.6, "layers": 0.5, "hidden": None}
