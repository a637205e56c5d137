"""Interleaved latency: round by round every variant in turn, until the ratios are known well enough."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from compress.benchmark.statistics import half_width, ratio_interval
from compress.console import progress_of

if TYPE_CHECKING:
    from compress.benchmark.process import WorkerProcess
    from compress.config.schemas import Benchmark

__all__ = ["Timing", "time_shape"]

_TURN_MS = 60.0
"""Milliseconds that one variant's turn measures: some runs of a fast model, one of a slow one."""

_CHOICE_MS = 200.0
"""Milliseconds that each thread count is tried."""


@dataclass
class Timing:
    """Latency of one variant at one shape: threads, milliseconds per run, and each round's median."""

    threads: int
    milliseconds: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)


def time_shape(
    workers: Mapping[str, WorkerProcess],
    baseline: str,
    rows: str,
    shape: tuple[int, int],
    config: Benchmark,
    cores: int,
) -> dict[str, Timing]:
    """Measure every variant at one shape.

    Parameters
    ----------
    workers
        A process per variant, opened.
    baseline
        The variant that ratios are taken against; in every round.
    rows
        File of real texts.
    shape
        Batch and tokens.
    config
        Bounds of time and rounds, threads.
    cores
        Cores that may be used.
    """
    timings, repeats = {}, {}
    for name, worker in workers.items():
        threads, median = _better_threads(worker, rows, shape, config, cores)
        timings[name] = Timing(threads)
        repeats[name] = int(np.clip(round(_TURN_MS / median), 1, 30))
        worker.ask("shape", rows=rows, batch=shape[0], sequence=shape[1], threads=threads)
    start = time.monotonic()
    with progress_of(f"latency {shape[0]}x{shape[1]}", config.max_rounds, "rounds") as progress:
        for number in range(1, config.max_rounds + 1):
            # Every other round backwards, so that no variant always follows the same one.
            for name in list(workers) if number % 2 else list(workers)[::-1]:
                found = workers[name].ask("time", repeats=repeats[name], warm=max(1, repeats[name] // 4))[
                    "milliseconds"
                ]
                timings[name].milliseconds += found
                timings[name].rounds.append(float(np.median(found)))
            progress.advance()
            if number < config.min_rounds:
                continue
            if time.monotonic() - start > config.seconds or _narrow(timings, baseline, config):
                break
    return timings


def _narrow(timings: Mapping[str, Timing], baseline: str, config: Benchmark) -> bool:
    slow = timings[baseline].rounds
    others = [timing.rounds for name, timing in timings.items() if name != baseline]
    return all(half_width(ratio_interval(slow, rounds, seed=config.seed)) < config.half_width for rounds in others)


def _median(worker: WorkerProcess, milliseconds: float) -> float:
    """Return the median of runs for about so many milliseconds, two at least, after a warm-up."""
    first = float(np.median(worker.ask("time", repeats=2, warm=1)["milliseconds"]))
    repeats = int(min(milliseconds / first, 50))
    if repeats <= 2:
        return first
    return float(np.median(worker.ask("time", repeats=repeats, warm=repeats // 3)["milliseconds"]))


def _better_threads(
    worker: WorkerProcess, rows: str, shape: tuple[int, int], config: Benchmark, cores: int
) -> tuple[int, float]:
    """Return the thread count at which the variant is faster, and its milliseconds there.

    So no variant is handicapped by a setting that suits another.
    """
    choices = list(dict.fromkeys((1, cores) if config.threads is None else (config.threads,)))
    medians = dict.fromkeys(choices, float("inf"))
    for _ in range(2):  # in turns, the better of two: a moment's noise decides nothing
        for threads in choices:
            worker.ask("shape", rows=rows, batch=shape[0], sequence=shape[1], threads=threads)
            medians[threads] = min(medians[threads], _median(worker, _CHOICE_MS / 2))
    best = min(medians, key=lambda threads: medians[threads])
    return best, medians[best]
