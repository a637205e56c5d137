"""The Pareto front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import results
from compress.errors import DataError
from compress.results.front import default_objectives, non_dominated

NUMBERS = st.one_of(st.integers(0, 4).map(float), st.just(float("nan")), st.floats(-10, 10))


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.sampled_from("gh")), max_size=25))
    return pd.DataFrame(rows, columns=["a", "b", "c", "group"]).astype({"a": float, "b": float, "c": float})


OBJECTIVES = {"a": "max", "b": "min", "c": "min"}


def dominates(one: pd.Series, two: pd.Series) -> bool:
    signs = {name: 1 if way == "max" else -1 for name, way in OBJECTIVES.items()}
    gains = [sign * (one[name] - two[name]) for name, sign in signs.items()]
    return min(gains) >= 0 and max(gains) > 0


@settings(max_examples=60)
@given(frames())
def test_the_front_is_what_nothing_of_its_group_dominates(frame: pd.DataFrame) -> None:
    front = results.pareto(frame, OBJECTIVES)
    whole = frame.dropna()
    for index, row in whole.iterrows():
        rivals = whole[whole["group"] == row["group"]]
        beaten = any(dominates(other, row) for _, other in rivals.iterrows())
        assert (index in front.index) != beaten
    assert set(front.index) <= set(whole.index), "a row without a number is on no front"
    assert list(front.index) == sorted(front.index), "in the order of the frame"


@settings(max_examples=60)
@given(frames())
def test_the_front_of_a_front_is_itself(frame: pd.DataFrame) -> None:
    front = results.pareto(frame, OBJECTIVES)
    pd.testing.assert_frame_equal(results.pareto(front, OBJECTIVES), front)


def test_ties_are_all_kept() -> None:
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [2.0, 1.0]])).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_the_front_is_picked_on_validation(sweep_dir: Path) -> None:
    rows = results.variants(results.load(sweep_dir))
    assert default_objectives(rows) == {"validation_value": "max", "p50_ms.1x32": "min", "weights_bytes": "min"}
    front = results.pareto(rows)
    best = rows.sort_values("validation_value").iloc[-1]
    assert best.name in front.index
    # Better on test alone moves nothing.
    changed = rows.assign(metric_value=np.linspace(0, 1, len(rows)))
    assert list(results.pareto(changed).index) == list(front.index)


def test_jobs_that_measured_themselves_are_compared_by_their_speedups(tmp_path: Path) -> None:
    frame = results.load(sample.write_sweep(tmp_path, sample.sweep_records(key=None)))
    assert frame["group"].nunique() == 1
    assert "speedup.1x32" in default_objectives(frame)


def test_a_metric_that_should_fall_is_minimised(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir).assign(higher_is_better=False)
    assert default_objectives(frame)["validation_value"] == "min"


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ({"weight_bytes": "min"}, "did you mean 'weights_bytes'"),
        ({"weights_bytes": "least"}, "a direction is 'max' or 'min'"),
        ({"variant": "min"}, "holds what is no number"),
        ({}, "no objective"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(sweep_dir: Path, objectives: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        results.pareto(results.load(sweep_dir), objectives)
