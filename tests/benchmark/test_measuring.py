"""The harness: workers that answer, fail and die, and what measuring says of variants on disk."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from compress.benchmark import process
from compress.benchmark.latency import Texts, Timing, time_variants
from compress.benchmark.measure import measure
from compress.benchmark.process import Launches, WorkerProcess
from compress.config.schemas import Benchmark
from compress.config.shapes import Shape
from compress.data.base import Data
from compress.errors import StepError
from compress.tasks import create

LABELS = ("food", "travel", "weather")


SHAPES = [Shape(1, 8)]


class Told:
    """Launches and their worker in one, which takes as long as it is told, per thread count."""

    def __init__(self, milliseconds: dict[int, float]) -> None:
        self.milliseconds = milliseconds
        self.threads = 1
        self.opened = 0

    def start(self, threads: int) -> Told:
        self.opened += 1
        return self

    def end(self) -> None:
        pass

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "shape":
            self.threads = arguments["threads"]
        taken = self.milliseconds[self.threads]
        return {
            "warm": {"milliseconds": taken},
            "time": {"milliseconds": [taken] * arguments.get("repeats", 0), "switches": [2, 1], "joules": None},
            "facts": {"device": "cpu"},
        }.get(do, {})


def timed(workers: dict[str, Any], same: dict[str, str] | None = None, **config: Any) -> dict[str, Timing]:
    settings = Benchmark(**{"seconds": 1e-6, **config})
    return time_variants(workers, next(iter(workers)), Texts("rows", 0), SHAPES, settings, 2, same)[0]


def test_each_variant_runs_at_its_own_better_thread_count() -> None:
    found = timed({"base": Told({1: 9.0, 2: 5.0}), "small": Told({1: 1.0, 2: 2.0})})
    assert {name: timing.threads for name, timing in found.items()} == {"base": 2, "small": 1}
    assert found["base"].tried == {1: 9.0, 2: 5.0}
    assert {ms for launch in found["small"].launches for ms in launch} == {1.0}


def test_a_second_thread_that_gains_nothing_is_not_taken() -> None:
    assert timed({"base": Told({1: 5.0, 2: 4.9})})["base"].threads == 1


def test_equal_artifacts_get_the_threads_of_the_first() -> None:
    workers = {"one": Told({1: 9.0, 2: 5.0}), "twin": Told({1: 5.0, 2: 9.0})}
    found = timed(workers, {"one": "/artifact", "twin": "/artifact"})
    assert [timing.threads for timing in found.values()] == [2, 2]


class Sleepy(Told):
    """Two threads that are fast only once they have not paused for long."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        answer = super().ask(do, **arguments)
        if do == "time" and self.threads == 2 and self.asked != id(self):
            answer["milliseconds"] = [2 * ms for ms in answer["milliseconds"]]
        if do in ("warm", "time"):
            Sleepy.asked = id(self)
        return answer

    asked = 0


def test_thread_counts_are_tried_between_the_turns_of_the_others() -> None:
    workers = {"base": Sleepy({1: 3.0, 2: 2.0}), "other": Sleepy({1: 3.0, 2: 1.0})}
    found = timed(workers)
    assert {name: timing.threads for name, timing in found.items()} == {"base": 1, "other": 2}
    assert found["base"].tried == {1: 3.0, 2: 4.0}


def test_a_stated_thread_count_is_kept() -> None:
    found = timed({"base": Told({1: 9.0, 2: 5.0})}, threads=1)
    assert found["base"].threads == 1
    assert found["base"].tried == {}


def test_rounds_are_shared_out_over_launches_and_go_there_and_back() -> None:
    workers = {"base": Told({1: 9.0, 2: 5.0}), "small": Told({1: 1.0, 2: 2.0})}
    found = timed(workers, launches=3, min_rounds=10)
    assert [len(launch) for launch in found["base"].launches] == [4, 4, 4]
    assert workers["base"].opened == 1 + 3  # the first to choose threads
    assert found["small"].rounds == 12
    assert found["small"].switches[0] == 2 * found["small"].rounds


def test_what_is_known_well_enough_is_not_measured_on() -> None:
    workers = {"base": Told({1: 9.0, 2: 5.0}), "small": Told({1: 1.0, 2: 2.0})}
    assert len(timed(workers, launches=10)["small"].launches) == 6  # nothing varies


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


def answered(launches: Launches) -> tuple[int, float]:
    """Return what one launch's process says of itself: its number, and milliseconds of a run."""
    worker = launches.start(1)
    worker.ask("shape", rows=None, tokens=20, batch=1, sequence=8, threads=1)
    found = worker.ask("pid")["pid"], worker.ask("time", repeats=1)["milliseconds"][0]
    launches.end()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize("form", ["checkpoint", "onnx_checkpoint"])
def test_every_launch_is_a_process_of_its_own(
    forks: bool, form: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forks and sys.platform != "linux":
        pytest.skip("processes fork on Linux only")
    monkeypatch.setattr(process, "_FORKS", forks)
    path = request.getfixturevalue(form).path
    with Launches("the variant", 2, path, "cpu", "auto", False) as launches:
        numbers = {answered(launches)[0] for _ in range(3)}
    assert len(numbers) == 3
    assert os.getpid() not in numbers


@pytest.mark.slow
def test_a_launch_that_dies_is_named_and_the_next_is_not_taken_for_it(onnx_checkpoint: Any) -> None:
    with (
        pytest.raises(StepError, match=r"the process of the variant died in 'memory' \(exit -9\)"),
        Launches("the variant", 1, onnx_checkpoint.path, "cpu", "auto", False) as launches,
    ):
        worker = launches.start(1)
        os.kill(worker.ask("pid")["pid"], signal.SIGKILL)
        worker.ask("memory")


@pytest.mark.slow
def test_a_launch_ends_with_who_started_it(onnx_checkpoint: Any) -> None:
    with Launches("the variant", 1, onnx_checkpoint.path, "cpu", "auto", False) as launches:
        number = launches.start(1).ask("pid")["pid"]
    for _ in range(100):
        if not psutil.pid_exists(number):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(number)


@pytest.fixture
def measured(checkpoint: Any, onnx_checkpoint: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    texts = [f"{word} near river today {number}" for number in range(8) for word in ("soup", "train", "rain")]
    frame = pd.DataFrame({"text": texts, "label": list(LABELS) * 8})
    data = Data("made", "text_classification", frame, frame.head(9), frame, LABELS, "f" * 64)

    def run(**changes: Any) -> dict[str, Any]:
        config = Benchmark(**{"shapes": ["1x8"], "seconds": 0.5, "launches": 1, "min_rounds": 4, **changes})
        return measure(
            [("torch", "finetune", checkpoint.path), ("onnx", "export", onnx_checkpoint.path)],
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
    assert onnx["cold_start"]["total_ms"] > onnx["cold_start"]["open_ms"] > 0
    assert found["comparison"]["mcnemar"] == {"only_baseline": 0, "only_candidate": 0, "p_value": 1.0}
    assert found["comparison"]["validation_difference"]["value"] == 0
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
        with pytest.raises(StepError, match="onnx: cold_start failed: CheckpointError"):
            measured()
    finally:
        file.write_bytes(whole)
