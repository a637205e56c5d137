"""Nobody works while somebody measures, on one machine and store; whoever dies frees what it held."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from compress.pipeline.quiet import measuring, working

Lock = Callable[[Path], AbstractContextManager[None]]


def enter(lock: Lock, store: Path) -> tuple[threading.Event, threading.Event, threading.Thread]:
    """Take a lock in a thread; returns what tells that it is held, what makes it let go, and the thread."""
    held, leave = threading.Event(), threading.Event()

    def run() -> None:
        with lock(store):
            held.set()
            leave.wait(20)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return held, leave, thread


def test_steps_run_side_by_side(tmp_path: Path) -> None:
    with working(tmp_path):
        held, leave, thread = enter(working, tmp_path)
        assert held.wait(5)
        leave.set()
        thread.join(5)


@pytest.mark.parametrize(("first", "second"), [(working, measuring), (measuring, working), (measuring, measuring)])
def test_a_measurement_and_anything_else_wait_for_each_other(first: Lock, second: Lock, tmp_path: Path) -> None:
    with first(tmp_path):
        held, leave, thread = enter(second, tmp_path)
        assert not held.wait(0.3)
    assert held.wait(5)
    leave.set()
    thread.join(5)


def test_a_measurement_that_waits_is_not_overtaken(tmp_path: Path) -> None:
    with working(tmp_path):
        measured, leave, measurement = enter(measuring, tmp_path)
        time.sleep(0.2)
        worked, go, later = enter(working, tmp_path)
        assert not worked.wait(0.3), "a step that came later went first"
    assert measured.wait(5)
    assert not worked.is_set()
    leave.set()
    assert worked.wait(5)
    go.set()
    measurement.join(5)
    later.join(5)


def test_different_stores_do_not_wait(tmp_path: Path) -> None:
    with measuring(tmp_path / "one"), measuring(tmp_path / "two"):
        pass


@pytest.mark.parametrize("name", ["working", "measuring"])
def test_a_killed_holder_frees_the_lock(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compress.pipeline import quiet\n"
        f"with quiet.{name}(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    held, leave, thread = enter(measuring, tmp_path)
    assert not held.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert held.wait(5)
    leave.set()
    thread.join(5)
