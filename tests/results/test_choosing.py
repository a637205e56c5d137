"""What to ship for a budget, and two runs side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sample

from compress import results
from compress.errors import DataError


def test_within_a_loss_the_fastest_comes_first(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    found = results.choose(frame, max_metric_drop=0.011, min_speedup=2)
    assert (found["validation_difference"] >= -0.011 - 1e-9).all()
    assert (found["speedup.1x32"] >= 2).all()
    assert found["p50_ms.1x32"].is_monotonic_increasing
    assert len(found) == len(results.variants(found)), "equal checkpoints once"


def test_without_a_limit_of_loss_the_best_on_validation_comes_first(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    found = results.choose(frame, min_size_ratio=4)
    assert found["validation_value"].is_monotonic_decreasing
    assert (found["size_ratio"] >= 4).all()


def test_the_test_split_chooses_nothing(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    found = results.choose(frame, max_metric_drop=0.011)
    changed = frame.assign(metric_value=0.0, metric_difference=-1.0)
    assert list(results.choose(changed, max_metric_drop=0.011).index) == list(found.index)


def test_the_baseline_may_be_what_to_ship(sweep_dir: Path) -> None:
    found = results.choose(results.load(sweep_dir), max_metric_drop=0.0)
    assert "finetune" in list(found["variant"])


def test_confident_judges_the_worse_end_of_the_interval(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    loose, strict = (results.choose(frame, min_speedup=4.9, confident=sure) for sure in (False, True))
    assert set(strict.index) < set(loose.index)
    assert (strict["speedup_low.1x32"] >= 4.9).all()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"max_latency_ms": 0.1},
            r"nothing meets max_latency_ms=0\.1: the lowest median latency at 1x32 of all is 0\.9 ",
        ),
        ({"min_size_ratio": 50, "min_speedup": 2}, r"nothing meets min_size_ratio=50: the highest ratio"),
        (
            {"max_metric_drop": 0.001, "min_speedup": 3},
            r"each limit is met by something, nothing meets all; max_metric_drop=0\.001: the lowest loss on validation "
            r"of those that meet the rest is 0\.\d+ \(\w+.*; min_speedup=3: the highest speedup at 1x32 of those",
        ),
    ],
)
def test_a_budget_that_nothing_keeps_says_what_comes_nearest(
    sweep_dir: Path, limits: dict[str, float], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        results.choose(results.load(sweep_dir), **limits)


def test_what_was_not_measured_keeps_no_budget(record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="max_metric_drop: the loss on validation was not measured"):
        results.choose(results.frame_of(record), max_metric_drop=0.1)
    with pytest.raises(DataError, match="shape='1x33' was not measured; measured: 1x32, 8x128"):
        results.choose(results.frame_of(record), min_speedup=1, shape="1x33")


def of(table: pd.DataFrame, quantity: str) -> pd.Series:
    return table.set_index("quantity").loc[quantity]


def test_variants_of_one_measurement_are_compared_directly(full_record: dict[str, Any]) -> None:
    table = results.compare(full_record, full_record, variants=("export", "quantize"))
    line = of(table, "median ms at 1 × 32")
    assert line["change"] == pytest.approx(2.0)
    assert line["low"] == pytest.approx(2 * 0.97 / 1.03)
    assert line["verdict"] == "faster"
    assert line["basis"] == "one interleaved measurement"
    assert of(table, "bytes of weights")["verdict"] == "smaller"


def test_against_the_baseline_the_measured_intervals_hold(full_record: dict[str, Any]) -> None:
    table = results.compare(full_record, full_record, variants=("finetune", "quantize"))
    metric = of(table, "accuracy, test")
    assert (metric["low"], metric["high"]) == (pytest.approx(-0.024), pytest.approx(-0.006))
    assert metric["verdict"] == "worse"
    line = of(table, "median ms at 1 × 32")
    assert (line["low"], line["high"]) == (pytest.approx(7.2 * 0.97), pytest.approx(7.2 * 1.03))


def test_a_difference_within_both_intervals_is_inconclusive(full_record: dict[str, Any]) -> None:
    table = results.compare(full_record, full_record, variants=("distill", "quantize"))
    metric = of(table, "accuracy, test")
    assert metric["change"] == pytest.approx(-0.005)
    assert metric["verdict"] == "inconclusive"
    assert metric["low"] < metric["change"] < metric["high"]


def test_runs_measured_apart_are_compared_by_their_ratios(full_record: dict[str, Any]) -> None:
    slower = copy.deepcopy(full_record)
    for variant in slower["variants"].values():
        for item in variant["latency"]:
            item["p50_ms"] *= 1.5  # a busier day: the ratios are the same
    line = of(results.compare(full_record, slower, variants=("export", "quantize")), "median ms at 1 × 32")
    assert (line["change"], line["verdict"]) == (pytest.approx(2.0), "faster")
    assert "each by its ratio to the same baseline finetune" in line["basis"]
    assert "equal checkpoints differ by 0% between the two runs" in line["basis"]


def test_runs_that_differ_in_equal_checkpoints_widen_the_interval(full_record: dict[str, Any]) -> None:
    other = copy.deepcopy(full_record)
    for item in other["comparisons"]["distill"]["speedup"]:
        item["value"] *= 2.1  # a day on which torch's baseline was slow
    line = of(results.compare(full_record, other, variants=("export", "quantize")), "median ms at 1 × 32")
    assert line["change"] == pytest.approx(2.0)
    assert line["low"] == pytest.approx(2 * 0.97 / 1.03 / 2.1)
    assert line["verdict"] == "inconclusive"
    assert "equal checkpoints differ by 110%" in line["basis"]


def test_the_same_checkpoint_is_never_called_faster_than_itself(full_record: dict[str, Any]) -> None:
    other = copy.deepcopy(full_record)
    for item in other["comparisons"]["quantize"]["speedup"]:
        item.update({name: 2 * item[name] for name in ("value", "low", "high")})
    other["comparison"] = other["comparisons"]["quantize"]
    line = of(results.compare(full_record, other), "median ms at 1 × 32")
    assert line["verdict"] == "equal"
    assert "the same checkpoint; what differs is the runs" in line["basis"]


def test_jobs_measured_together_are_compared_directly(sweep_dir: Path) -> None:
    table = results.compare(sweep_dir / "0", sweep_dir / "8")
    assert set(table.loc[table["quantity"].str.startswith("median"), "basis"]) == {"one interleaved measurement"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda record: record["environment"]["cpu"].update(model="another"), "different machines"),
        (lambda record: record["steps"][0].update(key="x" * 64), "different baselines"),
    ],
)
def test_what_cannot_be_compared_is_not(full_record: dict[str, Any], spoil: Any, said: str) -> None:
    other = copy.deepcopy(full_record)
    spoil(other)
    line = of(results.compare(full_record, other), "median ms at 1 × 32")
    assert line["verdict"] == "not comparable"
    assert said in line["basis"]
    assert pd.isna(line["change"])


def test_metrics_of_different_data_are_not_compared(full_record: dict[str, Any]) -> None:
    other = copy.deepcopy(full_record)
    other["data"]["fingerprint"] = "0" * 64
    assert of(results.compare(full_record, other), "accuracy, test")["verdict"] == "not comparable"


def test_an_unknown_variant_or_task_is_refused(full_record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="variant 'prune' was not measured"):
        results.compare(full_record, full_record, variants=("prune", None))
    with pytest.raises(DataError, match="no quantity in common"):
        results.compare(full_record, {**full_record, "task": "token_classification"})


def test_sample_jobs_share_what_they_should() -> None:
    first, second, *_ = sample.sweep_records()
    assert first["steps"][1]["key"] == second["steps"][1]["key"]
    assert first["steps"][3]["key"] != second["steps"][3]["key"]
