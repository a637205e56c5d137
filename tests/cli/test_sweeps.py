"""Sweeps without their work: which jobs there are, where they run, what they know of each other."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from pathlib import Path

import pytest

from compress.cli.app import main
from compress.cli.compose import Composer
from compress.cli.sweep import expand
from compress.errors import ConfigError
from compress.pipeline.finish import write_status
from compress.sweeping import launchers
from compress.sweeping.jobs import SweepJob, is_kept
from compress.sweeping.ledger import Ledger, Orders, alone_in

LAUNCHERS = {
    "basic": None,
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": None,
}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def jobs_of(tmp_path: Path, *overrides: str) -> list[SweepJob]:
    from hydra.types import RunMode

    composer = Composer()
    lines = [*overrides, f"hydra.sweep.dir={tmp_path}", "hydra.mode=MULTIRUN", f"store.path={tmp_path / 'store'}"]
    return expand(composer, composer.compose(lines, RunMode.MULTIRUN))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes(launcher: str) -> None:
    from hydra.types import RunMode

    needed = LAUNCHERS[launcher]
    if needed and not is_installed(needed):
        pytest.skip(f"needs the extra {launchers.EXTRAS[launcher]}")
    config = Composer().compose([f"hydra/launcher={launcher}", "seed=1,2"], RunMode.MULTIRUN)
    assert launchers.is_parallel(config) == (launcher != "basic")
    assert launchers.is_remote(config) == (launcher in ("submitit_local", "submitit_slurm", "ray"))
    assert launchers.ends_with_us(config) == (launcher == "joblib")


def test_a_launcher_that_is_not_installed_names_its_extra() -> None:
    for name, extra in launchers.EXTRAS.items():
        explained = Composer()._explained(Exception(f"Could not find 'hydra/launcher/{name}'"))
        assert f"hydra/launcher={name} needs the extra '{extra}': pip install" in explained


@pytest.mark.skipif(is_installed("ray"), reason="ray is installed")
def test_without_ray_its_launcher_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "hydra/launcher=ray", "debug=tiny", "seed=1,2"]) == 2
    assert "pip install 'compress-transformers[ray]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hydra.sweep.subdir=same seed=1,2", "jobs 0 and 1 would both run in same"),
        ("hydra.sweep.subdir=.. seed=1,2", "must be a folder below hydra.sweep.dir"),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=0 seed=1,2", "n_jobs=0: must be at least 1"),
        ("hydra/launcher=submitit_slurm seed=1,2", "there is no sbatch here"),
    ],
)
def test_sweeps_that_cannot_start(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for launcher, module in LAUNCHERS.items():
        if f"={launcher} " in line and module and not is_installed(module):
            pytest.skip(f"needs the extra {launchers.EXTRAS[launcher]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["-m", "recipe=int8", "debug=tiny", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_jobs_have_directories_of_their_own(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "seed=1,2", "distill.temperature=1,2")
    assert [job.name for job in jobs] == ["0", "1", "2", "3"]
    assert jobs[2].launched[-1] == "hydra.sweep.subdir='2'"
    named = jobs_of(tmp_path, "seed=1,2", "hydra.sweep.subdir=${hydra.job.num}-${hydra:job.override_dirname}")
    assert named[1].name.startswith("1-")
    assert "seed=2" in named[1].name


def test_a_job_is_kept_only_if_it_is_whole_and_the_same(tmp_path: Path) -> None:
    job, other = jobs_of(tmp_path, "recipe=int8", "debug=tiny", "seed=1,2")
    assert not is_kept(job, "end")
    write_status(job.run_dir, "done", 0, digest=job.config.digest)
    assert not is_kept(job, "end"), "there is no record and no artifact"
    (job.run_dir / "artifact").mkdir()
    (job.run_dir / "artifact" / "checkpoint.json").write_text("{}")
    record = {name: {} for name in ("recipe", "task", "metric", "steps", "comparison", "environment")}
    record |= {"schema_version": 1, "variants": {"a": {}}, "baseline": "a", "candidate": "a", "data": {}}
    (job.run_dir / "record.json").write_text(json.dumps(record))
    assert is_kept(job, "end")
    for status in ("failed", "built", "equal"):
        write_status(job.run_dir, status, 1, digest=job.config.digest)
        assert not is_kept(job, "end")
    write_status(job.run_dir, "done", 0, digest=other.config.digest)
    assert not is_kept(job, "end"), "it is another job"


def test_a_sweep_runs_alone_in_its_directory(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ConfigError, match="a sweep is running there"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_equal_jobs_are_claimed_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open(Orders())
    assert ledger.claim("digest", "0") == "0"
    assert ledger.claim("digest", "5") == "0"
    assert ledger.claim("digest", "0") == "0", "a job that is run again keeps its claim"
    ledger.open(Orders())
    assert ledger.claim("digest", "5") == "5"


def test_orders_reach_the_jobs_and_undo_what_a_launcher_does_to_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    Ledger(tmp_path).open(Orders("end", parallel=True))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    orders = Ledger(tmp_path).orders
    assert (orders.when, orders.parallel) == ("end", True)
    orders.obey()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_jobs_at_the_same_time_get_a_gpu_each(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open(Orders())
    with ledger.lease("auto", 2) as one, ledger.lease("cuda", 2) as two:
        assert {one, two} == {"cuda:0", "cuda:1"}
        got: list[str] = []

        def wait() -> None:
            with ledger.lease("auto", 2) as third:
                got.append(third)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(0.8)
        assert not got, "there is no third GPU"
    thread.join(5)
    assert got[0] in ("cuda:0", "cuda:1")


@pytest.mark.parametrize(("device", "count"), [("auto", 1), ("auto", 0), ("cpu", 4), ("cuda:1", 4)])
def test_where_there_is_nothing_to_share_out_the_device_stays(device: str, count: int, tmp_path: Path) -> None:
    with Ledger(tmp_path).lease(device, count) as leased:
        assert leased == device


@pytest.mark.skipif(not is_installed("hydra_plugins.hydra_joblib_launcher"), reason="needs the extra joblib")
def test_more_threads_than_cores_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.types import RunMode

    monkeypatch.setattr(launchers, "usable_cores", lambda: 4)
    config = Composer().compose(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], RunMode.MULTIRUN)

    def crowding(*overrides: str) -> str | None:
        return launchers.crowding(config, [job.config for job in jobs_of(tmp_path, *overrides)])

    assert "2 jobs at once ask for 8 threads on 4 cores" in (crowding("seed=1,2,3") or "")
    assert "set threads=2 " in (crowding("seed=1,2,3") or "")
    assert crowding("seed=1,2,3", "threads=2") is None
    assert crowding("seed=1") is None
