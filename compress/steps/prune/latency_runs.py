"""Time many artifacts side by side: rounds over all of them, each time in a process that holds nothing else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from compress.benchmark.process import WorkerProcess

__all__ = ["Launcher", "launches_of", "rounds_of", "steadied", "typical"]

_FORKS = sys.platform == "linux"
"""As in `compress.benchmark.process`: elsewhere each launch is a process from the start."""

_WARM_SECONDS = 0.5
"""Warming up ends when two windows agree, or then."""

_MEASURED_MS = 100.0
"""Milliseconds of measured runs in a launch; a process differs from its twin by more than runs of one differ."""

_TOKENS = 20

_DISTURBED = 0.1
"""Share of all cores. With one of two cores taken by others, two threads that wait for each other took 4 times as
long."""

_PATIENCE = 20
"""Launches that may be repeated from the first on."""

_NEIGHBOURS = 7
"""Launches on either side whose times say how fast the machine is at a moment."""

Key = TypeVar("Key", bound=Hashable)


class Launcher:
    """Opens an artifact in a new process, runs a batch of one shape, returns the median; one process at a time.

    Where a process finds its memory makes it some per cent slower or faster for as long as it lives, so many short
    launches tell more than a long one (docs/benchmark.md). On Linux a process that has imported the runtime forks for
    each.

    Parameters
    ----------
    like : pathlib.Path
        A path of the kind that will be opened, which says what the process imports beforehand: an ``.onnx`` file, or a
        folder with a config.json alone.
    batch, sequence : int
        Shape of the batch of made-up tokens.
    threads : int
        Intra-op threads.
    tokens : int
        Made-up token ids are below: any vocabulary has that many, and which rows are looked up hardly matters.
    device : str
        Where it runs.

    Attributes
    ----------
    launches, repeated, disturbed : int
        Times it was called, repetitions, and times that it was disturbed even so.
    """

    def __init__(
        self, like: Path, batch: int, sequence: int, threads: int, *, tokens: int = _TOKENS, device: str = "cpu"
    ) -> None:
        self._like, self._threads, self._device = like, threads, device
        self._shape = {"batch": batch, "sequence": sequence, "tokens": tokens}
        self._worker: WorkerProcess | None = None
        self.launches = self.repeated = self.disturbed = 0

    def __call__(self, path: Path) -> float:
        """Return milliseconds of a run, the median of a launch.

        A launch that others disturbed is repeated, as long as no more than a third of all are repetitions.

        Raises
        ------
        StepError
            If the artifact cannot be opened or run.
        """
        self.launches += 1
        found, share = self._launch(path)
        while share > _DISTURBED and self.repeated < _PATIENCE + self.launches / 2:
            self.repeated += 1
            again, share = self._launch(path)
            found = again if share <= _DISTURBED else min(found, again)
        self.disturbed += share > _DISTURBED
        return found

    def _launch(self, path: Path) -> tuple[float, float]:
        """Return milliseconds of a run, and the share of the processor that was used by others meanwhile."""
        worker = self._started()
        before = _Used.by(worker.pid)
        if _FORKS:
            worker.ask("fork")
        worker.ask("open", path=str(path), device=self._device, threads=self._threads)
        worker.ask("shape", rows=None, threads=self._threads, **self._shape)
        warm = worker.ask("warm", seconds=_WARM_SECONDS)["milliseconds"]
        repeats = int(np.clip(round(_MEASURED_MS / warm), 3, 100))
        found = float(np.median(worker.ask("time", repeats=repeats)["milliseconds"]))
        if _FORKS:
            worker.ask("end")
        share = _Used.by(worker.pid).share_of_others(before)
        if not _FORKS:
            worker.close()
            self._worker = None
        return found, share

    def _started(self) -> WorkerProcess:
        if self._worker is None:
            from compress.benchmark.process import WorkerProcess

            self._worker = WorkerProcess("the latency table", self._threads)
            if _FORKS:
                self._worker.ask("prepare", path=str(self._like))
        return self._worker

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.__exit__(kind, error, trace)


@dataclass(frozen=True)
class _Used:
    """Seconds of all processors since the start: what was in use or kept by the hypervisor, all, and what was ours."""

    busy: float
    whole: float
    ours: float

    @classmethod
    def by(cls, worker: int) -> _Used:
        """Look now; ours is this process and a worker with what it forked and waited for."""
        import psutil

        times = psutil.cpu_times()._asdict()
        whole = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))  # is in user already
        idle = times["idle"] + times.get("iowait", 0.0)
        theirs, own = psutil.Process(worker).cpu_times(), os.times()
        ours = theirs.user + theirs.system + own.user + own.system
        ours += getattr(theirs, "children_user", 0.0) + getattr(theirs, "children_system", 0.0)
        return cls(whole - idle, whole, ours)

    def share_of_others(self, before: _Used) -> float:
        """Return the share of the processor's time since then that was not ours."""
        whole = self.whole - before.whole
        return 0.0 if whole <= 0 else max(0.0, (self.busy - before.busy) - (self.ours - before.ours)) / whole


def launches_of(
    names: Sequence[Key],
    launch: Callable[[Key], float],
    *,
    seconds: float,
    least: int = 4,
    most: int = 40,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[int], None] | None = None,
) -> list[tuple[Key, float]]:
    """Launch everything once a round, there and back in turn, until the time is over.

    Every pair of rounds has an order of its own, drawn by chance: who is measured next to whom is then never the same,
    and `steadied` can tell the machine's drift from the artifacts.

    Parameters
    ----------
    names
        What is launched.
    launch
        From a name to milliseconds, e.g. by a `Launcher`.
    seconds
        A pair of rounds begins only if it will probably end within.
    least, most
        Rounds, whatever the time; even numbers.
    seed
        Of the orders.
    clock
        Seconds.
    report
        Told after each round how many are done.

    Returns
    -------
    list of tuple
        Name and milliseconds of each launch, in the order in which they were made.
    """
    launches: list[tuple[Key, float]] = []
    generator = np.random.default_rng(seed)
    start, number = clock(), 0
    while number < least or (number < most and (clock() - start) * (number + 2) / number <= seconds):
        order = [names[at] for at in generator.permutation(len(names))]
        for turn in (order, order[::-1]):
            launches += [(name, launch(name)) for name in turn]
            number += 1
            if report is not None:
                report(number)
    return launches


def rounds_of(
    files: Mapping[Key, Path], launch: Callable[[Path], float], *, seconds: float, least: int = 4, most: int = 40
) -> dict[Key, list[float]]:
    """Launch some artifacts in rounds, as `launches_of`, and return the milliseconds of each in the order of rounds."""
    times: dict[Key, list[float]] = {key: [] for key in files}
    for key, milliseconds in launches_of(
        list(files), lambda key: launch(files[key]), seconds=seconds, least=least, most=most
    ):
        times[key].append(milliseconds)
    return times


def typical(times: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """Return milliseconds of each artifact, of rounds that had them all, so that what slowed down a round cancels.

    Each time is divided by how much slower its round was than others, the median over artifacts of their time relative
    to their own median; then each artifact's median is taken.
    """
    table = np.array(list(times.values()), dtype=np.float64)
    level = np.median(table / np.median(table, axis=1, keepdims=True), axis=0)
    return dict(zip(times, np.median(table / level, axis=1).tolist(), strict=True))


def steadied(milliseconds: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the times of launches without the drift of the machine.

    A virtual machine's speed changes by tens of per cent within seconds, for all that runs on it. What a launch took
    longer than expected, relatively, is therefore compared with its neighbours in time: the median over
    `_NEIGHBOURS` launches on either side is the machine's level at that moment, and is divided out.

    Parameters
    ----------
    milliseconds
        Of each launch, in the order in which they were made.
    expected
        Of the same launches, as far as it is known: the median of their artifact, or what a model says.
    """
    late = np.log(milliseconds / expected)
    level = np.array([np.median(late[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS + 1]) for at in range(len(late))])
    steady: np.ndarray = milliseconds / np.exp(level - np.median(level))
    return steady
