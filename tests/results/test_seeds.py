"""Settings put together over seeds: medians, spreads, a figure, and a study's table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sample

from compress import results
from compress.errors import DataError


def seeded(seeds: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    """Return the records of two depths at several seeds, each seed one point worse than the one before."""
    records = []
    for seed in seeds:
        for found in sample.sweep_records(layers=(2, 3), options=("int8",), key=f"g{seed}"):
            record = copy.deepcopy(found)
            record["seed"] = seed
            record["overrides"] = [*record["overrides"], f"seed={seed}"]
            # A seed's fine-tuning is better than the one before by 2 points, what comes of it by 1: 1 more is lost.
            record["variants"]["finetune"]["metrics"]["accuracy"] += 0.02 * seed
            record["variants"]["quantize"]["metrics"]["accuracy"] += 0.01 * seed
            record["variants"]["quantize"]["size"]["macs"] = 170_000_000
            records.append(record)
    return records


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return results.load(sample.write_sweep(tmp_path / "sweep", seeded()))


def test_a_setting_has_a_row_with_its_middle_and_its_spread(frame: pd.DataFrame) -> None:
    table = results.over_seeds(frame)
    rows = table[table["variant"] == "quantize"].set_index("override.distill.student.layers")
    assert sorted(rows.index) == ["2", "3"]
    own = frame[(frame["variant"] == "quantize") & (frame["override.distill.student.layers"] == "2")]
    row = rows.loc["2"]
    assert row["seeds"] == 3
    assert row["metric_difference"] == pytest.approx(own["metric_value"].iloc[0] - 0.86 - 0.01)
    assert row["metric_difference_low"] == pytest.approx(row["metric_difference"] - 0.01)
    assert row["metric_difference_high"] == pytest.approx(row["metric_difference"] + 0.01)
    assert row["metric_difference_sd"] == pytest.approx(0.01)
    assert row["macs_ratio"] == pytest.approx(2)
    assert row["speedup.1x32"] == pytest.approx(own["speedup.1x32"].median())


def test_each_seed_has_its_own_baseline_once(frame: pd.DataFrame) -> None:
    table = results.over_seeds(frame)
    baselines = table[table["role"] == "baseline"]
    assert list(baselines["seeds"]) == [3]


def test_a_sweep_measured_together_has_one_baseline_and_each_seed_still_its_own(tmp_path: Path) -> None:
    records = seeded()
    for record in records:
        record["group"]["key"] = "one"
    frame = results.load(sample.write_sweep(tmp_path / "sweep", records))
    other = frame[(frame["run"] != frame["run"].iloc[0]) & (frame["role"] == "baseline")]
    frame.loc[other.index, "role"] = ""
    foreign = other.assign(variant="baseline", role="baseline", metric_value=0.86)
    frame = pd.concat([frame, foreign], ignore_index=True)
    frame["metric_difference"] = frame["metric_value"] - 0.86  # the sweep's: to the first seed's
    table = results.over_seeds(frame)
    assert list(table.loc[table["role"] == "baseline", "metric_difference_low"]) == [0]
    row = table[table["variant"] == "quantize"].iloc[0]
    assert row["metric_difference_high"] - row["metric_difference_low"] == pytest.approx(0.02)


def test_one_seed_twice_is_an_error(tmp_path: Path) -> None:
    frame = results.load(sample.write_sweep(tmp_path / "sweep", [*seeded(), seeded()[0]]))
    with pytest.raises(DataError, match="twice under one seed"):
        results.over_seeds(frame)


def test_the_figure_has_a_line_per_value(frame: pd.DataFrame) -> None:
    table = results.over_seeds(frame)
    figure = results.plot_seeds(table, x="macs_ratio", series="override.distill.student.layers")
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"2", "3"}
    with pytest.raises(DataError, match="no column nothing"):
        results.plot_seeds(table, x="nothing", series="variant")


def test_without_a_column_of_numbers_each_value_has_a_row_the_best_above(frame: pd.DataFrame) -> None:
    table = results.over_seeds(frame)
    students = table[table["override.distill.student.layers"].notna() & (table["variant"] == "quantize")]
    figure = results.plot_seeds(students, x=None, series="override.distill.student.layers")
    (axes,) = figure.axes
    best = students.sort_values("metric_difference")["override.distill.student.layers"].astype(str)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(best)
    with pytest.raises(DataError, match="no row has all of"):
        results.plot_seeds(students.assign(metric_difference=None), x=None, series="variant")
