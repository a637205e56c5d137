"""The studies: each composes into its jobs, and its results are written from a sweep."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml

from compress.cli.compose import Composer
from compress.cli.sweep import expand
from compress.errors import DataError
from compress.sweeping.jobs import SweepJob

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "results"))

import sample  # noqa: E402 - the made-up records of the tests of results

JOBS = {
    "distillation_losses": 42,
    "pareto": 12,
    "pruning_criteria": 90,
    "quantization_calibration": 12,
    "quantization_methods": 24,
}


def jobs_of(study: str, folder: Path) -> list[SweepJob]:
    from hydra.types import RunMode

    composer = Composer()
    lines = [f"+experiment={study}", f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN", f"store.path={folder}"]
    return expand(composer, composer.compose(lines, RunMode.MULTIRUN))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summarise", ROOT / "experiments" / "summarise.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "README.md").write_text("before\n\n<!-- results -->\nold\n<!-- end of results -->\nafter\n", "utf-8")
    return folder


def test_every_study_is_tested_and_says_what_it_asks() -> None:
    found = {file.parent.name for file in (ROOT / "experiments").glob("*/experiment.yaml")}
    assert found == set(JOBS)
    for name in found:
        readme = (ROOT / "experiments" / name / "README.md").read_text("utf-8")
        assert "**Question.**" in readme
        assert f"+experiment={name} -m" in readme
        assert "## Findings" in readme


@pytest.mark.parametrize("study_name", JOBS)
def test_a_study_composes_into_its_jobs(study_name: str, tmp_path: Path) -> None:
    jobs = jobs_of(study_name, tmp_path)
    assert len(jobs) == JOBS[study_name]
    content = yaml.safe_load((ROOT / "experiments" / study_name / "experiment.yaml").read_text("utf-8"))
    keys = set(content["hydra"]["sweeper"]["params"])
    assert all(keys <= {item.partition("=")[0] for item in job.overrides} for job in jobs)


def test_results_are_written_beside_a_study(script: ModuleType, study: Path, tmp_path: Path) -> None:
    sweep = sample.write_sweep(tmp_path / "sweep", sample.sweep_records())
    written = script.summarise(study, sweep)
    assert all(file.is_file() for file in written)
    assert {file.name for file in written} >= {"results.csv", "results.parquet", "README.md", "pareto.png"}
    table, frame = pd.read_csv(study / "results.csv"), pd.read_parquet(study / "results.parquet")
    assert table["name"].is_unique
    assert len(table) < len(frame), "equal checkpoints once"
    assert not [name for name in table if name.startswith("quantiles_ms")]
    assert not frame["run"].str.startswith("/").any(), "no path of the machine"
    text = (study / "README.md").read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(table) + 1
    assert sum(line.startswith("| **") for line in text.splitlines()) == table["front"].sum() > 0


def test_results_written_twice_are_the_same(script: ModuleType, study: Path, tmp_path: Path) -> None:
    sweep = sample.write_sweep(tmp_path / "sweep", sample.sweep_records())
    first = {file: file.read_bytes() for file in script.summarise(study, sweep)}
    assert {file: file.read_bytes() for file in script.summarise(study, sweep)} == first


def test_a_sweep_that_is_not_done_is_no_result(script: ModuleType, study: Path, tmp_path: Path) -> None:
    sweep = sample.write_sweep(tmp_path / "sweep", sample.sweep_records())
    broken = sweep / "99"
    broken.mkdir()
    (broken / "status.json").write_text('{"status": "failed", "exit_status": 1, "reason": "disk full"}', "utf-8")
    with pytest.raises(DataError, match="99"):
        script.summarise(study, sweep)
    assert not (study / "results.csv").exists()


def test_a_study_of_several_seeds_is_put_together_over_them(script: ModuleType, study: Path, tmp_path: Path) -> None:
    records = []
    for seed in (0, 1):
        for record in sample.sweep_records(layers=(2, 3), options=("int8",), key=f"g{seed}"):
            record["seed"] = seed
            record["overrides"] = [*record["overrides"], f"seed={seed}"]
            records.append(record)
    written = script.summarise(study, sample.write_sweep(tmp_path / "sweep", records))
    assert {file.name for file in written} >= {"results.csv", "results.parquet", "README.md"}
    text = (study / "README.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 6, "three variants of two depths"
    assert text.count("| variant |") == 1
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == {"distill", "export", "quantize"}
    assert all(line.endswith("| 2 |") for line in rows)
