"""The whole path on the tiny preset: from the command line to an artifact that answers elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def command(store: Path, run: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "compress", "recipe=distill_int8", "debug=tiny"),
        f"store.path={store}",
        f"hydra.run.dir={run}",
        *overrides,
    ]


def run_job(store: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(store, run, *overrides), capture_output=True, text=True, timeout=300, check=False)


def digest(run: Path) -> dict[str, object]:
    manifest: dict[str, object] = json.loads((run / "artifact" / "checkpoint.json").read_text())
    return manifest


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("main")
    result = run_job(root / "store", root / "run")
    assert result.returncode == 0, result.stderr[-4000:]
    return root / "store", root / "run"


def test_run_directory_keeps_the_contract(done: tuple[Path, Path]) -> None:
    _, run = done
    expected = {"record.json", "report.md", "report.html", "plots", "artifact", "compress.log", "status.json", ".hydra"}
    assert expected <= {path.name for path in run.iterdir()}
    assert not (run / ".benchmark").exists()
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    record = json.loads((run / "record.json").read_text())
    assert record["schema_version"] == 1
    assert record["recipe"] == "distill_int8"
    assert [step["name"] for step in record["steps"]] == ["finetune", "distill", "export", "simplify", "quantize"]
    assert record["baseline"] == "finetune"
    assert record["candidate"] == "quantize"
    for variant in record["variants"].values():
        assert 0 <= variant["metrics"]["accuracy"] <= 1
        assert {"device", "threads", "batch_size", "sequence_length", "p50_ms", "p90_ms", "p95_ms", "p99_ms"} <= set(
            variant["latency"][0]
        )
        assert variant["memory"]["peak_rss_bytes"] > 1e6
        assert variant["size"]["weights_bytes"] > variant["size"]["embedding_bytes"] > 0
        assert variant["size"]["macs"] > 0
    speedup = record["comparison"]["speedup"][0]
    assert speedup["low"] <= speedup["value"] <= speedup["high"]
    assert speedup["verdict"] in {"faster", "slower", "inconclusive"}
    assert record["comparison"]["size_ratio"] > 1
    assert record["budget"] == {"met": True, "missed": [], "asked": {}}
    assert {"name", "fingerprint", "rows", "labels", "cleaning", "truncated"} <= set(record["data"])


def test_second_run_reuses_every_step_and_gives_the_same_artifact(done: tuple[Path, Path], tmp_path: Path) -> None:
    store, run = done
    result = run_job(store, tmp_path / "again")
    assert result.returncode == 0, result.stderr[-4000:]
    record = json.loads((tmp_path / "again" / "record.json").read_text())
    assert all(step["cached"] for step in record["steps"])
    assert digest(tmp_path / "again") == digest(run)


def test_a_changed_quantization_repeats_only_quantization(done: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = done
    result = run_job(store, tmp_path / "run", "quantize.per_channel=false")
    assert result.returncode == 0, result.stderr[-4000:]
    steps = json.loads((tmp_path / "run" / "record.json").read_text())["steps"]
    assert [step["cached"] for step in steps] == [True, True, True, True, False]


def test_a_missed_budget_exits_with_3_and_a_complete_run(done: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = done
    result = run_job(store, tmp_path / "run", "budget.min_size_ratio=1000")
    assert result.returncode == 3, result.stderr[-4000:]
    assert "min_size_ratio" in result.stderr + result.stdout
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "budget missed"
    assert (tmp_path / "run" / "artifact" / "checkpoint.json").is_file()


def test_artifact_answers_elsewhere_without_store_or_network(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = done
    shutil.copytree(run / "artifact", tmp_path / "elsewhere")
    code = (
        "import compress, sys; model = compress.load(sys.argv[1]);"
        "answers = model.predict(['what a lovely day', 'this is awful']); print(len(answers), answers[0]['label'])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "none")}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "elsewhere")],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert result.stdout.startswith("2 ")


def test_dry_run_writes_nothing_and_knows_what_is_cached(done: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = done
    before = sorted(path for path in store.rglob("*"))
    result = run_job(store, tmp_path / "dry", "dry_run=true")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cached") == 5
    assert not (tmp_path / "dry").exists()
    assert sorted(path for path in store.rglob("*")) == before


def test_two_processes_started_together_train_once(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen(
            command(tmp_path / "store", tmp_path / name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for name in ("one", "two")
    ]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    records = [json.loads((tmp_path / name / "record.json").read_text()) for name in ("one", "two")]
    for first, second in zip(*(record["steps"] for record in records), strict=True):
        assert first["cached"] + second["cached"] == 1, (first, second)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_killed_at_several_moments_it_ends_with_the_same_bytes(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, undisturbed = done
    arguments = command(
        tmp_path / "store", tmp_path / "run", "finetune.checkpoint_seconds=0", "distill.checkpoint_seconds=0"
    )
    for seconds in (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0):
        job = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert digest(tmp_path / "run")["files"] == digest(undisturbed)["files"]


@pytest.mark.gpu
def test_torch_checkpoints_are_trained_and_measured_on_a_gpu(tmp_path: Path) -> None:
    result = run_job(tmp_path / "store", tmp_path / "run", "recipe=distill", "device=cuda")
    assert result.returncode == 0, result.stderr[-4000:]
    variants = json.loads((tmp_path / "run" / "record.json").read_text())["variants"]
    assert variants["finetune"]["latency"][0]["device"].startswith("cuda")
    assert variants["finetune"]["latency"][0]["device_p50_ms"] > 0
    assert variants["finetune"]["memory"]["peak_device_bytes"] > 0


@pytest.mark.gpu
def test_an_int8_artifact_made_on_a_gpu_is_measured_where_it_runs(tmp_path: Path) -> None:
    result = run_job(tmp_path / "store", tmp_path / "run", "device=auto")
    assert result.returncode == 0, result.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert {row["device"] for variant in record["variants"].values() for row in variant["latency"]} == {"cpu"}
    assert any("measured on the CPU" in warning for warning in record["warnings"])
