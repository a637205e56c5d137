"""Sweeps that run: measured together, broken, killed, in parallel, searched."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TINY = ("debug=tiny", "threads=1", "finetune.epochs=1", "distill.epochs=1", "benchmark.memory=false")


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_joblib = pytest.mark.skipif(not is_installed("hydra_plugins.hydra_joblib_launcher"), reason="needs extra joblib")
needs_submitit = pytest.mark.skipif(
    not is_installed("hydra_plugins.hydra_submitit_launcher"), reason="needs extra slurm"
)
needs_optuna = pytest.mark.skipif(not is_installed("optuna"), reason="needs extra optuna")
needs_ray = pytest.mark.skipif(not is_installed("ray"), reason="needs extra ray")


def command(store: Path, sweep: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "compress", "-m", *TINY),
        *(f"store.path={store}", f"hydra.sweep.dir={sweep}"),
        *overrides,
    ]


def run(store: Path, sweep: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(store, sweep, *overrides), capture_output=True, text=True, timeout=400, check=False)


def status(run_dir: Path) -> dict[str, Any]:
    file = run_dir / "status.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def record(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "record.json").read_text())
    return found


def artifact(run_dir: Path) -> bytes:
    return (run_dir / "artifact" / "checkpoint.json").read_bytes()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < end
        time.sleep(0.05)


GRID = ("recipe=distill_int8", "distill.student.layers=1,7", "quantize.per_channel=true,false")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return store and directory of a sweep of four, of which a student of seven layers cannot be."""
    root = tmp_path_factory.mktemp("grid")
    result = run(root / "store", root / "sweep", *GRID)
    assert result.returncode == 1, result.stderr[-4000:]
    assert "4 jobs: 2 failed" in result.stderr
    return root / "store", root / "sweep"


def test_a_sweep_measures_its_jobs_together_against_one_baseline(grid: tuple[Path, Path]) -> None:
    _, sweep = grid
    records = [record(sweep / name) for name in ("0", "1")]
    assert records[0]["group"] == records[1]["group"]
    assert records[0]["group"]["baseline_run"] == "0"
    for found in records:
        assert list(found["variants"]) == ["finetune", "distill", "export", "simplify", "quantize"]
        assert found["baseline"] == "finetune"
        assert found["comparison"] == found["comparisons"]["quantize"]
    # Measured once, so its figures are the same to the last digit.
    for name in ("finetune", "distill", "export", "simplify"):
        assert records[0]["variants"][name] == records[1]["variants"][name]
    assert records[0]["variants"]["quantize"] != records[1]["variants"]["quantize"]
    assert [step["cached"] for step in records[1]["steps"]] == [True, True, True, True, False]
    for name in ("0", "1"):
        assert status(sweep / name)["status"] == "done"
        assert {"report.md", "report.html", "artifact", "record.json"} <= {f.name for f in (sweep / name).iterdir()}
        assert (sweep / name / "artifact" / "README.md").is_file()


def test_a_broken_job_is_listed_with_its_reason(grid: tuple[Path, Path]) -> None:
    _, sweep = grid
    assert status(sweep / "3")["status"] == "failed"
    assert "layers" in status(sweep / "3")["reason"]
    assert "layers" in (sweep / "report.md").read_text()
    assert (sweep / "results.parquet").is_file()
    assert not (sweep / ".jobs").exists()


def test_a_sweep_begun_again_repeats_only_what_failed(grid: tuple[Path, Path]) -> None:
    store, sweep = grid
    before = {name: (sweep / name / "record.json").stat().st_mtime_ns for name in ("0", "1")}
    result = run(store, sweep, *GRID)
    assert result.returncode == 1
    assert "2 of 4 jobs are kept from an earlier start: 0, 1" in result.stderr
    assert {name: (sweep / name / "record.json").stat().st_mtime_ns for name in ("0", "1")} == before


def test_a_job_measured_later_keeps_the_group_s_baseline(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, begun = grid
    sweep = tmp_path / "sweep"
    shutil.copytree(begun, sweep)
    # Job 0 stands there as it was; job 1 is another now, with a fine-tuning of its own.
    result = run(
        store, sweep, "recipe=distill_int8", "distill.student.layers=1", "quantize.per_channel=true", "seed=0,1"
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "1 of 2 jobs are kept from an earlier start: 0" in result.stderr
    later = record(sweep / "1")
    assert later["group"] == record(sweep / "0")["group"]
    assert later["baseline"] == "baseline"
    assert list(later["variants"]) == ["baseline", "finetune", "distill", "export", "simplify", "quantize"]


def test_killed_in_the_middle_it_finishes_only_what_is_missing(grid: tuple[Path, Path], tmp_path: Path) -> None:
    _, undisturbed = grid
    arguments = ("recipe=distill_int8", "distill.student.layers=1", "quantize.per_channel=true,false")
    process = subprocess.Popen(
        command(tmp_path / "store", tmp_path / "sweep", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: status(tmp_path / "sweep" / "0").get("status") == "built", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = (tmp_path / "sweep" / "0" / "built.json").stat().st_mtime_ns
    result = run(tmp_path / "store", tmp_path / "sweep", *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "kept from an earlier start: 0" in result.stderr
    assert (tmp_path / "sweep" / "0" / "built.json").stat().st_mtime_ns == written
    assert artifact(tmp_path / "sweep" / "0") == artifact(undisturbed / "0")


def test_a_checkpoint_that_left_the_store_is_made_again(tmp_path: Path) -> None:
    arguments = ("recipe=int8", "quantize.per_channel=true,false", "store.max_bytes=1")
    result = run(tmp_path / "store", tmp_path / "sweep", *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert [step["cached"] for step in record(tmp_path / "sweep" / "1")["steps"]] == [True, True, True, False]
    (tmp_path / "sweep" / "1" / "record.json").unlink()
    written = status(tmp_path / "sweep" / "1")
    (tmp_path / "sweep" / "1" / "status.json").write_text(json.dumps({**written, "status": "built"}))
    for folder in (tmp_path / "store" / "objects").iterdir():
        (folder / "checkpoint.json").unlink()
    result = run(tmp_path / "store", tmp_path / "sweep", *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "is made again" in result.stderr
    assert record(tmp_path / "sweep" / "1")["group"]["baseline_run"] == "0"


def test_each_job_may_measure_itself(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    result = run(store, tmp_path / "sweep", "recipe=int8", "quantize.per_channel=true,false", "benchmark.when=job")
    assert result.returncode == 0, result.stderr[-4000:]
    found = [record(tmp_path / "sweep" / name) for name in ("0", "1")]
    assert not any("group" in one for one in found)
    assert found[0]["variants"]["finetune"] != found[1]["variants"]["finetune"]


@needs_joblib
def test_two_jobs_at_a_time_give_the_same_checkpoints(grid: tuple[Path, Path], tmp_path: Path) -> None:
    _, one_by_one = grid
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    result = run(tmp_path / "store", tmp_path / "sweep", *GRID, *parallel)
    assert result.returncode == 1, result.stderr[-4000:]
    assert "4 jobs: 2 failed" in result.stderr
    for name in ("0", "1"):
        assert artifact(tmp_path / "sweep" / name) == artifact(one_by_one / name)
    cached = [step["cached"] for name in ("0", "1") for step in record(tmp_path / "sweep" / name)["steps"]]
    assert cached.count(False) == 6, "a step was run twice"


def children(process: subprocess.Popen[Any]) -> list[Any]:
    import psutil

    try:
        found = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in found if "popen_loky" in " ".join(child.cmdline())]


@needs_joblib
def test_a_killed_worker_neither_hangs_the_sweep_nor_takes_other_jobs_with_it(
    grid: tuple[Path, Path], tmp_path: Path
) -> None:
    store, _ = grid
    process = subprocess.Popen(
        command(
            *(store, tmp_path / "sweep", "recipe=int8", "quantize.per_channel=true,false", "seed=0,1"),
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "finetune.epochs=3"),
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (tmp_path / "sweep" / "0" / "compress.log").is_file(), process)
    for child in children(process)[:1]:
        child.send_signal(signal.SIGKILL)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error[-4000:]
    assert "a process was killed" in error
    assert [status(tmp_path / "sweep" / str(number))["status"] for number in range(4)] == ["done"] * 4


@needs_joblib
def test_workers_end_when_the_sweep_is_killed(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    process = subprocess.Popen(
        command(
            *(store, tmp_path / "sweep", "recipe=int8", "seed=7,8", "finetune.epochs=50"),
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (tmp_path / "sweep" / "1" / "compress.log").is_file(), process)
    workers = children(process)
    assert workers
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while any(worker.is_running() and worker.status() != "zombie" for worker in workers):
        assert time.monotonic() < end, "a worker goes on"
        time.sleep(0.1)


@needs_submitit
def test_on_a_cluster_the_measurement_is_a_last_job(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    result = run(
        store, tmp_path / "sweep", "recipe=int8", "quantize.per_channel=true,false", "hydra/launcher=submitit_local"
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "one more job of the launcher" in result.stderr
    assert record(tmp_path / "sweep" / "1")["group"]["baseline_run"] == "0"


@needs_ray
def test_ray_runs_a_sweep(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    result = run(store, tmp_path / "sweep", "recipe=int8", "quantize.per_channel=true,false", "hydra/launcher=ray")
    assert result.returncode == 0, result.stderr[-4000:]
    assert record(tmp_path / "sweep" / "1")["group"]["baseline_run"] == "0"


SEARCH = (
    *("hydra/sweeper=optuna", "recipe=int8,distill_int8", "quantize.per_channel=true,false"),
    *("quantize.embeddings=true,false", "distill.student.layers=1,7"),
)


@needs_optuna
def test_a_study_finds_a_front_and_is_continued(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    sweep = tmp_path / "sweep"
    first = run(store, sweep, *SEARCH, "hydra.sweeper.n_trials=3")
    assert first.returncode in (0, 1), first.stderr[-4000:]
    found = json.loads((sweep / "front.json").read_text())
    assert found["trials"] == 3
    assert [objective["direction"] for objective in found["objectives"]] == ["maximize", "minimize", "minimize"]
    before = {file.parent.name for file in sweep.glob("*/status.json")}
    second = run(store, sweep, *SEARCH, "hydra.sweeper.n_trials=6")
    assert second.returncode in (0, 1), second.stderr[-4000:]
    found = json.loads((sweep / "front.json").read_text())
    assert found["trials"] == 6
    runs = {file.parent.name for file in sweep.glob("*/status.json")}
    assert before < runs
    assert len(runs) == 6
    digests = [status(sweep / name)["digest"] for name in runs if status(sweep / name)["status"] == "done"]
    assert len(set(digests)) == len(digests), "equal jobs were run twice"
    assert found["front"]
    assert any(entry["on_front"] for entry in found["front"])
    together = [entry for entry in found["front"] if entry["measured_together"]]
    assert len(found["front"]) == 1 or together
    for entry in together:
        assert record(sweep / entry["run"])["group"]
    assert "solutions:" in (sweep / "optimization_results.yaml").read_text()
    assert (sweep / "results.parquet").is_file()
    failed = [name for name in runs if status(sweep / name)["status"] == "failed"]
    assert all("layers" in status(sweep / name)["reason"] for name in failed)
    third = run(store, sweep, *SEARCH, "hydra.sweeper.n_trials=6")
    assert {file.parent.name for file in sweep.glob("*/status.json")} == runs
    assert third.returncode == second.returncode


def test_an_experiment_is_a_sweep_in_a_file(grid: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = grid
    folder = tmp_path / "configs" / "experiments" / "channels"
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(
        "# @package _global_\n# Per tensor or per channel.\n"
        "defaults: [{override /recipe: int8}, {override /debug: tiny}]\n"
        "hydra:\n  sweeper:\n    params:\n      quantize.per_channel: true,false\n"
    )
    arguments = ["--config-dir", str(tmp_path / "configs"), "+experiment=channels"]
    result = run(store, tmp_path / "sweep", *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert [record(tmp_path / "sweep" / name)["recipe"] for name in ("0", "1")] == ["int8", "int8"]
    assert "2 jobs: 0 failed" in result.stderr
