"""A measurement wants the machine to itself: steps of any jobs run side by side, a measurement runs alone.

A lock of readers (steps) and writers (measurements) among the processes of one machine that share a store, made of two
files that the system locks. It frees them when their holder dies, however it dies. Who measures takes the `turn` first
and then waits for the `room` to empty; who works passes by the `turn` on the way into the `room`, so a measurement that
waits is not overtaken for ever. Nobody who measures waits for anything else, and who works takes the lock of its step
first: so there is no circle of waiting.
"""

from __future__ import annotations

import fcntl
import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["measuring", "working"]

log = logging.getLogger(__name__)


@contextmanager
def working(store: Path) -> Iterator[None]:
    """Work on a step; waits while another process measures.

    Parameters
    ----------
    store
        Root of the store that the processes share.
    """
    turn, room = _files(store)
    entered = None
    try:
        with _held(turn, fcntl.LOCK_SH, "another process of this machine measures; waiting until it has done"):
            entered = room.open("a")
            fcntl.flock(entered, fcntl.LOCK_SH)
        yield
    finally:
        if entered is not None:
            entered.close()


@contextmanager
def measuring(store: Path) -> Iterator[None]:
    """Measure; waits until nobody works or measures, and keeps others waiting.

    Parameters
    ----------
    store
        Root of the store that the processes share.
    """
    turn, room = _files(store)
    with (
        _held(turn, fcntl.LOCK_EX, "another process of this machine measures; waiting until it has done"),
        _held(room, fcntl.LOCK_EX, "other jobs are at work on this machine; measuring when their steps are done"),
    ):
        yield


def _files(store: Path) -> tuple[Path, Path]:
    """Return both files of this machine: machines that share a store over a network do not disturb each other."""
    machine = re.sub(r"[^\w.-]", "-", platform.node()) or "machine"
    folder = store / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"turn.{machine}", folder / f"room.{machine}"


@contextmanager
def _held(file: Path, mode: int, waiting: str) -> Iterator[None]:
    with file.open("a") as stream:  # closing it, as the system does when a process ends, frees it
        try:
            fcntl.flock(stream, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s", waiting)
            fcntl.flock(stream, mode)
        yield
