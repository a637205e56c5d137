"""Interleaved latency: round by round every variant in turn, until the ratios are known well enough."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.benchmark.statistics import half_width, ratio_interval
from compress.console import progress_of

if TYPE_CHECKING:
    from compress.benchmark.process import Launches, WorkerProcess
    from compress.config.schemas import Benchmark
    from compress.config.shapes import Shape

__all__ = ["Texts", "Timing", "time_variants"]

_TURN_MS = 50.0
"""Milliseconds that one variant's turn measures: some runs of a fast model, one of a slow one."""

_WAKE_MS = 40.0
"""Unmeasured milliseconds before them where there are several threads. After a pause both may wake on one core: a
two-thread INT8 model took 5 ms a run instead of 1.6 until the scheduler had parted them, 30 ms later."""

_WAKE_ONE_MS = 8.0
"""The same for one thread, whose caches alone are cold."""

_WARM_SECONDS = 0.4
"""How long a variant is warmed up at most when it is given a new shape."""

_TRIED_TURNS = 3
"""Turns in which each thread count is tried, twice where once leaves doubt."""

_WORTH = 0.97
"""More threads are taken where they need less than this share of the time: else they are noise, and cost others."""


_FEWEST = 6
"""Launches before it is looked whether the ratios are known well enough, and then after every second one: whoever
looks often at few launches stops when they happen to agree, and calls noise a difference."""


_CLEAR = 0.8
"""One try decides where a thread count needs less than this share of the other's time."""


@dataclass
class Timing:
    """Latency of one variant at one shape.

    Attributes
    ----------
    threads : int
        What it ran with.
    tried : dict of int to float
        Median milliseconds of each thread count that was tried.
    milliseconds : list of float
        Every single run.
    launches : list of list of float
        Of each launch and round the median run; for texts one by one the mean.
    switches : list of int
        Voluntary and involuntary context switches in all runs.
    joules : list of float
        Energy per run, a figure for each round; empty where none is read.
    device_ms : float or None
        Median by the device's own events.
    """

    threads: int
    tried: dict[int, float] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    launches: list[list[float]] = field(default_factory=list)
    switches: list[int] = field(default_factory=lambda: [0, 0])
    joules: list[float] = field(default_factory=list)
    device_ms: float | None = None

    @property
    def rounds(self) -> int:
        """Rounds of all launches."""
        return sum(len(launch) for launch in self.launches)

    def keep(self, answer: Mapping[str, Any], natural: bool) -> None:
        """Take in what a worker measured in its turn of a round."""
        found = answer["milliseconds"]
        self.milliseconds += found
        self.launches[-1].append(_middle(found, natural))
        self.switches = [sum(pair) for pair in zip(self.switches, answer["switches"], strict=True)]
        if answer["joules"] is not None:
            self.joules.append(answer["joules"] / len(found))


@dataclass(frozen=True)
class Texts:
    """What batches are made of.

    Attributes
    ----------
    rows : str or None
        File of real texts; None for made-up token ids.
    tokens : int
        Made-up ids are below.
    """

    rows: str | None
    tokens: int

    def asked(self, shape: Shape) -> dict[str, Any]:
        """Return the arguments of a worker's ``shape``, but for the threads."""
        return {"rows": self.rows, "tokens": self.tokens, "batch": shape.batch, "sequence": shape.sequence}


Timings = dict[str, Timing]
Workers = Mapping[str, "WorkerProcess"]


def time_variants(
    variants: Mapping[str, Launches],
    baseline: str,
    texts: Texts,
    shapes: Sequence[Shape],
    config: Benchmark,
    cores: int,
    same: Mapping[str, str] | None = None,
) -> list[Timings]:
    """Measure every variant at every shape.

    A launch is a new process per variant: where a process finds its memory makes it some per cent slower or faster
    than its twin for as long as it lives. In every other launch all is done in reverse order, from the opening on: who
    is opened first, or runs first, is slower too.

    Parameters
    ----------
    variants
        Processes of each variant.
    baseline
        The variant that ratios are taken against; in every round.
    texts
        What batches are made of.
    shapes
        Batch and tokens.
    config
        Bounds of time and rounds, launches, threads.
    cores
        Cores that may be used.
    same
        What each variant's artifact is: equal artifacts are given the same number of threads, so that one that is
        measured against itself differs by noise alone.

    Returns
    -------
    list of dict of str to Timing
        By shape and variant.
    """
    with progress_of("latency", config.launches * len(shapes), "launches × shapes") as progress:
        with _launched(variants, cores) as workers:
            timings = [_chosen_threads(workers, texts.asked(shape), config, cores, same) for shape in shapes]
        for launch in range(config.launches):
            with _launched(variants, cores, backwards=launch % 2 == 1) as workers:
                for shape, found in zip(shapes, timings, strict=True):
                    _launch(workers, texts.asked(shape), shape.sequence is None, found, config)
                    progress.advance(note=str(shape))
                done = launch + 1 == config.launches or _enough(timings, baseline, config)
                if done:
                    for shape, found in zip(shapes, timings, strict=True):
                        _device_times(workers, texts.asked(shape), found)
            if done:
                break
    return timings


@contextlib.contextmanager
def _launched(variants: Mapping[str, Launches], cores: int, backwards: bool = False) -> Iterator[Workers]:
    """Give a new process of each variant, in the order in which they were opened."""
    order = list(variants.items())[:: -1 if backwards else 1]
    yield {name: launches.start(cores) for name, launches in order}
    for _, launches in order:
        launches.end()


def _launch(workers: Workers, asked: Mapping[str, Any], natural: bool, timings: Timings, config: Benchmark) -> None:
    """Measure one launch's share of a shape's rounds, an even number of them."""
    medians = {}
    for name, worker in workers.items():
        worker.ask("shape", **asked, threads=timings[name].threads)
        medians[name] = worker.ask("warm", seconds=_WARM_SECONDS)["milliseconds"]
        timings[name].launches.append([])
    turn = _turns(medians, timings, natural)
    share = config.seconds * max(1.0, len(workers) / 4) / config.launches
    least, most = (max(2, _even(rounds / config.launches)) for rounds in (config.min_rounds, config.max_rounds))
    start, number = time.monotonic(), 0
    while number < least or (number < most and time.monotonic() - start < share):
        for _ in range(2):  # there and back, so that no variant always follows the same one
            for name in list(workers)[:: -1 if number % 2 else 1]:
                timings[name].keep(workers[name].ask("time", **turn(name, number)), natural)
            number += 1


def _middle(milliseconds: Sequence[float], natural: bool) -> float:
    """Return a turn's figure: the median of equal runs, the mean of texts of many lengths."""
    return float(np.mean(milliseconds) if natural else np.median(milliseconds))


def _even(rounds: float) -> int:
    return 2 * math.ceil(rounds / 2)


def _turns(medians: Mapping[str, float], timings: Timings, natural: bool) -> Callable[[str, int], dict[str, Any]]:
    """Return what is asked of a variant in its turn of a round: how many runs, after how long a warm-up."""
    repeats = {name: _repeats(median) for name, median in medians.items()}
    if natural:  # the same texts for all in a round, as many as the slowest does in its turn
        repeats = dict.fromkeys(repeats, max(2, min(repeats.values())))
        done = next(iter(timings.values())).rounds

    def turn(name: str, number: int) -> dict[str, Any]:
        warm = _wake(timings[name].threads)
        first = (done + number) * repeats[name] if natural else 0
        return {"repeats": repeats[name], "warm_ms": warm, "first": first}

    return turn


def _repeats(milliseconds: float) -> int:
    return int(np.clip(round(_TURN_MS / milliseconds), 1, 60))


def _wake(threads: int) -> float:
    return _WAKE_MS if threads > 1 else _WAKE_ONE_MS


def _enough(timings: Iterable[Timings], baseline: str, config: Benchmark) -> bool:
    """Whether every ratio is known well enough."""
    for found in timings:
        slow = found[baseline].launches
        if len(slow) < _FEWEST or len(slow) % 2:
            return False
        for name, timing in found.items():
            interval = ratio_interval(slow, timing.launches, confidence=config.confidence, seed=config.seed)
            if name != baseline and half_width(interval) > config.half_width:
                return False
    return True


def _device_times(workers: Workers, asked: Mapping[str, Any], timings: Timings) -> None:
    """Ask for the device's own times, where one has them."""
    for name, worker in workers.items():
        if worker.ask("facts")["device"] == "cpu":
            continue
        worker.ask("shape", **asked, threads=timings[name].threads)
        found = worker.ask("device", repeats=20)["milliseconds"]
        timings[name].device_ms = None if found is None else float(np.median(found))


def _chosen_threads(
    workers: Workers,
    asked: Mapping[str, Any],
    config: Benchmark,
    cores: int,
    same: Mapping[str, str] | None,
) -> Timings:
    """Return a timing per variant with the thread count at which it is faster.

    So no variant is handicapped by a setting that suits another.
    """
    if config.threads is not None:
        return {name: Timing(config.threads) for name in workers}
    artifacts = {name: (same or {}).get(name, name) for name in workers}
    first = {artifact: workers[name] for name, artifact in reversed(artifacts.items())}
    tried = _tried_threads(first, asked, sorted({1, cores}))
    return {name: Timing(_best(tried[artifact]), dict(tried[artifact])) for name, artifact in artifacts.items()}


def _tried_threads(workers: Workers, asked: Mapping[str, Any], choices: Sequence[int]) -> dict[str, dict[int, float]]:
    """Return the milliseconds of each variant with each thread count.

    Turns are taken as they will be when it counts, each after the others' and a wake-up: what runs without a pause may
    take two thirds of the time with two threads that it then takes.
    """
    if len(choices) == 1:
        return {name: {} for name in workers}
    turns: dict[str, dict[int, list[float]]] = {name: {threads: [] for threads in choices} for name in workers}
    repeats: dict[str, int] = {}
    doubtful = dict(workers)
    for order in (choices, choices[::-1]):
        for threads in order:
            for name, worker in doubtful.items():
                worker.ask("shape", **asked, threads=threads)
                repeats.setdefault(name, _repeats(worker.ask("warm", seconds=_WARM_SECONDS / 2)["milliseconds"]))
            for _ in range(_TRIED_TURNS):
                for name, worker in doubtful.items():
                    answer = worker.ask("time", repeats=repeats[name], warm_ms=_wake(threads))
                    turns[name][threads].append(_middle(answer["milliseconds"], asked["sequence"] is None))
        tried = {name: {threads: float(np.median(turns[name][threads])) for threads in choices} for name in workers}
        doubtful = {
            name: worker
            for name, worker in workers.items()
            if min(tried[name].values()) >= _CLEAR * max(tried[name].values())
        }
    return tried


def _best(tried: Mapping[int, float]) -> int:
    """Return the least number of threads that no larger one beats by more than noise."""
    if not tried:
        return 1
    best = min(tried)
    for threads in sorted(tried):
        if tried[threads] < _WORTH * tried[best]:
            best = threads
    return best
