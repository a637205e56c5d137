"""The harness: workers that answer, fail and die, and what measuring says of variants on disk."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compress.benchmark import measure
from compress.benchmark.latency import time_shape
from compress.benchmark.process import WorkerProcess
from compress.config.schemas import Benchmark
from compress.data.base import Data
from compress.errors import StepError
from compress.tasks import create

LABELS = ("food", "travel", "weather")


class Told:
    """A worker that takes as long as it is told, per thread count."""

    def __init__(self, milliseconds: dict[int, float]) -> None:
        self.milliseconds = milliseconds
        self.threads = 1
        self.asked: list[str] = []

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(do)
        if do == "shape":
            self.threads = arguments["threads"]
            return {}
        return {"milliseconds": [self.milliseconds[self.threads]] * arguments["repeats"]}


def test_each_variant_runs_at_its_own_better_thread_count() -> None:
    workers: dict[str, Any] = {"base": Told({1: 9.0, 2: 5.0}), "small": Told({1: 1.0, 2: 2.0})}
    found = time_shape(workers, "base", "rows", (1, 8), Benchmark(max_rounds=5, min_rounds=3), cores=2)
    assert {name: timing.threads for name, timing in found.items()} == {"base": 2, "small": 1}
    assert {round(value, 6) for value in found["small"].rounds} == {1.0}
    assert len(found["base"].rounds) == len(found["small"].rounds) == 3  # nothing varies: known well enough


def test_a_stated_thread_count_is_kept() -> None:
    workers: dict[str, Any] = {"base": Told({1: 9.0, 2: 5.0})}
    found = time_shape(workers, "base", "rows", (1, 8), Benchmark(threads=1, max_rounds=4, min_rounds=3), cores=2)
    assert found["base"].threads == 1


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with WorkerProcess("the variant", 1) as started:
        yield started


def pid_of(worker: WorkerProcess) -> int:
    return worker._process.pid


@pytest.mark.slow
def test_a_worker_that_dies_is_named(worker: WorkerProcess) -> None:
    assert worker.ask("memory")["peak_rss_bytes"] > 1e6
    os.kill(pid_of(worker), signal.SIGKILL)
    with pytest.raises(StepError, match=r"the process of the variant died in 'memory' \(exit -9\)"):
        worker.ask("memory")


@pytest.mark.slow
def test_a_worker_that_fails_says_why_and_goes_on(worker: WorkerProcess, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"the variant: open failed: CheckpointError: .* no such file"):
        worker.ask("open", path=str(tmp_path / "nothing"), device="cpu", threads=1)
    assert worker.ask("memory")["peak_rss_bytes"] > 1e6


@pytest.mark.slow
def test_a_worker_ends_with_who_started_it(worker: WorkerProcess) -> None:
    worker.ask("memory")
    worker.close()
    assert worker._process.returncode == 0


@pytest.fixture
def measured(checkpoint: Any, onnx_checkpoint: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    texts = [f"{word} near river today {number}" for number in range(8) for word in ("soup", "train", "rain")]
    frame = pd.DataFrame({"text": texts, "label": list(LABELS) * 8})
    data = Data("made", "text_classification", frame, frame.head(9), frame, LABELS, "f" * 64)

    def run(**changes: Any) -> dict[str, Any]:
        config = Benchmark(**{"shapes": ["1x8"], "seconds": 0.5, "min_rounds": 3, "max_rounds": 4, **changes})
        return measure(
            [("torch", "finetune", checkpoint.path), ("onnx", "export", onnx_checkpoint.path)],
            task_name="text_classification",
            task=create("text_classification", LABELS),
            data=data,
            config=config,
            device="cpu",
            baseline="torch",
            candidate="onnx",
            scratch=tmp_path / "scratch",
            log=logging.getLogger("compress.test"),
        )

    return run


@pytest.mark.slow
def test_equal_models_in_two_formats_are_equally_good(measured: Callable[..., dict[str, Any]]) -> None:
    found = measured(shapes=["1x8", "2x64", "1x65"])
    torch, onnx = found["variants"]["torch"], found["variants"]["onnx"]
    assert list(found["variants"]) == ["torch", "onnx"]
    assert torch["metrics"] == onnx["metrics"]
    assert found["comparison"]["agreement"] == 1
    assert found["comparison"]["metric_difference"] == {"value": 0, "low": 0, "high": 0}
    # Of so small a model, what the exporter folds away and the constants that it adds are some per cent.
    assert torch["size"]["parameters"] == pytest.approx(onnx["size"]["parameters"], rel=0.05)
    assert torch["size"]["macs"] == pytest.approx(onnx["size"]["macs"], rel=0.02)
    assert torch["memory"]["peak_rss_bytes"] > torch["memory"]["empty_rss_bytes"]
    assert [(row["batch_size"], row["sequence_length"]) for row in torch["latency"]] == [(1, 8), (2, 64)]
    assert any("1x65 was left out: the models take at most 64 tokens" in warning for warning in found["warnings"])


@pytest.mark.slow
def test_a_variant_that_cannot_be_opened_ends_the_measuring(
    measured: Callable[..., dict[str, Any]], onnx_checkpoint: Any
) -> None:
    file = onnx_checkpoint.path / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        with pytest.raises(StepError, match="onnx: open failed: CheckpointError"):
            measured()
    finally:
        file.write_bytes(whole)
