"""The search space, the objectives and the trials of a study."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.cli.app import main
from compress.errors import ConfigError, DataError
from compress.sweeping.config import OptunaSweeper
from compress.sweeping.objectives import front_of, objectives_of
from compress.sweeping.space import Space, space_of

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra optuna")
LINE = ["-m", "hydra/sweeper=optuna", "recipe=distill_int8", "debug=tiny"]


def space(*lines: str) -> Space:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return space_of(OverridesParser.create().parse_overrides(list(lines)))


def test_a_space_is_read_from_the_syntax_of_sweeps() -> None:
    found = space(
        "recipe=int8,distill", "a=range(1,6,2)", "b=interval(0.5,2)", "c=tag(log,int(interval(1,64)))", "d=7", "~e"
    )
    assert found.fixed == ("d=7", "~e")
    recipe, a, b, c = found.parameters
    assert recipe.values == ("int8", "distill")
    assert a.values == (1, 3, 5)
    assert (b.low, b.high, b.whole, b.log) == (0.5, 2, False, False)
    assert (c.low, c.high, c.whole, c.log) == (1, 64, True, True)
    assert math.isinf(found.size)
    assert space("a=range(1,6,2)", "b=x,y").size == 6


def test_the_later_of_two_values_of_a_key_holds() -> None:
    assert space("a=1,2", "b=1,2", "a=3").fixed == ("a=3",)


@needs_optuna
def test_a_space_becomes_optuna_s_distributions() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = space(
        "a=x,y", "b=range(1,6,2)", "c=tag(log,interval(1e-5,1e-3))", "d=range(0.1,0.5,0.1)", "e=int(interval(1,4))"
    )
    assert [parameter.distribution() for parameter in found.parameters] == [
        CategoricalDistribution(("x", "y")),
        IntDistribution(1, 5, step=2),
        FloatDistribution(1e-5, 1e-3, log=True),
        FloatDistribution(0.1, 0.4, step=0.1),
        IntDistribution(1, 4),
    ]
    assert found.parameters[3].line(0.30000000000000004) == "d=0.3"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a=1"], "nothing to search"),
        (["a=interval(2,1)"], "the first end of an interval must be below the second"),
        (["a=tag(log,interval(0,1))"], "a logarithmic interval must lie above 0"),
        (["a=range(3,3)"], "holds no value"),
    ],
)
def test_spaces_that_cannot_be(lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(*lines)


def test_a_point_that_was_not_tried_is_found_while_there_is_one() -> None:
    found = space("a=range(0,3)", "b=x,y")
    tried: set[tuple[str, ...]] = set()
    for _ in range(6):
        point = found.untried(tried, random.Random(0))
        assert point is not None
        tried.add(found.point(point))
    assert len(tried) == 6
    assert found.untried(tried, random.Random(0)) is None


RECORD: dict[str, Any] = {
    "metric": {"name": "accuracy"},
    "candidate": "quantize",
    "variants": {
        "quantize": {
            "metrics": {"accuracy": 0.1},
            "validation_metrics": {"accuracy": 0.9, "f1_macro": 0.8},
            "latency": [{"p50_ms": 4.0}, {"p50_ms": 9.0, "p95_ms": None}],
            "size": {"weights_bytes": 1000},
        }
    },
    "comparison": {"speedup": [{"value": 3.5}]},
}


def test_objectives_are_read_from_the_record_of_the_artifact() -> None:
    wanted = ["+validation_metric", "-p50_ms", "-weights_bytes", "-latency.1.p50_ms", "+speedup"]
    objectives = objectives_of(wanted)
    assert [objective.value(RECORD) for objective in objectives] == [0.9, 4.0, 1000.0, 9.0, 3.5]
    assert [objective.direction for objective in objectives][:2] == ["maximize", "minimize"]
    for name in ("latency.1.p95_ms", "latency.7.p50_ms", "macs"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            objectives_of([f"-{name}"])[0].value(RECORD)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["p50_ms"], r"needs a sign: \+p50_ms to go up or -p50_ms to go down"),
        (["+metrics.accuracy"], "the test split, which chooses nothing"),
        (["+comparison.metric_retained"], "the test split, which chooses nothing"),
        (["-fuel"], "fuel is unknown; there are validation_metric, p50_ms"),
        (["-p50_ms", "+p50_ms"], "stands there twice"),
        ([], "at least one objective"),
    ],
)
def test_objectives_that_cannot_be(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objectives_of(texts)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_front_holds_exactly_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    objectives = objectives_of(["+validation_metric", "-p50_ms"])
    kept = front_of(points, objectives)
    assert any(kept)
    for on_front, (up, down) in zip(kept, points, strict=True):
        beaten = any(a >= up and b <= down and (a, b) != (up, down) for a, b in points)
        assert on_front != beaten


@needs_optuna
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed=1", "nothing to search"),
        ("seed=1,x", "(recipe=distill_int8 debug=tiny seed=x): "),
        ("distill.student.layers=range(0,3)", "distill.student.layers=0: must be at least 1"),
        ("seed=1,2 hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: must be at least 1"),
        ("seed=1,2 hydra.sweeper.sampler=grid", "hydra.sweeper.sampler=grid: not allowed; allowed: tpe, nsga2, random"),
        ("seed=1,2 hydra.sweeper.objectives=[+accuracy]", "accuracy is unknown"),
        ("seed=1,2 benchmark.when=end", "each job measures itself"),
    ],
)
def test_studies_that_cannot_start(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*LINE, *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs_optuna
def test_a_dry_run_tells_the_space_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    searched = ["distill.student.layers=1,2", "distill.learning_rate=tag(log,interval(1e-4,1e-2))"]
    assert main([*LINE, *searched, "dry_run=true", f"store.path={tmp_path / 'store'}"]) == 0
    text = capsys.readouterr().out
    assert "20 trials of infinitely many points" in text
    assert "distill.learning_rate: real numbers from 0.0001 to 0.01, log scale" in text
    assert "objective  p50_ms down" in text
    assert "2. distill: to do" in text
    assert not list(tmp_path.iterdir())


@needs_optuna
def test_a_study_of_other_objectives_is_not_continued(tmp_path: Path) -> None:
    from compress.sweeping.trials import Trials

    searched, settings = space("seed=range(1,9)", "a=1"), OptunaSweeper()
    Trials(settings, searched, objectives_of(["-p50_ms"]), tmp_path)
    Trials(settings, searched, objectives_of(["-p50_ms"]), tmp_path)
    with pytest.raises(ConfigError, match=r"other objectives: -p50_ms; now asked: -weights_bytes"):
        Trials(settings, searched, objectives_of(["-weights_bytes"]), tmp_path)
    with pytest.raises(ConfigError, match=r"other search space: seed: 1 to 8, 8 values; now asked: seed: 1 to 4"):
        Trials(settings, space("seed=range(1,5)", "a=1"), objectives_of(["-p50_ms"]), tmp_path)
    with pytest.raises(ConfigError, match=r"other fixed overrides: a=1; now asked: a=2"):
        Trials(settings, space("seed=range(1,9)", "a=2"), objectives_of(["-p50_ms"]), tmp_path)


@needs_optuna
def test_a_continued_study_goes_on_with_other_random_numbers_and_finishes_what_was_under_way(tmp_path: Path) -> None:
    from compress.sweeping.trials import Trials

    searched, settings = space("x=interval(0.0,1.0)"), OptunaSweeper(sampler="random")
    objectives = objectives_of(["-p50_ms"])
    first = Trials(settings, searched, objectives, tmp_path)
    number, one = first.ask()
    first.tell(number, [1.0])
    stopped, values = first.ask()
    second = Trials(settings, searched, objectives, tmp_path)
    assert second.under_way() == [(stopped, values)]
    assert second.finished == 1
    second.tell(stopped, [0.5])
    assert second.finished == 2
    assert [trial.number for trial in second.front()] == [stopped]
    _, third = second.ask()
    assert third["x"] not in (one["x"], values["x"])
