"""Frames over runs and sweeps, and the rows that one wants of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import sample

from compress import results


def test_a_frame_holds_what_the_record_does(full_record: dict[str, Any]) -> None:
    frame = results.frame_of(full_record).set_index("variant")
    row = frame.loc["quantize"]
    assert row["validation_value"] == pytest.approx(0.855)
    assert row["metric_difference"] == pytest.approx(-0.015)
    assert row["metric_difference_low"] == pytest.approx(-0.024)
    assert row["validation_difference_high"] == pytest.approx(-0.003)
    assert row["mcnemar_p"] == pytest.approx(0.125)
    assert (row["mcnemar_only_baseline"], row["mcnemar_only_candidate"]) == (15, 6)
    assert row["agreement"] == pytest.approx(0.97)
    assert row["cold_start_ms"] == 1141
    assert row["model_bytes"] == int(1.3 * 17_500_000)
    assert row["threads_tried.1x32"] == "1: 1.25, 2: 1.5"
    assert len(row["quantiles_ms.1x32"]) == 41
    assert row["together_with"] == 4
    assert row["checkpoint"] == "q" * 64
    assert row["baseline_checkpoint"] == "f" * 64
    assert row["path"] == "finetune > distill > export > quantize"
    base = frame.loc["finetune"]
    assert base["metric_difference"] == base["validation_difference"] == 0


def test_a_frame_of_an_older_record_has_the_same_columns(record: dict[str, Any], full_record: dict[str, Any]) -> None:
    old, new = results.frame_of(record), results.frame_of(full_record)
    assert set(new) - set(old) == {"validation.accuracy", "validation.f1_macro"}
    assert old["validation_value"].isna().all()
    # The differences of single values are known without intervals; the artifact's was measured.
    assert old.set_index("variant").loc["distill", "metric_difference"] == pytest.approx(-0.01)
    assert old["metric_difference_low"].notna().sum() == 2


def test_a_sweep_has_a_row_for_each_run_without_numbers(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    rest = frame[frame["variant"].isna()]
    rest = rest.set_index(rest["run"].map(lambda run: Path(run).name))
    assert dict(rest["status"]) == {"9": "failed", "10": "equal", "11": "built", "12": "unfinished"}
    assert rest.loc["10", "equal_to"] == "2"
    assert rest.loc["12", "override.distill.student.layers"] == "9"
    assert [Path(run).name for run in dict.fromkeys(frame["run"])] == [str(number) for number in range(13)]
    assert list(results.failed(frame)["reason"]) == ["no space"]


def test_what_a_search_tried_is_a_part_of_its_run(tmp_path: Path, record: dict[str, Any]) -> None:
    from compress.results.record import write_json

    for place in ("0", "0/search/trial_0", "1/search/trial_0"):
        (tmp_path / place).mkdir(parents=True)
        write_json(tmp_path / place / "record.json", record)
    (tmp_path / "1" / "status.json").write_text('{"status": "failed", "exit_status": 1, "reason": "no disk"}')
    frame = results.load(tmp_path)
    assert {Path(run).name for run in frame["run"]} == {"0", "1"}
    assert list(frame[frame["run"] == str(tmp_path / "1")]["status"]) == ["failed"]
    assert set(results.load(tmp_path / "0" / "search")["run"]) == {str(tmp_path / "0" / "search" / "trial_0")}


def test_checkpoints_that_several_jobs_share_are_counted_once(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    rows = results.variants(frame)
    assert frame["variant"].notna().sum() == 36
    assert len(rows) == 1 + 3 + 3 + 9
    assert dict(rows["variant"].value_counts()) == {"quantize": 9, "distill": 3, "export": 3, "finetune": 1}
    assert rows.set_index("variant").loc["finetune", "jobs"] == 9
    assert set(rows.loc[rows["variant"] == "distill", "jobs"]) == {3}
    assert len(results.artifacts(frame)) == 9


def test_names_tell_variants_apart_by_what_made_them(sweep_dir: Path) -> None:
    rows = results.variants(results.load(sweep_dir))
    names = results.names(rows)
    assert names.is_unique
    assert list(names[rows["role"] == "baseline"]) == ["finetune fp32"]
    # A step after the variant made no difference to it: quantize.option is not in the name of a student.
    assert sorted(names[rows["variant"] == "distill"]) == [f"distill fp32, layers={n}" for n in (2, 3, 4)]
    assert "quantize int8, layers=2, uint8" in set(names)


def test_runs_with_baselines_of_their_own_are_different_groups(tmp_path: Path) -> None:
    one, two = sample.sweep_records(layers=(2,), options=("int8", "uint8"), key=None)
    two["steps"][0]["key"] = "another" + "0" * 57
    frame = results.load(sample.write_sweep(tmp_path, [one, two]))
    assert frame["group"].nunique() == 2
    two["steps"][0]["key"] = one["steps"][0]["key"]
    frame = results.load(sample.write_sweep(tmp_path / "same", [one, two]))
    assert frame["group"].nunique() == 1
    assert frame["measurement"].nunique() == 2, "each measured itself"


def test_jobs_measured_together_share_a_measurement(tmp_path: Path) -> None:
    one, two = sample.sweep_records(layers=(2,), options=("int8", "uint8"))
    assert results.load(sample.write_sweep(tmp_path / "once", [one, two]))["measurement"].nunique() == 1
    two["variants"]["finetune"]["latency"][0]["p50_ms"] += 0.01
    again = results.load(sample.write_sweep(tmp_path / "twice", [one, two]))
    assert again["group"].nunique() == 1
    assert again["measurement"].nunique() == 2, "the same group, measured on another day"


def test_a_group_has_one_baseline_though_it_is_another_jobs(tmp_path: Path) -> None:
    one, two = sample.sweep_records(layers=(2, 3), options=("int8",))
    # The second job fine-tuned with another seed: its own fine-tuned model is a variant beside the group's baseline.
    two["variants"] = {"baseline": copy.deepcopy(two["variants"]["finetune"]), **two["variants"]}
    two["variants"]["finetune"]["metrics"]["accuracy"] = 0.87
    two["baseline"] = "baseline"
    two["steps"][0]["key"] = "another" + "0" * 57
    rows = results.variants(results.load(sample.write_sweep(tmp_path, [one, two])))
    assert len(rows) == 4 + 4
    assert list(rows.loc[rows["role"] == "baseline", "jobs"]) == [2]
    assert rows.loc[rows["variant"] == "finetune", "checkpoint"].nunique() == 2
    table = results.compare(tmp_path / "0", tmp_path / "1").set_index("quantity")
    assert table.loc["accuracy, test", "basis"].startswith("from both paired intervals")
